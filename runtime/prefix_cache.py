"""The prefix cache of a session: a decoder that is kept between calls and reads only new tokens.

The KV cache of a text is valid for every text with the same prefix. A call therefore drops the
cached tokens after the longest common prefix, and reads the rest of the new text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from threading import Lock, RLock
from weakref import WeakSet

from .decoder import CancelledError, Decoder, Logits, NewDecoder, never
from .errors import EdgeseqError, PromptError

LEAST_READ = 2  # tokens; a single one may be computed in another order than within a prompt


class PrefixCache:
    """A decoder with one row that is kept between calls, and the tokens that its row holds."""

    def __init__(
        self, new_decoder: NewDecoder, pool: CachePool, *, has_encoder: bool, longest: int
    ) -> None:
        self.tokens: list[int] = []
        self.used = 0  # time of the last use, by the pool's clock
        self._new_decoder = new_decoder
        self._pool = pool
        self._has_encoder = has_encoder
        self._longest = longest
        self._source: Sequence[int] = ()
        self._decoder: Decoder | None = None
        self._positions = 0  # largest number of positions ever written
        self._call: _CallDecoder | None = None  # the current call
        self._is_whole = True  # the row holds exactly the tokens
        self._is_closed = False
        # Held while the cache is used: forks in other threads may drop caches.
        self.lock = RLock()
        # A separate lock: the garbage collector may end a call in a thread that must not wait.
        self._call_lock = RLock()
        pool.add(self)

    def open(self, sources: Sequence[Sequence[int]], capacity: int) -> Decoder:
        """Return a decoder for one call (a ``NewDecoder``); this ends the previous call."""
        self._check_open()
        if len(sources) != 1:
            raise PromptError(
                f"A session takes one prompt at a time, not {len(sources)}: for a batch, use the "
                "model."
            )
        call = _CallDecoder(self, sources[0] if self._has_encoder else (), capacity)
        with self._call_lock:
            self._call = call
        return call

    def end(self, call: _CallDecoder) -> bool:
        """End a call; return whether it was still the current one."""
        with self._call_lock:
            is_current = call is self._call
            if is_current:
                self._call = None
        return is_current

    @property
    def is_in_use(self) -> bool:
        """Whether a call is running."""
        return self._call is not None

    def fork(self) -> PrefixCache:
        """Return a copy of the cache, with its own memory."""
        other = PrefixCache(
            self._new_decoder, self._pool, has_encoder=self._has_encoder, longest=self._longest
        )
        with self.lock:
            if self._decoder is not None and self._is_whole:
                other._decoder, other._source = self._decoder.fork(), self._source
                other.tokens, other._positions = list(self.tokens), len(self.tokens)
        self._pool.make_room(other, other.size_bytes)  # may drop this cache's memory
        return other

    def close(self) -> None:
        """Free the memory permanently; this ends a running call."""
        with self.lock:
            self._is_closed = True
            with self._call_lock:
                self._call = None
            self.drop()

    def drop(self) -> None:
        """Free the memory; the next call reads its text from the start."""
        self._decoder, self._positions, self.tokens = None, 0, []
        self._is_whole = True

    @property
    def size_bytes(self) -> int:
        """The memory of the KV cache in bytes."""
        decoder = self._decoder  # another thread may drop it
        return 0 if decoder is None else decoder.cache_bytes(self._positions)

    def read_prompt(
        self,
        call: _CallDecoder,
        source: Sequence[int],
        start: Sequence[int],
        capacity: int,
        cancelled: Callable[[], bool],
    ) -> tuple[Decoder, Logits]:
        """Read the part of ``start`` that the row lacks; return the decoder and its logits."""
        with self.lock:
            self.check(call)
            decoder = self._start(source, start, capacity)
            decoder.keep_best(call.best)
            rest = list(start[len(self.tokens) :])
            with self.reading(call, rest):
                return decoder, decoder.prefill([rest], cancelled)

    def forget(self, call: _CallDecoder, decoder: Decoder, count: int) -> None:
        """Drop the last ``count`` tokens."""
        with self.lock:
            self.check(call)
            self._is_whole = False
            decoder.forget(count)
            del self.tokens[len(self.tokens) - count :]
            self._is_whole = True

    def _start(self, source: Sequence[int], start: Sequence[int], capacity: int) -> Decoder:
        """Return the decoder; its row holds the part of ``start`` that is not read again."""
        decoder = self._decoder
        if decoder is None or not self._is_whole or list(source) != list(self._source):
            self.drop()
            decoder = self._new_decoder([source if self._has_encoder else start], self._longest)
            self._decoder, self._source = decoder, source
        self._pool.make_room(self, decoder.cache_bytes(max(capacity, self._positions)))
        pairs = zip(self.tokens, start, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        shared = max(min(shared, len(start) - LEAST_READ), 0)
        if shared < len(self.tokens):
            self._is_whole = False
            decoder.forget(len(self.tokens) - shared)
            del self.tokens[shared:]
            self._is_whole = True
        return decoder

    @contextmanager
    def reading(self, call: _CallDecoder, tokens: Sequence[int]) -> Iterator[None]:
        """Add ``tokens`` to the cache's tokens once the block, which reads them, has ended.

        If the block is cancelled, the tokens read so far are added. If it fails, the cache is
        dropped.
        """
        with self.lock:
            self.check(call)
            self._is_whole = False  # until the end: an interrupt may come at any point
            try:
                yield
            except CancelledError as stopped:
                self._remember(tokens[: stopped.read])
                raise
            except BaseException:
                self.drop()
                raise
            self._remember(tokens)

    def _remember(self, tokens: Sequence[int]) -> None:
        self.tokens += tokens
        self._positions = max(self._positions, len(self.tokens))
        self._is_whole = True

    def _check_open(self) -> None:
        if self._is_closed:
            raise EdgeseqError("The session is closed: open another one with Model.session.")

    def check(self, call: _CallDecoder) -> None:
        """Raise ``EdgeseqError`` if another call has begun, or the session is closed."""
        if call is not self._call:
            self._check_open()
            raise EdgeseqError(
                "A later call of the session has ended this stream: read a stream to its end "
                "before the next call, or use a fork of the session."
            )


class _CallDecoder:
    """The decoder of one call: the cache's decoder, or a fork of it for several rows."""

    def __init__(self, cache: PrefixCache, source: Sequence[int], capacity: int) -> None:
        self._cache = cache
        self._source = source
        self._capacity = capacity
        self._decoder: Decoder | None = None
        self._is_kept = True
        self.best: int | None = None

    def keep_best(self, count: int | None) -> None:
        self.best = count

    def prefill(
        self, prompts: Sequence[Sequence[int]], cancelled: Callable[[], bool] = never
    ) -> Logits:
        [prompt] = prompts
        self._decoder, logits = self._cache.read_prompt(
            self, self._source, prompt, self._capacity, cancelled
        )
        return logits

    def decode(self, tokens: Sequence[int]) -> Logits:
        if not self._is_kept:
            return self._inner.decode(tokens)
        with self._cache.reading(self, tokens):
            return self._inner.decode(tokens)

    def read(self, tokens: Sequence[int]) -> Logits:
        with self._cache.reading(self, tokens):
            return self._inner.read(tokens)

    def forget(self, count: int) -> None:
        self._cache.forget(self, self._inner, count)

    def select_rows(self, parent_rows: Sequence[int]) -> None:
        if self._is_kept and len(parent_rows) > 1:
            self._decoder, self._is_kept = self._inner.fork(), False
        self._inner.select_rows(parent_rows)

    def close(self) -> None:
        is_current = self._cache.end(self)
        if self._decoder is not None and not self._is_kept:
            self._decoder.close()
        elif self._decoder is not None and is_current:
            self._decoder.pause()
        self._decoder = None

    def pause(self) -> None:
        self._inner.pause()

    def fork(self) -> Decoder:
        return self._inner.fork()

    def cache_bytes(self, positions: int) -> int:
        return self._inner.cache_bytes(positions)

    @property
    def _inner(self) -> Decoder:
        assert self._decoder is not None  # a call begins with its prompt
        return self._decoder


class CachePool:
    """The prefix caches of a session and its forks, which share ``limit_bytes``.

    If a call needs more, the least recently used caches are dropped. The caches of running calls
    are kept, even beyond the limit.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._members: WeakSet[PrefixCache] = WeakSet()
        self._limit_bytes = limit_bytes
        self._clock = 0
        self._lock = Lock()

    def add(self, member: PrefixCache) -> None:
        """Add a cache."""
        with self._lock:
            self._members.add(member)

    @property
    def size_bytes(self) -> int:
        """The memory of all caches in bytes."""
        with self._lock:
            return sum(member.size_bytes for member in self._members)

    def make_room(self, user: PrefixCache, size_bytes: int) -> None:
        """Drop caches, the least recently used first, until ``user`` can have ``size_bytes``.

        The caches of running calls are not dropped.
        """
        with self._lock:
            self._clock += 1
            user.used = self._clock
            others = sorted(self._members - {user}, key=lambda member: member.used)
            kept = sum(member.size_bytes for member in others)
            for member in others:
                if kept + size_bytes <= self._limit_bytes:
                    return
                if member.lock.acquire(blocking=False):  # else another thread is using it just now
                    if not member.is_in_use:
                        kept -= member.size_bytes
                        member.drop()
                    member.lock.release()
