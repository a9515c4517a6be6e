"""Parse device names into execution providers and their options.

Nothing here imports ONNX Runtime, so that the command line can use this module without it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DeviceError, OptionError

AUTO = "auto"
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": CUDA}
PROVIDER_SUFFIX = "ExecutionProvider"
NAME = re.compile(r"(\w+)(?::([0-9]{1,3}))?")


@dataclass(frozen=True)
class Device:
    """An execution provider of ONNX Runtime, with its options."""

    name: str  # name that the caller gave
    provider: str = CPU
    options: tuple[tuple[str, str], ...] = ()  # the provider's options: names and values
    library: str | None = None  # path of the plug-in library that has the provider

    @property
    def number(self) -> int:
        """The device's number among several of its kind."""
        return int(dict(self.options).get("device_id", 0))

    @property
    def key(self) -> tuple[Any, ...]:
        """A key that is equal for devices whose sessions can be shared."""
        return self.provider, self.options, self.library


CPU_DEVICE = Device("cpu")


def parse_device(
    name: Any,
    options: Mapping[str, Any] | None = None,
    library: str | os.PathLike[str] | None = None,
) -> Device:
    """Return the device of a name: "cpu", "cuda", "cuda:1", or "NAMEExecutionProvider".

    ``options``: the provider's options, by ONNX Runtime's names. ``library``: a plug-in library
    that has the provider; ``name`` is then the provider's name in it. Raises ``DeviceError`` for an
    unknown name or a missing library, ``OptionError`` for options that cannot be used.
    """
    if library is not None:
        return _plugged_in(name, options, library)
    found = NAME.fullmatch(name) if isinstance(name, str) else None
    provider = _provider(found[1]) if found is not None else None
    number = None if found is None else found[2]
    if provider is None or (number is not None and provider != CUDA):
        raise DeviceError(
            f"There is no device {name!r:.60}: use 'cpu', 'cuda', 'cuda:1' for the second GPU, "
            f"'auto', or the name of an execution provider (NAME{PROVIDER_SUFFIX})."
        )
    given = _texts(options)
    if given and provider == CPU:
        raise OptionError("provider_options has no effect on the CPU: leave it out.")
    if number is not None:
        number = str(int(number))
        if given.get("device_id", number) != number:
            raise OptionError(
                f"device_id is {given['device_id']!r}, but the device {name!r} already names the "
                "GPU: leave device_id out."
            )
        given["device_id"] = number
    return Device(name, provider, tuple(sorted(given.items())))


def _plugged_in(name: Any, options: Any, library: Any) -> Device:
    path = os.fspath(library) if isinstance(library, str | os.PathLike) else ""
    if not isinstance(name, str) or not name or name in (*PROVIDERS, AUTO):
        raise DeviceError(
            f"device is {name!r:.60}; with provider_library it must be the name of an execution "
            "provider in that library."
        )
    if not Path(path).is_file():
        raise DeviceError(
            f"provider_library is {library!r:.60}; it must be the path of the plug-in library that "
            f"contains {name!r}."
        )
    return Device(name, name, tuple(sorted(_texts(options).items())), os.path.realpath(path))


def _provider(word: str) -> str | None:
    return word if word.endswith(PROVIDER_SUFFIX) else PROVIDERS.get(word)


def _texts(options: Any) -> dict[str, str]:
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise OptionError(
            f"provider_options is {options!r:.60}; it must be a dictionary from names to values."
        )
    texts = {name: str(value) for name, value in options.items()}
    number = texts.get("device_id", "0")
    if not (number.isascii() and number.isdigit()):
        raise OptionError(f"device_id is {number!r:.60}; it must be an integer of at least 0.")
    return texts
