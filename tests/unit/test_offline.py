"""No network access: the system kills these programs if they open a socket.

That includes native code, which Python's audit events (``test_model.py``) do not see.
"""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SOCKET = {"x86_64": 41, "aarch64": 198}.get(platform.machine())  # the system call
FILTERED = f"""
import ctypes, sys

class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("true", ctypes.c_uint8), ("false", ctypes.c_uint8),
                ("value", ctypes.c_uint32)]

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction))]

LOAD_NUMBER, JUMP_IF_EQUAL, RETURN, KILL, ALLOW = 0x20, 0x15, 0x06, 0x80000000, 0x7FFF0000
instructions = (Instruction * 4)(
    Instruction(LOAD_NUMBER, 0, 0, 0),
    Instruction(JUMP_IF_EQUAL, 0, 1, {SOCKET}),
    Instruction(RETURN, 0, 0, KILL),
    Instruction(RETURN, 0, 0, ALLOW),
)
libc = ctypes.CDLL(None, use_errno=True)
program = Program(4, instructions)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
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


@pytest.mark.skipif(sys.platform != "linux" or SOCKET is None, reason="filters are Linux's")
@pytest.mark.parametrize("use", USES)
def test_no_socket_is_opened(use: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a king. " * 8, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", FILTERED + USES[use], str(text)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode == 77:
        pytest.skip("filters are not allowed here")
    assert done.returncode == (-signal.SIGSYS if use == "a socket" else 0), done.stderr
