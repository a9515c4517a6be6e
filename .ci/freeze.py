"""Freeze an app with PyInstaller, and run it without Python and without environment variables.

Run it with the Python of an environment that holds the wheel, its `cpu` extra and PyInstaller, in
an empty folder. It takes half a minute.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

APP = """\
import sys
from pathlib import Path

from edgeseq.cli import main
from edgeseq.runtime import __version__, load, pipeline

GREEDY = {"max_new_tokens": 8, "do_sample": False}

print(__version__)
own = load(Path(__file__).parent / "my-bundle")
print(own.generate("Once upon a time,", **GREEDY)[0].text)
print(own.run("completion", "Once upon a time,", **GREEDY).text)
print(load(kernels="stock").generate("Once upon a time,", **GREEDY)[0].text)
print(pipeline("text-generation")("Once upon a time,", **GREEDY)[0]["generated_text"])
print(pipeline("text2text-generation")("pronounce: table")[0]["generated_text"])
sys.exit(main(sys.argv[1:]))
"""
STORY = "there was a great many years old"
EXPECTED = [f"{STORY}.", f"{STORY},", f"{STORY}.", f"Once upon a time, {STORY}.", "T EY1 B AH0 L"]


def main() -> None:
    """Freeze the app, run two commands in it and print the size of its folder."""
    spec = find_spec("edgeseq.runtime")
    if spec is None or spec.origin is None:
        sys.exit("edgeseq is not installed here")
    demos = Path(spec.origin).parent / "bundle" / "demos"
    shutil.copytree(demos / "gpt2", "my-bundle")
    Path("app.py").write_text(APP, encoding="utf-8")
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--onedir", "--log-level=WARN"]
    subprocess.run([*command, "--add-data=my-bundle:my-bundle", "app.py"], check=True)
    folder = Path("dist/app").rename("frozen")
    for arguments, last in (
        (["tasks"], "translation                     Translate a text"),
        (["generate", "--demo", "t5", "pronounce: table"], "T EY1 B AH0 L"),
        (["--version"], f"edgeseq {version('edgeseq')}"),
    ):
        lines = run_app(folder, arguments)
        expected = [version("edgeseq"), *EXPECTED]
        if [line.strip() for line in lines[: len(expected)]] != expected or lines[-1] != last:
            sys.exit(f"the frozen app printed {lines} for {arguments}")
    run_app(folder, ["doctor"])  # the status is 1 if the demo does not work
    ask_helper(folder)
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    size = sum(path.stat().st_size for path in files)
    print(f"  the frozen app runs; its folder has {size / 1e6:.1f} MB")


def run_app(folder: Path, arguments: list[str]) -> list[str]:
    """Run the app without environment variables, in another folder; return its lines."""
    app = folder.resolve() / "app"
    done = subprocess.run(
        [str(app), *arguments], capture_output=True, text=True, cwd="/", env={}, check=False
    )
    if done.returncode != 0:
        sys.exit(f"the frozen app ended with status {done.returncode}: {done.stderr}")
    return done.stdout.splitlines()


def ask_helper(folder: Path) -> None:
    """Start the app as the helper of another app, and ask it for a story."""
    params = {"model": "demo-gpt2", "prompt": "Once upon a time,", "max_new_tokens": 8}
    request = {"id": 1, "method": "generate", "params": {**params, "do_sample": False}}
    with subprocess.Popen(
        [str(folder.resolve() / "app"), "serve", "--stdio", "--demo"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env={},
    ) as helper:
        assert helper.stdin is not None
        assert helper.stdout is not None
        print(json.dumps(request), file=helper.stdin, flush=True)
        answer = next((line for line in helper.stdout if '"id":1,' in line), "nothing")
        helper.stdin.close()
        if f"{STORY}." not in answer or helper.wait(60) != 0:
            sys.exit(f"the frozen helper answered {answer}, and ended with {helper.returncode}")


if __name__ == "__main__":
    main()
