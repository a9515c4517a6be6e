"""ONNX Runtime, imported with its telemetry off. No other module imports it.

From version 1.29 on, ONNX Runtime sends usage events by default. It reads the variable below when
it is first imported. A program that imports ONNX Runtime before edgeseq has to set the variable
itself: this module then only switches off later events.
"""

from __future__ import annotations

import os

from ..errors import DeviceError, MissingPackageError, is_out_of_memory

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

try:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as status
except ModuleNotFoundError as error:
    if error.name != "onnxruntime":
        raise
    raise MissingPackageError(
        "edgeseq needs ONNX Runtime: install it with the extra 'cpu' "
        "(python -m pip install \"edgeseq[cpu]\") or, for NVIDIA GPUs, the extra 'cuda'."
    ) from error
except ImportError as error:
    if isinstance(error.__cause__, KeyboardInterrupt):  # its C++ part wraps Ctrl-C
        raise error.__cause__ from None
    cause = " ".join(str(error).split())
    if is_out_of_memory(error):
        raise DeviceError(
            f"There is not enough memory to load ONNX Runtime ({cause}): close other programs or "
            "raise the limit of memory."
        ) from error
    raise MissingPackageError(
        f"ONNX Runtime is installed but cannot be loaded ({cause}): install it again."
    ) from error

onnxruntime.disable_telemetry_events()

__all__ = ["onnxruntime", "status"]
