"""The text for calibration and evaluation: its windows, and texts that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from edgeseq.export import export_checkpoint
from edgeseq.quantize import texts
from edgeseq.quantize.texts import BUILT_IN, Texts, built_in, find_texts
from edgeseq.runtime import Model, PromptError, load, pipeline
from tests.support.checkpoints import seeded_gpt2
from tests.support.errors import CODE, refusal

FOX = "Once upon a time there was a clever fox; he said: let us go home! "


def found(model: Model, path: Path | None) -> Texts:
    return find_texts(model.bundle, path)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(model: Model, path: Path) -> str:
    return refusal(PromptError, lambda: found(model, path), ending=CODE)


def test_built_in_text_for_gpt2(model: Model) -> None:
    result = found(model, None)
    assert (result.name, result.context) == (BUILT_IN, 96)
    ids = model.tokenizer.encode(built_in().read_text(encoding="utf-8"))
    total = sum(window.predicted for window in (*result.calibration, *result.judged))
    assert texts.TOKENS / 2 <= total <= min(len(ids), 2 * texts.TOKENS)
    assert all(len(window.tokens) <= 97 for window in result.judged)


def test_a_text_is_cut_into_windows_that_take_turns(model: Model, tmp_path: Path) -> None:
    path = written(tmp_path, "fox.txt", FOX * 12)
    ids = model.tokenizer.encode(FOX * 12)
    result = found(model, path)
    assert result.name == "fox.txt"
    merged = [None] * (len(result.calibration) + len(result.judged))
    merged[0::2], merged[1::2] = result.calibration, result.judged
    predicted = [token for window in merged for token in window.tokens[window.first :]]
    assert predicted == ids[1:]
    assert len(result.calibration) - len(result.judged) in (0, 1)


def test_windows_of_a_long_text_come_from_all_over_it(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "TOKENS", 400)
    lines = [f"{FOX}{number} " for number in range(120)]
    path = written(tmp_path, "long.txt", "".join(lines))
    result = found(model, path)
    windows = [*result.calibration, *result.judged]
    assert sum(window.predicted for window in windows) < 1200
    text = "".join(model.tokenizer.decode(window.tokens) for window in windows)
    assert "home! 2 " in text or "home! 3 " in text
    assert "home! 110 " in text or "home! 11" in text
    assert result.judged


@pytest.mark.parametrize("text", ["a fox", FOX])
def test_a_text_of_one_window_is_too_short(model: Model, text: str, tmp_path: Path) -> None:
    path = written(tmp_path, "short.txt", text)
    assert refused(model, path) == (
        f"{path} is too short to use one half for calibration and one for the quality gate: give "
        "at least 98 tokens."
    )


def test_the_shortest_text(model: Model, tmp_path: Path) -> None:
    text = FOX * 12
    ids = model.tokenizer.encode(text)
    path = written(tmp_path, "fox.txt", model.tokenizer.decode(ids[:98]))
    result = found(model, path)
    assert [w.predicted for w in (*result.calibration, *result.judged)] == [96, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "There is no file"), (b"", "has no text"), (b"\xff\xfe", "is not valid UTF-8")],
)
def test_a_file_that_is_no_text(
    model: Model, t5_model: Model, content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "text.tsv"
    if content is not None:
        path.write_bytes(content)
    for one in (model, t5_model):
        assert message in refused(one, path)


# With an encoder


def test_answers_to_the_built_in_text(t5_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is a source, and the model's own greedy answer is the target."""
    lines = [line for line in built_in().read_text(encoding="utf-8").splitlines() if line.strip()]
    monkeypatch.setattr(texts, "TOKENS", 1 << 20)
    result = found(t5_model, None)
    assert (result.name, result.context) == (BUILT_IN, None)
    sources = [list(window.source) for window in (*result.calibration, *result.judged)]
    assert sorted(sources) == sorted(t5_model.tokenizer.encode(line) for line in lines)
    window = result.judged[1]
    ids = t5_model.generate_ids([window.source], do_sample=False, max_new_tokens=64)[0].token_ids
    assert list(window.tokens) == [0, *ids]
    assert window.first == 1


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.jsonl"])
def test_pairs(t5_model: Model, name: str, tmp_path: Path) -> None:
    pairs = [("a " * number + "fox", "he " * number + "said") for number in range(5)]
    lines = (
        [json.dumps({"source": source, "target": target}) for source, target in pairs]
        if name.endswith("jsonl")
        else [f"{source}\t{target}" for source, target in pairs]
    )
    result = found(t5_model, written(tmp_path, name, "\n".join(lines) + "\n"))
    assert (result.name, result.context) == (name, None)
    encode = t5_model.tokenizer.encode
    halves = [
        [(list(window.source), list(window.tokens)) for window in half]
        for half in (result.calibration, result.judged)
    ]
    expected = [(encode(source), [0, *encode(target)]) for source, target in pairs]
    assert sorted(halves[0] + halves[1]) == sorted(expected)
    for first in (0, 2):  # one of two neighbours is in each half
        assert sum(pair in halves[0] for pair in expected[first : first + 2]) == 1


def test_prompts_and_answers_of_a_decoder_only_model(model: Model, tmp_path: Path) -> None:
    pairs = [("a " * number + "fox", "he " * number + "said") for number in range(5)]
    lines = [json.dumps({"source": source, "target": target}) for source, target in pairs]
    result = found(model, written(tmp_path, "pairs.jsonl", "\n".join(lines) + "\n"))
    assert result.context is None
    encode = model.tokenizer.encode
    expected = [[*encode(source), *encode(target), 0] for source, target in pairs]
    assert sorted(list(w.tokens) for w in (*result.calibration, *result.judged)) == sorted(expected)


@pytest.mark.parametrize("tokens", [1 << 20, 150])
def test_both_halves_have_all_tasks(
    t5_model: Model, tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file often has one line for each task in turn."""
    monkeypatch.setattr(texts, "TOKENS", tokens)
    lines = [f"{('a fox', 'he said')[i % 2]}\tgo home {i}\n" for i in range(60)]
    result = found(t5_model, written(tmp_path, "pairs.tsv", "".join(lines)))
    for half in (result.calibration, result.judged):
        sources = [list(window.source) for window in half]
        first, second = (sources.count(t5_model.tokenizer.encode(t)) for t in ("a fox", "he said"))
        assert first + second == len(sources)
        assert min(first, second) >= len(sources) // 4


def test_one_pair_is_not_enough(t5_model: Model, tmp_path: Path) -> None:
    path = written(tmp_path, "pairs.tsv", "a fox\the said\n")
    assert refused(t5_model, path) == (
        f"{path} is too short to use one half for calibration and one for the quality gate: give "
        "at least two pairs."
    )


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.jsonl"])
def test_lines_that_are_no_pairs(t5_model: Model, name: str, tmp_path: Path) -> None:
    path = written(tmp_path, name, FOX * 3)
    assert f"{path}, line 1" in refused(t5_model, path)


def test_long_pairs_leave_some_to_judge_by(
    t5_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "TOKENS", 20)
    path = written(tmp_path, "pairs.tsv", "\n".join(f"fox {i}\t{FOX}" for i in range(3)))
    result = found(t5_model, path)
    assert result.calibration
    assert result.judged


def test_a_model_that_starts_from_its_bos_token(
    seeded_t5: Callable[..., Any], save_t5: Callable[..., Path], tmp_path: Path
) -> None:
    t5 = seeded_t5(num_layers=1, decoder_start_token_id=None, bos_token_id=3)
    bundle = export_checkpoint(save_t5(t5), tmp_path / "t5")
    result = found(load(bundle.folder, threads=1), None)
    assert result.judged[0].tokens[0] == 3


AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture(scope="module")
def proteins(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A GPT-2 whose tokenizer knows amino acids only."""
    folder = tmp_path_factory.mktemp("checkpoint")
    seeded_gpt2(vocab_size=30).save_pretrained(folder)
    vocabulary = {letter: number for number, letter in enumerate(AMINO_ACIDS, 1)}
    backend = Tokenizer(models.BPE({"<|endoftext|>": 0, **vocabulary}, []))
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    return load(export_checkpoint(folder, folder / "bundle").folder, threads=1)


def test_built_in_text_needs_a_tokenizer_of_english(proteins: Model, tmp_path: Path) -> None:
    refusal(PromptError, lambda: found(proteins, None), match="only .*%.*--text")
    path = written(tmp_path, "proteins.txt", AMINO_ACIDS * 20)
    assert found(proteins, path).name == "proteins.txt"


def test_prompt_without_tokens(proteins: Model) -> None:
    for call in (
        lambda: proteins.generate("hello"),
        lambda: proteins.stream("hello"),
        lambda: pipeline("text-generation", proteins)("hello"),
        lambda: proteins.run("completion", "hello"),
    ):
        refusal(PromptError, call, match="no tokens for the text 'hello")
    assert proteins.generate("MKV", max_new_tokens=2)[0].generated_tokens <= 2
