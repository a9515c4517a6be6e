"""The quality gate: measure a draft against its source, and improve it if it loses too much."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..runtime.decoder import NewDecoder
from ..runtime.errors import QuantizationError
from ..runtime.evaluation.losses import Comparison, compare
from ..runtime.ort.engine import open_engine
from ..runtime.request.passages import Window
from .draft import Draft

PROBE_TOKENS = 512  # tokens on which each layer's share of the loss is measured
LARGEST_SHARE = 4  # at most one layer in this many is kept in higher precision

ReportProgress = Callable[[str], None]


@dataclass(frozen=True)
class Gate:
    """A limit on the rise of perplexity, with the reference and the text to measure it."""

    reference: NewDecoder
    windows: Sequence[Window]
    limit: float  # highest rise of perplexity; 0.01: one percent
    folder: Path  # folder for temporary files
    progress: ReportProgress

    def measure(self, candidate: Draft, windows: Sequence[Window]) -> Comparison:
        """Compare the candidate, with its default KV cache, with the reference."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            manifest = candidate.write(Path(name))
            return compare(self.reference, open_engine(manifest, Path(name)).decoder, windows)

    def admit(
        self, candidate: Draft, *, other_cache: bool, allow_loss: bool
    ) -> tuple[Draft, Comparison]:
        """Return a candidate that passes the gate, and its comparison with the reference.

        If the candidate loses too much, try a float32 KV cache (if ``other_cache``), then the most
        sensitive layers in higher precision. If that is not enough, raise ``QuantizationError``, or
        return the best candidate if ``allow_loss``.
        """
        best = candidate, self._measured(candidate)
        if self._holds(best[1]):
            return best
        if other_cache and candidate.recipe.kv_cache == "int8":
            self.progress("trying a float32 KV cache")
            best = self._better(best, _with_float_cache(candidate))
        if not self._holds(best[1]):
            best = self._with_kept_layers(best)
        if not self._holds(best[1]) and not allow_loss:
            raise QuantizationError(
                f"Perplexity rises by {best[1].perplexity_rise:.2%}, more than the limit of "
                f"{self.limit:.2%}, with {len(best[0].recipe.kept_layers)} layers in higher "
                "precision: use another recipe or a smaller block size, raise the limit "
                "(--max-loss), or accept the loss (--allow-loss)."
            )
        return best

    def _with_kept_layers(self, best: tuple[Draft, Comparison]) -> tuple[Draft, Comparison]:
        """Keep the 1, 2, 4 … most sensitive layers until the gate passes; return the best draft."""
        candidate = best[0]
        ranked = self._by_sensitivity(candidate)
        most, count = len(ranked) // LARGEST_SHARE, 1
        while ranked and not self._holds(best[1]):
            kept = ", ".join(ranked[:count])
            self.progress(f"keeping {kept} in higher precision")
            best = self._better(best, candidate.keeping(ranked[:count]))
            if count >= most:
                break
            count = min(2 * count, most)
        return best

    def _by_sensitivity(self, candidate: Draft) -> list[str]:
        """Return the layers, most sensitive first.

        A layer's sensitivity is measured by keeping it alone in higher precision: the lower the KL
        divergence then is, the more sensitive is the layer.
        """
        layers = candidate.keepable
        probe = probe_windows(self.windows, PROBE_TOKENS)
        divergences = {}
        for number, layer in enumerate(layers, 1):
            self.progress(f"measuring the sensitivity of {layer} ({number} of {len(layers)})")
            kept = self.measure(candidate.keeping([layer]), probe)
            divergences[layer] = kept.kl_divergence
        return sorted(layers, key=divergences.__getitem__)

    def _better(self, best: tuple[Draft, Comparison], candidate: Draft) -> tuple[Draft, Comparison]:
        measured = self._measured(candidate)
        better = measured.perplexity_rise < best[1].perplexity_rise
        return (candidate, measured) if better or math.isnan(best[1].perplexity_rise) else best

    def _holds(self, measured: Comparison) -> bool:
        """Return whether the rise is within the limit; False for NaN."""
        return measured.perplexity_rise <= self.limit

    def _measured(self, candidate: Draft) -> Comparison:
        measured = self.measure(candidate, self.windows)
        rise = measured.perplexity_rise
        self.progress(
            f"perplexity {rise:+.2%} (limit {self.limit:+.2%}), "
            f"top-1 agreement {measured.top1_agreement:.1%}"
        )
        return measured


def probe_windows(windows: Sequence[Window], tokens: int) -> list[Window]:
    """Return the first windows that predict about ``tokens`` tokens, at least one window."""
    chosen: list[Window] = []
    for window in windows:
        chosen.append(window)
        tokens -= window.predicted
        if tokens <= 0:
            break
    return chosen


def _with_float_cache(candidate: Draft) -> Draft:
    return replace(candidate, recipe=replace(candidate.recipe, kv_cache="float32"))
