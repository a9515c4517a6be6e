"""Tokenizers with a special token before a text, and with languages, compared with Transformers."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import processors
from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerFast

from edgeseq.export import export_checkpoint
from edgeseq.runtime import Model, OptionError, load, pipeline
from tests.support.checkpoints import seeded_gpt2, seeded_t5
from tests.support.commands import Captured, succeed
from tests.support.errors import refusal
from tests.support.sentencepieces import write_m2m100, write_multilingual
from tests.support.tiny_tokenizers import END_OF_TEXT, byte_level_bpe

TEXTS = ["Once upon a time", "The clever fox said: let us go home!", "", "He"]
Both = tuple[Path, Model]


def transformers_pipeline(task: str, folder: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.pipeline(task, str(folder), dtype=torch.float32, **options)


@pytest.fixture(scope="module", params=["before", "around"])
def opt(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """A GPT-2 whose tokenizer adds tokens as OPT's (before a text) or BART's (around it)."""
    folder = tmp_path_factory.mktemp("checkpoint")
    seeded_gpt2(n_positions=400).save_pretrained(folder)
    backend = byte_level_bpe()
    form = f"{END_OF_TEXT} $A" if request.param == "before" else f"{END_OF_TEXT} $A {END_OF_TEXT}"
    backend.post_processor = processors.TemplateProcessing(
        single=form, special_tokens=[(END_OF_TEXT, 0)]
    )
    special = dict.fromkeys(["bos_token", "eos_token", "pad_token"], END_OF_TEXT)
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    return folder, load(export_checkpoint(folder, folder / "bundle").folder, threads=1)


def test_choices_continue_the_prompt(opt: Both) -> None:
    folder, model = opt
    theirs = AutoTokenizer.from_pretrained(folder)
    reference = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    prompt = theirs("Once upon").input_ids
    ends = theirs("").input_ids[1:]
    [result] = model.generate("Once upon", choices=[" a time", " he"])
    assert result.choices is not None
    for choice in result.choices:
        ids = [*theirs(choice.text, add_special_tokens=False).input_ids, *ends]
        with torch.no_grad():
            logits = reference(torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)
        expected = sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(ids))
        assert choice.logprob == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_full_text": False},
        {"return_tensors": True},
        {"prefix": "said the fox. "},
        {"prefix": "said the fox. ", "min_length": 12},
        {"stop_sequence": "e"},
        {"truncation": True, "max_length": 6},
    ],
    ids=str,
)
def test_pipelines(opt: Both, options: dict[str, Any]) -> None:
    folder, model = opt
    options = {"do_sample": False, "max_new_tokens": 12, **options}
    expected = transformers_pipeline("text-generation", folder)(TEXTS, **options)
    assert pipeline("text-generation", model)(TEXTS, **options) == expected


def test_lengths_do_not_count_the_tokens_of_a_prefix(opt: Both) -> None:
    folder, model = opt
    theirs = AutoTokenizer.from_pretrained(folder)
    options = {"prefix": "said the fox. ", "max_length": 30, "eos_token_id": None}
    [record] = pipeline("text-generation", model)("He", **options, return_tensors=True)
    prefix = theirs("said the fox. ", add_special_tokens=False).input_ids
    assert len(record["generated_token_ids"]) == 30 + len(prefix)


def test_empty_text_is_the_special_token(opt: Both) -> None:
    folder, model = opt
    ids = AutoTokenizer.from_pretrained(folder)("").input_ids
    assert model.tokenizer.encode("") == ids
    [result] = model.generate("", max_new_tokens=3)
    assert result.prompt_tokens == len(ids)


# Languages

TOKENIZERS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "m2m100": (lambda folder: write_m2m100(folder, tgt_lang="de"), "fr", "de"),
    "nllb": (
        lambda folder: write_multilingual(folder, "NllbTokenizer", src_lang="eng_Latn"),
        "fra_Latn",
        "deu_Latn",
    ),
    "mbart": (
        lambda folder: write_multilingual(folder, "MBartTokenizer", tgt_lang="ro_RO"),
        "fr_XX",
        "de_DE",
    ),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A T5 with a tokenizer of many languages, and two of the languages."""
    write, source, target = TOKENIZERS[request.param]
    folder = tmp_path_factory.mktemp("checkpoint")
    write(folder)
    size = len(AutoTokenizer.from_pretrained(folder)) + 120
    settings = {"eos_token_id": 2, "decoder_start_token_id": 2, "pad_token_id": 1}
    seeded_t5(vocab_size=size, **settings).save_pretrained(folder)
    model = load(export_checkpoint(folder, folder / "bundle").folder, threads=1)
    return folder, model, source, target


def test_sources_have_the_chosen_language(many: Any) -> None:
    folder, model, source, target = many
    theirs = AutoTokenizer.from_pretrained(folder, src_lang=source, tgt_lang=target)
    chosen = model.with_languages(source, target)
    assert chosen.tokenizer.encode("the king") == theirs("the king").input_ids
    [result] = chosen.generate("the king", max_new_tokens=4)
    expected = chosen.bundle.manifest.generation["forced_bos_token_id"]
    assert result.token_ids[0] == expected
    assert expected == chosen.bundle.manifest.tokenizer.languages.ids[target]
    default = AutoTokenizer.from_pretrained(folder)
    assert model.tokenizer.encode("the king") == default("the king").input_ids


def test_translation_between_two_languages(many: Any) -> None:
    folder, model, source, target = many
    languages = {"src_lang": source, "tgt_lang": target}
    options = {"max_new_tokens": 8, "num_beams": 2, **languages}
    texts = ["the king had a fox", "he said"]
    expected = transformers_pipeline("translation", folder)(texts, **options)
    assert pipeline("translation", model)(texts, **options) == expected
    assert pipeline("translation", model, **options)(texts) == expected
    named = pipeline(f"translation_{source}_to_{target}", model) if "_" not in source else None
    if named is not None:
        assert named(texts, max_new_tokens=8, num_beams=2) == expected


def test_translation_needs_languages(many: Any) -> None:
    _, model, _, _ = many
    refusal(OptionError, lambda: pipeline("translation", model)("a"), match="src_lang and tgt_lang")
    refusal(
        OptionError,
        lambda: pipeline("translation", model)("a", src_lang="xx", tgt_lang="yy"),
        match="no language 'xx'",
    )


def test_score_and_choices_have_the_tokens_of_a_target(many: Any) -> None:
    folder, model, source, target = many
    theirs = AutoTokenizer.from_pretrained(folder, src_lang=source, tgt_lang=target)
    chosen = model.with_languages(source, target)
    words = ["the", "king", "a", "he", "said", "fox", "and", "to", "of", "was", "in"]
    known = [w for w in words if theirs.unk_token_id not in theirs(w).input_ids]
    score = chosen.score("the king", known[0])
    assert list(score.token_ids) == theirs(text_target=known[0]).input_ids
    [result] = chosen.generate("the king", choices=known[:2])
    ends = 1 if chosen.bundle.manifest.tokenizer.languages.place == "suffix" else 0
    logprobs = score.log_probabilities[: len(score.token_ids) - ends]
    found = {choice.text: choice.logprob for choice in result.choices}
    assert found[known[0]] == pytest.approx(sum(logprobs), abs=1e-4)


def test_command_line(many: Any, capsys: Captured) -> None:
    folder, model, source, target = many
    languages = ["--source-language", source, "--target-language", target]
    options = ["--max-new-tokens", "5", "--threads", "1", "the king"]
    printed = succeed(capsys, "generate", "-b", folder / "bundle", *languages, *options)
    expected = model.with_languages(source, target).generate("the king", max_new_tokens=5)
    assert printed.rstrip("\n") == expected[0].text.rstrip("\n")


def test_constraints(many: Any) -> None:
    """The pieces of SentencePiece spell a constrained output."""
    pytest.importorskip("llguidance")
    folder, model, source, target = many
    chosen = model.with_languages(source, target)
    is_special = target in AutoTokenizer.from_pretrained(folder).all_special_tokens
    regex = "[a-z]{3}( [a-z]{2}){2}"
    for one in (model, chosen) if is_special else (model,):
        [result] = one.generate("the king", regex=regex, max_new_tokens=14)
        assert re.fullmatch(regex, result.text)
    if is_special:
        schema = {"enum": ["the", "to"]}
        [result] = chosen.generate("the king", json_schema=schema, max_new_tokens=30)
        assert json.loads(result.text) in schema["enum"]
    else:
        refusal(
            OptionError,
            lambda: chosen.generate("the king", regex=regex),
            match=f"token '__{target}__' is not special: list it",
        )


def test_languages_of_a_model_without_any(model: Model) -> None:
    refusal(OptionError, lambda: model.with_languages("en", "fr"), match="no languages")


def test_manifest_with_languages_is_sealed(many: Any) -> None:
    folder, model, _, _ = many
    assert load(folder / "bundle", verify=True).bundle.manifest == model.bundle.manifest
    content = json.loads((folder / "bundle" / "edgeseq.json").read_text(encoding="utf-8"))
    languages = content["tokenizer"]["languages"]
    assert languages["source"] == model.bundle.manifest.tokenizer.languages.source
