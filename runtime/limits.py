"""What is forbidden or forced at a place of the text, and logits made fit for what comes next.

`logits: (rows, vocab) float32` are changed in place; an id that is forbidden becomes -inf.
`tokens` holds, for each row, all its ids so far, the prompt's included, and `lengths`, for each
row, how many ids it has at the place that is meant. Values are those of the processors in
`transformers.generation.logits_process` (4.57.6). Parameters are taken as valid: the options
check them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgeseq.runtime.decoder import Logits, TokenIds

Ids = Sequence[int] | TokenIds
SAFE_SUM = 1e-15  # far from what float32 cannot hold, on either side


def suppress(logits: Logits, ids: Ids) -> None:
    """Forbid `ids` in every row.

    Source: `SuppressTokensLogitsProcessor`.
    """
    logits[:, np.asarray(ids, dtype=np.intp)] = -np.inf


def suppress_before(
    logits: Logits, tokens: Sequence[TokenIds], lengths: Sequence[int], ids: Ids
) -> None:
    """Forbid `ids` in the rows that are shorter than their length.

    Source: `MinLengthLogitsProcessor` and, with lengths counted from the end of the prompt,
    `MinNewTokensLengthLogitsProcessor`.
    """
    columns = np.asarray(ids, dtype=np.intp)
    for row, seen, length in zip(logits, tokens, lengths, strict=True):
        if seen.size < length:
            row[columns] = -np.inf


def suppress_at(
    logits: Logits, tokens: Sequence[TokenIds], lengths: Sequence[int], ids: Ids
) -> None:
    """Forbid `ids` in the rows that have exactly their length.

    Source: `SuppressTokensAtBeginLogitsProcessor`.
    """
    columns = np.asarray(ids, dtype=np.intp)
    for row, seen, length in zip(logits, tokens, lengths, strict=True):
        if seen.size == length:
            row[columns] = -np.inf


def force_at(logits: Logits, tokens: Sequence[TokenIds], lengths: Sequence[int], ids: Ids) -> None:
    """Allow only `ids`, with logit 0 each, in the rows that have exactly their length.

    They are allowed again where they had been forbidden. Source: `ForcedBOSTokenLogitsProcessor`
    (length 1) and `ForcedEOSTokenLogitsProcessor` (one less than the longest text).
    """
    columns = np.asarray(ids, dtype=np.intp)
    for row, seen, length in zip(logits, tokens, lengths, strict=True):
        if seen.size == length:
            row.fill(-np.inf)
            row[columns] = 0.0


def keep_allowed(row: Logits, ids: Ids) -> None:
    """Forbid all but `ids` in `row: (vocab,) float32`; without ids nothing is left.

    Source: `PrefixConstrainedLogitsProcessor`.
    """
    columns = np.asarray(ids, dtype=np.intp)
    allowed = row[columns]
    row.fill(-np.inf)
    row[columns] = allowed


def replace_invalid(logits: Logits) -> None:
    """Turn NaN into 0 and infinities into the highest and the lowest float32.

    What had been forbidden before then has a number, if one without a probability. Source:
    `InfNanRemoveLogitsProcessor`.
    """
    np.nan_to_num(logits, copy=False)


class LogSums(NamedTuple):
    """For every row two numbers that, taken off its logits, make them logs of probabilities.

    The first is near the highest logit, or 0; the second the log of the sum of the exponentials of
    what is left then. Of a row whose highest logit is not finite the first is that, the second NaN.
    """

    peaks: Sequence[float]
    logs: Sequence[float]


@np.errstate(over="ignore")  # the lowest float32 minus the highest
def normalize(logits: Logits, sums: LogSums | None = None) -> None:
    """Make each row the logarithms of its probabilities; `sums`: where they are known already.

    A row whose highest logit is not finite has none and stays as it is. Source:
    `LogitNormalization`, `torch.log_softmax`.
    """
    for row, peak, log_sum in zip(logits, *(sums or log_sums(logits)), strict=True):
        if math.isfinite(peak):
            # Two subtractions: the sum of both may be rounded to far fewer digits than the result.
            np.subtract(row, peak, out=row)
            np.subtract(row, log_sum, out=row)


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def log_sums(logits: Logits) -> LogSums:
    """Those of logits (rows, vocabulary)."""
    scratch = np.empty(logits.shape[1], dtype=np.float32)
    pairs = [exponentials(row, scratch) for row in logits]
    return LogSums([peak for peak, _ in pairs], [log for _, log in pairs])


def exponentials(row: Logits, scratch: Logits) -> tuple[float, float]:
    """One row's two numbers of `LogSums`; `scratch` becomes the exponentials of what is left.

    As a rule float32 holds the exponentials of the logits themselves, which saves two passes. For
    callers that let numpy overflow: to switch warnings off for each row would cost microseconds.
    """
    np.exp(row, out=scratch)
    total = float(np.add.reduce(scratch))
    if SAFE_SUM < total < 1 / SAFE_SUM:
        return 0.0, math.log(total)
    peak = float(row.max())
    if not math.isfinite(peak):
        return peak, math.nan
    np.subtract(row, np.float32(peak), out=scratch)
    np.exp(scratch, out=scratch)
    return peak, math.log(np.add.reduce(scratch))
