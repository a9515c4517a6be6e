"""Run the writing assistant: `python examples/writing_assistant`."""

import sys
from pathlib import Path

if not __package__:  # run as a folder or frozen: find the package that holds this file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from writing_assistant.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
