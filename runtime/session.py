"""``Session``: calls that share a prefix cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol

from .decoder import NewDecoder
from .errors import EdgeseqError, PromptError
from .prefix_cache import CachePool, PrefixCache
from .request.prompts import listed
from .results import AsyncTextStream, GenerationResult, TextStream


class TextModel(Protocol):
    """The calls of a ``Model`` that a session forwards."""

    def generate(self, text: str, **options: Any) -> list[GenerationResult]: ...
    def generate_ids(
        self, prompts: Sequence[Sequence[int]], **options: Any
    ) -> list[GenerationResult]: ...
    def stream(self, text: str, **options: Any) -> TextStream: ...
    def astream(self, text: str, **options: Any) -> AsyncTextStream: ...


class Session:
    """A model with a prefix cache; ``Model.session`` returns one.

    A session keeps the KV cache of its last call. The next call reads only the tokens after the
    longest common prefix of both texts. This saves time in a chat, and while a text is being typed
    or corrected. With an encoder-decoder model, the source must be the same. The cache holds the
    prompt and the generated text; with beam search or ``num_return_sequences`` it holds only the
    prompt.

    Each call takes one prompt. Use a session in one thread at a time. A fork is another session,
    which you may use in another thread.

    The KV caches of a session and its forks share ``max_cache_bytes``. If a call needs more, the
    least recently used caches are dropped, and their texts are read again when they are needed. The
    cache of a running call is never dropped.

    Args:
        with_decoders: A function that takes a ``NewDecoder`` and returns a model that uses it.
        cache: The prefix cache of the session.
        pool: The prefix caches that share the limit of memory.
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
        """Generate text from one prompt, as ``Model.generate`` does.

        Args:
            text: The prompt.
            **options: Generation options and controls, which the class ``Model`` describes.

        Returns:
            The results; there are ``num_return_sequences`` of them.

        Raises:
            EdgeseqError: The session or the model is closed, or one of the errors of
                ``Model.generate`` occurred, which are all subclasses.
        """
        self._check_open()
        return self._model.generate(text, **options)

    def generate_ids(self, prompt: Sequence[int], **options: Any) -> list[GenerationResult]:
        """Generate text from one list of token ids, as ``Model.generate_ids`` does.

        Args:
            prompt: The token ids of the prompt: one list, not a list of lists.
            **options: Generation options and controls, which the class ``Model`` describes.

        Returns:
            The results; there are ``num_return_sequences`` of them.

        Raises:
            EdgeseqError: The session or the model is closed, or one of the errors of
                ``Model.generate_ids`` occurred, which are all subclasses.
        """
        self._check_open()
        if listed(prompt) is None:
            raise PromptError(
                f"A session takes one list of token ids, not {prompt!r:.60}: for a text, use "
                "generate."
            )
        return self._model.generate_ids([prompt], **options)

    def stream(self, text: str, **options: Any) -> TextStream:
        """Generate text from one prompt, and yield pieces of it, as ``Model.stream`` does.

        The next call of the session ends the stream. Reading more of its pieces then raises
        ``EdgeseqError``.

        Args:
            text: The prompt.
            **options: Generation options and controls, as for ``Model.stream``.

        Returns:
            The stream: an iterator of pieces, with the attribute ``result`` after the last one.

        Raises:
            EdgeseqError: The session or the model is closed, another call of the session has begun,
                or one of the errors of ``Model.stream`` occurred, which are all subclasses.
        """
        self._check_open()
        return self._model.stream(text, **options)

    def astream(self, text: str, **options: Any) -> AsyncTextStream:
        """Stream text as ``stream`` does, without blocking the event loop of asyncio.

        Args:
            text: The prompt.
            **options: Generation options and controls, as for ``Model.stream``.

        Returns:
            The stream: an asynchronous iterator of pieces, with the attribute ``result`` after the
                last one.

        Raises:
            EdgeseqError: As for ``stream``.
        """
        self._check_open()
        return self._model.astream(text, **options)

    def fork(self) -> Session:
        """Return a copy of the session, with a copy of its KV cache, to try alternatives.

        Returns:
            The copy. Both sessions share the limit ``max_cache_bytes``.

        Raises:
            EdgeseqError: The session is closed.
        """
        return Session(self._with_decoders, self._check_open().fork(), self._pool)

    def close(self) -> None:
        """Free the memory; later calls raise ``EdgeseqError``."""
        if self._cache is not None:
            self._cache.close()
        self._cache = None

    def __reduce__(self) -> NoReturn:
        raise EdgeseqError("A session cannot be pickled or copied: use its method fork.")

    @property
    def cached_tokens(self) -> tuple[int, ...]:
        """The token ids whose keys and values the KV cache holds."""
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
            raise EdgeseqError("The session is closed: open another one with Model.session.")
        return self._cache
