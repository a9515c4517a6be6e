"""The option `truncation`: prompts and sources that are longer than the model reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseq.cli.command_line import main
from edgeseq.runtime import Model, OptionError, PromptError, load, pipeline
from edgeseq.runtime.bundle.demo_bundles import demo_bundle
from edgeseq.runtime.text.special_tokens import special_tokens_of
from tests.support.commands import Captured, failure

POSITIONS = 512
NEW = 8
ROOM = POSITIONS + 1 - NEW  # the last new token takes no position
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": NEW}
SENTENCE = "The old man went into the wood and said to the wolf that he was hungry. "
LONG = "".join(f"{number}. {SENTENCE}" for number in range(60))


def generated(model: Model, ids: list[int], **options: Any) -> tuple[int, ...]:
    return model.generate_ids([ids], **{**GREEDY, **options})[0].token_ids


def test_a_long_prompt_is_an_error_unless_it_may_be_cut(demo_gpt2: Model) -> None:
    for off in ({}, {"truncation": None}, {"truncation": False}):
        with pytest.raises(PromptError, match="pass truncation"):
            demo_gpt2.generate(LONG, **GREEDY, **off)


@pytest.mark.parametrize(
    ("side", "kept"),
    [("left", lambda ids: ids[-ROOM:]), ("right", lambda ids: ids[:ROOM])],
)
def test_as_many_tokens_stay_as_the_new_ones_leave(
    demo_gpt2: Model, side: str, kept: Callable[[list[int]], list[int]]
) -> None:
    ids = demo_gpt2.tokenizer.encode(LONG)
    [result] = demo_gpt2.generate(LONG, **GREEDY, truncation=side)
    assert result.token_ids == generated(demo_gpt2, kept(ids))
    assert result.prompt_tokens == ROOM
    assert result.truncated_tokens == len(ids) - ROOM
    assert result.generated_tokens == NEW


def test_true_is_the_tokenizers_side(demo_gpt2: Model) -> None:
    side = demo_gpt2.bundle.manifest.tokenizer.truncation_side
    [result] = demo_gpt2.generate(LONG, **GREEDY, truncation=True)
    [expected] = demo_gpt2.generate(LONG, **GREEDY, truncation=side)
    assert result.token_ids == expected.token_ids


@pytest.mark.parametrize("side", ["left", "right", "sliding", True])
def test_a_prompt_that_fits_stays_whole(demo_gpt2: Model, side: Any) -> None:
    ids = demo_gpt2.tokenizer.encode(LONG)[:ROOM]
    [result] = demo_gpt2.generate_ids([ids], **GREEDY, truncation=side)
    assert (result.prompt_tokens, result.truncated_tokens) == (ROOM, 0)
    assert result.token_ids == generated(demo_gpt2, ids)


def test_a_prompt_that_leaves_too_little_room_is_cut(demo_gpt2: Model) -> None:
    """Without truncation its text would end early."""
    ids = demo_gpt2.tokenizer.encode(LONG)[:POSITIONS]
    assert len(generated(demo_gpt2, ids)) == 1
    assert len(generated(demo_gpt2, ids, truncation="left")) == NEW


def test_the_prompts_of_a_batch_are_cut_one_by_one(demo_gpt2: Model) -> None:
    texts = [LONG, "The wolf", LONG[700:]]
    found = demo_gpt2.generate(texts, **GREEDY, truncation="left")
    alone = [demo_gpt2.generate(text, **GREEDY, truncation="left")[0] for text in texts]
    assert [result.token_ids for result in found] == [result.token_ids for result in alone]
    assert [result.truncated_tokens > 0 for result in found] == [True, False, True]


def test_a_callers_list_of_ids_is_not_changed(demo_gpt2: Model) -> None:
    ids = demo_gpt2.tokenizer.encode(LONG)
    before = list(ids)
    demo_gpt2.generate_ids([ids], **GREEDY, truncation="left")
    assert ids == before


def test_the_window_slides_in_steps(demo_gpt2: Model) -> None:
    """Texts that grow by one token at a time have few beginnings, and at least 3/4 of the room."""
    ids = demo_gpt2.tokenizer.encode(LONG)
    step = ROOM // 4
    lost = []
    for size in range(ROOM, ROOM + 2 * step + 2, 63):
        [result] = demo_gpt2.generate_ids([ids[:size]], **GREEDY, truncation="sliding")
        assert ROOM - step < result.prompt_tokens <= ROOM
        lost.append(result.truncated_tokens)
    assert set(lost) == {0, step, 2 * step}
    assert lost == sorted(lost)


def test_a_session_with_a_sliding_window_reads_only_new_tokens(demo_gpt2: Model) -> None:
    ids = demo_gpt2.tokenizer.encode(LONG)
    options = {**GREEDY, "truncation": "sliding"}
    with demo_gpt2.session() as session:
        session.generate_ids(ids[: ROOM + 5], **options)
        before = session.cached_tokens
        [found] = session.generate_ids(ids[: ROOM + 25], **options)
        after = session.cached_tokens
        shared = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
        assert shared >= ROOM + 5 - ROOM // 4
    assert found.token_ids == generated(demo_gpt2, ids[: ROOM + 25], truncation="sliding")


def test_a_session_gives_the_text_of_separate_calls(demo_gpt2: Model) -> None:
    text = LONG[:2600]
    with demo_gpt2.session() as session:
        for _ in range(3):
            [found] = session.generate(text, **GREEDY, truncation="sliding")
            [expected] = demo_gpt2.generate(text, **GREEDY, truncation="sliding")
            assert found.text == expected.text
            text += found.text + " Then the wolf said"


def test_the_new_tokens_may_not_take_all_positions(demo_gpt2: Model) -> None:
    options = {"do_sample": False, "truncation": "left"}
    with pytest.raises(OptionError, match="leaves no room"):
        demo_gpt2.generate(LONG, max_new_tokens=POSITIONS + 1, **options)
    with pytest.raises(OptionError, match="no effect with max_length"):
        demo_gpt2.generate(LONG, max_length=100, **options)


def test_choices_keep_their_room(demo_gpt2: Model) -> None:
    choices = [" happy", " sad and very, very lonely"]
    longest = max(len(demo_gpt2.tokenizer.encode_continuation(choice)) for choice in choices)
    [result] = demo_gpt2.generate(LONG, choices=choices, truncation="left")
    assert result.prompt_tokens == POSITIONS + 1 - longest
    assert result.truncated_tokens > 0
    assert result.choices is not None


@pytest.fixture(scope="module")
def short_t5(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The demo T5, whose tokenizer has a limit of 16 tokens."""
    folder = tmp_path_factory.mktemp("short") / "t5"
    shutil.copytree(demo_bundle("t5"), folder)
    path = folder / "edgeseq.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["tokenizer"]["model_max_length"] = 16
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return load(folder)


@pytest.mark.parametrize("side", ["left", "right", "sliding"])
def test_a_source_keeps_its_special_tokens(short_t5: Model, side: str) -> None:
    """The demo T5 has no limit of positions: the tokenizer's limit counts, as in Transformers."""
    text = "pronounce: " + "winter" * 9
    ids = short_t5.tokenizer.encode(text)
    kept = {"left": ids[-16:], "right": [*ids[:15], ids[-1]]}
    [found] = short_t5.generate(text, truncation=side)
    assert found.prompt_tokens <= 16
    assert found.truncated_tokens == len(ids) - found.prompt_tokens
    expected = kept.get(side, ids[-found.prompt_tokens :])
    assert found.token_ids == short_t5.generate_ids([expected])[0].token_ids


def test_transformers_truncation_is_the_same(short_t5: Model) -> None:
    text = "pronounce: " + "winter" * 9
    ids = short_t5.tokenizer.encode(text, max_length=16)
    [found] = short_t5.generate(text, truncation=True)
    assert found.token_ids == short_t5.generate_ids([ids])[0].token_ids


def test_special_tokens_of_the_demos(demo_gpt2: Model, demo_t5: Model) -> None:
    assert special_tokens_of(demo_gpt2.tokenizer) == ((), ())
    assert special_tokens_of(demo_t5.tokenizer) == ((), (1,))


def test_pipelines_and_streams_take_it(demo_gpt2: Model) -> None:
    options = {**GREEDY, "truncation": "left"}
    [expected] = demo_gpt2.generate(LONG, **options)
    assert "".join(demo_gpt2.stream(LONG, **options)) == expected.text
    [record] = pipeline("text-generation", demo_gpt2)(LONG, **options, return_full_text=False)
    assert record == {"generated_text": expected.text}


@pytest.mark.parametrize("side", ["left", "right", "sliding"])
def test_a_task_cuts_the_text_and_not_its_template(demo_gpt2: Model, side: str) -> None:
    answers = demo_gpt2.run("summarization", [LONG, "The wolf"], **GREEDY, truncation=side)
    assert isinstance(answers, list)
    [cut, whole] = [answer.generation for answer in answers]
    assert (cut.prompt_index, whole.prompt_index) == (0, 1)
    assert ROOM - 4 <= cut.prompt_tokens <= ROOM
    size = len(demo_gpt2.tokenizer.encode(f"{LONG}\n\nTL;DR:"))
    assert cut.truncated_tokens == size - cut.prompt_tokens
    assert whole.truncated_tokens == 0


def test_a_task_with_labels_reads_the_end_of_its_prompt(demo_gpt2: Model) -> None:
    found = demo_gpt2.run("classification", LONG, truncation="right")
    assert not isinstance(found, list)
    sizes = range(len(LONG), 0, -1)
    prompts = (f"Review: {LONG[:size]}\nSentiment:" for size in sizes)
    longest = max(len(demo_gpt2.tokenizer.encode(text)) for text in (" positive", " negative"))
    prompt = next(
        text for text in prompts if len(demo_gpt2.tokenizer.encode(text)) <= 513 - longest
    )
    [expected] = demo_gpt2.generate(prompt, choices=[" positive", " negative"])
    assert expected.choices is not None
    assert found.probabilities is not None
    assert [*found.probabilities.values()] == [choice.probability for choice in expected.choices]


def test_the_longest_field_of_a_task_is_cut(demo_gpt2: Model) -> None:
    fields = {"question": "Who was hungry?", "context": LONG}
    answer = demo_gpt2.run("open-book-question-answering", **fields, truncation="right")
    assert not isinstance(answer, list)
    assert answer.generation.truncated_tokens > 0
    with pytest.raises(PromptError, match="leaves no room for the field question"):
        demo_gpt2.run(
            "open-book-question-answering", question=LONG, context=LONG[:-1], truncation="right"
        )


def test_a_pipelines_default_can_be_turned_off(demo_gpt2: Model) -> None:
    generator = pipeline("text-generation", demo_gpt2, truncation="left", **GREEDY)
    assert generator(LONG)
    with pytest.raises(PromptError):
        generator(LONG, truncation=False)


def test_translations_need_none(demo_t5: Model) -> None:
    with pytest.raises(OptionError, match="sentence by sentence"):
        demo_t5.translate("winter", truncation="right")


def test_the_command_line_says_what_it_cut(capsys: Captured, demo_gpt2: Model) -> None:
    arguments = [LONG, "--no-do-sample", "--max-new-tokens", str(NEW)]
    message = failure(capsys, "generate", *arguments)
    assert "tokens, but this model reads at most 512" in message
    [expected] = demo_gpt2.generate(LONG, **GREEDY, truncation="right")
    assert main(["generate", *arguments, "--truncation", "right"]) == 0
    printed = capsys.readouterr()
    assert printed.out == expected.text + "\n"
    assert f"{expected.truncated_tokens} of its tokens were cut off" in printed.err
    assert main(["run", "completion", *arguments, "--truncation", "right"]) == 0
    assert "tokens were cut off" in capsys.readouterr().err


def test_answers_in_a_file_say_what_was_cut(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "in.txt").write_text(f"{LONG}\nThe wolf\n", encoding="utf-8")
    files = ["--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.jsonl")]
    assert main(["run", "summarization", *files, "--truncation", "left"]) == 0
    capsys.readouterr()
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    cut, whole = map(json.loads, lines)
    assert cut["truncated_tokens"] > 0
    assert "truncated_tokens" not in whole
