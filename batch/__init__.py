"""Tasks on many rows: files of any size, several processes, and batches of other frameworks.

    from edgeseq.batch import Predictor

    predict = Predictor("my-bundle", "summarization", max_new_tokens=40)
    predict({"id": [1, 2], "text": ["A long text.", "Another one."]})

``Predictor`` is imported at its first use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .predictor import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .predictor import Predictor

    globals()["Predictor"] = Predictor
    return Predictor


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
