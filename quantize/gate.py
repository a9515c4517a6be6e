"""The quality gate: a candidate is measured beside its source and mended if it loses too much."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..runtime.decoder import NewDecoder
from ..runtime.decoding.scoring import Window
from ..runtime.errors import QuantizationError
from ..runtime.evaluation.losses import Comparison, compare
from ..runtime.ort.engine import open_engine
from .draft import Draft

PROBE_TOKENS = 512  # on which each layer's share of the loss is measured
LARGEST_SHARE = 4  # at most one layer in so many is kept in higher precision

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Gate:
    """What a candidate is held against."""

    reference: NewDecoder
    windows: Sequence[Window]
    limit: float  # rise of perplexity, 0.01: one percent
    folder: Path  # for files of its own
    progress: Progress

    def measure(self, candidate: Draft, windows: Sequence[Window]) -> Comparison:
        """The candidate, with its own default cache, beside the source."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            manifest = candidate.write(Path(name))
            return compare(self.reference, open_engine(manifest, Path(name)).decoder, windows)

    def admit(
        self, candidate: Draft, *, other_cache: bool, allow_loss: bool
    ) -> tuple[Draft, Comparison]:
        """The candidate as it can be let through, and what it was measured to lose.

        Where it loses too much, first a float32 cache is tried (with ``other_cache``), then the
        most sensitive layers in higher precision. Raises ``QuantizationError`` if nothing is
        enough, unless ``allow_loss``.
        """
        best = candidate, self._measured(candidate)
        if self._holds(best[1]):
            return best
        if other_cache and candidate.recipe.kv_cache == "int8":
            self.progress("trying a cache in float32")
            best = self._better(best, _with_float_cache(candidate))
        if not self._holds(best[1]):
            best = self._with_kept_layers(best)
        if not self._holds(best[1]) and not allow_loss:
            raise QuantizationError(
                f"Perplexity rises by {best[1].perplexity_rise:.2%}, and {self.limit:.2%} is the "
                f"limit, with {len(best[0].recipe.kept_layers)} layers in higher precision: choose "
                "another recipe or a smaller block size, raise the limit (--max-loss), or take "
                "the loss (--allow-loss)."
            )
        return best

    def _with_kept_layers(self, best: tuple[Draft, Comparison]) -> tuple[Draft, Comparison]:
        """1, 2, 4 … of the most sensitive layers until they are enough, or the best there was."""
        candidate = best[0]
        ranked = self._by_sensitivity(candidate)
        most, count = len(ranked) // LARGEST_SHARE, 1
        while ranked and not self._holds(best[1]):
            self.progress(f"keeping {', '.join(ranked[:count])} in {candidate.recipe.kept}")
            best = self._better(best, candidate.keeping(ranked[:count]))
            if count >= most:
                break
            count = min(2 * count, most)
        return best

    def _by_sensitivity(self, candidate: Draft) -> list[str]:
        """Layers, first the one that lowers the divergence most when it is kept alone."""
        layers = candidate.keepable
        probe = probe_windows(self.windows, PROBE_TOKENS)
        divergences = {}
        for number, layer in enumerate(layers, 1):
            self.progress(f"measuring what {layer} costs ({number} of {len(layers)})")
            kept = self.measure(candidate.keeping([layer]), probe)
            divergences[layer] = kept.kl_divergence
        return sorted(layers, key=divergences.__getitem__)

    def _better(self, best: tuple[Draft, Comparison], candidate: Draft) -> tuple[Draft, Comparison]:
        measured = self._measured(candidate)
        better = measured.perplexity_rise < best[1].perplexity_rise
        return (candidate, measured) if better or math.isnan(best[1].perplexity_rise) else best

    def _holds(self, measured: Comparison) -> bool:
        """Whether the rise is within the limit; one that is no number is not."""
        return measured.perplexity_rise <= self.limit

    def _measured(self, candidate: Draft) -> Comparison:
        measured = self.measure(candidate, self.windows)
        rise = measured.perplexity_rise
        change = f"falls by {-rise:.2%}" if rise < 0 else f"rises by {rise:.2%}"
        self.progress(
            f"perplexity {change} (limit {self.limit:.2%}), "
            f"{measured.top1_agreement:.1%} of the most probable tokens stay"
        )
        return measured


def probe_windows(windows: Sequence[Window], tokens: int) -> list[Window]:
    """The first windows that predict about ``tokens`` tokens, at least one of them."""
    chosen: list[Window] = []
    for window in windows:
        chosen.append(window)
        tokens -= window.predicted
        if tokens <= 0:
            break
    return chosen


def _with_float_cache(candidate: Draft) -> Draft:
    return replace(candidate, recipe=replace(candidate.recipe, kv_cache="float32"))
