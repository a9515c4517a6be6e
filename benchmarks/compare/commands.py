"""Commands that set something up, and what is said where one fails."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

LAST_LINES = 20


class SetupError(Exception):
    """A program cannot be installed, or a model cannot be converted for it.

    Its first argument is a sentence; ``output`` is the end of what the failed command printed.
    """

    def __init__(self, sentence: str, output: str = "") -> None:
        super().__init__(sentence)
        self.output = output


def run_command(
    command: Sequence[str], failure: str, variables: Mapping[str, str], folder: Path | None = None
) -> None:
    """Run ``command`` in ``folder``; where it fails, raise ``SetupError`` with ``failure``."""
    done = subprocess.run(
        command, check=False, cwd=folder, env=variables, capture_output=True, text=True
    )
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"status {done.returncode}"
        raise SetupError(f"{failure}: {reason}", "\n".join(lines[-LAST_LINES:]))
