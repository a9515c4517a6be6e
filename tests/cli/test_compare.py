"""``edgeseq compare``: its table in every form, its charts and its page."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgeseq.cli import plots
from edgeseq.export import export_checkpoint
from edgeseq.runtime import Model
from edgeseq.runtime.comparison.columns import compare_output, plain, signed
from edgeseq.runtime.comparison.page import page
from tests.support.commands import Captured, failure, succeed, wrong_usage

PNG = b"\x89PNG\r\n\x1a\n"
TEXT = "Once upon a time there was a clever fox; he said: “Let us go home!”\nAnd 3 üs.\n" * 40
SLOW = ["--rounds", "2", "--retries", "0", "--prompt", "8,128", "--new-tokens", "16"]
Compare = Callable[..., dict[str, Any]]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def other_bundle(other_checkpoint: Path, tmp_path_factory: Any) -> Path:
    """A bundle of the same sizes with other weights."""
    return export_checkpoint(other_checkpoint, tmp_path_factory.mktemp("other") / "other").folder


@pytest.fixture
def compare(capsys: Captured) -> Compare:
    """``compare(*arguments)``: the JSON that the command prints, without speeds."""

    def run(*arguments: object) -> dict[str, Any]:
        command = ["compare", *arguments, "--threads", "1", "-o", "json"]
        if "--rounds" not in arguments:
            command += ["--rounds", "0"]
        found: dict[str, Any] = json.loads(succeed(capsys, *command))
        return found

    return run


def reviews(folder: Path) -> Path:
    path = folder / "reviews.csv"
    rows = [f"film {i},{'positive' if i % 3 else 'negative'}" for i in range(12)]
    path.write_text("\n".join(["text,target", *rows]), encoding="utf-8")
    return path


# Quality


def test_a_bundle_beside_itself_does_not_differ(compare: Compare, bundle: Path, text: Path) -> None:
    found = compare(bundle, bundle, "--data", text)
    assert found["reference"] == "gpt2 #1"
    first, second = found["bundles"]
    assert (first["is_reference"], second["is_reference"]) == (True, False)
    assert first["perplexity"]["score"] == second["perplexity"]["score"]
    assert first["perplexity"]["difference"] is None
    none = {"value": 0, "low": 0, "high": 0}
    assert second["perplexity"]["difference"] == none
    assert second["kl_divergence"]["score"] == none
    assert second["top1_agreement"]["score"] == {"value": 1, "low": 1, "high": 1}
    assert first["kl_divergence"] is first["top1_agreement"] is None


def test_the_figures_are_those_of_eval(
    compare: Compare, bundle: Path, other_bundle: Path, text: Path, capsys: Captured
) -> None:
    found = compare(other_bundle, "--reference", bundle, "--data", text)
    assert [item["name"] for item in found["bundles"]] == ["gpt2", "other"]
    alone = ["eval", other_bundle, text, "--reference", bundle, "--threads", "1", "--json"]
    expected = json.loads(succeed(capsys, *alone))
    other = found["bundles"][1]
    assert other["perplexity"]["score"]["value"] == pytest.approx(expected["perplexity"])
    assert other["bits_per_byte"] == expected["bits_per_byte"]
    assert list(other["perplexity"]["score"].values())[1:] == expected["intervals"]["perplexity"]
    beside = expected["reference"]
    assert other["kl_divergence"]["score"]["value"] == pytest.approx(beside["kl_divergence"])
    assert other["top1_agreement"]["score"]["value"] == beside["top1_agreement"]
    difference = other["perplexity"]["difference"]
    assert difference["value"] == pytest.approx(expected["perplexity"] - beside["perplexity"])
    assert difference["low"] < difference["value"] < difference["high"]
    assert found["data"]["bytes"] == expected["bytes"]


def test_a_reference_among_the_bundles_keeps_its_row(
    compare: Compare, bundle: Path, other_bundle: Path, text: Path
) -> None:
    found = compare(other_bundle, bundle, "--reference", bundle, "--data", text)
    assert [item["is_reference"] for item in found["bundles"]] == [False, True]


def test_metrics_of_a_task_and_predictions(
    compare: Compare, bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    out, data = tmp_path / "answers.jsonl", reviews(tmp_path)
    arguments = ["--data", data, "--task", "classification", "--predictions", out]
    found = compare(bundle, other_bundle, *arguments)
    assert list(found["metrics"]) == ["accuracy", "f1"]
    assert found["data"] | {"bytes": 0} == {
        "file": "reviews.csv",
        "task": "classification",
        "examples": 12,
        "bytes": 0,
        "context": None,
        "stride": None,
        "max_new_tokens": None,
    }
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    for item in found["bundles"]:
        right = [line["predictions"][item["name"]] == line["target"] for line in lines]
        assert item["metrics"]["accuracy"]["score"]["value"] == sum(right) / 12
        assert sum(map(sum, item["confusion"]["counts"])) == 12
    first, second = (item["metrics"]["accuracy"] for item in found["bundles"])
    assert second["difference"]["value"] == second["score"]["value"] - first["score"]["value"]


def test_bundles_with_other_tokens_have_no_divergence(
    compare: Compare, bundle: Path, demo_gpt2: Model, text: Path
) -> None:
    found = compare(bundle, demo_gpt2.bundle.folder, "--data", text)
    demo = found["bundles"][1]
    assert demo["kl_divergence"] is demo["perplexity"]["difference"] is None
    assert demo["bits_per_byte"] < found["bundles"][0]["bits_per_byte"]
    [remark] = demo["remarks"]
    assert "vocabulary size differs from the reference's" in remark


def test_answers_that_are_cut_off_are_named(
    compare: Compare, t5_model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("Once upon\ta time\nhe said\tgo home\n")
    [found] = compare(t5_model.bundle.folder, "--data", path, "--max-new-tokens", "1")["bundles"]
    assert found["cut_off"] == 2
    assert found["remarks"] == [
        "t5: 2 of 2 answers were cut off at 1 new tokens: use --max-new-tokens for longer ones."
    ]


# Forms


@pytest.fixture(scope="module")
def report(bundle: Path, other_bundle: Path, tmp_path_factory: Any) -> tuple[dict[str, Any], Path]:
    """A report with speeds, and the folder with its charts and its page."""
    from edgeseq.cli.command_line import main

    folder = tmp_path_factory.mktemp("compare")
    path = folder / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    path_of_page = folder / "page.html"
    command = ["compare", bundle, other_bundle, "--data", path, *SLOW, "--threads", 1]
    command += [
        "--plot",
        folder,
        "--report",
        path_of_page,
        "--title",
        "Foxes <&> kings",
        "-o",
        "json",
    ]
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *texts, **_: printed.extend(map(str, texts)))
        assert main([str(argument) for argument in command]) == 0
    [line] = [text for text in printed if text.startswith("{")]
    return json.loads(line), folder


def test_speeds_are_those_of_bench(report: tuple[dict[str, Any], Path]) -> None:
    found, _ = report
    assert found["machine"]["onnxruntime"]
    for item in found["bundles"]:
        assert item["load_s"]["median"] > 0
        assert item["first_token_ms"]["median"] > 0
        assert set(item["prefill_tokens_per_s"]) == {"8", "32"}
        assert item["decode_tokens_per_s"]["plus_minus"] is not None
        assert 0 < item["share_of_read_bandwidth"]["max"] <= 1
        assert item["remarks_of_speed"] == [
            f"{item['name']}: the prompt length 128 is left out, because the model has only 96 "
            "positions: use --prompt up to 96."
        ]


def test_every_form_has_the_same_figures(report: tuple[dict[str, Any], Path]) -> None:
    found, _ = report
    rows = list(csv.DictReader(compare_output(found, "csv").splitlines()))
    lines = [json.loads(line) for line in compare_output(found, "jsonl").splitlines()]
    head, _, *cells = compare_output(found, "md").splitlines()[:4]
    names = [name.strip() for name in head.strip("| ").split("|")]
    for row, line, cell, item in zip(rows, lines, cells, found["bundles"], strict=True):
        speed = item["decode_tokens_per_s"]["median"]
        assert float(row["tg16"]) == line["tg16"] == speed
        assert row["pp128"] == ""
        assert line["pp128"] is None
        values = dict(zip(names, cell.strip("| ").split(" | "), strict=True))
        assert values["tg16, tokens/s"].startswith(f"{speed:.0f} ± ")
        assert values["pp128, tokens/s"] == "–"
        assert values["bundle"] == item["name"] + " (reference)" * item["is_reference"]
        assert float(row["perplexity"]) == item["perplexity"]["score"]["value"]


def test_what_was_disturbed_is_marked(report: tuple[dict[str, Any], Path]) -> None:
    found = json.loads(json.dumps(report[0]))
    for item, count in zip(found["bundles"], (0, 1), strict=True):
        item["disturbed_rounds"] = count
    head, _, first, second, *rest = compare_output(found, "md").splitlines()
    assert "\\*" not in first
    assert second.count("\\*") == 5  # load, first token, prefill, decoding, peak
    assert any("other (\\*): other programs disturbed 1 of 2 rounds" in line for line in rest)
    text = Tags(page(found, {}, "title")).text
    assert "other (*): other programs disturbed 1 of 2 rounds" in text
    rows = [json.loads(line) for line in compare_output(found, "jsonl").splitlines()]
    assert [row["disturbed_rounds"] for row in rows] == [0, 1]
    assert head.count("|") == first.count("|") == second.count("|")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((12345.6, "12346"), (958.83, "958.8"), (24.3149, "24.31"), (1, "1.000")),
        *((0.12349, "0.123"), (0.0123, "0.012"), (0.00034, "0.00034"), (0, "0")),
    ],
)
def test_numbers_have_the_digits_that_tell_something(value: float, text: str) -> None:
    assert plain(value) == text
    assert signed(value, plain) == (f"+{text}" if value else "0")
    assert signed(-value, plain) == (f"−{text}" if value else "0")


class Tags(HTMLParser):
    """The tags, and the texts between them, of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_self_contained(report: tuple[dict[str, Any], Path]) -> None:
    found, folder = report
    content = (folder / "page.html").read_text(encoding="utf-8")
    tags = Tags(content)
    assert tags.open == []
    assert len(tags.links) == 2
    assert all(link.startswith("data:image/svg+xml;base64,") for link in tags.links)
    assert "Foxes <&> kings" in tags.text
    assert "<script" not in content
    for item in found["bundles"]:
        assert item["name"] in tags.text
    assert found["machine"]["processor"] in tags.text
    assert str(folder) not in content


def test_the_charts_are_written(report: tuple[dict[str, Any], Path]) -> None:
    _, folder = report
    for name in plots.CHARTS.values():
        assert (folder / name).read_bytes().startswith(PNG)


# Refusals


def test_files_that_cannot_be_written(bundle: Path, text: Path, capsys: Captured) -> None:
    for arguments, complaint in (
        (["--report", "page.txt"], "page.txt does not end in .html"),
        (["--report", "no/page.html"], "There is no folder no for the report"),
        (["--plot", "no"], "There is no folder no for the charts"),
        (["--predictions", "a.csv"], "a.csv does not end in .jsonl"),
        (["--title", "a"], "--title has no effect without --report"),
        (["--metric", "bleu"], "--metric has no effect with a text"),
    ):
        assert failure(capsys, "compare", bundle, "--data", text, *arguments).startswith(complaint)


def test_wrong_usage(bundle: Path, capsys: Captured) -> None:
    assert "--data" in wrong_usage(capsys, "compare", bundle)
    assert "bundle" in wrong_usage(capsys, "compare", "--data", "text.txt").lower()


def test_a_broken_bundle_is_an_error(
    bundle: Path, text: Path, tmp_path: Path, capsys: Captured
) -> None:
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    (broken / "edgeseq.json").unlink()
    message = failure(capsys, "compare", bundle, broken, "--data", text)
    assert re.search("edgeseq.json", message)
