"""Masks: logits processors that forbid or force tokens.

``logits: (rows, vocab) float32`` are changed in place; the logit of a forbidden id becomes -inf.
``tokens`` holds all ids of each row so far, including the prompt. ``lengths`` holds, for each row,
the number of ids at which the mask applies. Results equal the results of the processors in
``transformers.generation.logits_process`` (4.57.6). Parameters are not checked here: the options
check them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..decoder import Logits, TokenIds

Ids = Sequence[int] | TokenIds


def suppress(logits: Logits, ids: Ids) -> None:
    """Forbid ``ids`` in every row.

    Source: ``SuppressTokensLogitsProcessor``.
    """
    logits[:, np.asarray(ids, dtype=np.intp)] = -np.inf


def suppress_before(
    logits: Logits, tokens: Sequence[TokenIds], lengths: Sequence[int], ids: Ids
) -> None:
    """Forbid ``ids`` in the rows that have fewer ids than their length.

    Source: ``MinLengthLogitsProcessor`` and, with lengths counted from the end of the prompt,
    ``MinNewTokensLengthLogitsProcessor``.
    """
    columns = np.asarray(ids, dtype=np.intp)
    for row, seen, length in zip(logits, tokens, lengths, strict=True):
        if seen.size < length:
            row[columns] = -np.inf


def suppress_at(
    logits: Logits, tokens: Sequence[TokenIds], lengths: Sequence[int], ids: Ids
) -> None:
    """Forbid ``ids`` in the rows whose number of ids equals their length.

    Source: ``SuppressTokensAtBeginLogitsProcessor``.
    """
    columns = np.asarray(ids, dtype=np.intp)
    for row, seen, length in zip(logits, tokens, lengths, strict=True):
        if seen.size == length:
            row[columns] = -np.inf


def force_at(logits: Logits, tokens: Sequence[TokenIds], lengths: Sequence[int], ids: Ids) -> None:
    """Allow only ``ids``, with logit 0, in the rows whose number of ids equals their length.

    This also allows ids that were forbidden before. Source: ``ForcedBOSTokenLogitsProcessor``
    (length 1) and ``ForcedEOSTokenLogitsProcessor`` (the length limit minus one).
    """
    columns = np.asarray(ids, dtype=np.intp)
    for row, seen, length in zip(logits, tokens, lengths, strict=True):
        if seen.size == length:
            row.fill(-np.inf)
            row[columns] = 0.0


def keep_allowed(row: Logits, ids: Ids) -> None:
    """Forbid all but ``ids`` in ``row: (vocab,) float32``; if ``ids`` is empty, forbid all.

    Source: ``PrefixConstrainedLogitsProcessor``.
    """
    columns = np.asarray(ids, dtype=np.intp)
    allowed = row[columns]
    row.fill(-np.inf)
    row[columns] = allowed


def replace_invalid(logits: Logits) -> None:
    """Turn NaN into 0 and infinities into the highest and the lowest float32.

    Ids that were forbidden before get the lowest float32, whose probability is 0. Source:
    ``InfNanRemoveLogitsProcessor``.
    """
    np.nan_to_num(logits, copy=False)
