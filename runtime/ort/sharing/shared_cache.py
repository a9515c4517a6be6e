"""A KV cache that holds rows of several generations, and decode steps over all of them.

The rows in use are always rows 0 to R - 1, so that a step binds the first R rows of the cache. A
generation that joins is copied into free rows. When rows become free, the last rows move into the
gap. With an encoder, rows come in blocks: the rows of one source.

Only one thread at a time may use a shared cache. That thread may be interrupted (Ctrl-C) anywhere,
and another one continues. Rows are therefore copied to where no text is, and a generation gets its
new rows, or a result, by a single assignment to ``Member.place``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...bundle.graph_contract import layer_names
from ...bundle.manifest import Manifest
from ...decoder import Logits
from ..kv_cache import KVCache, common_of, in_order, place_rows
from ..onnx_decoder import BoundStep, Content, OnnxDecoder
from ..onnx_encoder import SOURCE_MULTIPLE

FIRST_CAPACITY = 256  # positions of a shared cache before it grows
FIRST_ROWS = 4  # rows that a shared cache has memory for before it grows
FAR_TOO_LARGE = 4  # a cache that is so many times too large gets smaller


class Member:
    """A generation whose rows are in its private cache, or in a shared cache.

    ``place``: its rows in a shared cache; None while they are in the private cache. ``request``:
    what its thread waits for. ``logits``: the array that its last logits lie in. ``is_expected``:
    whether others wait a moment for its next step. ``thread``: the thread of its last step.
    ``missed``: steps of others since its last one. ``ready_s``: when it got its last logits.
    """

    def __init__(self, private: OnnxDecoder) -> None:
        self.private = private
        self.place: Place | None = None
        self.request: Request | None = None
        self.logits: Logits | None = None
        self.is_registered = False
        self.is_closed = False
        self.is_expected = False
        self.thread = 0
        self.missed = 0
        self.ready_s: float | None = None


class Request:
    """A member's wish for a decode step, or to leave its shared cache (``tokens`` is None).

    ``parents``: the rows to select before the step. ``given``: released when there is news.
    """

    def __init__(
        self, member: Member, tokens: Sequence[int] | None, parents: Sequence[int] | None = None
    ) -> None:
        self.member = member
        self.tokens = tokens
        self.parents = parents
        self.logits: Logits | None = None
        self.error: Exception | None = None
        self.is_done = False
        self.given = threading.Lock()
        self.given.acquire()


class Place(NamedTuple):
    """The rows of a member in a shared cache.

    ``rows``: the shared rows that the member's own rows 0, 1, ... have. ``texts``: own row of each
    text; with an encoder, other own rows are padding. ``lengths``: filled positions of each own
    row. ``common``: the prefixes that own rows share (``KVCache.shared_prefixes``).
    ``source_lengths``: with an encoder, the length of the source of each block of rows.
    ``selected``, ``answered``: the last request whose rows were selected, and whose step was made.
    """

    home: SharedCache
    rows: list[int]
    texts: list[int]
    lengths: list[int]
    common: list[list[int]]
    source_lengths: list[int]
    selected: Request | None = None
    answered: Request | None = None

    def takes(self, parents: Sequence[int]) -> bool:
        """Return whether the texts ``parents`` fit into the rows that the member has here."""
        group, chosen = self.home.group, [self.texts[parent] for parent in parents]
        if not self.source_lengths:
            return len(parents) <= len(self.rows)
        counts = [0] * len(self.source_lengths)
        for row in chosen:
            counts[row // group] += 1
        return max(counts) == group  # else the rows per source change


class SharedCache:
    """The shared rows and steps of generations with ``group`` rows per source.

    Without an encoder ``group`` is 1, and each row is a block.
    """

    def __init__(self, session: Any, manifest: Manifest, group: int) -> None:
        self.group = group
        self._session = session
        self._names = layer_names(manifest.dimensions)
        self._vocabulary = manifest.dimensions.vocabulary
        self._cache: KVCache | None = None
        self._sources: KVCache | None = None
        self._members: list[Member] = []
        self._settled: list[Member] = []  # members without a gap between their rows
        self._blocks = 0  # in use
        # Steps and the memory of their logits, by rows in use and rows with logits.
        self._steps: dict[tuple[int, int], tuple[BoundStep, Logits]] = {}
        self._logits: list[Logits] = []

    @property
    def members(self) -> list[Member]:
        """The members that have rows here."""
        return [
            member
            for member in self._members
            if member.place is not None and member.place.home is self
        ]

    def arrange(self, requests: Sequence[Request]) -> None:
        """Select rows for the requests, and let the members join that are not here.

        Raises ``DeviceError`` if there is not enough memory for those who join.
        """
        joining = []
        for request in requests:
            if request.member.place is None:
                joining.append(request.member)
            elif request.parents is not None and request.member.place.selected is not request:
                self._settled = []
                self._select(request.member.place, request, request.parents)
        self._members = self.members
        if not joining and self._members == self._settled and self._has_room():
            return
        self._settled = []
        used = {
            block: member
            for member in self._members
            for block in _blocks_of(_place(member), self.group)
        }
        contents = [member.private.content() for member in joining]
        blocks = len(used) + sum(content.cache.rows // self.group for content in contents)
        lengths = [max(content.cache.lengths) for content in contents]
        lengths += [max(_place(member).lengths) for member in self._members]
        sources = [content.sources.capacity for content in contents if content.sources is not None]
        sources += [
            _padded(max(_place(member).source_lengths))
            for member in self._members
            if _place(member).source_lengths
        ]
        limit = max(member.private.limit for member in (*joining, *self._members))
        self._fit(
            contents,
            blocks=max([blocks, *(block + 1 for block in used)]),
            length=max(lengths) + 1,  # the next token, or what a row that waits overwrites
            limit=limit,
            source_length=max(sources, default=0),
        )
        free = (block for block in range(blocks) if block not in used)
        for block in sorted(used):
            if block >= blocks:
                self._move(used[block], block, next(free))
        for member, content in zip(joining, contents, strict=True):
            self._join(member, content, free)
        self._blocks = blocks
        if self._kv.allocated_rows >= FAR_TOO_LARGE * max(blocks * self.group, FIRST_ROWS):
            self._resize(2 * blocks, self._kv.capacity, self._source_capacity)
        self._settled = self.members

    def run(self, requests: Sequence[Request], held: Sequence[Logits]) -> None:
        """Make one step for all requests; rows of other members stay as they are.

        ``held``: arrays of logits that are still in use.
        """
        cache, group = self._kv, self.group
        lengths = [1] * (self._blocks * group)
        source_lengths = [1] * self._blocks
        for member in self.members:
            place = _place(member)
            for row, length in zip(place.rows, place.lengths, strict=True):
                lengths[row] = length
            for row, length in zip(place.rows[::group], place.source_lengths, strict=False):
                source_lengths[row // group] = length
        cache.lengths = lengths
        if self._sources is not None and source_lengths != self._sources.lengths:
            self._steps.clear()
            self._sources.lengths = source_lengths
        rows: list[int] = []
        tokens: list[int] = []
        for request in requests:
            place = _place(request.member)
            rows += [place.rows[text] for text in place.texts]
            tokens += request.tokens or ()
        memory = self._free_logits(len(rows), held)
        step = self._step(len(rows), memory)
        step.set_rows(rows)
        step.append(tokens)
        logits = step.run()
        begin = 0
        for request in requests:
            member, place = request.member, _place(request.member)
            end = begin + len(place.texts)
            request.logits = logits[begin:end]
            member.logits = memory
            begin = end
            read = [length + 1 for length in place.lengths]
            member.place = place._replace(lengths=read, answered=request)

    def copy_out(self, member: Member) -> Content:
        """Return a copy of a member's rows, for its private decoder."""
        place = _place(member)
        capacity = member.private.room_for(max(place.lengths))
        cache = self._kv.new(len(place.rows), capacity)
        for own, (row, length) in enumerate(zip(place.rows, place.lengths, strict=True)):
            cache.copy_from(self._kv, row, own, length)
        cache.set_rows(place.lengths, place.common)
        sources = None
        if self._sources is not None:
            padded = _padded(max(place.source_lengths))
            sources = self._sources.new(len(place.source_lengths), padded)
            for own, block in enumerate(_blocks_of(place, self.group)):
                sources.copy_from(self._sources, block, own, padded)
            sources.lengths = list(place.source_lengths)
        return Content(cache, list(place.texts), sources)

    def _select(self, place: Place, request: Request, parents: Sequence[int]) -> None:
        """Reorder the texts of a member within its rows, and free rows without a text."""
        group, own = self.group, len(place.rows)
        sources = [place.texts[parent] for parent in parents]
        has_encoder = bool(place.source_lengths)
        slots = [
            range(row // group * group, row // group * group + group) if has_encoder else range(own)
            for row in sources
        ]
        texts, copies = place_rows(sources, slots, place.common)
        for source, target, begin in in_order(copies) or ():
            end = place.lengths[source]
            self._kv.copy_row(place.rows[source], place.rows[target], begin, end)
        came_from = [sources[0]] * own  # padding needs a valid length
        for text, source in zip(texts, sources, strict=True):
            came_from[text] = source
        if has_encoder:
            live = sorted({text // group for text in texts})
            kept = [block * group + i for block in live for i in range(group)]
        else:
            live, kept = [], sorted(texts)
        common = common_of([came_from[row] for row in kept], place.lengths, place.common, len(kept))
        padding = [i for i, row in enumerate(kept) if row not in texts]
        for i in padding if common else ():  # padding shares no prefix
            common[i] = [0] * len(kept)
            for others in common:
                others[i] = 0
        request.member.place = Place(
            self,
            [place.rows[row] for row in kept],
            [kept.index(text) for text in texts],
            [place.lengths[came_from[row]] for row in kept],
            common,
            [place.source_lengths[block] for block in live],
            selected=request,
            answered=place.answered,
        )

    def _join(self, member: Member, content: Content, free: Iterator[int]) -> None:
        """Copy the rows of a private decoder into free blocks, and free its memory."""
        group, cache = self.group, content.cache
        blocks = [next(free) for _ in range(cache.rows // group)]
        rows = [block * group + i for block in blocks for i in range(group)]
        for own, (row, length) in enumerate(zip(rows, cache.lengths, strict=True)):
            self._kv.copy_from(cache, own, row, length)
        source_lengths: list[int] = []
        if content.sources is not None and self._sources is not None:
            for own, block in enumerate(blocks):
                self._sources.copy_from(content.sources, own, block, content.sources.capacity)
            source_lengths = list(content.sources.lengths)
        self._members.append(member)
        lengths, common = list(cache.lengths), cache.shared_prefixes()
        member.place = Place(self, rows, list(content.rows), lengths, common, source_lengths)
        member.private.release()

    def _move(self, member: Member, block: int, target: int) -> None:
        """Move a block of a member to a free one."""
        group, place = self.group, _place(member)
        rows = list(place.rows)
        for own in range(rows.index(block * group), len(rows)):
            if rows[own] // group == block:
                row = target * group + rows[own] % group
                self._kv.copy_row(rows[own], row, 0, place.lengths[own])
                rows[own] = row
        if self._sources is not None:
            self._sources.copy_row(block, target, 0, self._sources.capacity)
        member.place = place._replace(rows=rows)

    def _fit(
        self,
        contents: Sequence[Content],
        *,
        blocks: int,
        length: int,
        limit: int,
        source_length: int,
    ) -> None:
        """Make room for ``blocks`` and rows of ``length`` positions; ``limit``: the most ever."""
        if self._cache is None:  # then somebody joins
            self._cache = contents[0].cache.new(0, 0)
        if self._sources is None and contents and contents[0].sources is not None:
            self._sources = contents[0].sources.new(0, 0)
        cache, sources = self._cache, self._sources
        needed = blocks * self.group
        capacity, allocated = cache.capacity, cache.allocated_rows
        if needed > allocated:
            allocated = max(FIRST_ROWS, 1 << (needed - 1).bit_length())
        if length > capacity or capacity >= FAR_TOO_LARGE * max(length, FIRST_CAPACITY):
            doubled = max(FIRST_CAPACITY, 1 << (length - 1).bit_length())
            capacity = max(length, min(limit, doubled))
        source_capacity = self._source_capacity
        if source_length > source_capacity or source_capacity >= 2 * source_length > 0:
            source_capacity = source_length
        fits = (
            (allocated, capacity) == (cache.allocated_rows, cache.capacity)
            and (sources is None or sources.capacity == source_capacity)
            and (sources is None or sources.allocated_rows >= blocks)
        )
        if not fits:
            self._resize(-(-allocated // self.group), capacity, source_capacity)

    def _has_room(self) -> bool:
        longest = max(max(_place(member).lengths) for member in self._members)
        return longest < self._kv.capacity

    def _resize(self, blocks: int, capacity: int, source_capacity: int) -> None:
        """Move all rows to new memory."""
        group, old, old_sources = self.group, self._kv, self._sources
        self._steps.clear()
        new = old.new(blocks * group, capacity)
        for member in self._members:
            place = _place(member)
            for row, length in zip(place.rows, place.lengths, strict=True):
                new.copy_from(old, row, row, length)
        sources = None
        if old_sources is not None:
            sources = old_sources.new(blocks, source_capacity)
            sources.fill_with_zeros()  # attention reads what follows a source, with weight zero
            kept = min(source_capacity, old_sources.capacity)
            for member in self._members:
                for block in _blocks_of(_place(member), group):
                    sources.copy_from(old_sources, block, block, kept)
        self._cache, self._sources = new, sources

    def _step(self, texts: int, memory: Logits) -> BoundStep:
        """Return a bound step that writes the logits of ``texts`` to ``memory``."""
        key = self._kv.rows, texts
        if key not in self._steps:
            logits = memory[:texts]
            step = BoundStep(self._session, self._kv, self._sources, self._names, logits, 1)
            self._steps[key] = step, memory
        step, bound = self._steps[key]
        if bound is not memory:
            step.set_logits(memory[:texts])
            self._steps[key] = step, memory
        return step

    def _free_logits(self, rows: int, held: Sequence[Logits]) -> Logits:
        """Return memory for the logits of at least ``rows`` rows that no member still reads."""
        free = [one for one in self._logits if not any(one is other for other in held)]
        for one in free:
            if len(one) >= rows:
                return one
        memory = np.empty((1 << (rows - 1).bit_length(), self._vocabulary), np.float32)
        self._logits = [one for one in self._logits if not any(one is small for small in free)]
        self._logits.append(memory)
        return memory

    @property
    def _kv(self) -> KVCache:
        assert self._cache is not None  # a member has joined
        return self._cache

    @property
    def _source_capacity(self) -> int:
        return 0 if self._sources is None else self._sources.capacity


def _place(member: Member) -> Place:
    assert member.place is not None  # it is a member of a shared cache
    return member.place


def _blocks_of(place: Place, group: int) -> list[int]:
    return [row // group for row in place.rows[::group]]


def _padded(length: int) -> int:
    return length + -length % SOURCE_MULTIPLE
