"""Setup of execution providers other than the CPU's: libraries, plug-ins, checks, tensors."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from ..errors import DeviceError, reason
from .devices import CPU, CUDA, Device
from .import_onnxruntime import onnxruntime

OF_POSITIONS = "positions."  # prefix of the names of nodes that only compute shapes or positions
COPIES = {"MemcpyToHost", "MemcpyFromHost"}
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
LIBRARIES = Path(onnxruntime.__file__).parent / "capi"
_lock = Lock()
_preloaded = False
_plugged_in: dict[str, str] = {}  # libraries by their provider's registered name


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
                    f"The library {device.library} cannot be loaded ({reason(error)}): use a build "
                    f"for this machine and ONNX Runtime {onnxruntime.__version__}."
                ) from error
            _plugged_in[device.provider] = device.library
    there = onnxruntime.get_ep_devices()
    found = [each for each in there if each.ep_name == device.provider]
    if not found:
        names = ", ".join(sorted({each.ep_name for each in there}))
        raise DeviceError(
            f"The library {device.library} has no {device.name!r} for this machine: use one of the "
            f"available execution providers ({names})."
        )
    options.add_provider_for_devices(found[: 1 + device.number][-1:], dict(device.options))


def check_opened(session: Any, device: Device) -> None:
    """Raise ``DeviceError`` if ``session`` fell back to the CPU: ONNX Runtime only warns."""
    if session.get_providers()[0] != device.provider:
        why = why_not_opened(_library(device.provider))
        raise DeviceError(
            f"The device {device.name!r} is not available, because {why}: repair the installation, "
            "or use 'cpu'."
        )


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


def check_there(device: Device, available: Collection[str], version: str) -> None:
    """Raise ``DeviceError`` if this build of ONNX Runtime lacks the device's provider.

    ``available``: the providers of the build; ``version``: its version.
    """
    if device.provider in available:
        return
    advice = "a build that has it"
    if device.provider == CUDA:
        advice = "the extra 'cuda' instead of 'cpu' (onnxruntime-gpu replaces onnxruntime)"
    raise DeviceError(
        f"The device {device.name!r} is not available, because the installed ONNX Runtime "
        f"({version}) has no {device.provider}: install {advice}, or use 'cpu'."
    )


def check_driver(device: Device) -> None:
    """Raise ``DeviceError`` if NVIDIA's driver is missing."""
    if why := _why_not_loaded(DRIVER):
        raise DeviceError(
            f"The device {device.name!r} is not available, because the NVIDIA driver is missing "
            f"({why}): install the driver, or use 'cpu'."
        )


def why_not_opened(library: Path) -> str:
    """Return why a session fell back to the CPU although the build has the provider.

    ``library``: the path of the provider's library.
    """
    if library.is_file() and (why := _why_not_loaded(str(library))):
        return f"a library that it needs is missing ({why})"
    return "ONNX Runtime could not start it"


def _why_not_loaded(library: str) -> str | None:
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return " ".join(str(error).split())
    return None


class Assigned(NamedTuple):
    """A node and the execution provider that runs it."""

    provider: str
    kind: str  # the operator
    name: str


def hidden_nodes(assigned: Iterable[Assigned]) -> list[str]:
    """Return the operators on the CPU that compute more than shapes and positions."""
    return sorted(
        {
            node.kind
            for node in assigned
            if node.provider == CPU
            and node.kind not in COPIES
            and not node.name.startswith(OF_POSITIONS)
        }
    )
