"""``load``: open a bundle and return a model."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bundle.demo_bundles import DEMOS, demo_bundle
from .bundle.manifest import MANIFEST_NAME, CacheDtype, Manifest
from .bundle.reading import Bundle, open_bundle
from .concurrency.background import Background
from .errors import BundleError, OptionError

if TYPE_CHECKING:
    from .model import Model
    from .native.library import Kernels
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
    kernels: Kernels = "auto",
) -> Model:
    """Load a bundle, or a demo model that comes with edgeseq, and return it as a model.

    Args:
        path: The folder of the bundle; None for a demo model.
        demo: The demo model, "gpt2" or "t5"; None for "gpt2" if there is no ``path``.
        device: The device: "cpu"; "cuda" or "cuda:1" for a GPU; "auto" for CUDA if the bundle opens
            there, and otherwise the CPU; or the name of another execution provider of ONNX Runtime,
            such as "DmlExecutionProvider".
        provider_options: Options of the execution provider, such as ``{"gpu_mem_limit": 2**31}``.
        provider_library: The file of a plug-in library that contains the execution provider.
        threads: The number of computing threads; None for one thread per physical core that the
            process may use.
        verify: Whether to check the hash of the weights, too. Those of graphs and tokenizers are
            always checked.
        kv_cache: The dtype of the KV cache, "float32", "int8" or "float16"; None for the bundle's
            default. Only quantized bundles have "int8" and "float16", and "float16" is for CUDA.
        prepack: Whether to keep the weights, as this machine's ONNX Runtime packs them, in the
            user's cache folder. The first load writes them, up to two and a half times the bundle's
            size. Later loads map these files, so that processes share the memory.
        max_concurrent: The limit of generations at once in all threads, each with its own KV cache;
            None for 16. Further generations wait in order of arrival.
        kernels: What multiplies with quantized weights on the CPU: "native" for edgeseq's own
            compiled kernels, "stock" for ONNX Runtime's operators, "auto" for the native kernels
            in graphs that are known to be faster with them on this processor.

    Returns:
        The model. Close it, or use it as a context manager, to free its memory.

    Raises:
        BundleError: The bundle is missing, damaged or too new, or the cache folder of ``prepack``
            cannot be written.
        OptionError: An argument is invalid or without effect, or the bundle has no graph for
            ``kv_cache``.
        DeviceError: The device is not available.
        MissingPackageError: ONNX Runtime is not installed.

    Examples:
        >>> from edgeseq.runtime import load
        >>> with load(demo="t5") as model:
        ...     result = model.generate("pronounce: winter")[0]
        >>> result.text
        'W IH1 N T ER0'
    """
    if path is not None and demo is not None:
        raise OptionError("demo has no effect with path: pass one of them.")
    given: Any = path  # callers without type checks may pass anything
    if given is not None and (not isinstance(given, str | os.PathLike) or not os.fspath(given)):
        raise OptionError(f"path is {path!r:.60}; it must be the folder of a bundle.")
    if max_concurrent is not None and (type(max_concurrent) is not int or max_concurrent < 1):
        raise OptionError(
            f"max_concurrent is {max_concurrent!r:.60}; it must be an integer of at least 1."
        )
    folder = (
        Path(path).expanduser()
        if path is not None
        else demo_bundle(DEMOS[0] if demo is None else demo)
    )
    bundle = open_bundle(folder, verify=verify)

    with _without_collection():
        # The other thread must not import: Ctrl-C inside an import of this thread may leave
        # Python's import lock taken, and this thread, which waits for the other, would wait
        # forever.
        from .ort.engine import MAX_CONCURRENT, open_engine

        if prepack:  # what the other thread will need
            import hashlib  # noqa: F401

            from .ort import prepacked  # noqa: F401

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
                kernels=kernels,
            )

        # ONNX Runtime reads the graphs and packs the weights while Python imports the rest.
        with Background(open_sessions) as opening:
            from .model import Model

            _check_defaults(bundle.manifest)
            tokenizer = open_tokenizer(bundle)
            return Model(bundle, tokenizer, opening.result())


@contextmanager
def _without_collection() -> Iterator[None]:
    """Stop Python's garbage collector for the block, which imports modules.

    Their many objects stay, but the collector would visit them again and again: a tenth of the time
    from the first import to the loaded model.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def open_tokenizer(bundle: Bundle) -> AnyTokenizer:
    """Return the tokenizer of a bundle; raise ``BundleError`` if its file is damaged."""
    form = bundle.manifest.tokenizer
    if form.file is None:
        from .text.byte_tokenizer import ByteTokenizer

        return ByteTokenizer(
            form.sentinels,
            form.clean_up_tokenization_spaces,
            special_tokens_strip=form.special_tokens_strip,
            truncation_side=form.truncation_side,
        )
    languages: LanguagePair | None = None
    if (found := form.languages) is not None:
        from .text.special_tokens import LanguagePair

        languages = LanguagePair.of(found, found.source, found.target)
    path, clean_up = bundle.file(form.file), form.clean_up_tokenization_spaces
    if form.is_sentencepiece:
        from .text.sentencepiece_tokenizer import SentencePieceTokenizer

        return SentencePieceTokenizer(
            path, clean_up, truncation_side=form.truncation_side, languages=languages
        )
    from .text.tokenizer import Tokenizer

    return Tokenizer(path, clean_up, truncation_side=form.truncation_side, languages=languages)


def _check_defaults(manifest: Manifest) -> None:
    """Raise ``BundleError`` for generation defaults with which every call would fail."""
    from .request.resolving import resolve_options

    try:
        resolve_options(manifest.generation, {}, manifest.kind)
    except OptionError as error:
        raise BundleError(
            f"The bundle's generation defaults are wrong: {error} Correct them in {MANIFEST_NAME}, "
            "or export the bundle again."
        ) from error
