"""ONNX Runtime, imported with its telemetry off, and sessions over a bundle's graphs.

ONNX Runtime sends usage events by default from 1.29 on; the variable below is read when it is
first imported. This is the only module that imports it.
"""

from __future__ import annotations

import os
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from edgeseq.runtime.errors import (
    BundleError,
    DeviceError,
    MissingPackageError,
    OptionError,
    reason,
)

try:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as _status
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

MAX_THREADS = 1024
PROVIDERS = {"cpu": "CPUExecutionProvider"}
_LOAD_ERRORS = (
    _status.Fail,
    _status.InvalidArgument,
    _status.InvalidGraph,
    _status.InvalidProtobuf,
    _status.NoModel,
    _status.NoSuchFile,
    _status.NotImplemented,
    _status.RuntimeException,
)


Session: TypeAlias = onnxruntime.InferenceSession  # as the other modules name it


def open_session(graph: Path, device: str, threads: int | None) -> Session:
    """A session over ``graph`` on ``device``, with ``threads`` threads (None: physical cores).

    Raises ``DeviceError`` for a device that is not there, ``BundleError`` for a broken graph.
    """
    options = session_options(threads)
    try:
        return onnxruntime.InferenceSession(
            os.fspath(graph), options, providers=[_provider(device)], enable_fallback=0
        )
    except (*_LOAD_ERRORS, UnicodeDecodeError) as error:  # its message may quote damaged bytes
        raise BundleError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {graph}: {_reason(error)}. "
            "Check the bundle with `edgeseq info BUNDLE --verify`."
        ) from error


def session_options(threads: int | None) -> onnxruntime.SessionOptions:
    """How sessions run: see the comments for what differs from ONNX Runtime's defaults."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _checked_threads(threads)
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # shapes vary, and patterns would be kept for each
    options.log_severity_level = 3
    # Threads may spin between the nodes of a run, never between runs: an idle app burns no CPU.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _provider(device: str) -> str:
    if device not in PROVIDERS:
        raise DeviceError(f"The device {device!r} is not available: use 'cpu'.")
    return PROVIDERS[device]


def _checked_threads(threads: Any) -> int:
    if threads is None:
        return 0
    if isinstance(threads, bool) or not isinstance(threads, Integral):
        raise OptionError(f"threads is {threads!r}; it must be an integer, or None for all cores.")
    if not 1 <= (count := int(threads)) <= MAX_THREADS:
        raise OptionError(f"threads is {threads}; it must be from 1 to {MAX_THREADS}.")
    return count


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is damaged"
    return reason(error)
