"""Devices by their names: which of ONNX Runtime's execution providers computes, and its options."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DeviceError, OptionError

AUTO = "auto"
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
PROVIDERS = {
    "cpu": CPU,
    "cuda": CUDA,
    "tensorrt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}
PACKAGES = {
    CUDA: "onnxruntime-gpu",
    "TensorrtExecutionProvider": "onnxruntime-gpu",
    "DmlExecutionProvider": "onnxruntime-directml",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
    "QNNExecutionProvider": "onnxruntime-qnn",
}
NUMBERED = {CUDA, "TensorrtExecutionProvider", "DmlExecutionProvider", "MIGraphXExecutionProvider"}
NAME = re.compile(r"(\w+)(?::([0-9]{1,3}))?")
OF_POSITIONS = "positions."  # what nodes' names begin with that compute nothing else, or shapes
COPIES = {"MemcpyToHost", "MemcpyFromHost"}
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@dataclass(frozen=True)
class Device:
    """What computes: a provider of ONNX Runtime's, with its own options."""

    name: str  # as it was asked for
    provider: str = CPU
    options: tuple[tuple[str, str], ...] = ()  # names and values
    library: str | None = None  # the plug-in that the provider comes from

    @property
    def number(self) -> int:
        """Which of several devices of a kind."""
        return int(dict(self.options).get("device_id", 0))

    @property
    def key(self) -> tuple[Any, ...]:
        """What two sessions have in common that may be one."""
        return self.provider, self.options, self.library


def parse_device(
    name: Any,
    options: Mapping[str, Any] | None = None,
    library: str | os.PathLike[str] | None = None,
) -> Device:
    """The device of a name: "cpu", "cuda", "cuda:1", "directml", a provider's own name.

    One that is a device already is given back. ``options``: the provider's, by ONNX Runtime's
    names. ``library``: a plug-in that has the provider, which may have any name then. Raises
    ``DeviceError`` for a name that is none or a library that is not there, ``OptionError`` for
    options that cannot be.
    """
    if isinstance(name, Device):
        return name
    if library is not None:
        return _plugged_in(name, options, library)
    found = NAME.fullmatch(name) if isinstance(name, str) else None
    provider = _provider(found[1]) if found is not None else None
    number = None if found is None else found[2]
    if provider is None or (number is not None and provider not in NUMBERED):
        raise DeviceError(
            f"There is no device {name!r:.60}: known are {', '.join(map(repr, PROVIDERS))}, "
            "'cuda:1' for a second one, 'auto', and ONNX Runtime's names of providers."
        )
    given = _texts(options)
    if given and provider == CPU:
        raise OptionError("provider_options have no effect on the CPU: leave them out.")
    if number is not None:
        number = str(int(number))
        if given.get("device_id", number) != number:
            raise OptionError(f"device_id has no effect beside the device {name!r}: pass one.")
        given["device_id"] = number
    return Device(name, provider, tuple(sorted(given.items())))


def _plugged_in(name: Any, options: Any, library: Any) -> Device:
    path = os.fspath(library) if isinstance(library, str | os.PathLike) else ""
    if not isinstance(name, str) or not name or name in (*PROVIDERS, AUTO):
        raise DeviceError(f"The device {name!r:.60} is no name of a provider that a library has.")
    if not Path(path).is_file():
        raise DeviceError(f"There is no library {library!r:.60} for the device {name!r}.")
    return Device(name, name, tuple(sorted(_texts(options).items())), os.path.realpath(path))


def _provider(word: str) -> str | None:
    if word.endswith("ExecutionProvider"):
        return word
    return PROVIDERS.get(word)


def _texts(options: Any) -> dict[str, str]:
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise OptionError(
            f"provider_options is {options!r:.60}; it must be a dictionary of names and values."
        )
    texts = {name: str(value) for name, value in options.items()}
    number = texts.get("device_id", "0")
    if not (number.isascii() and number.isdigit()):
        raise OptionError(f"device_id is {number!r:.60}; it must be a number from 0 on.")
    return texts


def check_there(device: Device, available: Collection[str], version: str) -> None:
    """Raise ``DeviceError`` where this build of ONNX Runtime lacks the device's provider."""
    if device.provider in available:
        return
    package = PACKAGES.get(device.provider)
    advice = f"a build that has it, such as {package}" if package else "a build that has it"
    if device.provider == CUDA:
        advice = "the extra 'cuda' in place of 'cpu' (onnxruntime-gpu, not beside onnxruntime)"
    raise DeviceError(
        f"The device {device.name!r} is not available, because the ONNX Runtime that is installed "
        f"({version}) has no {device.provider}: install {advice}, or use 'cpu'."
    )


def check_driver(device: Device) -> None:
    """Raise ``DeviceError`` where there is no driver of NVIDIA's."""
    if why := _why_not_loaded(DRIVER):
        raise DeviceError(
            f"The device {device.name!r} is not available: the NVIDIA driver is missing ({why})."
        )


def why_not_opened(library: Path) -> str:
    """Why a session fell back to the CPU though its build has the provider: what is missing.

    ``library``: the provider's file.
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
    """Which provider runs a node."""

    provider: str
    kind: str
    name: str


def hidden_nodes(assigned: Iterable[Assigned]) -> list[str]:
    """The kinds of nodes that run on the CPU though they compute.

    What works out shapes and positions does so there on purpose.
    """
    return sorted(
        {
            node.kind
            for node in assigned
            if node.provider == CPU
            and node.kind not in COPIES
            and not node.name.startswith(OF_POSITIONS)
        }
    )
