"""Reading of texts and pairs from files, and the errors for bad files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeseq.runtime import Model, OptionError, PromptError
from edgeseq.runtime.request.passages import (
    Passages,
    Window,
    pair_passages,
    read_passages,
    text_windows,
)
from tests.support.errors import CODE, refusal

TEXT = "Once upon a time there was a clever fox; he said: “Let us go home!”\r\nAnd 3 üs.\n" * 9


def read(model: Model, folder: Path, data: str | bytes, name: str = "t.txt", **sizes: Any) -> Any:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_passages(path, model.bundle.manifest, model.tokenizer, **sizes)


def file_error(model: Model, folder: Path, data: str | bytes, name: str = "t.txt") -> str:
    """Return the sentence about a bad file without the file's path, which it begins with."""
    message = refusal(PromptError, lambda: read(model, folder, data, name), ending=CODE)
    assert message.startswith(str(folder / name))
    return message.removeprefix(str(folder / name))


# Texts


def test_a_text_is_read_unchanged(model: Model, tmp_path: Path) -> None:
    ids = model.tokenizer.encode(TEXT)
    passages: Passages = read(model, tmp_path, TEXT)
    assert passages == Passages(
        windows=text_windows(ids, 96, 48),
        size_bytes=len(TEXT.encode()) - len(model.tokenizer.decode(ids[:1]).encode()),
        ids=ids,
        context=96,
        stride=48,
    )
    assert passages.tokens == len(ids) - 1


def test_context_and_stride_can_be_smaller(model: Model, tmp_path: Path) -> None:
    ids = model.tokenizer.encode(TEXT)
    passages = read(model, tmp_path, TEXT, context=41)
    assert (passages.context, passages.stride) == (41, 20)
    assert passages.windows == text_windows(ids, 41, 20)
    assert read(model, tmp_path, TEXT, context=1).stride == 1
    passages = read(model, tmp_path, TEXT, stride=96)
    assert passages.windows == text_windows(ids, 96, 96)


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"context": 97}, "context is 97; it must be from 1 to 96 (the model's positions)."),
        ({"context": 0}, "context is 0; it must be at least 1."),
        ({"context": 8, "stride": 9}, "stride is 9; it must be from 1 to 8 (the context)."),
        ({"stride": 0}, "stride is 0; it must be from 1 to 96 (the context)."),
    ],
)
def test_bad_sizes_of_windows_are_refused(
    model: Model, tmp_path: Path, sizes: dict[str, int], named: str
) -> None:
    assert refusal(OptionError, lambda: read(model, tmp_path, TEXT, **sizes)) == named


def test_a_model_without_a_table_of_positions_reads_a_text_at_once(
    model: Model, tmp_path: Path
) -> None:
    sizes = model.bundle.manifest.dimensions._replace(max_positions=None)
    manifest = replace(model.bundle.manifest, dimensions=sizes)
    (tmp_path / "t.txt").write_bytes(TEXT.encode())
    passages = read_passages(tmp_path / "t.txt", manifest, model.tokenizer)
    assert passages.windows == [Window((), model.tokenizer.encode(TEXT), 1)]


def test_a_byte_order_mark_is_no_text(model: Model, tmp_path: Path) -> None:
    assert read(model, tmp_path, b"\xef\xbb\xbf" + TEXT.encode()) == read(model, tmp_path, TEXT)


def test_a_first_token_within_a_character_is_not_taken_off(model: Model, tmp_path: Path) -> None:
    assert read(model, tmp_path, "日本").size_bytes == 6
    assert read(model, tmp_path, "zwei").size_bytes == 3
    assert read(model, tmp_path, "<|endoftext|>zwei").size_bytes == len("<|endoftext|>zwei")


def test_texts_that_cannot_be_read(model: Model, tmp_path: Path) -> None:
    assert "is not valid UTF-8 at byte 3" in file_error(model, tmp_path, b"abc\xff")
    assert "has no text" in file_error(model, tmp_path, b"")
    assert "has no text" in file_error(model, tmp_path, " \n\r\n")
    assert "has 1 token, and" in file_error(model, tmp_path, "z")


@pytest.mark.parametrize("name", ["no-such", "."])
def test_no_file(model: Model, tmp_path: Path, name: str) -> None:
    with pytest.raises(PromptError, match=r"^There is no file .*\.$"):
        read_passages(tmp_path / name, model.bundle.manifest, model.tokenizer)


def test_ids_outside_the_models_vocabulary(model: Model, tmp_path: Path) -> None:
    sizes = model.bundle.manifest.dimensions._replace(vocabulary=100)
    manifest = replace(model.bundle.manifest, dimensions=sizes)
    (tmp_path / "t.txt").write_bytes(TEXT.encode())
    with pytest.raises(PromptError, match="from 0 to 99"):
        read_passages(tmp_path / "t.txt", manifest, model.tokenizer)


# Pairs

PAIRS = [("Once upon a time", "he said"), ("home", "“Let us go”")]
LINES = "Once upon a time\the said\nhome\t“Let us go”"


@pytest.mark.parametrize("data", [LINES, LINES + "\n", LINES.replace("\n", "\r\n") + "\r\n"])
def test_pairs_with_tabs(t5_model: Model, tmp_path: Path, data: str) -> None:
    encode = t5_model.tokenizer.encode
    passages: Passages = read(t5_model, tmp_path, data)
    assert passages.pairs == PAIRS
    assert passages.windows == [
        Window(encode(source), [0, *encode(target)], 1) for source, target in PAIRS
    ]
    assert passages.windows[0].tokens[-1] == passages.windows[0].source[-1] == 1
    assert passages.size_bytes == sum(len(target.encode()) for _, target in PAIRS)
    assert (passages.context, passages.stride) == (None, None)


def test_pairs_in_json(t5_model: Model, tmp_path: Path) -> None:
    lines = [json.dumps({"source": source, "target": t, "id": 5}) for source, t in PAIRS]
    found = read(t5_model, tmp_path, "\n".join(lines) + "\n", "pairs.jsonl")
    assert found == read(t5_model, tmp_path, LINES)
    odd = {"source": "a\tb\u2028c", "target": "d\ne"}
    found = read(t5_model, tmp_path, json.dumps(odd, ensure_ascii=False), "pairs.jsonl")
    assert found.pairs == [("a\tb\u2028c", "d\ne")]


def test_prompts_and_answers_of_a_decoder_only_model(model: Model, tmp_path: Path) -> None:
    """The answer and the end-of-sequence token are predicted, and the prompt is not."""
    lines = [json.dumps({"source": source, "target": target}) for source, target in PAIRS]
    found: Passages = read(model, tmp_path, "\n".join(lines) + "\n", "pairs.jsonl")
    encode = model.tokenizer.encode
    assert found.windows == [
        Window([], [*encode(source), *encode(target), 0], len(encode(source)))
        for source, target in PAIRS
    ]
    assert [window.prompt for window in found.windows] == [encode(source) for source, _ in PAIRS]
    assert (found.pairs, found.context, found.stride) == (PAIRS, None, None)
    assert found.size_bytes == sum(len(target.encode()) for _, target in PAIRS)


@pytest.mark.parametrize("line", ['"a fox"', "{ fox", '{"text": "a fox"}'])
def test_other_json_is_text_for_a_decoder_only_model(
    model: Model, tmp_path: Path, line: str
) -> None:
    found = read(model, tmp_path, line, "lines.jsonl")
    assert found == read(model, tmp_path, line)


def test_a_prompt_and_its_answer_must_fit_together(model: Model, tmp_path: Path) -> None:
    line = json.dumps({"source": "a fox " * 20, "target": "he said " * 40})
    assert refusal(PromptError, lambda: read(model, tmp_path, line, "pairs.jsonl")).startswith(
        "Prompt 0 and its target have "
    )


def test_targets_begin_with_the_bundles_start_token(t5_model: Model) -> None:
    generation = {**t5_model.bundle.manifest.generation, "decoder_start_token_id": 7}
    manifest = replace(t5_model.bundle.manifest, generation=generation)
    [window] = pair_passages(PAIRS[:1], manifest, t5_model.tokenizer).windows
    assert window.tokens[0] == 7


@pytest.mark.parametrize("sizes", [{"context": 64}, {"stride": 8}])
def test_windows_have_no_effect_on_pairs(
    t5_model: Model, tmp_path: Path, sizes: dict[str, int]
) -> None:
    with pytest.raises(OptionError, match=f"^{next(iter(sizes))} has no effect"):
        read(t5_model, tmp_path, LINES, **sizes)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ("a\tb\nc", ", line 2 has 0 tabs"),
        ("a\tb\tc", ", line 1 has 2 tabs"),
        ("a\tb\n\nc\td\n", ", line 2 has 0 tabs"),
        ("a\tb\nc\t \n", ", line 2: the target is empty"),
        ("\tb", ", line 1: the source is empty"),
        (b"a\tb\nc\t\xe9", "is not valid UTF-8 at byte 6"),
        (b"", "has no text"),
    ],
)
def test_pairs_that_cannot_be_read(
    t5_model: Model, tmp_path: Path, data: str | bytes, named: str
) -> None:
    assert named in file_error(t5_model, tmp_path, data)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", " is not valid JSON"),
        ("", " is not valid JSON"),
        ("[" * 100_000, " is not valid JSON"),
        ("[]", " is not a JSON object"),
        ('{"source": "a"}', " has no string 'target'"),
        ('{"source": 5, "target": "b"}', " has no string 'source'"),
        ('{"source": "a", "target": ""}', ": the target is empty"),
        ('{"source": "\\ud83d", "target": "b"}', ": the source has a lone surrogate"),
    ],
    ids=lambda item: item[:20],
)
def test_json_that_cannot_be_read(t5_model: Model, tmp_path: Path, line: str, named: str) -> None:
    data = f'{{"source": "a", "target": "b"}}\n{line}\n'
    assert file_error(t5_model, tmp_path, data, "p.jsonl").startswith(f", line 2{named}")
