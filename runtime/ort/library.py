"""ONNX Runtime, imported with its telemetry off.

It sends usage events by default from 1.29 on; the variable below is read when it is first imported.
A program that has imported it before has to set it itself: the events that follow are switched off
here. This is the only module that imports it.
"""

from __future__ import annotations

import os

from ..errors import MissingPackageError

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
    cause = " ".join(str(error).split())
    raise MissingPackageError(
        f"ONNX Runtime is installed but cannot be loaded: {cause}."
    ) from error

onnxruntime.disable_telemetry_events()

__all__ = ["onnxruntime", "status"]
