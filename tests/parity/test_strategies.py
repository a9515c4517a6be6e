"""Every deterministic strategy, compared with Transformers 4.57.6 for many sets of options.

Greedy search, beam search and prompt lookup (whose texts are greedy search's) are compared on
seeded models of four families and on the two demos: token ids, why a text ended, scores and
log-probabilities. The cases are a table in which all possible pairs of values of the factors in
``strategy_cases.py`` occur, filled up with random ones; ``-m nightly`` runs a thousand more.

Ties. Both sides compute in float32, but add in another order, so their logits differ by about
1e-6. Where two tokens, or two beams, are closer than that, neither side is wrong. So if ids differ,
Transformers runs again in float64: if it now decides otherwise than it did itself in float32, the
case is a tie, and ties must be rare. Logits that are equal by construction do not get that far:
greedy search takes the first on both sides, as of several forced ends, all of score 0; beams of
equal scores, which ``torch.topk`` orders by chance, are in no case.

Where fewer than ``num_beams`` continuations are possible in the end, Transformers returns copies
of score -1e9 and we do not: the reference asserts that no case gets there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from transformers import GPT2LMHeadModel, T5ForConditionalGeneration

from edgeseq.export import export_checkpoint
from edgeseq.runtime import Model, load
from edgeseq.runtime.bundle.reading import Bundle
from tests.support.checkpoints import unigram_tokenizer
from tests.support.family_checkpoints import seeded_model
from tests.support.strategy_cases import (
    Case,
    is_possible,
    pairs_of,
    pairwise_table,
    possible_pairs,
    random_cases,
)
from tests.support.strategy_reference import Subject, compare, new_subject

DEMOS = Path(__file__).parents[2] / "demos"
SUBJECTS = ("gpt2", "t5", "demo gpt2", "demo t5", "bart", "gpt neox")
CASES = 76  # for each subject
NIGHTLY_CASES = 250
TIES = 0.02
STORIES = (
    "Once upon a time there was a poor woodcutter who had three sons and one daughter",
    "The old king said to his youngest daughter that she must go into the forest and",
    "Then the fox ran down to the river, for he had seen the fisherman come home with",
    "In the evening they sat by the fire, and the grandmother told them of the giant who",
)
WORDS = (
    "pronounce: strawberries",
    "pronounce: international",
    "spell: W AO1 SH IH0 NG T AH0 N",
    "pronounce: thoroughly",
)


def random_pool(vocabulary: int) -> list[list[int]]:
    return np.random.default_rng(5).integers(2, vocabulary, size=(4, 16)).tolist()


@pytest.fixture(scope="session", params=SUBJECTS)
def subject(request: pytest.FixtureRequest) -> Subject:
    made: Subject = request.getfixturevalue(request.param.replace(" ", "_") + "_subject")
    return made


@pytest.fixture(scope="session")
def gpt2_subject(model: Model, reference: GPT2LMHeadModel) -> Subject:
    network = GPT2LMHeadModel.from_pretrained(reference.name_or_path, attn_implementation="eager")
    return new_subject(model, network.eval(), random_pool(reference.config.vocab_size))


@pytest.fixture(scope="session")
def t5_subject(t5_model: Model, seeded_t5: Callable[..., T5ForConditionalGeneration]) -> Subject:
    network = seeded_t5()
    return new_subject(t5_model, network, random_pool(network.config.vocab_size))


@pytest.fixture(scope="session")
def demo_gpt2_subject(export_once: Callable[[Path], Bundle]) -> Subject:
    model = load(export_once(DEMOS / "gpt2" / "checkpoint").folder, threads=1)
    network = GPT2LMHeadModel.from_pretrained(
        DEMOS / "gpt2" / "checkpoint", attn_implementation="eager", dtype="float32"
    )
    return new_subject(model, network.eval(), [model.tokenizer.encode(text) for text in STORIES])


@pytest.fixture(scope="session")
def demo_t5_subject(export_once: Callable[[Path], Bundle]) -> Subject:
    model = load(export_once(DEMOS / "t5" / "checkpoint").folder, threads=1)
    network = T5ForConditionalGeneration.from_pretrained(
        DEMOS / "t5" / "checkpoint", attn_implementation="eager", dtype="float32"
    )
    pool = [model.tokenizer.encode(text) for text in WORDS]
    return new_subject(model, network.eval(), pool, end=network.config.eos_token_id)


@pytest.fixture(scope="session")
def seeded_subject(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    def make(name: str) -> Subject:
        folder = tmp_path_factory.mktemp(name)
        network = seeded_model(name)
        network.save_pretrained(folder / "checkpoint")
        unigram_tokenizer().save_pretrained(folder / "checkpoint")
        bundle = export_checkpoint(folder / "checkpoint", folder / "bundle")
        pool = random_pool(network.config.vocab_size)
        return new_subject(load(bundle.folder, threads=1), network, pool)

    return make


@pytest.fixture(scope="session")
def bart_subject(seeded_subject: Callable[[str], Subject]) -> Subject:
    return seeded_subject("bart-3")


@pytest.fixture(scope="session")
def gpt_neox_subject(seeded_subject: Callable[[str], Subject]) -> Subject:
    return seeded_subject("gpt_neox-0")


def cases_of(subject_name: str) -> list[Case]:
    seed = SUBJECTS.index(subject_name)
    table = pairwise_table(seed)
    return table + random_cases(seed, CASES - len(table))


def assert_equal(subject: Subject, cases: Sequence[Case]) -> None:
    """Check all cases together, so that a failure shows all wrong cases."""
    outcomes = [compare(subject, case) for case in cases]
    wrong = [
        f"{outcome.wrong}\n  {case}"
        for case, outcome in zip(cases, outcomes, strict=True)
        if outcome.wrong is not None
    ]
    assert not wrong, f"{len(wrong)} of {len(cases)} cases:\n" + "\n".join(wrong)
    ties = sum(outcome.is_tie for outcome in outcomes)
    reasons = Counter(reason for outcome in outcomes for reason in outcome.finish_reasons)
    assert ties <= TIES * len(cases)
    assert set(reasons) == {"eos", "length"}
    assert min(reasons.values()) > 0.2 * reasons.total()


@pytest.mark.parametrize("name", SUBJECTS)
def test_table_holds_all_pairs(name: str) -> None:
    cases = cases_of(name)
    assert len(cases) == CASES
    assert all(map(is_possible, cases))
    assert {pair for case in cases for pair in pairs_of(case)} == possible_pairs()


def test_as_transformers(subject: Subject, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["subject"]
    assert_equal(subject, cases_of(name))


@pytest.mark.nightly
def test_random_cases_as_transformers(subject: Subject, request: pytest.FixtureRequest) -> None:
    seed = 1000 + SUBJECTS.index(request.node.callspec.params["subject"])
    assert_equal(subject, random_cases(seed, NIGHTLY_CASES))
