"""No network access: the system kills these programs if they open a socket.

That includes native code, which Python's audit events (``test_model.py``) do not see.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILTERED = """
import sys
from benchmarks.reliability.limits import kill_at_socket

try:
    kill_at_socket()
except OSError:
    sys.exit(77)  # filters are not allowed here
"""
USES = {
    "a socket": "import socket; socket.socket()",
    "generate": """
from edgeseq.runtime import load
for demo in ("gpt2", "t5"):
    model = load(demo=demo, verify=True)
    model.generate("spell: K AE1 T", max_new_tokens=5, num_beams=2)
    list(model.stream("a", max_new_tokens=5))
    model.score("a b", "c" if demo == "t5" else None)
    model.close()
""",
    "pipelines and tasks": """
from edgeseq.runtime import load, pipeline
pipeline("text-generation")("Once", max_new_tokens=3)
load().run("completion", "Once", max_new_tokens=3)
""",
    "an event loop": """
import asyncio
from edgeseq.runtime import load

async def main():
    async for piece in load().astream("Once", max_new_tokens=3):
        pass

asyncio.run(main())
""",
    "the command": """
from edgeseq.cli import main
assert main(["generate", "Once", "--max-new-tokens", "3", "--device", "auto"]) == 0
assert main(["info", "--demo", "gpt2", "--verify"]) == 0
assert main(["eval", "--demo", "gpt2", sys.argv[1], "--context", "32"]) == 0
""",
}


@pytest.mark.skipif(sys.platform != "linux", reason="filters are Linux's")
@pytest.mark.parametrize("use", USES)
def test_no_socket_is_opened(use: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a king. " * 8, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", FILTERED + USES[use], str(text)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode == 77:
        pytest.skip("filters are not allowed here")
    assert done.returncode == (-signal.SIGSYS if use == "a socket" else 0), done.stderr
