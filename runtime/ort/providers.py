"""Setup of execution providers other than the CPU's: libraries, plug-ins, checks, tensors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from ..errors import DeviceError, reason
from .devices import CUDA, Device, check_driver, check_there, why_not_opened
from .import_onnxruntime import onnxruntime

LIBRARIES = Path(onnxruntime.__file__).parent / "capi"
_lock = Lock()
_preloaded = False
_plugged_in: dict[str, str] = {}  # from a provider's registered name to its library


def prepare(device: Device) -> None:
    """Load the libraries that ``device`` needs; ``DeviceError`` if the driver is missing."""
    global _preloaded  # noqa: PLW0603  # libraries belong to the process
    if device.provider != CUDA:
        return
    check_driver(device)
    with _lock:
        if not _preloaded:
            # ONNX Runtime prints what it does not find: silence its module, not the program.
            onnxruntime.print = lambda *_, **__: None
            try:
                onnxruntime.preload_dlls()  # CUDA and cuDNN as installed by pip
            finally:
                del onnxruntime.print
            _preloaded = True


def check_build(device: Device) -> None:
    """Raise ``DeviceError`` if this build of ONNX Runtime lacks the device's provider."""
    if device.library is None:
        check_there(device, onnxruntime.get_available_providers(), onnxruntime.__version__)


def plug_in(options: Any, device: Device) -> None:
    """Add ``device``, which a plug-in library provides, to a session's ``options``.

    Raises ``DeviceError`` if the library cannot be loaded or has no such provider.
    """
    assert device.library is not None
    with _lock:
        if _plugged_in.get(device.provider) != device.library:
            try:
                onnxruntime.register_execution_provider_library(device.provider, device.library)
            except Exception as error:  # ONNX Runtime's kinds, and the library's own
                raise DeviceError(
                    f"The library {device.library} cannot be loaded: {reason(error)}."
                ) from error
            _plugged_in[device.provider] = device.library
    there = onnxruntime.get_ep_devices()
    found = [each for each in there if each.ep_name == device.provider]
    if not found:
        names = ", ".join(sorted({each.ep_name for each in there}))
        raise DeviceError(
            f"The library {device.library} has no {device.name!r} for this machine: there are "
            f"{names}."
        )
    options.add_provider_for_devices(found[: 1 + device.number][-1:], dict(device.options))


def check_opened(session: Any, device: Device) -> None:
    """Raise ``DeviceError`` if ``session`` fell back to the CPU: ONNX Runtime only warns."""
    if session.get_providers()[0] != device.provider:
        why = why_not_opened(_library(device.provider))
        raise DeviceError(f"The device {device.name!r} is not available: {why}.")


def device_tensor(device: Device, shape: Sequence[int], dtype: Any) -> Any:
    """Return a tensor with undefined contents in the memory of a CUDA device."""
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
        list(shape), dtype.type, "cuda", device.number
    )


def _library(provider: str) -> Path:
    """Return the path of a provider's library in ONNX Runtime's package."""
    word = provider.removesuffix("ExecutionProvider").lower()
    begin, end = ("", ".dll") if sys.platform == "win32" else ("lib", ".so")
    return LIBRARIES / f"{begin}onnxruntime_providers_{word}{end}"
