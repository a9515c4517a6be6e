"""Sessions: they generate what new calls generate and read only new tokens."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from edgeseq.runtime import EdgeseqError, Model, OptionError, PromptError
from edgeseq.runtime.decoder import Decoder
from edgeseq.runtime.ort.onnx_decoder import CHUNKS
from edgeseq.runtime.prefix_cache import CachePool, PrefixCache
from edgeseq.runtime.session import Session

OPTIONS: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": None}
Ids = list[int]


def random_ids(count: int, seed: int = 0) -> Ids:
    ids: Ids = np.random.default_rng(seed).integers(1, 300, count).tolist()
    return ids


class CountingDecoder:
    """A decoder that records how many tokens of prompts are read."""

    def __init__(self, decoder: Decoder, counts: list[int]) -> None:
        self._decoder = decoder
        self._counts = counts

    def prefill(self, prompts: Sequence[Sequence[int]], *cancelled: Any) -> Any:
        self._counts.append(sum(map(len, prompts)))
        return self._decoder.prefill(prompts, *cancelled)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


class Reads:
    """A model whose decoders' tokens of prompts are counted."""

    def __init__(self, model: Model) -> None:
        self.counts: list[int] = []
        self.made = 0
        self._model = model

    @property
    def model(self) -> Model:
        def new_decoder(sources: Sequence[Sequence[int]], capacity: int) -> Decoder:
            self.made += 1
            counting: Any = CountingDecoder(self._model.new_decoder(sources, capacity), self.counts)
            return counting  # type: ignore[no-any-return]

        return self._model.with_decoders(new_decoder)


@pytest.fixture
def reads(model: Model) -> Reads:
    return Reads(model)


@pytest.fixture
def session(reads: Reads) -> Iterator[Session]:
    with reads.model.session() as session:
        yield session


@pytest.fixture
def pool() -> CachePool:
    return CachePool(limit_bytes=2**20)


@pytest.fixture
def cache(model: Model, pool: CachePool) -> PrefixCache:
    """The cache of a session of ``model``, as ``Model.session`` makes it."""
    return PrefixCache(model.new_decoder, pool, has_encoder=False, longest=96)


def fresh_ids(model: Model, prompt: Ids, **options: Any) -> tuple[int, ...]:
    return model.generate_ids([prompt], **{**OPTIONS, **options})[0].token_ids


PROMPT = random_ids(30)
CHANGES = {
    "longer": [*PROMPT, *random_ids(5, 1)],
    "one longer": [*PROMPT, 7],
    "the same": PROMPT,
    "shorter": PROMPT[:12],
    "corrected in the middle": [*PROMPT[:15], 299, *PROMPT[16:]],
    "another": random_ids(25, 2),
    "a single token": PROMPT[:1],
    "corrected at the end": [*PROMPT[:-1], 299],
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_ids_are_those_of_a_fresh_call(model: Model, session: Session, change: str) -> None:
    assert session.generate_ids(PROMPT, **OPTIONS)[0].token_ids == fresh_ids(model, PROMPT)
    prompt = CHANGES[change]
    assert session.generate_ids(prompt, **OPTIONS)[0].token_ids == fresh_ids(model, prompt)


def test_only_new_tokens_are_read(reads: Reads, session: Session) -> None:
    [result] = session.generate_ids(PROMPT, **OPTIONS)
    # The last token of a text is never read.
    assert session.cached_tokens == (*PROMPT, *result.token_ids[:-1])
    session.generate_ids([*PROMPT, *result.token_ids, 5, 6], **OPTIONS)
    session.generate_ids([*PROMPT[:20], 5, 6, 7], **OPTIONS)
    assert reads.counts == [30, 3, 3]
    assert reads.made == 1


@pytest.fixture
def chunks_of_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHUNKS, "float32", 8)


@pytest.mark.usefixtures("chunks_of_8")
def test_cancelled_while_a_prompt_is_read_it_ends_between_chunks(
    model: Model, reads: Reads, session: Session
) -> None:
    asked = itertools.count()
    [result] = session.generate_ids(PROMPT, **OPTIONS, cancel=lambda: next(asked) >= 2)
    assert (result.token_ids, result.finish_reason) == ((), "cancelled")
    # Asked before the work begins, then in front of the second chunk and of the third.
    assert session.cached_tokens == tuple(PROMPT[:16])
    [result] = session.generate_ids(PROMPT, **OPTIONS)
    assert result.token_ids == fresh_ids(model, PROMPT)
    assert reads.counts == [30, 14]


@pytest.mark.usefixtures("chunks_of_8")
def test_a_fork_while_a_prompt_is_read_starts_empty(model: Model, session: Session) -> None:
    forks: list[Session] = []

    def fork() -> bool:
        forks.append(session.fork())
        return False

    session.generate_ids(PROMPT, **OPTIONS, cancel=fork)
    assert {fork.cached_tokens for fork in forks[:4]} == {()}
    for other in forks:
        assert other.generate_ids(PROMPT, **OPTIONS)[0].token_ids == fresh_ids(model, PROMPT)


def test_a_call_may_end_while_another_thread_uses_the_cache(
    model: Model, cache: PrefixCache, pool: CachePool
) -> None:
    """The garbage collector may end a stream in any thread, which must not wait for another."""
    with Session(model.with_decoders, cache, pool) as session:
        stream = session.stream("Once upon", max_new_tokens=4)
        next(stream)
        ended = threading.Event()

        def end() -> None:
            stream.close()  # type: ignore[attr-defined]
            ended.set()

        with cache.lock:
            thread = threading.Thread(target=end, daemon=True)
            thread.start()
            assert ended.wait(60)
        thread.join()
        assert not cache.is_in_use


@pytest.mark.usefixtures("chunks_of_8")
def test_a_stream_cancelled_while_its_prompt_is_read_has_no_pieces(model: Model) -> None:
    asked = itertools.count()
    prompt = "Once upon a time there was a clever fox; he said"
    assert list(model.stream(prompt, cancel=lambda: next(asked) >= 3)) == []
    assert next(asked) == 4


def test_a_chat_of_many_turns(model: Model, session: Session) -> None:
    text: Ids = []
    for turn in range(6):
        text += random_ids(4, turn)
        [result] = session.generate_ids(text, **OPTIONS)
        assert result.token_ids == fresh_ids(model, text)
        text += result.token_ids


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
        {"do_sample": True, "seed": 3, "num_return_sequences": 3},
        {"prompt_lookup_num_tokens": 5},
        {"repetition_penalty": 1.5, "logprobs": 1},
    ],
)
def test_every_strategy(model: Model, session: Session, options: dict[str, Any]) -> None:
    for prompt in (PROMPT, CHANGES["longer"], CHANGES["corrected in the middle"]):
        found = session.generate_ids(prompt, **{**OPTIONS, **options})
        expected = model.generate_ids([prompt], **{**OPTIONS, **options})
        assert [result.token_ids for result in found] == [result.token_ids for result in expected]


def test_beams_leave_the_prompt_in_the_cache(reads: Reads, session: Session) -> None:
    session.generate_ids(PROMPT, **OPTIONS, num_beams=3)
    assert session.cached_tokens == tuple(PROMPT)
    session.generate_ids([*PROMPT, 4, 5], **OPTIONS, num_beams=3)
    assert reads.counts == [30, 2]


def test_streams_and_choices(model: Model, session: Session) -> None:
    options = {"do_sample": False, "max_new_tokens": 6}
    for text in ("Once upon a time", "Once upon a time there was"):
        assert "".join(session.stream(text, **options)) == "".join(model.stream(text, **options))
        choices = session.generate(text, choices=[" a fox", " a wolf"])[0].choices
        expected = model.generate(text, choices=[" a fox", " a wolf"])[0].choices
        assert choices is not None and expected is not None
        assert [choice.text for choice in choices] == [choice.text for choice in expected]
        probabilities = [choice.probability for choice in expected]
        assert [c.probability for c in choices] == pytest.approx(probabilities, rel=1e-4)


def test_a_fork_is_independent(model: Model, session: Session, reads: Reads) -> None:
    session.generate_ids(PROMPT, **OPTIONS)
    reads.counts.clear()
    fork = session.fork()
    longer = CHANGES["longer"]
    assert fork.generate_ids(longer, **OPTIONS)[0].token_ids == fresh_ids(model, longer)
    assert session.generate_ids(longer, **OPTIONS)[0].token_ids == fresh_ids(model, longer)
    other = CHANGES["corrected in the middle"]
    assert fork.generate_ids(other, **OPTIONS)[0].token_ids == fresh_ids(model, other)
    assert session.cached_tokens[: len(longer)] == tuple(longer)
    assert reads.counts == [5]  # the session's own decoder; a fork's are not counted
    fork.close()
    assert session.generate_ids(longer, **OPTIONS)[0].token_ids == fresh_ids(model, longer)


def test_a_fork_of_an_unused_session(model: Model) -> None:
    with model.session() as session, session.fork() as fork:
        assert fork.generate_ids(PROMPT, **OPTIONS)[0].token_ids == fresh_ids(model, PROMPT)


def test_memory_is_bounded_and_the_least_recently_used_goes_first(model: Model) -> None:
    with model.session() as probe:
        probe.generate_ids(PROMPT, **OPTIONS)
        size = probe.cache_bytes
    assert size > 0
    with model.session(max_cache_bytes=3 * size) as session:
        session.generate_ids(PROMPT, **OPTIONS)
        forks = [session.fork() for _ in range(4)]
        for fork in forks:
            fork.generate_ids([*PROMPT[:-1], 1], **OPTIONS)
            assert session.cache_bytes <= 3 * size
        assert session.cached_tokens == ()
        assert forks[0].cached_tokens == ()
        assert forks[-1].cached_tokens != ()
        for each in (session, *forks):
            assert each.generate_ids(PROMPT, **OPTIONS)[0].token_ids == fresh_ids(model, PROMPT)


def test_the_cache_in_use_is_kept_whatever_the_limit(model: Model) -> None:
    with model.session(max_cache_bytes=0) as session:
        session.generate_ids(PROMPT, **OPTIONS)
        assert session.cached_tokens[:30] == tuple(PROMPT)
        fork = session.fork()
        assert session.cached_tokens == ()
        fork.generate_ids(PROMPT, **OPTIONS)
        assert session.generate_ids(PROMPT, **OPTIONS)[0].token_ids == fresh_ids(model, PROMPT)
        assert fork.cached_tokens == ()


def test_an_encoder_needs_the_same_source(t5_model: Model) -> None:
    sources = [random_ids(9), random_ids(9), random_ids(7, 1)]
    with t5_model.session() as session:
        for source in sources:
            for prefix in ([5, 6, 7], [5, 6, 8, 9], [5]):
                options = {**OPTIONS, "decoder_input_ids": prefix}
                [found] = session.generate_ids(source, **options)
                assert found.token_ids == fresh_ids(t5_model, source, decoder_input_ids=prefix)
        fork = session.fork()
        beams = {**OPTIONS, "num_beams": 3}
        [found] = fork.generate_ids(sources[-1], **beams)
        assert found.token_ids == fresh_ids(t5_model, sources[-1], num_beams=3)


def test_a_call_that_fails_leaves_a_good_session(model: Model, session: Session) -> None:
    session.generate_ids(PROMPT, **OPTIONS)

    def fail(tokens: Any, logits: Any) -> Any:
        if len(tokens) > 33:
            raise RuntimeError("from the caller")
        return logits

    with pytest.raises(RuntimeError, match="from the caller"):
        session.generate_ids(PROMPT, **OPTIONS, logits_processor=fail)
    with pytest.raises(OptionError):
        session.generate_ids(PROMPT, max_new_tokens=0)
    longer = CHANGES["longer"]
    assert session.generate_ids(longer, **OPTIONS)[0].token_ids == fresh_ids(model, longer)


def test_a_stream_ends_with_the_next_call(session: Session) -> None:
    pieces = session.stream("Once upon a time", do_sample=False, max_new_tokens=8)
    next(pieces)
    session.generate_ids(PROMPT, **OPTIONS)
    with pytest.raises(EdgeseqError, match="A later call of the session has ended"):
        list(pieces)


def test_what_a_session_refuses(model: Model) -> None:
    session = model.session()
    with pytest.raises(PromptError, match="one prompt at a time"):
        session.generate(["a", "b"], max_new_tokens=2)  # type: ignore[arg-type]
    session.close()
    session.close()
    for call in (
        lambda: session.generate("a"),
        lambda: session.generate_ids([1]),
        lambda: session.stream("a"),
        session.fork,
        session.__enter__,
        lambda: session.cached_tokens,
        lambda: session.cache_bytes,
    ):
        with pytest.raises(EdgeseqError, match="closed"):
            call()
    for limit in (-1, 1.5, True, "1"):
        with pytest.raises(OptionError, match="max_cache_bytes"):
            model.session(max_cache_bytes=limit)  # type: ignore[arg-type]


# What reviews found


def test_closing_and_dropping_give_the_memory_back(model: Model, pool: CachePool) -> None:
    decoders: list[weakref.ref[Any]] = []

    def new_decoder(sources: Sequence[Sequence[int]], capacity: int) -> Decoder:
        decoder = model.new_decoder(sources, capacity)
        decoders.append(weakref.ref(decoder))
        return decoder

    for beams in (1, 3):
        cache = PrefixCache(new_decoder, pool, has_encoder=False, longest=96)
        session = Session(model.with_decoders, cache, pool)
        session.generate_ids(PROMPT, **OPTIONS, num_beams=beams)
        gc.collect()
        assert [ref() is None for ref in decoders] == [False]
        assert not cache.is_in_use
        session.close()
        gc.collect()
        assert [ref() for ref in decoders] == [None]
        decoders.clear()


@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_of_a_closed_session(model: Model, begun: bool) -> None:
    session = model.session()
    pieces = session.stream("Once upon a time", do_sample=False, max_new_tokens=8)
    if begun:
        next(pieces)
    session.close()
    with pytest.raises(EdgeseqError):
        list(pieces)


def test_a_running_stream_keeps_its_cache(model: Model) -> None:
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12}
    with model.session(max_cache_bytes=0) as session:
        pieces = session.stream("Once upon a time", **options)
        read = [next(pieces)]
        fork = session.fork()
        fork.generate("Another text", **options)
        read += pieces
        assert "".join(read) == model.generate("Once upon a time", **options)[0].text
        prompt = model.tokenizer.encode("Once upon a time")
        assert session.cached_tokens[: len(prompt)] == tuple(prompt)


def test_an_abandoned_stream_is_over_when_it_is_closed(
    model: Model, cache: PrefixCache, pool: CachePool
) -> None:
    with Session(model.with_decoders, cache, pool) as session:
        pieces = session.stream("Once upon a time", do_sample=False, max_new_tokens=8)
        next(pieces)
        assert cache.is_in_use
        pieces.close()  # type: ignore[attr-defined]
        assert not cache.is_in_use


def test_guesses_that_were_wrong_are_not_remembered(model: Model) -> None:
    text = "a fox; a fox; a fox; a"
    [plain] = model.generate(text, do_sample=False, max_new_tokens=12, eos_token_id=None)
    stop = model.tokenizer.decode(plain.token_ids[4:6])
    with model.session() as session:
        options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None}
        [found] = session.generate(
            text, prompt_lookup_num_tokens=10, stop_strings=[stop], **options
        )
        ids = [*model.tokenizer.encode(text), *found.token_ids]
        assert list(session.cached_tokens) == ids[: len(session.cached_tokens)]


def test_forks_in_threads(model: Model) -> None:
    """A short switch interval makes races likely."""
    prompts = [random_ids(20, seed) for seed in range(4)]
    expected = [fresh_ids(model, prompt) for prompt in prompts]
    with model.session() as probe:
        probe.generate_ids(prompts[0], **OPTIONS)
        size = probe.cache_bytes
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with model.session(max_cache_bytes=2 * size) as session:
            forks = [session.fork() for _ in prompts]

            def run(number: int) -> list[tuple[int, ...]]:
                found = []
                for turn in range(25):
                    prompt = prompts[(number + turn) % len(prompts)]
                    found.append(forks[number].generate_ids(prompt, **OPTIONS)[0].token_ids)
                return found

            with ThreadPoolExecutor(len(prompts)) as pool:
                results = list(pool.map(run, range(len(prompts))))
    finally:
        sys.setswitchinterval(before)
    for number, found in enumerate(results):
        assert found == [expected[(number + turn) % len(prompts)] for turn in range(25)]
