"""PyInstaller's hook of the command line, whose commands are imported by their names."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_submodules

hiddenimports = collect_submodules("edgeseq.cli")
