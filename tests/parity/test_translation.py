"""``Model.translate`` of every way to choose languages, compared with Transformers 4.57.6."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as M2M100

from edgeseq.cli.command_line import main
from edgeseq.export import export_checkpoint
from edgeseq.runtime import Model, OptionError, PromptError, load, pipeline
from tests.support.checkpoints import seeded_t5, unigram_tokenizer
from tests.support.commands import Captured, failure, succeed
from tests.support.errors import VALUE, refusal
from tests.support.sentencepieces import write_m2m100, write_marian, write_multilingual
from tests.support.translators import save_network, save_nllb

pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")

# Random weights would repeat a token.
OPTIONS: dict[str, Any] = {"max_new_tokens": 8, "num_beams": 2, "no_repeat_ngram_size": 1}
FLAGS = ["--max-new-tokens", "8", "--num-beams", "2", "--no-repeat-ngram-size", "1"]
SENTENCES = ["The king had three sons.", "He said to the fox: let us go!", "It was 3.14 long."]
DOCUMENT = f"# {SENTENCES[0]}  {SENTENCES[1]}\n\n\t- {SENTENCES[2]}\n\n1999\n"


class Subject(NamedTuple):
    """A checkpoint, its bundle, and two of its languages: names, codes, Transformers' settings."""

    folder: Path
    model: Model
    names: dict[str, str]  # arguments of ``translate``
    codes: dict[str, str]  # the same with the checkpoint's codes
    tokenizer: dict[str, str]  # arguments of Transformers' tokenizer
    prefix: str  # before each source in Transformers
    target: str | None  # token that Transformers forces first


def languages(source: str, target: str) -> dict[str, str]:
    return {"source_language": source, "target_language": target}


def nllb(folder: Path) -> Any:
    save_nllb(folder)
    return "m2m_100-0", {}, ("French", "German"), ("fra_Latn", "deu_Latn"), "", "deu_Latn"


def m2m100(folder: Path) -> Any:
    tokens = [f"__{code}__" for code in M2M100["m2m100"]]  # special, as in real checkpoints
    write_m2m100(folder, additional_special_tokens=tokens)
    return "m2m_100-1", {}, ("fra", "german"), ("fr", "de"), "", "__de__"


def mbart50(folder: Path) -> Any:
    write_multilingual(folder, "MBart50Tokenizer", src_lang="en_XX")
    return "mbart-0", {}, ("fr", "ger"), ("fr_XX", "de_DE"), "", "de_DE"


def many_targets(folder: Path) -> Any:
    write_marian(folder, source_lang="eng", target_lang="mul")
    return "marian-0", {}, ("English", "Deutsch"), ("eng", ">>deu<<"), ">>deu<< ", None


def one_pair(folder: Path) -> Any:
    write_marian(folder, codes=())
    return "marian-1", {}, ("English", "de-AT"), ("en", "de"), "", None


def t5(folder: Path) -> Any:
    unigram_tokenizer().save_pretrained(folder)
    tasks = {
        f"translation_en_to_{code}": {"prefix": f"the {name} king: ", "num_beams": 3}
        for code, name in (("de", "clever"), ("fr", "fox"))
    }
    changes = {"task_specific_params": tasks}
    return "t5", changes, ("English", "French"), ("en", "fr"), "the fox king: ", None


KINDS: dict[str, Callable[[Path], Any]] = {
    "nllb": nllb,
    "m2m100": m2m100,
    "mbart50": mbart50,
    "many_targets": many_targets,
    "one_pair": one_pair,
    "t5": t5,
}


@pytest.fixture(scope="module")
def subject_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    @functools.cache
    def make(kind: str) -> Subject:
        folder = tmp_path_factory.mktemp(kind)
        name, changes, names, codes, prefix, target = KINDS[kind](folder)
        if kind == "t5":
            size = len(AutoTokenizer.from_pretrained(folder))
            seeded_t5(vocab_size=size, **changes).save_pretrained(folder)
        else:
            save_network(folder, name)
        source, other = codes
        settings = {"src_lang": source, "tgt_lang": other} if target else {}
        model = load(export_checkpoint(folder, folder / "bundle").folder, threads=1)
        both = languages(*names), languages(*codes)
        return Subject(folder, model, *both, settings, prefix, target)

    return make


@pytest.fixture(params=KINDS)
def subject(request: pytest.FixtureRequest, subject_of: Callable[[str], Subject]) -> Subject:
    return subject_of(request.param)


@torch.no_grad()
def expected(subject: Subject, text: str, **options: Any) -> str:
    """Return Transformers' translation of one sentence."""
    tokenizer = AutoTokenizer.from_pretrained(subject.folder, **subject.tokenizer)
    network = AutoModelForSeq2SeqLM.from_pretrained(
        subject.folder, dtype=torch.float32, attn_implementation="eager"
    )
    if subject.target is not None:
        options["forced_bos_token_id"] = tokenizer.convert_tokens_to_ids(subject.target)
    inputs = tokenizer(subject.prefix + text, return_tensors="pt")
    [ids] = network.generate(**inputs, **{**OPTIONS, **options})
    found: str = tokenizer.decode(ids, skip_special_tokens=True)
    return found.strip()


def test_sentences_are_translated_as_in_transformers(subject: Subject) -> None:
    wanted = [expected(subject, text) for text in SENTENCES]
    assert len(set(wanted)) > 1
    assert subject.model.translate(SENTENCES, **subject.names, **OPTIONS) == wanted
    assert subject.model.translate(SENTENCES, **subject.codes, **OPTIONS) == wanted
    assert subject.model.translate(SENTENCES[0], **subject.names, **OPTIONS) == wanted[0]


def test_documents_keep_their_layout(subject: Subject) -> None:
    first, second, third = subject.model.translate(SENTENCES, **subject.names, **OPTIONS)
    wanted = f"# {first}  {second}\n\n\t- {third}\n\n1999\n"
    texts = [DOCUMENT, "", "\n", SENTENCES[0], "3.14 %"]
    calls: list[tuple[int, int]] = []
    found = subject.model.translate(
        texts,
        **subject.names,
        **OPTIONS,
        batch_size=2,
        on_progress=lambda *numbers: calls.append(numbers),
    )
    assert found == [wanted, "", "\n", first, "3.14 %"]
    assert calls == [(2, 4), (4, 4)] or (calls[-1] == (4, 4) and len(calls) == 3)
    assert subject.model.translate([], **subject.names, **OPTIONS) == []


def test_the_task_takes_the_same_path(subject: Subject) -> None:
    texts = [DOCUMENT, SENTENCES[1]]
    wanted = subject.model.translate(texts, **subject.names, **OPTIONS)
    found = subject.model.run("translation", texts, **subject.names, **OPTIONS)
    assert isinstance(found, list)
    assert [one.text for one in found] == wanted
    assert [one.generation.text for one in found] == wanted
    assert [one.generation.prompt_index for one in found] == [0, 1]
    assert found[0].generation.generated_tokens == len(found[0].generation.token_ids)
    assert found[0].generation.generated_tokens > found[1].generation.generated_tokens


def test_pipelines_take_names(subject: Subject) -> None:
    given = {"src_lang": "source_language", "tgt_lang": "target_language"}
    named = {argument: subject.names[name] for argument, name in given.items()}
    texts = [DOCUMENT, SENTENCES[0]]
    wanted = [expected(subject, text) for text in texts]
    prefix = {"prefix": subject.prefix} if subject.prefix.startswith("the") else {}
    found = pipeline("translation", subject.model)(texts, **named, **prefix, **OPTIONS)
    assert [record["translation_text"].strip() for record in found] == wanted


def test_languages_that_a_model_does_not_have(subject: Subject) -> None:
    for side in ("source_language", "target_language"):
        given = {**subject.names, side: "Klingon"}
        refusal(
            OptionError,
            lambda given=given: subject.model.translate("a", **given),  # type: ignore[misc]
            match="no (source |target )?language 'Klingon'",
            ending=VALUE,
        )


def test_a_bundle_without_names_takes_codes(subject: Subject) -> None:
    model = subject.model
    bundle = replace(model.bundle, manifest=replace(model.bundle.manifest, languages=None))
    old = Model(bundle, model.tokenizer, model._engine)
    wanted = model.translate(SENTENCES[0], **subject.codes, **OPTIONS)
    assert old.translate(SENTENCES[0], **subject.codes, **OPTIONS) == wanted
    codes = {**subject.names, "target_language": "English and more"}
    refusal(OptionError, lambda: old.translate("a", **codes), match="no .*language", ending=VALUE)


def test_command_line(subject: Subject, tmp_path: Path, capsys: Captured) -> None:
    shared = ["-b", subject.folder / "bundle", "--threads", "1", *FLAGS]
    fields = [f"--field={name}={text}" for name, text in subject.names.items()]
    wanted = subject.model.translate(DOCUMENT, **subject.names, **OPTIONS)
    assert succeed(capsys, "run", "translation", *shared, *fields, DOCUMENT) == wanted + "\n"
    wrong = ["--field", "target_language=Klingon"]
    message = failure(capsys, "run", "translation", *shared, fields[0], *wrong, DOCUMENT)
    assert "language 'Klingon'" in message
    printed = succeed(capsys, "info", subject.folder / "bundle")
    assert re.search(r"^languages +\S", printed, re.MULTILINE)
    assert "French" in printed or subject.folder.name.startswith("one_pair")
    assert max(map(len, printed.split("\ngeneration")[0].splitlines()[-9:])) <= 120


# One kind each


def test_files_have_a_language_for_each_line(
    subject_of: Callable[[str], Subject], tmp_path: Path, capsys: Captured
) -> None:
    subject = subject_of("nllb")
    lines = [
        {"text": SENTENCES[0], "source_language": "fr", "target_language": "German"},
        {"text": SENTENCES[1], "source_language": "fr", "target_language": "English"},
        {"text": SENTENCES[2], "source_language": "fr", "target_language": "German"},
    ]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    command = ["run", "translation", "-b", str(subject.folder / "bundle"), *FLAGS]
    command += ["--input", str(source), "--output", str(out)]
    assert main(command) == 0
    found = [json.loads(line)["output"] for line in out.read_text("utf-8").splitlines()]
    for text, line in zip(found, lines, strict=True):
        document = line.pop("text")
        assert text == subject.model.translate(document, **line, **OPTIONS)
    assert main(command) == 0
    assert "3 of them from an earlier run" in capsys.readouterr().err
    source.write_text(source.read_text("utf-8").replace("English", "Frensh"), encoding="utf-8")
    assert "line 2, is not the answer" in failure(capsys, *command)
    assert main([*command[:-1], str(tmp_path / "other.jsonl")]) == 1
    [_, wrong, _] = (tmp_path / "other.jsonl").read_text("utf-8").splitlines()
    assert json.loads(wrong)["error"].startswith("The model has no language 'Frensh': did you mean")
    capsys.readouterr()
    source.write_text(source.read_text("utf-8").replace("Frensh", "French"), encoding="utf-8")
    assert "line 2, is not the answer" in failure(capsys, *command)


def test_languages_of_all_lines(
    subject_of: Callable[[str], Subject], tmp_path: Path, capsys: Captured
) -> None:
    subject = subject_of("many_targets")
    (tmp_path / "in.txt").write_text("\n".join(SENTENCES), encoding="utf-8")
    command = ["run", "translation", "-b", str(subject.folder / "bundle"), *FLAGS]
    command += ["--input", str(tmp_path / "in.txt"), "--output", "-"]
    assert main([*command, "--field", "target_language=fr"]) == 0
    found = [json.loads(line)["output"] for line in capsys.readouterr().out.splitlines()]
    assert found == subject.model.translate(SENTENCES, target_language="French", **OPTIONS)
    assert found != subject.model.translate(SENTENCES, target_language="German", **OPTIONS)
    assert "pass target_language" in failure(capsys, *command)


def test_generate_with_one_of_many_targets(
    subject_of: Callable[[str], Subject], capsys: Captured
) -> None:
    subject = subject_of("many_targets")
    shared = ["-b", subject.folder / "bundle", "--max-new-tokens", "8", "--threads", "1"]
    printed = succeed(capsys, "generate", *shared, "--target-language", "German", SENTENCES[0])
    [typed] = subject.model.generate(f">>deu<< {SENTENCES[0]}", max_new_tokens=8)
    assert printed.rstrip("\n") == typed.text
    chosen = subject.model.with_languages(target="deu")
    theirs = AutoTokenizer.from_pretrained(subject.folder)
    assert chosen.tokenizer.encode(SENTENCES[0]) == theirs(f">>deu<< {SENTENCES[0]}").input_ids
    assert chosen.score(SENTENCES[0], "die").token_ids[-1] == theirs.eos_token_id


def test_a_pair_needs_no_languages(subject_of: Callable[[str], Subject]) -> None:
    subject = subject_of("one_pair")
    wanted = subject.model.translate(SENTENCES, **subject.names, **OPTIONS)
    assert subject.model.translate(SENTENCES, **OPTIONS) == wanted
    refusal(
        OptionError,
        lambda: subject.model.translate("a", source_language="de", target_language="en"),
        match=r"no source language 'de': it has en \(English\)",
    )


def test_several_targets_need_one(subject_of: Callable[[str], Subject]) -> None:
    for kind in ("nllb", "m2m100", "mbart50", "many_targets", "t5"):
        model = subject_of(kind).model
        refusal(
            OptionError,
            lambda model=model: model.translate("a", source_language="English"),  # type: ignore[misc]
            match="target_language",
        )


def test_t5_has_its_tasks_options(subject_of: Callable[[str], Subject]) -> None:
    subject = subject_of("t5")
    wanted = expected(subject, SENTENCES[0], num_beams=3, no_repeat_ngram_size=2)
    options = {"max_new_tokens": 8, "no_repeat_ngram_size": 2, "target_language": "French"}
    assert subject.model.translate(SENTENCES[0], **options) == wanted
    default = subject.model.run("translation", SENTENCES[0], max_new_tokens=8)
    german = subject.model.translate(SENTENCES[0], max_new_tokens=8, target_language="German")
    assert default.text == german  # the template's default
    refusal(
        OptionError,
        lambda: subject.model.translate("a", **languages("English", "Spanish")),
        match=r"no target language 'Spanish': it has de \(German\), fr \(French\)",
    )


def test_models_without_languages(t5_model: Model, model: Model) -> None:
    whole = t5_model.generate(SENTENCES[0], num_beams=4, max_new_tokens=8)
    assert t5_model.translate(SENTENCES[0], max_new_tokens=8) == whole[0].text.strip()
    refusal(
        OptionError,
        lambda: t5_model.translate("a", target_language="fr"),
        match="target_language has no effect",
    )
    found = t5_model.run("translation", f"{SENTENCES[0]}\n", target_language="Latin", **OPTIONS)
    [prompted] = t5_model.generate(f"translate English to Latin: {SENTENCES[0]}", **OPTIONS)
    assert found.text == prompted.text.strip() + "\n"
    refusal(OptionError, lambda: model.translate("a"), match="model.run")


def test_outputs_are_never_cut_silently(subject_of: Callable[[str], Subject]) -> None:
    """Random weights rarely end a text, and Marian's forced end looks like one."""
    subject = subject_of("one_pair")
    forced = subject.model.with_defaults(
        {**subject.model.bundle.manifest.generation, "forced_eos_token_id": 0, "num_beams": 1}
    )
    for model in (subject.model, forced):
        refusal(
            PromptError,
            lambda model=model: model.translate(["", SENTENCES[0]], num_beams=1),  # type: ignore[misc]
            match="document 1, 'The king .*has no end after 96 tokens",
        )
    refusal(
        PromptError,
        lambda: subject.model.translate(SENTENCES[0], forced_eos_token_id=0, max_length=None),
        match="'The king .*has no end after 96 tokens",
    )
    assert forced.translate(SENTENCES[0], max_new_tokens=3)


def test_none_turns_off_a_default(subject_of: Callable[[str], Subject]) -> None:
    model = subject_of("one_pair").model
    defaults = {**model.bundle.manifest.generation, "no_repeat_ngram_size": 1}
    changed = model.with_defaults(defaults)
    options: dict[str, Any] = {"max_new_tokens": 8, "num_return_sequences": 1}
    plain = model.translate(SENTENCES, **options)
    assert changed.translate(SENTENCES, no_repeat_ngram_size=None, **options) == plain
    assert changed.translate(SENTENCES, **options) != plain


def test_long_sentences_are_split_within_the_models_bound(
    subject_of: Callable[[str], Subject],
) -> None:
    model = subject_of("one_pair").model
    bound = model.bundle.manifest.dimensions.max_positions
    assert bound is not None
    read: list[int] = []
    spied = model.with_decoders(
        lambda prompts, limit: read.extend(map(len, prompts)) or model.new_decoder(prompts, limit)
    )
    text = ("the king and the fox, " * 40 + "x" * 200 + ". ") * 2
    found = spied.translate(text, **OPTIONS)
    assert len(read) > 8
    assert max(read) <= bound // 2
    assert found.endswith(" ")
    refusal(PromptError, lambda: model.generate(text), match="reads at most")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choices": ["a", "b"]}, "choices has no effect"),
        ({"num_return_sequences": 2}, "num_return_sequences has no effect"),
        ({"decoder_input_ids": [1]}, "decoder_input_ids has no effect"),
        ({"logprobs": 1}, "logprobs has no effect"),
        ({"batch_size": 0}, "batch_size"),
        ({"no_such_option": 1}, "no option 'no_such_option'"),
    ],
)
def test_options_without_effect(
    subject_of: Callable[[str], Subject], options: dict[str, Any], message: str
) -> None:
    model = subject_of("one_pair").model
    refusal(OptionError, lambda: model.translate("a", **options), match=message, ending=VALUE)


def test_texts_of_other_types(subject_of: Callable[[str], Subject]) -> None:
    given: Any
    for given in (3, None, ["a", 3], {"a": 1}):
        with pytest.raises(PromptError, match="translate takes a text or a list"):
            subject_of("one_pair").model.translate(given)


def test_sentences_that_touch_only_in_the_source(subject_of: Callable[[str], Subject]) -> None:
    model = subject_of("one_pair").model
    both = model.translate(["他来了。", "我去。"], **OPTIONS)
    assert model.translate("他来了。我去。", **OPTIONS) == " ".join(both)


def test_cancelled_documents_have_what_is_there(subject_of: Callable[[str], Subject]) -> None:
    model = subject_of("one_pair").model
    assert model.translate(DOCUMENT, cancel=lambda: True, **OPTIONS) == "#   \n\n\t- \n\n1999\n"
