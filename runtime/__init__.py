"""GPT-2 and T5 text generation on ONNX Runtime, without torch.

    from edgeseq.runtime import load

    model = load("my-bundle")
    print(model.generate("Once upon a time,", max_new_tokens=40)[0].text)

The names below are imported when they are first used, so that a command line that only shows its
version, or is interrupted as it starts, does not wait for numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import (
        BundleError,
        DeviceError,
        EdgeseqError,
        MissingPackageError,
        OptionError,
        PromptError,
    )
    from .loading import load
    from .model import Model
    from .pipelines.pipeline import pipeline
    from .results import GenerationResult, Score, Timings

    __version__: str

__all__ = [
    "BundleError",
    "DeviceError",
    "EdgeseqError",
    "GenerationResult",
    "MissingPackageError",
    "Model",
    "OptionError",
    "PromptError",
    "Score",
    "Timings",
    "load",
    "pipeline",
]

_MODULES = {
    "GenerationResult": "results",
    "Model": "model",
    "Score": "results",
    "Timings": "results",
    "load": "loading",
    "pipeline": "pipelines.pipeline",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # late: it searches all installed packages

        value: object = version("edgeseq")
        globals()[name] = value
        return value
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES.get(name, 'errors')}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
