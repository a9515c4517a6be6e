"""Metrics of generated texts against the expected texts.

A metric adds up statistics of each text and computes its score from the sums. So the score of any
sample of the texts follows from the same statistics, which ``bootstrap`` uses.

BLEU and chrF are those of sacrebleu, ROUGE is that of rouge-score (the extra ``metrics``).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingPackageError, OptionError, PromptError, nearest
from .error_rates import edit_distance

Statistics = NDArray[np.float64]
Texts = Sequence[str]

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
LIMIT_OF_LABELS = 500  # more are no labels but texts
MOST_LABELS = 40  # a confusion with more labels is no table to look at


@dataclass(frozen=True)
class Metric:
    """A metric, by its statistics of each text and its score from their sum."""

    title: str  # as a head of a table
    statistics: Callable[[Texts, Texts], Statistics]  # found and expected texts -> (texts, k)
    score: Callable[[Statistics], float]  # the sum of statistics, (k,) -> the score
    is_better_high: bool = True
    is_share: bool = True  # 0 to 1, shown as a percentage; otherwise shown as it is

    def of(self, found: Texts, expected: Texts) -> float:
        """Return the score of all texts; at least one."""
        return self.score(self.statistics(found, expected).sum(axis=0))


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often each label was found for each label that was expected."""

    labels: Sequence[str]  # in alphabetical order, found or expected
    counts: Sequence[Sequence[int]]  # a row for each expected label


def confusion(found: Texts, expected: Texts) -> Confusion | None:
    """Return the confusion of labels; None if there are too many of them for a table."""
    labels = sorted({*found, *expected})
    if len(labels) > MOST_LABELS:
        return None
    counts = Counter(zip(expected, found, strict=True))
    rows = [[counts[label, other] for other in labels] for label in labels]
    return Confusion(labels=labels, counts=rows)


# Statistics


def _ratio(sums: Statistics) -> float:
    return float(sums[0] / sums[1]) if sums[1] else 0.0


def _means(of: Callable[[str, str], float]) -> Callable[[Texts, Texts], Statistics]:
    """Return statistics whose ratio is the mean of ``of`` over the texts."""

    def statistics(found: Texts, expected: Texts) -> Statistics:
        values = [of(text, other) for text, other in zip(found, expected, strict=True)]
        return np.array([[value, 1.0] for value in values])

    return statistics


def _label_counts(found: Texts, expected: Texts) -> Statistics:
    """Return for each label and text: right, found, expected; (texts, 3 * labels)."""
    labels = {label: i for i, label in enumerate(sorted({*found, *expected}))}
    if len(labels) > LIMIT_OF_LABELS:
        raise PromptError(
            f"f1 is for labels, but there are {len(labels)} different texts: use squad_f1."
        )
    counts = np.zeros((len(found), 3, len(labels)))
    for i, (text, other) in enumerate(zip(found, expected, strict=True)):
        counts[i, 0, labels[text]] = text == other
        counts[i, 1, labels[text]] = counts[i, 2, labels[other]] = 1
    return counts.reshape(len(found), -1)


def _macro_f1(sums: Statistics) -> float:
    """Return the mean over labels of the harmonic mean of precision and recall."""
    right, found, expected = sums.reshape(3, -1)
    occurring = found + expected > 0
    return float(np.mean(2 * right[occurring] / (found + expected)[occurring]))


def normalized(text: str) -> str:
    """Return an answer as SQuAD compares it: no case, punctuation, articles or extra spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def squad_f1(found: str, expected: str) -> float:
    """Return the F1 of the words of two answers, as SQuAD defines it."""
    words, others = normalized(found).split(), normalized(expected).split()
    if not words or not others:
        return float(words == others)
    common = sum((Counter(words) & Counter(others)).values())
    return 2 * common / (len(words) + len(others))


def _edits(split: Callable[[str], Sequence[str]], found: Texts, expected: Texts) -> Statistics:
    """Return the edits and the expected items of each text."""
    pairs = [(split(text), split(other)) for text, other in zip(found, expected, strict=True)]
    if not any(other for _, other in pairs):
        raise PromptError("The expected texts have no words: give texts to compare with.")
    return np.array([[edit_distance(items, others), len(others)] for items, others in pairs], float)


@cache
def _sacrebleu(name: str) -> Any:
    """Return a metric of sacrebleu: "BLEU" or "CHRF"."""
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ModuleNotFoundError as error:
        raise _missing("BLEU and chrF", "sacrebleu") from error
    # The warning about texts that look tokenized already is for people who can change them.
    return BLEU(force=True) if name == "BLEU" else CHRF()


def _sacrebleu_statistics(name: str, found: Texts, expected: Texts) -> Statistics:
    metric = _sacrebleu(name)
    # sacrebleu samples the same statistics for its own intervals; they have no public name.
    return np.array(metric._extract_corpus_statistics(found, [list(expected)]), float)


def _sacrebleu_score(name: str, sums: Statistics) -> float:
    return float(_sacrebleu(name)._compute_score_from_stats([int(x) for x in sums]).score)


def _rouge(kind: str, found: Texts, expected: Texts) -> Statistics:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError as error:
        raise _missing("ROUGE", "rouge-score") from error
    scorer = RougeScorer([kind], use_stemmer=False)
    return _means(lambda text, other: scorer.score(other, text)[kind].fmeasure)(found, expected)


def _missing(what: str, package: str) -> MissingPackageError:
    return MissingPackageError(
        f"{what} needs {package}: install the extra 'metrics' "
        '(python -m pip install "edgeseq[metrics]").'
    )


def _equal(text: str, other: str) -> float:
    return float(text == other)


def _same_answer(text: str, other: str) -> float:
    return float(normalized(text) == normalized(other))


def _of_sacrebleu(name: str, title: str) -> Metric:
    return Metric(
        title, partial(_sacrebleu_statistics, name), partial(_sacrebleu_score, name), is_share=False
    )


METRICS = {
    "accuracy": Metric("accuracy", _means(_equal), _ratio),
    "f1": Metric("macro F1", _label_counts, _macro_f1),
    "exact_match": Metric("exact match", _means(_equal), _ratio),
    "squad_exact_match": Metric("SQuAD EM", _means(_same_answer), _ratio),
    "squad_f1": Metric("SQuAD F1", _means(squad_f1), _ratio),
    "bleu": _of_sacrebleu("BLEU", "BLEU"),
    "chrf": _of_sacrebleu("CHRF", "chrF"),
    "rouge1": Metric("ROUGE-1", partial(_rouge, "rouge1"), _ratio),
    "rouge2": Metric("ROUGE-2", partial(_rouge, "rouge2"), _ratio),
    "rougeL": Metric("ROUGE-L", partial(_rouge, "rougeL"), _ratio),
    "rougeLsum": Metric("ROUGE-Lsum", partial(_rouge, "rougeLsum"), _ratio),
    "word_error_rate": Metric("WER", partial(_edits, str.split), _ratio, is_better_high=False),
    "character_error_rate": Metric("CER", partial(_edits, list), _ratio, is_better_high=False),
}
DEFAULTS = ("exact_match", "word_error_rate", "character_error_rate")  # without a task
OF_LABELS = ("accuracy", "f1")  # defaults of a task with labels


def check_metrics(names: Iterable[str]) -> list[str]:
    """Return the names of metrics, each once.

    Raises ``OptionError`` for an unknown one, ``MissingPackageError`` if a package is missing.
    """
    checked = list(dict.fromkeys(names))
    for name in checked:
        if name not in METRICS:
            close = nearest(name, METRICS)
            raise OptionError(
                f"There is no metric {name!r:.60}: use {close or ', '.join(METRICS)}."
            )
        METRICS[name].of(["a b"], ["a b"])
    return checked
