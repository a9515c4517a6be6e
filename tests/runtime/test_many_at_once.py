"""Calls of one model at the same time: every text and every logprob is the same as alone."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from edgeseq.export import export_checkpoint
from edgeseq.runtime import EdgeseqError, Model, PromptError, load
from edgeseq.runtime.ort.sharing.shared_cache import SharedCache
from tests.support.checkpoints import unigram_tokenizer
from tests.support.family_checkpoints import seeded_model

Call = Callable[[Model], Any]
THREADS = 16
BEAMS: dict[str, Any] = {"num_beams": 4, "do_sample": False}
MODELS = ("gpt2 int8", "gpt2 float32", "t5 int8", "t5 float32", "gpt_neox-0", "gptj-0", "bart-0")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """``models(name)``: a demo with a type of KV cache, or a small model of a family."""

    @functools.cache
    def make(name: str) -> Model:
        if " " in name:
            demo, cache = name.split()
            return load(demo=demo, kv_cache=cache, max_concurrent=THREADS)  # type: ignore[call-overload, no-any-return]
        folder = tmp_path_factory.mktemp(name)
        seeded_model(name).save_pretrained(folder / "checkpoint")
        unigram_tokenizer().save_pretrained(folder / "checkpoint")
        bundle = export_checkpoint(folder / "checkpoint", folder / "bundle").folder
        return load(bundle, max_concurrent=THREADS)

    return make


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, models: Callable[[str], Model]) -> Model:
    return models(request.param)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of generations in each step that may be shared."""
    seen: list[int] = []
    run = SharedCache.run

    def spied(self: SharedCache, requests: Sequence[Any], held: Any) -> None:
        seen.append(len(requests))
        run(self, requests, held)

    monkeypatch.setattr(SharedCache, "run", spied)
    return seen


def prompt(model: Model, length: int, seed: int) -> list[int]:
    vocabulary = model.bundle.manifest.dimensions.vocabulary
    ids: list[int] = np.random.default_rng(seed).integers(4, vocabulary, length).tolist()
    return ids


def calls_for(model: Model) -> list[Call]:
    """Return calls of many kinds and lengths."""
    few = {"eos_token_id": None, "logprobs": 1}

    def generating(lengths: Sequence[int], number: int, **options: Any) -> Call:
        prompts = [prompt(model, length, number + i) for i, length in enumerate(lengths)]

        def call(model: Model) -> Any:
            results = model.generate_ids(prompts, **{**few, **options})
            return [(r.token_ids, r.logprobs, r.top_logprobs, r.sequence_score) for r in results]

        return call

    def session(model: Model) -> Any:
        found = []
        with model.session() as session:
            text = prompt(model, 9, 77)
            for _ in range(3):
                [result] = session.generate_ids(text, max_new_tokens=6, do_sample=False, **few)
                found.append((result.token_ids, result.logprobs, session.cached_tokens))
                if not model.bundle.manifest.has_encoder:
                    text = [*text, *result.token_ids, 5, 6]
            with session.fork() as fork:
                [result] = fork.generate_ids(
                    text, max_new_tokens=5, **few | BEAMS | {"num_beams": 3}
                )
                found.append((result.token_ids, result.logprobs, fork.cached_tokens))
        return found

    def only_even(index: int, ids: Any) -> list[int]:
        return list(range(4, model.bundle.manifest.dimensions.vocabulary, 2))

    calls = [
        generating([5 + 3 * seed], seed, do_sample=False, max_new_tokens=10 + 2 * seed)
        for seed in range(5)
    ]
    calls += [
        generating([4 + seed], seed, do_sample=True, seed=seed, top_k=20, max_new_tokens=20)
        for seed in range(3)
    ]
    return [
        *calls,
        generating([6], 20, **BEAMS, max_new_tokens=16),
        generating([12], 21, **BEAMS, num_return_sequences=2, max_new_tokens=12),
        generating([3, 14, 7], 22, **BEAMS, max_new_tokens=8),
        generating([8], 23, num_beams=4, num_beam_groups=2, diversity_penalty=0.5,
                   do_sample=False, max_new_tokens=10),
        generating([7], 24, do_sample=True, seed=3, num_return_sequences=3, max_new_tokens=14),
        generating([2, 9, 30], 25, do_sample=False, max_new_tokens=18),
        generating([10], 26, do_sample=False, repetition_penalty=1.3,
                   prefix_allowed_tokens_fn=only_even, max_new_tokens=12),
        session,
    ]  # fmt: skip


def test_calls_of_all_kinds_say_what_each_says_alone(model: Model, rows: list[int]) -> None:
    calls = calls_for(model)
    assert len(calls) == THREADS
    alone = [call(model) for call in calls]
    assert rows == []
    barrier = threading.Barrier(THREADS)

    def run(call: Call) -> Any:
        barrier.wait(60)
        return call(model)

    for _ in range(2):
        with ThreadPoolExecutor(THREADS) as pool:
            assert list(pool.map(run, calls)) == alone
    assert max(rows) > 3


def test_calls_that_start_and_end_at_any_time(model: Model, rows: list[int]) -> None:
    """Each thread makes calls in its own order; some are cancelled, closed or fail."""
    calls = calls_for(model)
    alone = [call(model) for call in calls]

    def run(seed: int) -> None:
        rng = random.Random(seed)
        for number in rng.sample(range(len(calls)), 6):
            assert calls[number](model) == alone[number]
            ending = rng.randrange(4)
            steps = iter(range(rng.randrange(12)))
            if ending == 0:
                stop = functools.partial(next, steps, True)
                model.generate_ids(
                    [[5, 6, 7]], max_new_tokens=20, cancel=lambda stop=stop: stop() is True
                )
            elif ending == 1:
                pieces = model.stream("the king", max_new_tokens=20)
                for _ in steps:
                    next(pieces, None)
                del pieces
            elif ending == 2:
                with pytest.raises(ZeroDivisionError):
                    model.generate_ids(
                        [[5, 6]],
                        max_new_tokens=20,
                        eos_token_id=None,
                        logits_processor=lambda ids, logits, steps=steps: (
                            logits if next(steps, None) is not None else 1 / 0
                        ),
                    )

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(run, seed) for seed in range(6)]:
            done.result(500)
    assert max(rows) > 1


def test_a_closed_model_ends_its_calls() -> None:
    """Calls that have started run to their end."""
    model = load()
    options: dict[str, Any] = {"max_new_tokens": 30, "do_sample": False, "eos_token_id": None}
    [expected] = model.generate("The king", **options)
    streams = [model.stream("The king", **options) for _ in range(4)]
    firsts = [next(stream) for stream in streams]
    model.close()
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map("".join, streams))
    assert [first + text for first, text in zip(firsts, texts, strict=True)] == [expected.text] * 4
    with pytest.raises(EdgeseqError, match="closed"):
        model.generate("The king")


def test_a_long_text_has_the_same_tokens_while_other_threads_go_on(
    demo_gpt2: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Once upon a time, there was a king. " * 1000
    expected = demo_gpt2.tokenizer.encode(text)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert demo_gpt2.tokenizer.encode(text) == expected
    with pytest.raises(PromptError, match="lone surrogates"):
        demo_gpt2.tokenizer.encode(text + "\ud800")
