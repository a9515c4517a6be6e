"""Losses by position, and the plots of ``edgeseq eval`` and ``edgeseq bench``."""

from __future__ import annotations

import json
import sys
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image
from matplotlib.pyplot import close

from edgeseq.cli.plots import check_plot, looks, plot_bench, plot_eval, quality_chart
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


def compare_report(*values: tuple[float, float, float], metric: bool = False) -> dict[str, Any]:
    """Return a report of bundles with size, speed and quality; the first is the reference."""
    bundles = []
    for i, (size, speed, quality) in enumerate(values):
        difference = quality - values[0][2]
        limits = {"value": difference, "low": difference - 0.1, "high": difference + 0.1}
        estimate = {
            "score": {"value": quality, "low": quality - 1, "high": quality + 1},
            "difference": limits if i else None,
        }
        bundles.append(
            {
                "name": f"bundle-{i}",
                "size_mb": size,
                "decode_tokens_per_s": {"median": speed, "plus_minus": 0.1 * speed},
                "perplexity": estimate,
                "metrics": {"accuracy": estimate} if metric else {},
                "is_reference": i == 0,
            }
        )
    found = {"title": "accuracy", "is_better_high": True, "is_share": True}
    return {
        "metrics": {"accuracy": found} if metric else {},
        "new_tokens": 128,
        "data": {"file": "text.txt"},
        "bundles": bundles,
    }


def test_axes_of_quality_fit_the_figures() -> None:
    report = compare_report((500, 60, 24.3), (127, 180, 24.4), (78, 240, 25.0))
    for by, span in (("speed", (10, 320)), ("size", (0, 620))):
        figure = quality_chart(report, by)
        [axes] = figure.axes
        assert 23.9 < axes.get_ylim()[0] < 24.3 < 25.1 < axes.get_ylim()[1] < 25.5
        low, high = axes.get_xlim()
        assert span[0] <= low < high <= span[1]
        assert axes.get_ylabel() == "perplexity (lower is better)"
        close(figure)


def test_bundles_that_do_not_differ_are_on_one_line() -> None:
    figure = quality_chart(compare_report((4, 600, 4.055), (4, 640, 4.055 + 1e-13)), "speed")
    low, high = figure.axes[0].get_ylim()
    assert high - low > 0.01
    close(figure)


def test_a_metric_replaces_the_perplexity_and_large_ratios_are_logarithmic() -> None:
    report = compare_report((500, 10, 0.8), (60, 200, 0.7), metric=True)
    figure = quality_chart(report, "speed")
    [axes] = figure.axes
    assert axes.get_ylabel() == "accuracy, % (higher is better)"
    assert axes.get_xscale() == "log"
    close(figure)


def test_what_has_no_figure_is_not_drawn() -> None:
    report = compare_report((500, 10, float("inf")), (60, 200, 24.0))
    figure = quality_chart(report, "size")
    assert [text.get_text() for text in figure.axes[0].texts] == ["bundle-1\n60.0 MB"]
    close(figure)
    for bundle in report["bundles"]:
        bundle["decode_tokens_per_s"] = None
    assert quality_chart(report, "speed") is None


def test_lines_differ_by_colour_style_and_marker() -> None:
    found = list(islice(looks(), 280))
    assert len({repr(look) for look in found}) == 280
    for one, other in pairwise(found):
        assert all(a != b for a, b in zip(one, other, strict=True))


def test_lines_that_coincide_have_their_difference_below(tmp_path: Path) -> None:
    bins = [{"first": 2**i, "cross_entropy": 7.0 - i} for i in range(5)]
    report = {
        "bundle": "int8",
        "kv_cache": "int8",
        "text": "text.txt",
        "tokens": 100,
        "loss_by_position": bins,
    }
    plot_eval(report, tmp_path / "alone.png")
    plot_eval({**report, "reference": {**report, "bundle": "fp32"}}, tmp_path / "beside.png")
    alone, beside = (image.imread(tmp_path / name) for name in ("alone.png", "beside.png"))
    assert beside.shape[0] > 1.2 * alone.shape[0]


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
