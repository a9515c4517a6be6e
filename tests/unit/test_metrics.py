"""Metrics equal the figures of the libraries they come from; their bootstrap, by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edgeseq.runtime import OptionError, PromptError
from edgeseq.runtime.evaluation import metrics as module
from edgeseq.runtime.evaluation.bootstrap import estimate
from edgeseq.runtime.evaluation.metrics import (
    METRICS,
    check_metrics,
    confusion,
    normalized,
    squad_f1,
)

TEXT = "The king, a fox; went: home! to an old house near the sea über Straße 3.5 x"
WORDS = TEXT.split()


def texts(seed: int, count: int = 60) -> tuple[list[str], list[str]]:
    """Return found and expected texts, of which some are equal."""
    chance = random.Random(seed)
    expected = [" ".join(chance.choices(WORDS, k=chance.randint(1, 12))) for _ in range(count)]
    found = [
        " ".join(w if chance.random() < 0.8 else chance.choice(WORDS) for w in text.split())
        for text in expected
    ]
    found[3] = ""
    return found, expected


@pytest.mark.parametrize("seed", range(3))
def test_bleu_and_chrf_are_sacrebleus(seed: int) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    found, expected = texts(seed)
    assert METRICS["bleu"].of(found, expected) == sacrebleu.corpus_bleu(found, [expected]).score
    assert METRICS["chrf"].of(found, expected) == sacrebleu.corpus_chrf(found, [expected]).score


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_is_the_mean_of_rouge_score(kind: str) -> None:
    scoring = pytest.importorskip("rouge_score.rouge_scorer")
    found, expected = texts(5)
    scorer = scoring.RougeScorer([kind])
    figures = [
        scorer.score(target, prediction)[kind].fmeasure
        for target, prediction in zip(expected, found, strict=True)
    ]
    assert METRICS[kind].of(found, expected) == pytest.approx(np.mean(figures), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_error_rates_are_jiwers(seed: int) -> None:
    jiwer = pytest.importorskip("jiwer")
    found, expected = texts(seed)
    assert METRICS["word_error_rate"].of(found, expected) == jiwer.wer(expected, found)
    assert METRICS["character_error_rate"].of(found, expected) == jiwer.cer(expected, found)


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_labels_are_those_of_scikit_learn(seed: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    chance = random.Random(seed)
    labels = ["no", "yes", "perhaps", "Yes"]
    expected = chance.choices(labels[:3], k=50)
    found = [chance.choice(labels) if chance.random() < 0.4 else label for label in expected]
    assert METRICS["accuracy"].of(found, expected) == sklearn.accuracy_score(expected, found)
    f1 = sklearn.f1_score(expected, found, average="macro", zero_division=0)
    assert METRICS["f1"].of(found, expected) == pytest.approx(f1)
    table = confusion(found, expected)
    assert table is not None
    matrix = sklearn.confusion_matrix(expected, found, labels=table.labels)
    assert np.array_equal(table.counts, matrix)


@pytest.mark.parametrize("seed", range(3))
def test_squads_figures_are_those_of_transformers(seed: int) -> None:
    squad = pytest.importorskip("transformers.data.metrics.squad_metrics")
    found, expected = texts(seed, 200)
    found[:5] = ["the", "A fox!", "  an  ", "Über, STRASSE", "x"]
    expected[:5] = ["a", "fox", "", "über strasse", "the x."]
    for text, target in zip(found, expected, strict=True):
        assert normalized(text) == squad.normalize_answer(text)
        assert squad_f1(text, target) == pytest.approx(squad.compute_f1(target, text))
    exact = [squad.compute_exact(t, f) for f, t in zip(found, expected, strict=True)]
    assert METRICS["squad_exact_match"].of(found, expected) == pytest.approx(np.mean(exact))


def test_many_labels_have_no_confusion() -> None:
    assert confusion(["a"], ["b"]) is not None
    assert confusion([str(i) for i in range(50)], ["x"] * 50) is None


def test_texts_are_no_labels() -> None:
    texts = [str(i) for i in range(600)]
    with pytest.raises(PromptError, match="there are 600 different texts: use squad_f1"):
        METRICS["f1"].of(texts, texts)


def test_unknown_metrics_are_refused() -> None:
    assert check_metrics(["f1", "accuracy", "f1"]) == ["f1", "accuracy"]
    with pytest.raises(OptionError, match="There is no metric 'acuracy': use accuracy"):
        check_metrics(["acuracy"])
    with pytest.raises(OptionError, match="There is no metric 'x': use accuracy, f1,"):
        check_metrics(["x"])


def test_targets_without_words_are_refused() -> None:
    with pytest.raises(PromptError, match="have no words"):
        METRICS["word_error_rate"].of(["a"], [" "])


# The bootstrap


def mean(sums: np.ndarray) -> float:
    return float(sums[0] / sums[1])


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(5, 2, size=400)
    found = estimate(np.stack([values, np.ones(400)], axis=1), mean).score
    assert found.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_difference_leaves_out_what_both_share() -> None:
    values = np.random.default_rng(1).normal(5, 2, size=400)
    ones = np.ones(400)
    one = np.stack([values + 0.25, ones], axis=1)
    other = np.stack([values, ones], axis=1)
    found = estimate(one, mean, other)
    assert found.difference is not None
    assert found.difference.low == pytest.approx(0.25)
    assert found.difference.high == pytest.approx(0.25)
    assert found.score.high - found.score.low > 0.2
    same = estimate(other, mean, other.copy()).difference
    assert same is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_the_bootstrap_is_seeded() -> None:
    values = np.random.default_rng(2).normal(size=(30, 1))
    statistics = np.hstack([values, np.ones((30, 1))])
    assert estimate(statistics, mean) == estimate(statistics, mean)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from edgeseq.runtime import MissingPackageError

    module._sacrebleu.cache_clear()
    for name, package in (
        ("bleu", "sacrebleu.metrics.bleu"),
        ("rougeL", "rouge_score.rouge_scorer"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingPackageError, match=r"install the extra 'metrics'"):
            check_metrics([name])
    module._sacrebleu.cache_clear()
