"""Labels of the points of a plot, placed so that they overlap neither each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

GAP = 4.0  # pixels between a point and its label
DIRECTIONS = 16  # around a point
RINGS = 8  # distances that are tried
RING = 12.0  # pixels from one distance to the next
LINE_FROM = 2  # ring from which a line connects a label with its point
OUTSIDE = 10.0  # cost of a pixel² outside the axes, compared with one of an overlap
HALO = 2.0  # pixels around a label that stay free


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """Return the area that two boxes share."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    @property
    def area(self) -> float:
        """The area in pixels²."""
        return (self.right - self.left) * (self.top - self.bottom)


def place_labels(
    figure: Any,
    axes: Any,
    points: Sequence[tuple[float, float]],
    areas: Sequence[float],
    labels: Sequence[str],
    bars: Sequence[tuple[float, float, float, float]] = (),
) -> list[Box]:
    """Write a label beside each point; return where they are, in pixels.

    ``areas``: of the points' markers, in points². ``bars``: left, bottom, right and top of the
    points' error bars, in the units of the axes. The nearest free place is taken; if there is none,
    the one that overlaps least.
    """
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    centres = [tuple(axes.transData.transform(point)) for point in points]
    radii = [math.sqrt(area / math.pi) * figure.dpi / 72 for area in areas]
    markers = [
        Box(x - radius, y - radius, x + radius, y + radius)
        for (x, y), radius in zip(centres, radii, strict=True)
    ]
    for (x, y), (left, bottom, right, top) in zip(centres, bars, strict=True) if bars else ():
        low = axes.transData.transform((left, bottom))
        high = axes.transData.transform((right, top))
        markers += [Box(low[0], y - 4, high[0], y + 4), Box(x - 4, low[1], x + 4, high[1])]
    window = Box(*axes.get_window_extent(renderer).extents)
    placed: list[Box] = []
    for (x, y), radius, label in zip(centres, radii, labels, strict=True):
        size = _size(figure, axes, renderer, label)
        best, ring = min(
            ((box, ring) for ring, box in _places(x, y, radius, size)),
            key=lambda found: _cost(found[0], [*placed, *markers], window) + 1e-6 * found[1],
        )
        placed.append(best)
        across, up = (best.left + best.right) / 2 - x, (best.bottom + best.top) / 2 - y
        axes.annotate(
            label,
            xy=axes.transData.inverted().transform((x, y)),
            xytext=(72 / figure.dpi * across, 72 / figure.dpi * up),
            textcoords="offset points",  # pixels would change with the file's format
            ha="center",
            va="center",
            fontsize=8,
            zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
            arrowprops={"arrowstyle": "-", "color": "#888888", "linewidth": 0.6, "shrinkA": 0}
            if ring >= LINE_FROM
            else None,
        )
    return placed


def _size(figure: Any, axes: Any, renderer: Any, label: str) -> tuple[float, float]:
    """Return width and height of a label in pixels, with its halo."""
    text = axes.text(0, 0, label, fontsize=8)
    extent = text.get_window_extent(renderer)
    text.remove()
    return extent.width + 2 * HALO, extent.height + 2 * HALO


def _places(
    x: float, y: float, radius: float, size: tuple[float, float]
) -> Iterator[tuple[int, Box]]:
    """Yield the places around a point, the nearest first, to the right first."""
    width, height = size
    for ring in range(RINGS):
        for number in range(DIRECTIONS):
            angle = 2 * math.pi * number / DIRECTIONS
            distance = radius + GAP + ring * RING
            cx = x + math.cos(angle) * (distance + width / 2)
            cy = y + math.sin(angle) * (distance + height / 2)
            yield (
                ring,
                Box(cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2),
            )


def _cost(box: Box, others: Sequence[Box], window: Box) -> float:
    outside = box.area - box.overlap(window)
    return OUTSIDE * outside + sum(box.overlap(other) for other in others)
