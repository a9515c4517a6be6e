"""PyInstaller's hook of the server: the files of its page."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("edgeseq.serving.page", excludes=["py.typed"])
