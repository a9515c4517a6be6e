"""PyInstaller's hook of training: its templates; a frozen command line does without torch."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("edgeseq.training", includes=["templates/*.toml"])
excludedimports = ["accelerate", "peft", "torch", "transformers"]
