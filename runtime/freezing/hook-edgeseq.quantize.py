"""PyInstaller's hook of quantization: the text that it calibrates with."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("edgeseq.quantize", includes=["*.txt"])
