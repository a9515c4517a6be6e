"""Hooks of PyInstaller, which bring edgeseq's data files into a frozen app.

PyInstaller finds this folder by the entry point ``pyinstaller40`` and runs ``hook-NAME.py`` for an
app that imports the package NAME.
"""

from pathlib import Path


def hook_folders() -> list[str]:
    """Return the folder of the hooks, as PyInstaller asks for it."""
    return [str(Path(__file__).parent)]
