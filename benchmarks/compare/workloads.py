"""What every program is asked to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Bits = Literal["int8", "int4", "fp32"]
BITS: tuple[Bits, ...] = get_args(Bits)
VOCABULARY = {"gpt2": 50257, "t5-small": 32128, "t5-base": 32128}  # for ids of prompts


@dataclass(frozen=True)
class Shape:
    """A batch of prompts, and how many tokens follow each. An encoder reads a T5's prompts."""

    rows: int
    prompt: int
    new: int


@dataclass(frozen=True)
class Workload:
    """What one process is asked for, after it has loaded the model."""

    name: str
    model: str
    shapes: tuple[Shape, ...]
    bits: tuple[Bits, ...]
    beams: int = 1  # 1: greedy
    repeats: int = 3  # in one process, after a warm-up; 0: nothing but the first token
    idle: bool = False  # whether the loaded model is watched doing nothing
    cold_files: bool = False  # whether the page cache forgets the program and the model first

    def job(self) -> dict[str, Any]:
        """What ``harness.py`` needs of it, as JSON."""
        return {
            "name": self.name,
            "model": self.model,
            "shapes": [asdict(shape) for shape in self.shapes],
            "beams": self.beams,
            "repeats": self.repeats,
            "idle": self.idle,
        }


CONTEXTS = (32, 128, 256, 384, 512, 640, 768, 896, 960)
START = (Shape(rows=1, prompt=16, new=1),)

WORKLOADS = (
    Workload("gpt2/decode", "gpt2", (Shape(1, 32, 128),), ("int8", "int4", "fp32")),
    Workload("gpt2/after-512", "gpt2", (Shape(1, 512, 64),), ("int8", "int4", "fp32")),
    Workload("gpt2/batch-8", "gpt2", (Shape(8, 32, 64),), ("int8",)),
    Workload("gpt2/beam-4", "gpt2", (Shape(1, 32, 64),), ("int8",), beams=4),
    Workload("t5-small/greedy", "t5-small", (Shape(1, 64, 64),), ("int8", "fp32")),
    Workload("t5-small/beam-4", "t5-small", (Shape(1, 64, 64),), ("int8", "fp32"), beams=4),
    Workload("t5-base/beam-4", "t5-base", (Shape(1, 256, 64),), ("int8",), beams=4),
    Workload("gpt2/start", "gpt2", START, ("int8",), repeats=0),
    Workload("gpt2/start-cold", "gpt2", START, ("int8",), repeats=0, cold_files=True),
    Workload("gpt2/idle", "gpt2", (Shape(1, 16, 16),), ("int8",), repeats=1, idle=True),
    Workload(
        "gpt2/context", "gpt2", tuple(Shape(1, n, 32) for n in CONTEXTS), ("int8",), repeats=1
    ),
)
