"""``Session``: calls on texts that continue each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, NoReturn, Protocol

from .decoder import NewDecoder
from .errors import EdgeseqError, PromptError
from .prefix_cache import CachePool, PrefixCache
from .request.prompts import listed
from .results import GenerationResult


class TextModel(Protocol):
    """The calls of a ``Model`` that a session forwards."""

    def generate(self, text: str, **options: Any) -> list[GenerationResult]: ...
    def generate_ids(
        self, prompts: Sequence[Sequence[int]], **options: Any
    ) -> list[GenerationResult]: ...
    def stream(self, text: str, **options: Any) -> Iterator[str]: ...
    def astream(self, text: str, **options: Any) -> AsyncIterator[str]: ...


class Session:
    """A model that remembers the text of its last call; ``Model.session`` makes one.

    Each call takes one text. The prefix that a text shares with the text before it is not read
    again, as in a chat, in a text that is being typed, or in one that is corrected in its middle.
    After an encoder this needs the same source. The generated text is remembered too; with beam
    search or several sequences only the prompt is.

    The KV caches of a session and its forks share ``max_cache_bytes``. If a call needs more, the
    least recently used caches are dropped, and their texts are read again when they are needed. The
    cache of a call under way is never dropped. Use a session in one thread at a time; forks are
    sessions of their own and may be used in other threads.
    """

    def __init__(
        self,
        with_decoders: Callable[[NewDecoder], TextModel],
        cache: PrefixCache,
        pool: CachePool,
    ) -> None:
        self._with_decoders = with_decoders
        self._cache: PrefixCache | None = cache
        self._pool = pool
        self._model = with_decoders(cache.open)

    def generate(self, text: str, **options: Any) -> list[GenerationResult]:
        """Generate as ``Model.generate`` does, from one text."""
        self._check_open()
        return self._model.generate(text, **options)

    def generate_ids(self, prompt: Sequence[int], **options: Any) -> list[GenerationResult]:
        """Generate as ``Model.generate_ids`` does, from one list of token ids."""
        self._check_open()
        if listed(prompt) is None:
            raise PromptError(f"A session takes one list of token ids, not {prompt!r:.60}.")
        return self._model.generate_ids([prompt], **options)

    def stream(self, text: str, **options: Any) -> Iterator[str]:
        """Stream as ``Model.stream`` does; a later call ends a stream that is not read to its end.

        Reading further pieces of that stream raises ``EdgeseqError``.
        """
        self._check_open()
        return self._model.stream(text, **options)

    def astream(self, text: str, **options: Any) -> AsyncIterator[str]:
        """Stream as ``Model.astream`` does; a later call ends it as it ends a ``stream``."""
        self._check_open()
        return self._model.astream(text, **options)

    def fork(self) -> Session:
        """Return another session that remembers the same text, to try alternatives."""
        return Session(self._with_decoders, self._check_open().fork(), self._pool)

    def close(self) -> None:
        """Free the memory."""
        if self._cache is not None:
            self._cache.close()
        self._cache = None

    def __reduce__(self) -> NoReturn:
        raise EdgeseqError("A session cannot be pickled or copied: use fork().")

    @property
    def cached_tokens(self) -> tuple[int, ...]:
        """The token ids of the remembered text."""
        return tuple(self._check_open().tokens)

    @property
    def cache_bytes(self) -> int:
        """The memory of the KV caches of the session and its forks, in bytes."""
        self._check_open()
        return self._pool.size_bytes

    def __enter__(self) -> Session:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> PrefixCache:
        if self._cache is None:
            raise EdgeseqError("The session is closed: open another with model.session().")
        return self._cache
