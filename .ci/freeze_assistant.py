"""Freeze the writing assistant, and run it without Python and without environment variables.

Run it with the Python of an environment that holds the wheel, its `cpu` extra, PySide6 and
PyInstaller, in an empty folder. The app is started on Xvfb if it is here, else on no display. It
takes a minute.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PySide6.QtGui import QImage

SPEC = Path(__file__).resolve().parents[1] / "examples" / "writing_assistant" / "assistant.spec"
TEXT = "Once upon a time there was"
LEAST_COLOURS = 50  # smooth letters have many; a blank picture has one


def main() -> None:
    """Freeze the app, let it test itself, look at its picture and print the size of its folder."""
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level=WARN", str(SPEC)]
    subprocess.run(command, check=True)
    folder = Path("dist/writing-assistant").rename("frozen")
    with display() as environment:
        test(folder.resolve() / "writing-assistant", environment)
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    size = sum(path.stat().st_size for path in files)
    print(f"  the frozen assistant runs; its folder has {size / 1e6:.1f} MB")


@contextmanager
def display() -> Iterator[dict[str, str]]:
    """Yield the environment variables for an app: those of a virtual display, or of none."""
    if shutil.which("Xvfb") is None:
        print("  there is no Xvfb: the assistant is run without a display")
        yield {"QT_QPA_PLATFORM": "offscreen"}
        return
    print("  the assistant is run on Xvfb")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x800x24"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        with os.fdopen(read) as numbers:
            number = numbers.readline().strip()
        if not number:
            sys.exit("Xvfb did not start")
        yield {"DISPLAY": f":{number}", "QT_QPA_PLATFORM": "xcb"}
    finally:
        server.terminate()
        server.wait()


def test(app: Path, environment: dict[str, str]) -> None:
    """Run the app's own test; exit if it fails, or if its picture is blank."""
    out = Path("selftest").resolve()
    done = subprocess.run(
        [str(app), "--data", str(out / "data"), "--selftest", str(out)],
        capture_output=True,
        text=True,
        cwd="/",
        env={"LC_ALL": "C.UTF-8", **environment},
        check=False,
        timeout=90,
    )
    if done.returncode != 0:
        sys.exit(f"the frozen assistant ended with status {done.returncode}: {done.stderr}")
    text = (out / "assistant.txt").read_text(encoding="utf-8")
    if not text.startswith(TEXT):
        sys.exit(f"the frozen assistant wrote {text!r}")
    picture = QImage(str(out / "assistant.png"))
    points = ((x, y) for x in range(picture.width()) for y in range(picture.height()))
    colours = {picture.pixel(x, y) for x, y in points}
    if len(colours) < LEAST_COLOURS:
        sys.exit(f"the picture of the frozen assistant has {len(colours)} colours: it is blank")


if __name__ == "__main__":
    main()
