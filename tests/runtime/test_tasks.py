"""Task templates of the package and of users, and their answers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from edgeseq.cli.command_line import main
from edgeseq.runtime import Model, OptionError, PromptError
from edgeseq.runtime.request.batching import BATCH_ROWS, BATCH_TOKENS, batches
from edgeseq.runtime.tasks.runs import TaskResult
from edgeseq.runtime.tasks.templates import TEMPLATES, read_template, template_names
from tests.support.commands import Captured, succeed
from tests.support.errors import refusal

INPUTS = {
    "anonymization": {"text": "Call Jane Roe at 555-0123."},
    "classification": {"text": "A charming and funny film."},
    "closed-book-question-answering": {"question": "What is the capital of Italy?"},
    "completion": {"text": "Once upon a time"},
    "extraction": {"text": "Tom lives in Rome.", "what": "city"},
    "grammar-correction": {"text": "He have a dog."},
    "open-book-question-answering": {"question": "Who came?", "context": "The fox came."},
    "summarization": {"text": "The fox came, and went, and came once more."},
    "translation": {"text": "The house is wonderful."},
}
PROMPTS = {
    ("classification", "t5"): "sst2 sentence: A charming and funny film.",
    ("open-book-question-answering", "t5"): "question: Who came? context: The fox came.",
    ("open-book-question-answering", "gpt2"): "The fox came.\n\nQ: Who came?\nA:",
    ("summarization", "t5"): "summarize: The fox came, and went, and came once more.",
    ("translation", "t5"): "translate English to German: The house is wonderful.",
    ("translation", "gpt2"): "English: The house is wonderful.\nGerman:",
    ("extraction", "t5"): "question: What is the city? context: Tom lives in Rome.",
    ("completion", "gpt2"): "Once upon a time",
}
SAMPLING = {"do_sample", "temperature", "top_p"}
SHORT: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}


@pytest.fixture(params=["gpt2", "t5"])
def demo(request: pytest.FixtureRequest, demo_gpt2: Model, demo_t5: Model) -> Model:
    return {"gpt2": demo_gpt2, "t5": demo_t5}[request.param]


def test_every_template_is_tried_here() -> None:
    assert template_names() == sorted(INPUTS)
    files = [path for path in TEMPLATES.iterdir() if path.is_file()]
    assert {path.suffix for path in files} == {".toml", ".py"}


@pytest.mark.parametrize("task", sorted(INPUTS))
def test_every_template(task: str, demo: Model) -> None:
    manifest = demo.bundle.manifest
    template = read_template(task)
    if manifest.kind not in template.forms:
        with pytest.raises(OptionError, match=f"The task {task} is for"):
            demo.run(task, **INPUTS[task])
        return
    form = template.form(manifest.kind)
    prompt = template.prompt(manifest.kind, INPUTS[task])
    assert prompt == PROMPTS.get((task, manifest.architecture), prompt)
    assert INPUTS[task][template.fields[0]] in prompt
    assert "{" not in prompt
    assert not prompt.endswith(" ")
    if form.labels:
        found = demo.run(task, **INPUTS[task])
        [expected] = demo.generate(prompt, choices=[*form.labels.values()])
        assert expected.choices is not None
        assert isinstance(found, TaskResult)
        assert found.probabilities == {
            choice.text.strip(): choice.probability for choice in expected.choices
        }
        assert sum(found.probabilities.values()) == pytest.approx(1)
        assert found.text == max(found.probabilities, key=found.probabilities.__getitem__)
    else:
        found = demo.run(task, **INPUTS[task], **SHORT)
        options = {n: value for n, value in form.options.items() if n not in SAMPLING}
        [expected] = demo.generate(prompt, **{**options, **SHORT})
        assert isinstance(found, TaskResult)
        assert found.probabilities is None
        assert found.text == (expected.text.strip() if form.strip else expected.text)
        assert found.generation.token_ids == expected.token_ids


def test_several_texts_come_in_their_order(demo_t5: Model) -> None:
    texts = ["pronounce: algorithm", "pronounce: fox", "pronounce: a", "pronounce: extraordinary"]
    found = demo_t5.run("closed-book-question-answering", texts)
    assert isinstance(found, list)
    assert [one.text for one in found] == [r.text.strip() for r in demo_t5.generate(texts)]
    assert [one.generation.prompt_index for one in found] == [0, 1, 2, 3]
    assert demo_t5.run("closed-book-question-answering", []) == []


def test_options_of_the_call_override_the_templates(demo: Model) -> None:
    found = demo.run("summarization", "The fox came.", max_length=60, num_beams=1, do_sample=False)
    assert isinstance(found, TaskResult)
    assert found.generation.sequence_score is None
    before = found.generation.prompt_tokens if "gpt2" in str(demo.bundle.folder) else 1
    assert 1 <= found.generation.generated_tokens <= 60 - before


def test_a_field_may_be_named_and_have_a_default(demo_gpt2: Model) -> None:
    short: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    plain = demo_gpt2.run("translation", "The fox.", **short)
    named = demo_gpt2.run("translation", text="The fox.", target_language="German", **short)
    other = demo_gpt2.run(
        "translation", "The fox.", target_language="the language of birds", **short
    )
    assert isinstance(plain, TaskResult)
    assert isinstance(named, TaskResult)
    assert isinstance(other, TaskResult)
    assert plain.text == named.text
    assert plain.generation.prompt_tokens != other.generation.prompt_tokens


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("no-such-task", {"text": "a"}, "There is no task 'no-such-task': use anonymization"),
        ("mine.toml", {"text": "a"}, "There is no template file mine.toml"),
        (3, {"text": "a"}, "There is no task 3"),
        ("classification", {"text": "a", "max_new_tokens": 3}, "no effect with choices"),
        ("summarization", {"text": "a", "nonsense": 3}, "no option 'nonsense'"),
        ("summarization", {"text": "a", "num_return_sequences": 2}, "which has one answer"),
        (
            "summarization",
            {"text": "a", "decoder_input_ids": [[1]]},
            "decoder_input_ids has no effect with a task",
        ),
    ],
)
def test_bad_tasks_and_options_are_refused(
    task: Any, given: dict[str, Any], message: str, demo: Model
) -> None:
    with pytest.raises(OptionError, match=message):
        demo.run(task, **given)


def test_missing_fields(demo: Model) -> None:
    with pytest.raises(
        PromptError, match=r"context is missing; .* needs a string for each of question, context"
    ):
        demo.run("open-book-question-answering", "Who?")
    with pytest.raises(PromptError, match="context is 3"):
        demo.run("open-book-question-answering", "Who?", context=3)
    with pytest.raises(PromptError, match="text has a lone surrogate"):
        demo.run("summarization", "\ud800")
    with pytest.raises(PromptError, match="text is None"):
        demo.run("summarization")
    with pytest.raises(OptionError, match="if the text is also passed"):
        demo.run("summarization", "a", text="b")


GOOD = """
fields = ["text"]
[decoder-only]
prompt = "{text}!"
[encoder-decoder]
prompt = "{text}?"
options = { max_new_tokens = 4 }
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fields", "felds", "unknown key felds: use defaults, fields, metrics, title"),
        ('["text"]', '"text"', "fields is 'text'; it must be a list"),
        ('["text"]', "[]", "fields is"),
        ("fields", 'metrics = "bleu"\nfields', "metrics is 'bleu'; it must be a list of strings"),
        ('["text"]', '["a b"]', "fields is"),
        ('["text"]', '["other"]', "but the fields are other"),
        ("{text}!", "{txt}!", r"decoder-only.prompt has \{txt\}"),
        ('prompt = "{text}!"', "", "decoder-only.prompt must be a string"),
        ('"{text}!"', "3", "decoder-only.prompt must be a string"),
        ('"{text}!"', '"{text}"\nlabels = { a = "a" }', "at least two strings"),
        ('"{text}!"', '"{text}"\nlabels = { a = "a", b = 2 }', "at least two strings"),
        ('"{text}!"', '"{text}"\nstrip = 3', "strip must be true or false"),
        ('"{text}!"', '"{text}"\nstop = 3', "unknown key decoder-only.stop: use"),
        ("{ max_new_tokens = 4 }", "3", "options must be a table"),
        ("{ max_new_tokens", 'labels = {a="a",b="b"}\noptions = { max', "cannot be read"),
        ("options", 'labels = {a="a",b="b"}\noptions', "no effect with labels"),
        ('"{text}!"', '"{text}"\nlabels = { a = "c", b = "c" }', "must have different strings"),
        ('"{text}!"', '"{text}"\nlabels = { a = "", b = "c" }', "must have different strings"),
        ("{ max_new_tokens = 4 }", '{ choices = ["a"] }', "use encoder-decoder.labels"),
        ("[decoder-only]", "[decoder]", "unknown key decoder: use"),
        ("fields =", "fields", "cannot be read as a template"),
        ("fields =", "defaults = { other = 'a' }\nfields =", "for some of the fields"),
    ],
)
def test_wrong_templates(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    refusal(OptionError, lambda: read_template(path), match=message)


def test_a_users_template(tmp_path: Path, demo: Model) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace("options = { max_new_tokens = 4 }", ""), encoding="utf-8")
    mark = "!" if demo.bundle.manifest.kind == "decoder-only" else "?"
    found = demo.run(path, "The {fox}", **SHORT)
    assert isinstance(found, TaskResult)
    assert found.text == demo.generate(f"The {{fox}}{mark}", **SHORT)[0].text.strip()


def test_a_wrong_option_of_a_template_is_refused(demo_t5: Model, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace("max_new_tokens = 4", "max_tokens = 4"), encoding="utf-8")
    with pytest.raises(OptionError, match="no option 'max_tokens'"):
        demo_t5.run(path, "The fox")


def test_an_argument_of_calls_is_no_option_of_a_template(demo_t5: Model, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace("max_new_tokens = 4", "cancel = 4"), encoding="utf-8")
    with pytest.raises(OptionError, match="cancel cannot be a default: pass it in the call"):
        demo_t5.run(path, "The fox")


def test_none_turns_an_option_of_the_template_off(demo_gpt2: Model, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    options = 'options = { max_new_tokens = 30, do_sample = false, stop_strings = ["e"] }'
    path.write_text(GOOD.replace('"{text}!"', f'"{{text}}!"\n{options}'), encoding="utf-8")
    [whole] = demo_gpt2.generate("The fox!", max_new_tokens=30, do_sample=False)
    given = ({}, {"stop_strings": None})
    cut, found = (demo_gpt2.run(path, "The fox", **options) for options in given)
    assert isinstance(cut, TaskResult) and isinstance(found, TaskResult)
    assert cut.text == whole.text.split("e")[0].strip()
    assert found.text == whole.text.strip() != cut.text


def test_a_classification_is_cancelled_between_texts(demo_gpt2: Model) -> None:
    asked = itertools.count()
    texts = ["A film.", "A fine film, all in all.", "A dull film, which I left before its end."]
    demo_gpt2.run("classification", texts[:1], cancel=lambda: next(asked) < 0)
    of_one = next(asked)
    asked = itertools.count()
    found = demo_gpt2.run("classification", texts, cancel=lambda: next(asked) >= of_one)
    assert isinstance(found, list)
    assert [bool(result.probabilities) for result in found] == [True, False, False]
    assert [bool(result.text) for result in found] == [True, False, False]


def test_an_empty_answer_is_reported(capsys: Captured) -> None:
    """The demo model answers nothing, and an empty line looks like a broken program."""
    assert main(["run", "open-book-question-answering", "Who?", "--field", "context=A."]) == 0
    printed = capsys.readouterr()
    assert printed.out == "\n"
    assert printed.err == "The answer is empty: is this model made for the task?\n"


def test_batches_are_of_similar_length() -> None:
    lengths = [5, 900, 4, 6, 5000, 910, 5] + [7] * 40
    found = batches(lengths)
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert all(len(batch) <= BATCH_ROWS for batch in found)
    for batch in found:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or len(batch) * longest <= BATCH_TOKENS
    assert [4] in found
    assert [1, 5] in found
    assert batches([]) == []


# What a template's options and the bundle's defaults come to

PRONOUNCE = """
fields = ["text"]
[encoder-decoder]
prompt = "{text}"
[encoder-decoder.options]
num_beams = 3
"""


def template_file(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_answer_is_the_best_whatever_the_bundle_returns(demo_t5: Model, tmp_path: Path) -> None:
    path = template_file(tmp_path, PRONOUNCE)
    expected = demo_t5.generate("spell: R AY1 T", num_beams=3)[0].text
    several = demo_t5.with_defaults({**demo_t5.bundle.manifest.generation, "num_beams": 3})
    assert run(several, path, "spell: R AY1 T").text == expected
    several = several.with_defaults(
        {**several.bundle.manifest.generation, "num_return_sequences": 3}
    )
    assert run(several, path, "spell: R AY1 T").text == expected
    assert run(demo_t5, path, "spell: R AY1 T", num_return_sequences=None).text == expected


def run(model: Model, task: Path, text: str | None = None, **given: Any) -> TaskResult:
    found = model.run(task, text, **given)
    assert isinstance(found, TaskResult)
    return found


def test_a_template_with_several_answers_is_refused(demo_t5: Model, tmp_path: Path) -> None:
    path = template_file(tmp_path, PRONOUNCE + "num_return_sequences = 3\n")
    with pytest.raises(OptionError, match="mine has wrong options: num_return_sequences"):
        demo_t5.run(path, "spell: R AY1 T")


def test_a_template_may_constrain_its_answers(demo_t5: Model, tmp_path: Path) -> None:
    path = template_file(tmp_path, PRONOUNCE + 'regex = "[a-z]{2}"\n')
    text = run(demo_t5, path, "spell: R AY1 T").text
    assert len(text) == 2 and text.isalpha()
    assert len(run(demo_t5, path, "spell: R AY1 T", regex="[a-z]{3}").text) == 3


def test_the_first_field_may_have_a_default(
    demo_t5: Model, tmp_path: Path, capsys: Captured
) -> None:
    text = PRONOUNCE.replace("[encoder", '[defaults]\ntext = "spell: K AE1 T"\n[encoder', 1)
    path = template_file(tmp_path, "\ufeff" + text)
    assert run(demo_t5, path).text == "cat"
    assert succeed(capsys, "run", path, "--demo", "t5") == "cat\n"
    assert run(demo_t5, path, "pronounce: fox").text == "F AA1 K S"
