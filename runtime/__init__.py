"""GPT-2 and T5 text generation on ONNX Runtime, without torch.

from edgeseq.runtime import load

model = load("my-bundle")
print(model.generate("Once upon a time,", max_new_tokens=40)[0].text)
"""

from edgeseq.runtime.errors import (
    BundleError,
    CheckpointError,
    DeviceError,
    EdgeseqError,
    MissingPackageError,
    OptionError,
    PromptError,
)
from edgeseq.runtime.loading import load
from edgeseq.runtime.model import Model
from edgeseq.runtime.results import GenerationResult, Timings

__all__ = [
    "BundleError",
    "CheckpointError",
    "DeviceError",
    "EdgeseqError",
    "GenerationResult",
    "MissingPackageError",
    "Model",
    "OptionError",
    "PromptError",
    "Timings",
    "load",
]
