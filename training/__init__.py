"""Train or fine-tune a model from a template and files of data; needs the extra ``train``.

    from edgeseq.training import train

    result = train("t5-scratch", ["pairs.jsonl"], "out", precision="int8")
    print(result.figures["exact_match"], result.bundle)

Each name is imported at its first use, so that a list of templates does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..runtime.errors import TrainingError
    from .run import TrainingResult, train
    from .template import (
        DataSettings,
        Template,
        read_template,
        template_names,
        template_path,
        to_toml,
        with_overrides,
    )

__all__ = [
    "DataSettings",
    "Template",
    "TrainingError",
    "TrainingResult",
    "read_template",
    "template_names",
    "template_path",
    "to_toml",
    "train",
    "with_overrides",
]

_MODULES = {"TrainingError": "..runtime.errors", "TrainingResult": ".run", "train": ".run"}
NEEDED = ("torch", "transformers", "accelerate")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = _MODULES.get(name, ".template")
    if place == ".run":
        _check_packages()
    value = globals()[name] = getattr(import_module(place, __name__), name)
    return value


def _check_packages() -> None:
    """Raise ``MissingPackageError`` if a package of the extra ``train`` is missing."""
    from importlib.util import find_spec

    from ..runtime.errors import MissingPackageError

    for package in NEEDED:
        try:
            is_missing = find_spec(package) is None
        except ImportError:
            is_missing = True
        if is_missing:
            raise MissingPackageError(
                f"Training needs {package}: install the extra 'train' "
                '(python -m pip install "edgeseq[cpu,train]").'
            )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
