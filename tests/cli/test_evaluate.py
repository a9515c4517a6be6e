"""``edgeseq eval``: its reports, with and without a reference bundle, and its errors."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseq.cli.command_line import main
from edgeseq.export import export_checkpoint
from edgeseq.runtime import Model, load
from edgeseq.runtime.evaluation.answers import answer_all
from edgeseq.runtime.evaluation.continuations import agreement
from edgeseq.runtime.evaluation.data import read_data
from edgeseq.runtime.evaluation.error_rates import error_rates
from edgeseq.runtime.evaluation.losses import compare, measure
from edgeseq.runtime.evaluation.metrics import METRICS
from edgeseq.runtime.request.passages import pair_passages, text_passages
from tests.support.commands import Captured, failure, succeed, wrong_usage
from tests.support.files import forge

Report = Callable[..., dict[str, Any]]
TEXT = "Once upon a time there was a clever fox; he said: “Let us go home!”\nAnd 3 üs.\n" * 40
PAIRS = [
    ("Once upon a time", "there was a clever fox"),
    ("he said", "Let us go home"),
    ("home", "a"),
]
REPORT = ["bundle", "recipe", "kv_cache", "text", "tokens", "bytes", "cross_entropy", "perplexity"]
REPORT += ["bits_per_byte"]
REST = ["intervals", "loss_by_position", "tokens_per_second"]
TEXT_REPORT = [*REPORT, "context", "stride", *REST]
PAIRS_REPORT = [*REPORT, "pairs", "exact_match", "word_error_rate", "character_error_rate"]
PAIRS_REPORT += ["cut_off", "max_new_tokens", *REST]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.tsv"
    path.write_bytes("".join(f"{source}\t{target}\n" for source, target in PAIRS).encode())
    return path


@pytest.fixture(scope="module")
def other_bundle(other_checkpoint: Path, tmp_path_factory: Any) -> Path:
    """A bundle of the same sizes with other weights."""
    out = tmp_path_factory.mktemp("other") / "bundle"
    return export_checkpoint(other_checkpoint, out).folder


@pytest.fixture
def report(capsys: Captured) -> Report:
    """``report(*arguments)``: the JSON that the command prints."""

    def run(*arguments: object) -> dict[str, Any]:
        printed = succeed(capsys, "eval", *arguments, "--threads", "1", "--json")
        assert len(printed.splitlines()) == 1
        found: dict[str, Any] = json.loads(printed)
        return found

    return run


# Alone


def test_the_report_of_a_text(report: Report, bundle: Path, model: Model, text: Path) -> None:
    found = report(bundle, text)
    assert list(found) == TEXT_REPORT
    passages = text_passages(TEXT, model.bundle.manifest, model.tokenizer)
    loss = measure(model.new_decoder, passages.windows)
    assert (found["bundle"], found["text"]) == (str(bundle), str(text))
    assert found["recipe"] == "fp32"
    assert (found["context"], found["stride"]) == (96, 48)
    assert found["tokens"] == len(model.tokenizer.encode(TEXT)) - 1
    assert found["bytes"] == passages.size_bytes
    assert found["cross_entropy"] == loss.cross_entropy
    assert found["perplexity"] == pytest.approx(math.exp(loss.cross_entropy))
    bits = loss.cross_entropy * found["tokens"] / math.log(2)
    assert found["bits_per_byte"] == pytest.approx(bits / found["bytes"])
    assert found["tokens_per_second"] > 0


def test_context_and_stride(report: Report, bundle: Path, model: Model, text: Path) -> None:
    found = report(bundle, "--context", 30, text, "--stride", 7)
    passages = text_passages(TEXT, model.bundle.manifest, model.tokenizer, context=30, stride=7)
    assert (found["context"], found["stride"]) == (30, 7)
    assert found["cross_entropy"] == measure(model.new_decoder, passages.windows).cross_entropy


def test_the_report_of_pairs(report: Report, t5_model: Model, pairs: Path) -> None:
    found = report(t5_model.bundle.folder, pairs)
    assert list(found) == PAIRS_REPORT
    passages = pair_passages(PAIRS, t5_model.bundle.manifest, t5_model.tokenizer)
    assert found["pairs"] == 3
    assert found["tokens"] == sum(len(t5_model.tokenizer.encode(target)) for _, target in PAIRS)
    assert found["bytes"] == sum(len(target) for _, target in PAIRS)
    loss = measure(t5_model.new_decoder, passages.windows)
    assert found["cross_entropy"] == loss.cross_entropy
    answers = answer_all(t5_model, read_data(pairs, t5_model))
    assert found["cut_off"] == answers.cut
    assert found["max_new_tokens"] == 2 * max(window.predicted for window in passages.windows)
    rates = error_rates(answers.texts, [target for _, target in PAIRS])
    assert found["exact_match"] == rates.exact_match
    assert found["word_error_rate"] == rates.word_error_rate > 0
    assert found["character_error_rate"] == rates.character_error_rate > 0


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    rows = ['"A fine, ""clever"" film",positive', "Dull,negative", "Go home,negative"]
    path.write_text("\n".join(["review,target", *rows]), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_a_task_with_labels(
    report: Report,
    reviews: Path,
    bundle: Path,
    t5_model: Model,
    kind: str,
    tmp_path: Path,
    capsys: Captured,
) -> None:
    folder, out = bundle if kind == "gpt2" else t5_model.bundle.folder, tmp_path / "out.jsonl"
    task = ["--task", "classification", "--column", "text=review"]
    found = report(folder, reviews, *task, "--predictions", out)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert lines[0]["values"] == {"text": 'A fine, "clever" film'}
    name = folder.name
    right = [line["predictions"][name] == line["target"] for line in lines]
    assert found["accuracy"] == sum(right) / 3
    assert found["intervals"]["accuracy"][0] <= found["accuracy"] <= found["intervals"]["f1"][1]
    assert found["confusion"]["labels"] == ["negative", "positive"]
    assert sum(map(sum, found["confusion"]["counts"])) == 3
    assert (found["cut_off"], found["max_new_tokens"]) == (0, None)
    with load(folder, threads=1) as model:
        expected = [model.run("classification", line["values"]["text"]).text for line in lines]
    assert [line["predictions"][name] for line in lines] == expected
    printed = succeed(capsys, "eval", folder, reviews, *task, "--threads", "1")
    assert printed.splitlines()[-3].split() == ["expected", "negative", "positive"]


def test_translations_in_several_directions(report: Report, nllb: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows = [("Hello you.", "German", "Hallo du."), ("Oh no. Yes.", "French", "Oh non. Oui.")]
    names = ["text", "target_language", "target"]
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    found = report(nllb, path, "--task", "translation", "--predictions", out)
    assert {"bleu", "chrf"} <= found.keys()
    with load(nllb, threads=1) as model:
        texts = [model.translate(text, target_language=language) for text, language, _ in rows]
        tokens, nats = 0, 0.0
        for text, language, target in rows:
            score = model.with_languages(None, language).score(text, target)
            tokens += len(score.token_ids)
            nats -= sum(score.log_probabilities)
    written = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line["predictions"][nllb.name] for line in written] == texts
    assert found["tokens"] == tokens
    assert found["cross_entropy"] == pytest.approx(nats / tokens)


def test_metrics_that_are_asked_for(
    report: Report, t5_model: Model, pairs: Path, tmp_path: Path
) -> None:
    out, folder = tmp_path / "out.jsonl", t5_model.bundle.folder
    names = ["bleu", "chrf", "rougeL", "squad_f1"]
    found = report(
        folder, pairs, "--metric", ",".join(names), "--max-new-tokens", 3, "--predictions", out
    )
    assert [name for name in found["intervals"] if name != "perplexity"] == names
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    answers = [line["predictions"][folder.name] for line in lines]
    for name in names:
        assert found[name] == METRICS[name].of(answers, [target for _, target in PAIRS])
    assert found["max_new_tokens"] == 3
    assert found["cut_off"] == sum(line["cut"] == [folder.name] for line in lines)


def test_answers_that_are_cut_off_are_named(t5_model: Model, pairs: Path, capsys: Captured) -> None:
    arguments = ["eval", t5_model.bundle.folder, pairs, "--max-new-tokens", "1"]
    printed = succeed(capsys, *arguments, "--threads", "1")
    assert "cut off                3 answers, at 1 new tokens: use --max-new-tokens" in printed


def test_answers_are_those_of_each_source_alone(t5_model: Model, tmp_path: Path) -> None:
    sources = [f"{'Once upon a ' * (i % 5)}time {i}" for i in range(70)]
    path = tmp_path / "many.tsv"
    path.write_text("".join(f"{source}\ta clever fox\n" for source in sources))
    counts: list[int] = []
    found = answer_all(t5_model, read_data(path, t5_model), counts.append)
    limit = 2 * len(t5_model.tokenizer.encode("a clever fox"))
    expected = t5_model.generate(sources, do_sample=False, max_new_tokens=limit)
    assert found.texts == [result.text for result in expected]
    assert counts == [32, 32, 6]
    assert found.limit == limit


def test_answers_to_prompts_of_a_decoder_only_model(model: Model, tmp_path: Path) -> None:
    prompts = ["Once upon a time", "The fox", "He said: “Let us go home!”"]
    path = tmp_path / "pairs.csv"
    path.write_text("source,target\n" + "".join(f"{prompt},a fox\n" for prompt in prompts))
    limit = 2 * (len(model.tokenizer.encode("a fox")) + 1)
    expected = model.generate(prompts, do_sample=False, max_new_tokens=limit)
    data = read_data(path, model)
    assert answer_all(model, data).texts == [result.text for result in expected]
    assert agreement(model, model, data.passages).continuations == 3


def test_the_demo_t5_knows_some_words(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "words.jsonl"
    words = [("pronounce: table", "T EY1 B AH0 L"), ("spell: K AE1 T", "dog")]
    lines = [json.dumps({"source": source, "target": target}) for source, target in words]
    path.write_text("\n".join(lines), encoding="utf-8")
    found = report("--demo", "t5", path)
    assert found["exact_match"] == 0.5
    assert found["word_error_rate"] == 1 / 6
    assert found["character_error_rate"] == 3 / 16
    assert report(path, "--demo", "t5")["perplexity"] == found["perplexity"]


def test_the_report_as_text(bundle: Path, text: Path, capsys: Captured) -> None:
    printed = succeed(capsys, "eval", bundle, text, "--reference", bundle)
    lines = dict(line.split("  ", 1) for line in printed.splitlines())
    assert {name: value.strip() for name, value in lines.items()}.items() >= {
        "bundle": str(bundle),
        "recipe": "fp32",
        "windows": "96 tokens each, 48 tokens apart",
        "reference": f"{bundle}, fp32",
        "KL divergence": "0.00e+00 nats",
        "top-1 agreement": "100.00%",
        "identical": "100.0% of 32 greedy continuations of 64 tokens",
    }.items()
    assert {"perplexity", "bits per byte", "cross-entropy", "throughput"} <= set(lines)


def test_progress_is_shown_on_a_terminal(
    t5_model: Model, pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["eval", str(t5_model.bundle.folder), str(pairs), "--json"]) == 0
    printed = capsys.readouterr()
    evaluating, answering = printed.err.removesuffix("\n").split("\n")
    assert "100%" in evaluating
    assert "tokens/s" in evaluating
    assert "texts/s" in answering
    json.loads(printed.out)


# Beside a reference


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_a_bundle_beside_itself(
    report: Report, bundle: Path, text: Path, t5_model: Model, pairs: Path, kind: str
) -> None:
    folder, path = (bundle, text) if kind == "gpt2" else (t5_model.bundle.folder, pairs)
    found = report(folder, "--reference", folder, path)
    beside = found["reference"]
    assert beside == {
        "bundle": str(folder),
        "recipe": "fp32",
        "cross_entropy": found["cross_entropy"],
        "perplexity": found["perplexity"],
        "perplexity_rise": 0,
        "kl_divergence": 0,
        "top1_agreement": 1,
        "continuations": 32 if kind == "gpt2" else 3,
        "continuation_tokens": 64,
        "identical_continuations": 1,
        "loss_by_position": found["loss_by_position"],
    }
    alone = report(folder, path)
    assert list(alone) == [name for name in found if name != "reference"]
    assert alone["cross_entropy"] == pytest.approx(found["cross_entropy"])


def test_a_bundle_beside_another(
    report: Report, bundle: Path, other_bundle: Path, model: Model, text: Path
) -> None:
    found = report(other_bundle, text, "--reference", bundle)
    other = load(other_bundle, threads=1)
    windows = text_passages(TEXT, model.bundle.manifest, model.tokenizer).windows
    expected = compare(model.new_decoder, other.new_decoder, windows)
    assert found["reference"]["kl_divergence"] == expected.kl_divergence > 0
    assert found["reference"]["top1_agreement"] == expected.top1_agreement < 1
    assert found["reference"]["perplexity_rise"] == expected.perplexity_rise
    assert found["reference"]["perplexity"] == expected.reference.perplexity
    assert found["perplexity"] == expected.candidate.perplexity
    assert found["reference"]["identical_continuations"] == 0


# Refusals


def test_files_that_cannot_be_read(
    bundle: Path, t5_model: Model, text: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    assert "UTF-8" in failure(capsys, "eval", bundle, tmp_path / "bad.txt")
    assert "no-such.txt" in failure(capsys, "eval", bundle, tmp_path / "no-such.txt")
    assert str(tmp_path) in failure(capsys, "eval", bundle, tmp_path)
    assert "line 1 has 0 tabs" in failure(capsys, "eval", t5_model.bundle.folder, text)
    assert "no-such" in failure(capsys, "eval", "no-such", text)
    assert "context" in failure(capsys, "eval", bundle, text, "--context", "97")
    assert "stride" in failure(capsys, "eval", bundle, text, "--stride", "0", "--json")
    assert "threads" in failure(capsys, "eval", bundle, text, "--threads", "0")
    assert "no-such" in failure(capsys, "eval", bundle, text, "--reference", "no-such")


def test_references_that_read_other_tokens(
    bundle: Path, t5_model: Model, text: Path, tmp_path: Path, capsys: Captured
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    path = copy / "edgeseq.json"
    manifest = path.read_text(encoding="utf-8")
    tokenizer = (copy / "tokenizer.json").read_bytes()
    (copy / "tokenizer.json").write_bytes(tokenizer + b"\n")
    forge(copy)
    assert "The tokenizer of the reference differs" in failure(
        capsys, "eval", bundle, text, "--reference", copy
    )
    (copy / "tokenizer.json").write_bytes(tokenizer)
    path.write_text(manifest.replace('"max_positions": 96', '"max_positions": 90'), "utf-8")
    assert "The number of positions of the reference" in failure(
        capsys, "eval", bundle, text, "--reference", copy
    )
    t5 = t5_model.bundle.folder
    assert "The kind of model of the reference" in failure(
        capsys, "eval", bundle, text, "--reference", t5
    )
    assert "The kind of model of the reference" in failure(
        capsys, "eval", t5, text, "--reference", bundle
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--metric", "blue"], "There is no metric 'blue': use bleu."),
        (["--column", "text"], "--column 'text': give FIELD=NAME."),
        (["--column", "answer=a"], "There is no field 'answer' for a column: use source, target."),
        (["--predictions", "a.txt"], "a.txt does not end in .jsonl"),
        (["--task", "no"], "There is no task 'no'"),
        (["--task", "translation", "--context", "8"], "context has no effect with examples"),
    ],
)
def test_flags_that_cannot_be(
    arguments: list[str], complaint: str, t5_model: Model, pairs: Path, capsys: Captured
) -> None:
    message = failure(capsys, "eval", t5_model.bundle.folder, pairs, *arguments)
    assert message.startswith(complaint)


def test_rows_that_cannot_be_used(
    bundle: Path, text: Path, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "rows.csv"
    task = ["--task", "classification"]
    for content, complaint in (
        ("text,target\na,good\n", "line 2: the target 'good' is not a label of the task"),
        ("text,target\na,\n", "line 2: the target is empty"),
        ("text,target\na,b,c\n", "line 2: the row has 3 values for 2 columns"),
        ("text,label\na,b\n", "has no column 'target' (it has 'text', 'label'): rename a column"),
        ("text,target\n", "has no rows"),
    ):
        path.write_text(content)
        assert complaint in failure(capsys, "eval", bundle, path, *task)
    message = failure(capsys, "eval", bundle, text, "--metric", "bleu")
    assert message.startswith("--metric has no effect with a text")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["text.txt"],
        ["--demo", "gpt2"],
        ["--demo", "bert", "text.txt"],
        ["--demo", "gpt2", "bundle", "text.txt"],
        ["bundle", "text.txt", "more"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: Captured) -> None:
    wrong_usage(capsys, "eval", *arguments)
