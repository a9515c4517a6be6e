"""``load``: open a bundle and return a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bundle.demo_bundles import DEMOS, demo_bundle
from .bundle.manifest import MANIFEST_NAME, CacheDtype, Manifest
from .bundle.reading import Bundle, open_bundle
from .concurrency.background import Background
from .errors import BundleError, OptionError

if TYPE_CHECKING:
    from .model import Model
    from .ort.engine import Engine
    from .text.byte_tokenizer import AnyTokenizer


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    demo: str | None = None,
    device: str = "cpu",
    provider_options: Mapping[str, Any] | None = None,
    provider_library: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    verify: bool = False,
    kv_cache: CacheDtype | None = None,
    prepack: bool = False,
    max_concurrent: int | None = None,
) -> Model:
    """Load the bundle at ``path``, or a ``demo`` model that comes with edgeseq: by default "gpt2".

    - ``device``: "cpu"; "cuda" or "cuda:1"; "auto", which is CUDA if the bundle opens there, else
      the CPU (see ``Model.device`` and ``Model.device_reason``); or the name of another execution
      provider of ONNX Runtime, such as "DmlExecutionProvider".
    - ``provider_options``: options of that provider, such as {"gpu_mem_limit": 2**31}.
    - ``provider_library``: the file of a plug-in library that has the provider.
    - ``threads``: the number of computing threads; None: one for each physical core that the
      process may use.
    - ``verify``: check the hash of every file first.
    - ``kv_cache``: the dtype of the KV cache, "float32", "int8" or "float16"; None: the bundle's
      default. Only quantized bundles have "int8" and "float16", which is for CUDA.
    - ``prepack``: keep the weights, as packed by this machine's ONNX Runtime, in the user's cache
      folder. They take up to two and a half times the bundle's size. The first load writes them.
      Later loads map them, and processes share the memory.
    - ``max_concurrent``: the limit of generations at once in all threads, each with its own KV
      cache; None: 16. Further generations wait in order of arrival.

    Raises ``BundleError`` for a bundle that is missing, damaged or too new, or if the cache folder
    cannot be written, ``DeviceError`` for a device that is not available, ``OptionError`` for a
    KV cache that the bundle has no graph for, ``MissingPackageError`` without ONNX Runtime.
    """
    if path is not None and demo is not None:
        raise OptionError("demo has no effect beside path: pass one of them.")
    given: Any = path  # callers without type checks may pass anything
    if given is not None and (not isinstance(given, str | os.PathLike) or not os.fspath(given)):
        raise OptionError(f"path is {path!r:.60}; it must be the folder of a bundle.")
    if max_concurrent is not None and (type(max_concurrent) is not int or max_concurrent < 1):
        raise OptionError(
            f"max_concurrent is {max_concurrent!r:.60}; it must be an integer of at least 1."
        )
    folder = Path(path) if path is not None else demo_bundle(DEMOS[0] if demo is None else demo)
    bundle = open_bundle(folder, verify=verify)

    # The other thread must not import: Ctrl-C inside an import of this thread may leave Python's
    # import lock taken, and this thread, which waits for the other, would wait forever.
    from .ort.engine import MAX_CONCURRENT, open_engine

    if prepack:
        import hashlib  # noqa: F401  # prepacking needs it

    def open_sessions() -> Engine:
        return open_engine(
            bundle.manifest,
            bundle.folder,
            device=device,
            provider_options=provider_options,
            provider_library=provider_library,
            threads=threads,
            kv_cache=kv_cache,
            prepack=prepack,
            verify=verify,
            max_concurrent=max_concurrent or MAX_CONCURRENT,
        )

    # ONNX Runtime reads the graphs and packs the weights while Python imports the rest.
    with Background(open_sessions) as opening:
        from .model import Model

        _check_defaults(bundle.manifest)
        tokenizer = open_tokenizer(bundle)
        return Model(bundle, tokenizer, opening.result())


def open_tokenizer(bundle: Bundle) -> AnyTokenizer:
    """Open the tokenizer that a bundle names; ``BundleError`` if its file is damaged."""
    form = bundle.manifest.tokenizer
    if form.file is None:
        from .text.byte_tokenizer import ByteTokenizer

        return ByteTokenizer(
            form.sentinels,
            form.clean_up_tokenization_spaces,
            special_tokens_strip=form.special_tokens_strip,
            truncation_side=form.truncation_side,
        )
    from .text.tokenizer import Tokenizer

    return Tokenizer(
        bundle.file(form.file),
        form.clean_up_tokenization_spaces,
        truncation_side=form.truncation_side,
    )


def _check_defaults(manifest: Manifest) -> None:
    """Refuse generation defaults that would fail every call."""
    from .request.resolving import resolve_options

    try:
        resolve_options(manifest.generation, {}, manifest.kind)
    except OptionError as error:
        raise BundleError(
            f"The bundle's generation defaults cannot be used: {error} Correct them in "
            f"{MANIFEST_NAME}, or export the bundle again."
        ) from error
