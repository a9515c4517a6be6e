"""``Session``: calls on texts that go on from each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import EdgeseqError, OptionError, PromptError
from .prefix_cache import CachePool, PrefixCache
from .request.prompts import listed
from .results import GenerationResult

if TYPE_CHECKING:
    from .model import Model

LONGEST = 2**30  # positions of a model that has no bound


class Session:
    """A model that remembers the text of its last call; ``Model.session`` makes one.

    Calls take one text each. What a text has in common with the one before it, from the start on,
    is not read again: a chat, a text that is being typed, or one that is corrected in its middle.
    After an encoder this needs the same source. The generated text is remembered too, but for beam
    search and several sequences, of which only the prompt is.

    Caches of a session and its forks take ``max_cache_bytes`` together. Where a call would need
    more, those used least recently are dropped, and read anew when they are used again; one that a
    call is going on with is never dropped. A session is for one thread at a time; forks are
    sessions of their own, and may be used in other threads.
    """

    def __init__(self, model: Model, kept: PrefixCache, pool: CachePool) -> None:
        self._kept: PrefixCache | None = kept
        self._pool = pool
        self._model = model.with_decoders(kept.open)

    def generate(self, text: str, **options: Any) -> list[GenerationResult]:
        """As ``Model.generate``, for one text."""
        self._check_open()
        return self._model.generate(text, **options)

    def generate_ids(self, prompt: Sequence[int], **options: Any) -> list[GenerationResult]:
        """As ``Model.generate_ids``, for one list of token ids."""
        self._check_open()
        if listed(prompt) is None:
            raise PromptError(f"A session takes one list of token ids, not {prompt!r:.60}.")
        return self._model.generate_ids([prompt], **options)

    def stream(self, text: str, **options: Any) -> Iterator[str]:
        """As ``Model.stream``. A later call ends it, if its pieces are not all taken by then."""
        self._check_open()
        return self._model.stream(text, **options)

    def astream(self, text: str, **options: Any) -> AsyncIterator[str]:
        """As ``Model.astream``. A later call ends it, if its pieces are not all taken by then."""
        self._check_open()
        return self._model.astream(text, **options)

    def fork(self) -> Session:
        """Another session that remembers the same text: to try alternatives from here on."""
        return Session(self._model, self._check_open().fork(), self._pool)

    def close(self) -> None:
        """Give the memory back."""
        if self._kept is not None:
            self._kept.close()
        self._kept = None

    def __reduce__(self) -> NoReturn:
        raise EdgeseqError("A session cannot be pickled or copied: use fork().")

    @property
    def cached_tokens(self) -> tuple[int, ...]:
        """The ids of the text that is remembered."""
        return tuple(self._check_open().tokens)

    @property
    def cache_bytes(self) -> int:
        """The memory that the session and its forks keep."""
        self._check_open()
        return self._pool.size_bytes

    def __enter__(self) -> Session:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> PrefixCache:
        if self._kept is None:
            raise EdgeseqError("The session is closed: open another with model.session().")
        return self._kept


def new_session(model: Model, max_cache_bytes: int) -> Session:
    """``Model.session``."""
    if type(max_cache_bytes) is not int or max_cache_bytes < 0:
        raise OptionError(
            f"max_cache_bytes is {max_cache_bytes!r}; it must be an integer of at least 0."
        )
    manifest = model.bundle.manifest
    pool = CachePool(max_cache_bytes)
    kept = PrefixCache(
        model.new_decoder,
        pool,
        has_encoder=manifest.kind == "encoder-decoder",
        longest=manifest.dimensions.max_positions or LONGEST,
    )
    return Session(model, kept, pool)
