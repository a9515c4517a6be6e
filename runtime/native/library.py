"""The compiled library of kernels, which ONNX Runtime loads as custom operators.

Graphs of quantized bundles multiply with nodes of the domain ``edgeseq``. These are functions made
of ONNX Runtime's own operators, and the library has a kernel for each, which ONNX Runtime prefers.
The library is optional: where it could not be built, and on processors that it has no kernels for,
ONNX Runtime's operators compute.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import OptionError, reason

Kernels = Literal["auto", "native", "stock"]
PRODUCTS = (b"RowLinear", b"BlockLinear")  # parts of the operators' names in graphs
OPERATORS = (*PRODUCTS, b"BlockLookup", b"CachedAttention")
STEM = "edgeseq_kernels"
SUFFIXES = (".so", ".dylib", ".dll")
FASTER = frozenset({"avx512-vnni", "avx2"})  # kernels measured to be faster than the operators
GENERIC = "generic"  # the kernels for any processor, which only tests use
MISSING = "edgeseq was installed without it, because it could not be compiled"


def check_kernels(kernels: Any) -> None:
    """Raise ``OptionError`` unless ``kernels`` is "auto", "native" or "stock"."""
    if kernels not in get_args(Kernels):
        raise OptionError(f"kernels is {kernels!r:.60}; it must be 'auto', 'native' or 'stock'.")


def find_library() -> Path | None:
    """Return the path of the library; None if it was not built."""
    for suffix in SUFFIXES:
        path = Path(__file__).with_name(STEM + suffix)
        if path.is_file():
            return path
    return None


def calls_kernels(graph: bytes) -> bool:
    """Return whether an ONNX file has nodes that the kernels compute."""
    return any(name in graph for name in OPERATORS)


def calls_products(graph: bytes) -> bool:
    """Return whether an ONNX file has products that the kernels compute."""
    return any(name in graph for name in PRODUCTS)


def gains_from_kernels(graph: bytes) -> bool:
    """Return whether an ONNX file is known to be faster with the kernels for this processor."""
    return calls_kernels(graph) and processor_kernels() in FASTER


def add_kernels(options: Any, graph: bytes, kernels: Kernels) -> bool:
    """Add the kernels for ``graph``, an ONNX file, to ONNX Runtime's session ``options``.

    Returns whether they were added: with "auto" only if the graph gains from them. Raises
    ``OptionError`` for "native" if they are not available.
    """
    if kernels == "stock" or (kernels == "auto" and not gains_from_kernels(graph)):
        return False
    library, why = find_library(), MISSING
    if library is not None:
        try:
            options.register_custom_ops_library(str(library))
            return True
        except Exception as error:  # the type depends on what failed in ONNX Runtime
            why = reason(error)
    if kernels == "native":
        raise OptionError(
            f"The library of native kernels cannot be used ({why}): use kernels='auto' or 'stock'."
        )
    return False


@cache
def processor_library() -> ctypes.CDLL | None:
    """Return the loaded library.

    None without it, if the system cannot load it, or if it has no kernels for this processor.
    """
    path = find_library()
    if path is None:
        return None
    try:
        library = ctypes.CDLL(str(path))
    except OSError:  # built for another system; `kernels="native"` says why
        return None
    library.edgeseq_kernels.restype = ctypes.c_char_p
    return None if _first_kernels(library) == GENERIC else library


def processor_kernels() -> str | None:
    """Return the name of the kernels for this processor, such as "avx512-vnni".

    None where ``processor_library`` is None.
    """
    library = processor_library()
    return None if library is None else _first_kernels(library)


def _first_kernels(library: ctypes.CDLL) -> str:
    name: str = library.edgeseq_kernels(ctypes.c_size_t(0)).decode()
    return name
