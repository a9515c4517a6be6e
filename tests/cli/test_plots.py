"""Losses by position, and the plots of ``edgeseq eval`` and ``edgeseq bench``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.cli.plots import check_plot, plot_bench
from edgeseq.runtime import Model
from edgeseq.runtime.evaluation.losses import PositionLoss, compare, measure
from edgeseq.runtime.request.passages import text_windows
from tests.support.commands import Captured, failure, succeed

PNG = b"\x89PNG\r\n\x1a\n"
IDS = [(7 * i) % 300 for i in range(90)]


def test_bins_double() -> None:
    losses = PositionLoss()
    losses.add(1, [-1.0, -2.0, -4.0, -5.0])
    losses.add(3, [-6.0])
    found = [(b.first, b.last, b.tokens, b.cross_entropy) for b in losses.bins()]
    assert found == [(1, 1, 1, 1.0), (2, 3, 3, 4.0), (4, 7, 1, 5.0)]
    assert PositionLoss().bins() == []


@pytest.mark.parametrize("first", [1, 2, 3, 4, 511, 512, 1023, 4095])
def test_a_token_is_in_the_bin_of_its_position(first: int) -> None:
    losses = PositionLoss()
    losses.add(first, np.zeros(1))
    [found] = losses.bins()
    assert found.first <= first <= found.last


@pytest.mark.parametrize(("context", "stride"), [(90, 90), (32, 16), (10, 10)])
def test_the_sum_of_all_positions_is_the_loss(model: Model, context: int, stride: int) -> None:
    windows, losses = text_windows(IDS, context, stride), PositionLoss()
    loss = measure(model.new_decoder, windows, by_position=losses)
    bins = losses.bins()
    assert sum(found.tokens for found in bins) == loss.tokens
    assert sum(b.tokens * b.cross_entropy for b in bins) == pytest.approx(loss.nats)
    assert bins[-1].first <= min(context, len(IDS) - 1)
    reference, candidate = PositionLoss(), PositionLoss()
    compare(model.new_decoder, model.new_decoder, windows, by_position=(reference, candidate))
    assert candidate.bins() == reference.bins()
    assert [b.tokens for b in reference.bins()] == [b.tokens for b in bins]
    for one, other in zip(reference.bins(), bins, strict=True):
        assert one.cross_entropy == pytest.approx(other.cross_entropy)


def test_eval_plots_and_reports(tmp_path: Path, capsys: Captured) -> None:
    text, png = tmp_path / "text.txt", tmp_path / "loss.png"
    text.write_text("Once upon a time there was a king who had a daughter. " * 20)
    command = ["eval", "--demo", "gpt2", str(text), "--json", "--plot", str(png)]
    report = json.loads(succeed(capsys, *command))
    assert png.read_bytes().startswith(PNG)
    assert sum(b["tokens"] for b in report["loss_by_position"]) == report["tokens"]
    assert report["loss_by_position"][0]["first"] == 1


def bench_report() -> dict[str, Any]:
    figure = {"median": 50.0, "min": 40.0, "max": 60.0, "quartile_1": 45.0, "quartile_3": 55.0}
    bundles = [
        {"name": name, "tokens_per_s": {"32": figure, "900": figure}} for name in ("one", "two")
    ]
    return {"rounds": 5, "bundles": bundles}


def test_bench_plots(tmp_path: Path) -> None:
    plot_bench(bench_report(), tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(PNG)


def test_an_impossible_plot_is_refused_before_any_work(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_plot(None)
    for path, message in (
        (tmp_path / "loss.svg", "does not end in .png"),
        (tmp_path / "no" / "loss.png", "There is no folder"),
    ):
        for command in (["eval", "--demo", "gpt2", "text.txt"], ["bench", "--demo", "gpt2"]):
            assert message in failure(capsys, *command, "--plot", path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = failure(capsys, "bench", "--demo", "gpt2", "--plot", tmp_path / "loss.png")
    assert "install the extra 'bench'" in message
