"""Labels of points overlap neither each other nor the points, where there is room."""

from __future__ import annotations

import math
import random
from itertools import combinations, pairwise

import pytest

from edgeseq.cli.labels import Box, place_labels

pyplot = pytest.importorskip("matplotlib.pyplot")


def test_the_overlap_of_boxes() -> None:
    assert Box(0, 0, 2, 2).overlap(Box(1, 1, 4, 4)) == 1
    assert Box(0, 0, 2, 2).overlap(Box(2, 0, 3, 2)) == 0
    assert Box(0, 0, 2, 2).overlap(Box(3, 3, 4, 4)) == 0
    assert Box(0, 0, 2, 3).area == 6


@pytest.mark.parametrize("seed", range(4))
def test_no_label_covers_another_or_a_point(seed: int) -> None:
    chance = random.Random(seed)
    figure, axes = pyplot.subplots(figsize=(7.2, 4.4), dpi=150)
    axes.set_xlim(0, 300)
    axes.set_ylim(20, 30)
    points = [(chance.uniform(40, 260), chance.uniform(22, 28)) for _ in range(6)]
    points[1] = points[0][0] + 2, points[0][1] + 0.1  # nearly the same place
    areas = [chance.uniform(40, 600) for _ in points]
    boxes = place_labels(figure, axes, points, areas, [f"bundle-{i}\n{i} MB" for i in range(6)])
    window = Box(*axes.get_window_extent().extents)
    for one, other in combinations(boxes, 2):
        assert one.overlap(other) == 0
    for box in boxes:
        assert box.overlap(window) == pytest.approx(box.area)
        for point, area in zip(points, areas, strict=True):
            x, y = axes.transData.transform(point)
            radius = math.sqrt(area / math.pi) * 150 / 72
            assert box.overlap(Box(x - radius, y - radius, x + radius, y + radius)) == 0
    texts = [text.get_window_extent() for text in axes.texts]
    for one, other in combinations(texts, 2):
        assert not one.overlaps(other)
    pyplot.close(figure)


def test_points_in_one_place_have_labels_around_it() -> None:
    figure, axes = pyplot.subplots(dpi=100)
    boxes = place_labels(figure, axes, [(0.5, 0.5)] * 4, [100.0] * 4, ["one", "two", "3", "four"])
    assert all(one.overlap(other) == 0 for one, other in pairwise(boxes))
    pyplot.close(figure)
