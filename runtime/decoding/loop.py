"""The decode loop, which runs every strategy, and the protocol ``Search`` of a strategy.

A search turns logits into tokens. It does not depend on how the logits are computed or where the KV
cache is stored. A search chooses no tokens for finished texts, so their rows leave the batch.

A step reads hundreds of megabytes of weights, so this code runs with cold caches. The work per
token is therefore plain Python on few objects, which reads less memory than numpy calls or frozen
dataclasses (``benchmarks/loop_overhead.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from ..decoder import CancelledError, Decoder, Logits
from ..errors import OptionError
from ..logits.softmax import DeadEndError
from ..results import FinishReason
from .scoring import Logprobs


class NewToken(NamedTuple):
    """A chosen token, and the finish reason if it ends its text."""

    text: int  # index of the text; the texts of the first prompt come first
    token: int
    finish_reason: FinishReason | None


class StepResult(NamedTuple):
    """The result of a step."""

    next_tokens: Sequence[int]  # tokens to read: one per row that continues, or several for one row
    parent_rows: Sequence[int]  # for each row that continues, the row of this step that it copies
    new_tokens: Sequence[NewToken]  # tokens for the caller
    rejected: int = 0  # number of last tokens that the only row must forget


class Found(NamedTuple):
    """A text that a search found."""

    text: int  # index of the text whose new tokens were reported
    token_ids: Sequence[int]  # new tokens
    finish_reason: FinishReason
    score: float | None = None  # score of a hypothesis; None without beams
    logprobs: Logprobs | None = None  # None unless requested


class Search(Protocol):
    """A decoding strategy for one generation."""

    def choose(self, logits: Logits, interrupt: FinishReason | None = None) -> StepResult:
        """Choose tokens by ``logits`` (rows, vocabulary), which may be changed in place.

        ``interrupt``: the finish reason if this step must be the last one.
        """

    def results(self) -> Sequence[Found]:
        """Return the texts in the order of the prompts, the best of each prompt first."""


def decode(
    new_decoder: Callable[[], Decoder],
    prompts: Sequence[Sequence[int]],
    search: Search,
    interrupted: Callable[[], FinishReason | None] = lambda: None,
    best: int | None = None,
    explain: Callable[[], str] = str,
) -> Iterator[Sequence[NewToken]]:
    """Generate from ``prompts``; yield the new tokens of each step, until no row continues.

    The decoder is created when the first step is requested. ``interrupted``: called at every step,
    returns the finish reason if the step must be the last one. A call that is cancelled before its
    first step has no steps. ``best``: the number of highest logits per row that the search needs;
    None: all. ``explain``: returns why a constraint allows no token, or "". Raises ``OptionError``
    if no token may come next.
    """
    if interrupted() == "cancelled":
        return
    decoder = new_decoder()
    try:
        if best is not None:
            decoder.keep_best(best)
        logits = decoder.prefill(prompts, lambda: interrupted() == "cancelled")
        rows = list(range(len(prompts)))
        while True:
            next_tokens, parent_rows, new_tokens, rejected = search.choose(logits, interrupted())
            if rejected:
                decoder.forget(rejected)
            yield new_tokens
            if not next_tokens:
                return
            if parent_rows != rows:
                decoder.select_rows(parent_rows)
                rows = list(range(len(parent_rows)))
            one_each = len(next_tokens) == len(rows)
            logits = decoder.decode(next_tokens) if one_each else decoder.read(next_tokens)
    except CancelledError:
        return
    except DeadEndError as error:
        raise OptionError(explain() or str(error)) from error
    finally:
        decoder.close()
