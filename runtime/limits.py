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
SAFE_EXPONENT = 60.0  # e^60 times any vocabulary is far below the highest float32


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
    """Of every row, the highest logit, and the log of the sum of all exponentials relative to it.

    Where the highest is not finite there is no such sum, but NaN.
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


def log_sums(logits: Logits) -> LogSums:
    """What taken off logits (rows, vocabulary) makes them the logarithms of probabilities."""
    scratch = np.empty(logits.shape[1], dtype=np.float32)
    peaks = [float(row.max()) for row in logits]
    logs = [log_sum(row, peak, scratch) for row, peak in zip(logits, peaks, strict=True)]
    return LogSums(peaks, logs)


@np.errstate(over="ignore", under="ignore")
def log_sum(row: Logits, peak: float, scratch: Logits) -> float:
    """That of one row, (vocabulary,), whose highest logit is `peak`; `scratch` is as large."""
    if not math.isfinite(peak):
        return math.nan
    if abs(peak) < SAFE_EXPONENT:  # float32 holds the exponentials as they are: a pass less
        np.exp(row, out=scratch)
        return math.log(scratch.sum()) - peak
    np.subtract(row, np.float32(peak), out=scratch)
    np.exp(scratch, out=scratch)
    return math.log(scratch.sum())
