"""The quality gate: measure a draft against its source, and improve it if it loses too much."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ..runtime.bundle.manifest import WEIGHTS_FILE_NAME
from ..runtime.decoder import Decoder, Logits, NewDecoder
from ..runtime.errors import QuantizationError
from ..runtime.evaluation.losses import Comparison, compare
from ..runtime.ort.engine import open_engine
from ..runtime.request.passages import Window
from .draft import Draft
from .graph.writer import PooledWeights
from .resources.reporting import progress_in_lines
from .resources.scratch import Scratch

PROBE_TOKENS = 512  # tokens on which each layer's share of the loss is measured
PROBED_LAYERS = 16  # most layers that are measured one by one
RECORDED_BYTES = 2 << 30  # most bytes of the reference's logits on the disk
LARGEST_SHARE = 4  # at most one layer in this many is kept in higher precision

ReportProgress = Callable[[str], None]
TokenTuple = tuple[int, ...]


@dataclass(frozen=True)
class Gate:
    """A limit on the rise of perplexity, with the reference and the text to measure it."""

    reference: NewDecoder
    windows: Sequence[Window]
    limit: float  # highest rise of perplexity; 0.01: one percent
    folder: Path  # folder for temporary files
    progress: ReportProgress
    threads: int | None = None

    def measure(
        self,
        candidate: Draft,
        windows: Sequence[Window],
        tell: Callable[[int], object] = lambda tokens: None,
    ) -> Comparison:
        """Compare the candidate, with its default KV cache, with the reference.

        The drafts share one weights file, so only what is new in a candidate is written. ``tell``
        is called with the number of newly read tokens.
        """
        manifest = candidate.write(self._drafts, self._pool)
        engine = open_engine(manifest, self._drafts, threads=self.threads)
        return compare(self.reference, engine.decoder, windows, tell)

    @cached_property
    def _drafts(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    @cached_property
    def _pool(self) -> PooledWeights:
        return PooledWeights(self._drafts / WEIGHTS_FILE_NAME)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the files of the drafts."""
        if "_pool" in self.__dict__:
            self._pool.close()
        if "_drafts" in self.__dict__:
            shutil.rmtree(self._drafts, ignore_errors=True)

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

        The layers whose outputs have the largest errors are measured by keeping each of them alone
        in higher precision: the lower the KL divergence then is, the more sensitive is the layer.
        The others follow in the order of their errors.
        """
        layers, others = candidate.keepable[:PROBED_LAYERS], candidate.keepable[PROBED_LAYERS:]
        probe = probe_windows(self.windows, PROBE_TOKENS)
        divergences = {}
        self.progress(f"measuring the sensitivity of {len(layers)} layers")
        with progress_in_lines("measuring", len(layers), "layers", self.progress) as done:
            for layer in layers:
                kept = self.measure(candidate.keeping([layer]), probe)
                divergences[layer] = kept.kl_divergence
                done(1)
        return [*sorted(layers, key=divergences.__getitem__), *others]

    def _better(self, best: tuple[Draft, Comparison], candidate: Draft) -> tuple[Draft, Comparison]:
        measured = self._measured(candidate)
        better = measured.perplexity_rise < best[1].perplexity_rise
        return (candidate, measured) if better or math.isnan(best[1].perplexity_rise) else best

    def _holds(self, measured: Comparison) -> bool:
        """Return whether the rise is within the limit; False for NaN."""
        return measured.perplexity_rise <= self.limit

    def _measured(self, candidate: Draft) -> Comparison:
        total = sum(window.predicted for window in self.windows)
        with progress_in_lines("measuring", total, "tokens", self.progress) as done:
            measured = self.measure(candidate, self.windows, done)
        rise = measured.perplexity_rise
        self.progress(
            f"perplexity {rise:+.2%} (limit {self.limit:+.2%}), "
            f"top-1 agreement {measured.top1_agreement:.1%}"
        )
        return measured


class Recorded:
    """The reference's decoder, which computes the logits of a window only once.

    They lie in a temporary file, up to ``limit`` and RECORDED_BYTES. Its ``__call__`` is a
    ``NewDecoder``.
    """

    def __init__(self, reference: NewDecoder, scratch: Scratch, limit: int) -> None:
        self._reference = reference
        self._scratch = scratch
        self._known: dict[tuple[TokenTuple, TokenTuple], Logits] = {}
        self._left = min(RECORDED_BYTES, limit)

    def __call__(self, prompts: Sequence[Sequence[int]], capacity: int) -> Any:
        """Return an object that reads the tokens after one prompt, as ``window_logits`` does."""
        [prompt] = prompts
        return _Reading(self, tuple(prompt), lambda: self._reference(prompts, capacity))

    def logits(self, prompt: TokenTuple, tokens: TokenTuple) -> Logits | None:
        """Return the logits of the last block of ``tokens``; None if they are unknown."""
        return self._known.get((prompt, tokens))

    def keep(self, prompt: TokenTuple, tokens: TokenTuple, logits: Logits) -> None:
        """Write logits to the temporary file, if there is room."""
        if logits.nbytes <= self._left:
            self._left -= logits.nbytes
            self._known[prompt, tokens] = self._scratch.keep(logits.copy())


class _Reading:
    """Reads the tokens of one window, block by block."""

    def __init__(
        self, recorded: Recorded, prompt: TokenTuple, new_decoder: Callable[[], Decoder]
    ) -> None:
        self._recorded = recorded
        self._prompt = prompt
        self._new_decoder = new_decoder
        self._decoder: Decoder | None = None
        self._blocks: list[Sequence[int]] = []
        self._fed = 0  # blocks that the decoder has read

    def read(self, tokens: Sequence[int]) -> Logits:
        """Read the next tokens; return (tokens, vocabulary) logits after each."""
        self._blocks.append(tokens)
        before = tuple(token for block in self._blocks for token in block)
        known = self._recorded.logits(self._prompt, before)
        if known is not None:
            return known
        if self._decoder is None:
            self._decoder = self._new_decoder()
        for block in self._blocks[self._fed :]:
            logits = self._decoder.read(block)
        self._fed = len(self._blocks)
        self._recorded.keep(self._prompt, before, logits)
        return logits


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
