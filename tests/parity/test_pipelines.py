"""Pipelines, compared with Transformers' on the same checkpoints."""

from __future__ import annotations

import json
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from edgeseq.export import CheckpointError, export_checkpoint
from edgeseq.runtime import DeviceError, OptionError, PromptError, load, pipeline

TEXTS = ["Once upon a time", "The clever fox said: let us go home!", "He"]
PARAMS = {
    "summarization": {
        "prefix": "a fox: ",
        "num_beams": 2,
        "length_penalty": 2.0,
        "early_stopping": True,
        "max_length": 30,
        "min_length": 3,
        "no_repeat_ngram_size": 3,
    },
    "translation_en_to_fr": {"prefix": "go home: ", "num_beams": 3, "max_length": 25},
    "translation_en_to_de": {"prefix": "the king: ", "num_beams": 2, "max_new_tokens": 12},
    "text-generation": {"max_length": 40, "do_sample": True},
}


def set_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


class Pair:
    """A checkpoint in both libraries."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.checkpoint = checkpoint
        self.model = load(export_checkpoint(checkpoint, folder).folder)

    def both(
        self, task: str, inputs: Any, made: dict[str, Any] | None = None, **options: Any
    ) -> tuple[Any, Any]:
        """Return the results of edgeseq's pipeline and of Transformers'."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = transformers.pipeline(
                task, str(self.checkpoint), dtype=torch.float32, **(made or {})
            )
            expected = theirs(inputs, **options)
        return pipeline(task, self.model, **(made or {}))(inputs, **options), expected


@pytest.fixture(scope="module")
def gpt2(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    checkpoint = set_config(make_checkpoint(n_positions=400), task_specific_params=PARAMS)
    return Pair(checkpoint, tmp_path_factory.mktemp("bundle") / "gpt2")


@pytest.fixture(scope="module")
def t5(
    seeded_t5: Callable[..., Any],
    save_t5: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    checkpoint = set_config(save_t5(seeded_t5(eos_token_id=1)), task_specific_params=PARAMS)
    return Pair(checkpoint, tmp_path_factory.mktemp("bundle") / "t5")


GREEDY = {"do_sample": False, "max_new_tokens": 20}


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        {**GREEDY, "num_beams": 3},
        {**GREEDY, "num_beams": 3, "num_return_sequences": 2},
        {**GREEDY, "return_full_text": False},
        {**GREEDY, "return_full_text": True},
        {**GREEDY, "return_tensors": True},
        {**GREEDY, "return_text": True},
        {**GREEDY, "prefix": "said the fox. "},
        {**GREEDY, "clean_up_tokenization_spaces": False},
        {**GREEDY, "batch_size": 1},
        {**GREEDY, "stop_sequence": "e"},
        {**GREEDY, "repetition_penalty": 1.3},
        {"do_sample": False},
        {**GREEDY, "truncation": True, "max_length": 6},
        {**GREEDY, "prefix": "said the fox. ", "min_length": 12},
    ],
    ids=str,
)
@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS[:1], TEXTS], ids=["one", "list", "several"])
def test_text_generation(gpt2: Pair, inputs: Any, options: dict[str, Any]) -> None:
    found, expected = gpt2.both("text-generation", inputs, **options)
    assert found == expected


def test_a_tokenizer_without_a_bound(gpt2: Pair) -> None:
    assert gpt2.model.bundle.manifest.tokenizer.model_max_length is None


@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS], ids=["one", "several"])
@pytest.mark.parametrize(
    "task", ["text2text-generation", "summarization", "translation_en_to_fr", "translation"]
)
@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 20},
        {"num_beams": 1, "max_new_tokens": 20},
        {"max_new_tokens": 20, "num_return_sequences": 2},
        {"max_new_tokens": 10, "clean_up_tokenization_spaces": True},
        {"max_new_tokens": 20, "return_text": True},
        {"max_new_tokens": 20, "stop_sequence": "fox"},
        {"max_new_tokens": 30, "repetition_penalty": 1.2},
        {"num_beams": 1},  # 256 tokens; with beams near-ties fall either way before that
    ],
    ids=str,
)
def test_text2text_generation(t5: Pair, task: str, inputs: Any, options: dict[str, Any]) -> None:
    found, expected = t5.both(task, inputs, **options)
    assert found == expected


def test_token_ids_of_a_t5(t5: Pair) -> None:
    found, [expected] = t5.both("summarization", TEXTS[1], return_tensors=True, max_new_tokens=9)
    ids = expected["summary_token_ids"].tolist()
    assert found == [{"summary_token_ids": ids[1:]}]  # without the start token


def test_options_of_the_pipeline_hold_for_its_calls(t5: Pair) -> None:
    made = {"max_new_tokens": 7, "num_beams": 1}
    found = pipeline("text2text-generation", t5.model, **made)
    expected = pipeline("text2text-generation", t5.model)(TEXTS[0], **made)
    assert found(TEXTS[0]) == expected
    again = pipeline("text2text-generation", t5.model)(TEXTS[0], max_new_tokens=3, num_beams=1)
    assert found(TEXTS[0], max_new_tokens=3) == again


@pytest.mark.parametrize(
    ("made", "options"),
    [
        ({"do_sample": True, "temperature": 0.9}, {"do_sample": False, "max_new_tokens": 8}),
        ({"max_new_tokens": 30, "do_sample": False}, {"max_length": 20}),
        ({"num_beams": 4, "length_penalty": 2.0, "do_sample": False}, {"num_beams": 1}),
        ({"return_full_text": False, "do_sample": False}, {"return_tensors": True}),
    ],
)
def test_a_calls_options_override_the_pipelines(
    gpt2: Pair, made: dict[str, Any], options: dict[str, Any]
) -> None:
    rest = {name: value for name, value in made.items() if name == "do_sample"}
    alone = pipeline("text-generation", gpt2.model)(TEXTS, **{**rest, **options})
    assert pipeline("text-generation", gpt2.model, **made)(TEXTS, **options) == alone


@pytest.mark.parametrize("made", [{"nonsense": 1}, {"num_beams": 0}, {"batch_size": 0}])
def test_bad_options_of_the_pipeline_raise_at_once(gpt2: Pair, made: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        pipeline("text-generation", gpt2.model, **made)


def test_options_by_text_stay_with_their_texts(gpt2: Pair) -> None:
    seen = set()

    def allowed(index: int, ids: Any) -> list[int]:
        seen.add(index)
        return [10 + index]

    made = pipeline("text-generation", gpt2.model, batch_size=2, return_tensors=True, **GREEDY)
    found = made(TEXTS, prefix_allowed_tokens_fn=allowed)
    assert seen == {0, 1, 2}
    assert [records[0]["generated_token_ids"][-1] for records in found] == [10, 11, 12]


def test_languages_choose_the_checkpoints_task(t5: Pair) -> None:
    translate = pipeline("translation", t5.model)
    expected = {n: pipeline(f"translation_{n}", t5.model)(TEXTS) for n in ("en_to_fr", "en_to_de")}
    assert translate(TEXTS) == expected["en_to_fr"]  # the checkpoint's first
    assert translate(TEXTS, src_lang="en", tgt_lang="de") == expected["en_to_de"]
    assert expected["en_to_de"] != expected["en_to_fr"]
    assert translate(TEXTS, src_lang="English", tgt_lang="ger") == expected["en_to_de"]
    with pytest.raises(
        OptionError, match=r"no target language 'xx': it has fr \(French\), de \(German\)"
    ):
        translate(TEXTS, src_lang="en", tgt_lang="xx")
    with pytest.raises(OptionError, match="pass both"):
        translate(TEXTS, src_lang="en")


def test_an_iterator_gives_an_iterator(gpt2: Pair) -> None:
    read = []

    def texts() -> Iterator[str]:
        for text in TEXTS:
            read.append(text)
            yield text

    made = pipeline("text-generation", gpt2.model, batch_size=2, **GREEDY)
    results = made(texts())
    assert read == []
    assert next(results) == made(TEXTS[0])
    assert read == TEXTS[:2]
    assert [*results] == [made(text) for text in TEXTS[1:]]
    assert made([]) == []


def test_the_callers_max_length_is_obeyed(gpt2: Pair) -> None:
    """Transformers uses its own ``max_new_tokens`` of 256 instead."""
    made = pipeline("text-generation", gpt2.model, return_tensors=True, do_sample=False)
    [record] = made(TEXTS[1], max_length=30)
    assert len(record["generated_token_ids"]) == 30


def test_sampling_is_the_default(gpt2: Pair) -> None:
    made = pipeline("text-generation", gpt2.model, max_new_tokens=20)
    assert made(TEXTS[0], seed=1) == made(TEXTS[0], seed=1) != made(TEXTS[0], seed=2)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("text-generation", {"return_full_text": "yes"}, "must be True or False"),
        ("text-generation", {"return_full_text": True, "return_text": True}, "no effect with"),
        ("text-generation", {"return_full_text": True, "return_tensors": True}, "no effect with"),
        ("text-generation", {"return_tensors": True, "return_text": True}, "no effect with"),
        ("text-generation", {"return_text": False}, "pass return_tensors"),
        ("text-generation", {"handle_long_generation": "cut"}, "must be 'hole'"),
        ("text-generation", {"handle_long_generation": "hole"}, "handle_long_generation has no"),
        ("text-generation", {"truncation": True}, "has no limit of length"),
        ("text-generation", {"batch_size": 0}, "at least 1"),
        ("text-generation", {"prefix": 3}, "must be a string"),
        ("text-generation", {"stop_sequence": ""}, "stop_sequence is empty"),
        ("text-generation", {"stop_sequence": "a", "eos_token_id": 3}, "with eos_token_id"),
        ("text-generation", {"src_lang": "en"}, "no option 'src_lang'"),
        ("text-generation", {"logprobs": 3}, "no effect with a pipeline"),
        ("text-generation", {"choices": ["a", "b"]}, "no effect with a pipeline"),
        ("text-generation", {"nonsense": 1}, "no option 'nonsense'"),
        ("summarization", {}, "summarization is for encoder-decoder models"),
        ("fill-mask", {}, "There is no task 'fill-mask'"),
        (3, {}, "There is no task 3"),
    ],
)
def test_bad_tasks_and_options_are_refused(
    gpt2: Pair, task: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        pipeline(task, gpt2.model)("Once", **options)


class DataSet(torch.utils.data.Dataset[str]):
    """A data set of PyTorch, which has items by index and no iterator."""

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int) -> str:
        assert index < len(TEXTS)  # no IndexError, which would end an iteration
        return TEXTS[index]


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_data_set_gives_an_iterator(name: str, request: pytest.FixtureRequest) -> None:
    both: Pair = request.getfixturevalue(name)
    task = "text-generation" if name == "gpt2" else "text2text-generation"
    found, expected = both.both(task, DataSet(), do_sample=False, max_new_tokens=5)
    assert iter(found) is found
    assert list(found) == list(expected)


@pytest.mark.parametrize("inputs", [tuple(TEXTS), np.array(TEXTS), deque(TEXTS)], ids=type)
def test_several_texts_of_any_type(gpt2: Pair, inputs: Any) -> None:
    made = pipeline("text-generation", gpt2.model, **GREEDY)
    assert made(inputs) == made(TEXTS)


@pytest.mark.parametrize("inputs", [3, ["a", 3], [["a"]], {"a": "b"}, None, b"a", {"a"}])
def test_inputs_that_are_no_texts_are_refused(gpt2: Pair, inputs: Any) -> None:
    with pytest.raises(PromptError, match="A pipeline takes"):
        pipeline("text-generation", gpt2.model)(inputs)


def test_loading(gpt2: Pair) -> None:
    made = pipeline("text-generation", gpt2.model.bundle.folder, threads=1, max_new_tokens=3)
    assert made.model.bundle.folder == gpt2.model.bundle.folder
    with pytest.raises(OptionError, match="threads has no effect on a loaded model"):
        pipeline("text-generation", gpt2.model, threads=1)
    assert pipeline("text-generation").model.bundle.manifest.architecture == "gpt2"
    assert pipeline("summarization").model.bundle.manifest.architecture == "t5"


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_demos_beside_their_checkpoints(name: str, tmp_path: Path) -> None:
    """The demos of the package are quantized, so their checkpoints are exported to float32."""
    pair = Pair(Path("demos") / name / "checkpoint", tmp_path / name)
    task = "text-generation" if name == "gpt2" else "text2text-generation"
    texts = TEXTS if name == "gpt2" else ["pronounce: algorithm", "spell: F AH0 N EH1 T IH0 K"]
    for beams in (1, 4):
        found, expected = pair.both(
            task, texts, do_sample=False, num_beams=beams, max_new_tokens=30
        )
        assert found == expected


def test_malformed_task_specific_params_are_refused(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = set_config(make_checkpoint(seed=3), task_specific_params={"summarization": 3})
    with pytest.raises(CheckpointError, match="task_specific_params"):
        export_checkpoint(checkpoint, tmp_path / "bundle")


def test_a_long_text_is_truncated_or_cut_at_its_start(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(seed=4)
    path = checkpoint / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 24}))
    pair = Pair(checkpoint, tmp_path / "bundle")
    long = TEXTS[1] * 5
    for options in ({"truncation": True}, {"handle_long_generation": "hole"}):
        found, expected = pair.both("text-generation", long, **{**GREEDY, **options})
        assert found == expected
    with pytest.raises(OptionError, match="leaves no room"):
        pipeline("text-generation", pair.model)(
            long, handle_long_generation="hole", max_new_tokens=24
        )


def test_truncation_keeps_the_end_of_a_t5s_source(
    seeded_t5: Callable[..., Any], save_t5: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = save_t5(seeded_t5(seed=5))
    path = checkpoint / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 16}))
    pair = Pair(checkpoint, tmp_path / "bundle")
    found, expected = pair.both(
        "text2text-generation", TEXTS[1] * 9, truncation=True, max_new_tokens=20
    )
    assert found == expected


# What a trial found


def test_an_iterator_s_texts_keep_their_numbers(gpt2: Pair) -> None:
    seen: set[int] = set()

    def note(number: int, _: Any) -> list[int]:
        seen.add(number)
        return [5]

    generator = pipeline("text-generation", gpt2.model, max_new_tokens=1)
    list(generator(iter(TEXTS), batch_size=2, prefix_allowed_tokens_fn=note))
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("length", ["x", -1, 0])
def test_truncation_wants_a_length(length: Any, gpt2: Pair) -> None:
    with pytest.raises(OptionError, match="max_length is"):
        pipeline("text-generation", gpt2.model)("a", truncation=True, max_length=length)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (["text-generation"], {}, "There is no task"),
        ("text-generation", {"logprobs": 3}, "logprobs has no effect"),
        ("text-generation", {"choices": ["a", "b"]}, "choices has no effect"),
        ("text-generation", {"truncation": True, "max_length": 3}, "pass it to each call"),
    ],
)
def test_a_pipeline_refuses_bad_defaults(
    task: Any, options: dict[str, Any], message: str, gpt2: Pair
) -> None:
    with pytest.raises(OptionError, match=message):
        pipeline(task, gpt2.model, **options)


def test_devices_may_be_numbers() -> None:
    assert pipeline("text2text-generation", device=-1)("spell: K AE1 T")
    with pytest.raises(DeviceError, match="cuda:0"):
        pipeline("text2text-generation", device=0)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_lists_of_a_prefix_are_as_many_as_texts(t5: Pair, batch_size: int, count: int) -> None:
    pipe = pipeline("text2text-generation", t5.model, batch_size=batch_size, num_beams=1)
    with pytest.raises(PromptError, match=f"{count} lists for 3 texts"):
        pipe(TEXTS, decoder_input_ids=[[5]] * count)
    if count < 3:
        with pytest.raises(PromptError, match="lists for"):
            list(pipe(iter(TEXTS), decoder_input_ids=[[5]] * count))
    lists = [[5], [6], [7, 8]]
    alone = [pipe(text, decoder_input_ids=ids)[0] for text, ids in zip(TEXTS, lists, strict=True)]
    assert pipe(TEXTS, decoder_input_ids=lists) == alone
    assert [found[0] for found in pipe(iter(TEXTS), decoder_input_ids=lists)] == alone


def test_pad_token_id_is_accepted(gpt2: Pair) -> None:
    found, expected = gpt2.both("text-generation", TEXTS, **GREEDY, pad_token_id=0)
    assert found == expected
    pipe = pipeline("text-generation", gpt2.model, pad_token_id=0, **GREEDY)
    assert pipe(TEXTS) == expected
    groups = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "eos_token_id": 5}
    prompt = gpt2.model.tokenizer.encode(TEXTS[0])
    [whole] = gpt2.model.generate_ids([prompt], **GREEDY, **groups, pad_token_id=7)
    [[record]] = pipe(TEXTS[:1], pad_token_id=7, return_tensors=True, **groups)
    assert record["generated_token_ids"] == [*prompt, *whole.token_ids]
    for bad in (-1, "a", 10**6, np.int64(10**6), True):
        with pytest.raises(OptionError, match="pad_token_id"):
            pipe(TEXTS, pad_token_id=bad)
        with pytest.raises(OptionError, match="pad_token_id"):
            pipeline("text-generation", gpt2.model, pad_token_id=bad)
