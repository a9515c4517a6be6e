"""A decoder that follows a script: its results can be derived by hand, without ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeseq.runtime.decoder import never

Ids = list[int]
Logits = NDArray[np.float32]
Rule = Callable[[Ids], Sequence[float] | Logits]  # from what a row has read to its logits


@dataclass
class ScriptedDecoder:
    """Tracks the ids of each row, returns the logits of ``rule`` and records its calls.

    Like the real decoder it reuses the memory of logits, holds at most ``capacity`` tokens a row,
    and reads or forgets several tokens only with one row.
    """

    rule: Rule
    capacity: int | None = None
    texts: list[Ids] = field(default_factory=list)  # what each row has been fed
    left: list[Ids] = field(default_factory=list)  # the same of rows that have left
    calls: list[tuple[str, list[int]]] = field(default_factory=list)
    _memory: Logits | None = None

    def prefill(
        self, prompts: Sequence[Sequence[int]], cancelled: Callable[[], bool] = never
    ) -> Logits:
        assert not self.texts or len(self.texts) == len(prompts) == 1
        before = self.texts or [[] for _ in prompts]
        self.texts = [ids + list(prompt) for ids, prompt in zip(before, prompts, strict=True)]
        self.calls.append(("prefill", [len(prompt) for prompt in prompts]))
        return self._logits(self.texts)

    def keep_best(self, count: int | None) -> None:
        """Do nothing, as a decoder on the CPU, which returns all logits."""

    def decode(self, tokens: Sequence[int]) -> Logits:
        for ids, token in zip(self.texts, tokens, strict=True):
            ids.append(token)
        self.calls.append(("decode", list(tokens)))
        return self._logits(self.texts)

    def read(self, tokens: Sequence[int]) -> Logits:
        [ids] = self.texts
        before = len(ids)
        ids += tokens
        self.calls.append(("read", list(tokens)))
        return self._logits(ids[:end] for end in range(before + 1, len(ids) + 1))

    def forget(self, count: int) -> None:
        [ids] = self.texts
        assert 0 < count < len(ids)
        del ids[len(ids) - count :]
        self.calls.append(("forget", [count]))

    def select_rows(self, parent_rows: Sequence[int]) -> None:
        self.left += [ids for row, ids in enumerate(self.texts) if row not in parent_rows]
        self.texts = [list(self.texts[row]) for row in parent_rows]
        self.calls.append(("select_rows", list(parent_rows)))

    def close(self) -> None:
        self.is_closed = True

    def pause(self) -> None:
        """Do nothing, as a decoder that shares no memory."""

    def fork(self) -> ScriptedDecoder:
        [ids] = self.texts
        return ScriptedDecoder(self.rule, self.capacity, [list(ids)])

    def cache_bytes(self, positions: int) -> int:
        return 8 * positions

    def _logits(self, texts: Iterable[Ids]) -> Logits:
        found = np.array([self.rule(ids) for ids in texts], np.float32)
        assert self.capacity is None or max(map(len, self.texts)) <= self.capacity
        if self._memory is None or len(found) > len(self._memory):
            self._memory = np.empty_like(found)
        self._memory.fill(np.nan)
        self._memory[: len(found)] = found
        return self._memory[: len(found)]

    @property
    def rows_per_decode(self) -> list[int]:
        return [len(rows) for name, rows in self.calls if name == "decode"]

    @property
    def selected(self) -> list[list[int]]:
        return [rows for name, rows in self.calls if name == "select_rows"]
