"""What every program is asked to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Bits = Literal["int8", "int4", "fp32"]
BITS: tuple[Bits, ...] = get_args(Bits)
VOCABULARY = {  # for ids of prompts
    "gpt2": 50257,
    "t5-small": 32128,
    "t5-base": 32128,
    "bart-base": 50265,
    "marian": 58101,
}
DECODER_ONLY = ("gpt2",)


@dataclass(frozen=True)
class Shape:
    """A batch of prompts, how many tokens follow each, and how many beams look for them.

    An encoder-decoder reads prompts with its encoder: they are its sources.
    """

    rows: int
    prompt: int
    new: int
    beams: int = 1  # 1: greedy


@dataclass(frozen=True)
class Workload:
    """What one process is asked for, after it has loaded the model."""

    name: str
    model: str
    shapes: tuple[Shape, ...]
    bits: tuple[Bits, ...]
    repeats: int = 3  # in one process, after a warm-up; 0: nothing but the first token
    idle: bool = False  # whether the loaded model is watched doing nothing
    cold_files: bool = False  # whether the page cache forgets the program and the model first

    def job(self) -> dict[str, Any]:
        """What ``harness.py`` needs of it, as JSON."""
        return {
            "name": self.name,
            "model": self.model,
            "is_encoder_decoder": self.model not in DECODER_ONLY,
            "shapes": [asdict(shape) for shape in self.shapes],
            "repeats": self.repeats,
            "idle": self.idle,
        }


START = (Shape(rows=1, prompt=16, new=1),)
SOURCES = (32, 128, 256, 512)
CONTEXTS = (32, 128, 256, 384, 512, 640, 768, 896, 960)
ROWS = (1, 2, 4, 8, 16)
BEAMS = (1, 2, 4, 8)

WORKLOADS = (
    Workload("gpt2/decode", "gpt2", (Shape(1, 32, 128),), ("int8", "int4", "fp32")),
    Workload("gpt2/after-512", "gpt2", (Shape(1, 512, 64),), ("int8", "int4", "fp32")),
    Workload("gpt2/batch-8", "gpt2", (Shape(8, 32, 64),), ("int8",)),
    Workload("gpt2/beam-4", "gpt2", (Shape(1, 32, 64, 4),), ("int8",)),
    Workload("t5-small/greedy", "t5-small", (Shape(1, 64, 64),), ("int8", "fp32")),
    Workload("t5-small/beam-4", "t5-small", (Shape(1, 64, 64, 4),), ("int8", "fp32")),
    Workload("t5-base/beam-4", "t5-base", (Shape(1, 256, 64, 4),), ("int8",)),
    Workload("bart-base/greedy", "bart-base", (Shape(1, 256, 64),), ("int8",)),
    Workload("bart-base/beam-4", "bart-base", (Shape(1, 256, 64, 4),), ("int8",)),
    Workload("marian/greedy", "marian", (Shape(1, 32, 64),), ("int8",)),
    Workload("marian/beam-4", "marian", (Shape(1, 32, 64, 4),), ("int8",)),
    Workload("gpt2/start", "gpt2", START, ("int8",), repeats=0),
    Workload("gpt2/start-cold", "gpt2", START, ("int8",), repeats=0, cold_files=True),
    Workload("gpt2/idle", "gpt2", (Shape(1, 16, 16),), ("int8",), repeats=1, idle=True),
    # How the cost grows: one shape a column of a table.
    Workload(
        "gpt2/context", "gpt2", tuple(Shape(1, n, 32) for n in CONTEXTS), ("int8",), repeats=1
    ),
    Workload("gpt2/rows", "gpt2", tuple(Shape(n, 32, 32) for n in ROWS), ("int8",), repeats=1),
    Workload("gpt2/beams", "gpt2", tuple(Shape(1, 32, 32, n) for n in BEAMS), ("int8",), repeats=1),
    Workload(
        "t5-small/source",
        "t5-small",
        tuple(Shape(1, n, 32) for n in SOURCES),
        ("int8",),
        repeats=1,
    ),
)
