"""The text for calibrating a quantized model and for measuring its quality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from ..runtime.bundle.reading import Bundle
from ..runtime.errors import PromptError
from ..runtime.loading import open_tokenizer
from ..runtime.model import Model
from ..runtime.ort.engine import open_engine
from ..runtime.request.batching import batches
from ..runtime.request.passages import Window, holds_pairs, pair_window, read_passages
from ..runtime.request.prompts import decoder_prompts
from ..runtime.request.resolving import resolve_options
from ..runtime.text.byte_tokenizer import AnyTokenizer
from .resources.reporting import progress_in_lines

BUILT_IN = "calibration.txt"
CONTEXT = 512  # most tokens per window
TOKENS = 8192  # tokens used of a longer text (at most twice as many), half for evaluation
KNOWN = 0.5  # least share of the built-in text's letters that the tokenizer must have
ANSWER_TOKENS = 64  # most tokens of a generated target
CACHE_BYTES = 1 << 29  # memory for a batch's keys and values: of its sources, and of its targets
BATCH_ROWS, BATCH_TOKENS = 64, 8192  # large batches, since reading the weights takes most time


@dataclass(frozen=True)
class Texts:
    """Windows for calibration and windows for evaluation, both from all parts of the text."""

    name: str
    calibration: Sequence[Window]
    judged: Sequence[Window]
    context: int | None  # most tokens per window; None: windows are pairs


def find_texts(
    bundle: Bundle,
    path: Path | None,
    threads: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Texts:
    """Return windows of the file ``path``, in the format of ``edgeseq eval``; None: built-in text.

    A model with an encoder reads the built-in text line by line and generates the targets itself,
    with ``threads`` threads; ``report`` is then called with a line every ten seconds.
    Raises ``PromptError`` for a file that cannot be read in this format or is too short.
    """
    manifest, tokenizer = bundle.manifest, open_tokenizer(bundle)
    context = None
    if path is not None and holds_pairs(path, manifest):
        passages = read_passages(path, manifest, tokenizer)
    elif not manifest.has_encoder:
        context = min(CONTEXT, manifest.dimensions.max_positions or CONTEXT)
        source = built_in() if path is None else path
        if path is None:
            _check_built_in(tokenizer)
        passages = read_passages(source, manifest, tokenizer, context=context, stride=context)
    else:
        _check_built_in(tokenizer)
        model = Model(
            bundle, tokenizer, open_engine(manifest, bundle.folder, threads=threads, mapped=True)
        )
        return _halves(BUILT_IN, _made_up(model, report), None)
    if len(passages.windows) < 2:
        raise PromptError(
            f"{path} is too short to use one half for calibration and one for the quality gate: "
            f"give at least {'two pairs' if context is None else f'{context + 2} tokens'}."
        )
    return _halves(BUILT_IN if path is None else path.name, passages.windows, context)


def built_in() -> Path:
    """Return the path of the built-in text."""
    return Path(str(files("edgeseq.quantize") / BUILT_IN))


def _check_built_in(tokenizer: AnyTokenizer) -> None:
    """Raise ``PromptError`` if the tokenizer does not have most characters of the built-in text."""
    text = built_in().read_text(encoding="utf-8")
    known = tokenizer.decode(tokenizer.encode(text))
    share = sum(map(str.isalnum, known)) / sum(map(str.isalnum, text))
    if share < KNOWN:
        raise PromptError(
            f"The built-in text is English, and the model's tokenizer has only {share:.0%} of its "
            "letters and digits: give a text of the model's own with --text."
        )


def _halves(name: str, windows: Sequence[Window], context: int | None) -> Texts:
    """Choose windows, spread over the text, that predict about TOKENS tokens; return two halves.

    Pairs may repeat in a pattern, such as one line for each of two tasks. So one pair of each
    stretch is chosen at random, and so is the half of each.
    """
    step = _step(len(windows), sum(window.predicted for window in windows))
    if context is not None:
        some = windows[::step]
        return Texts(name, some[0::2], some[1::2], context)
    random = np.random.default_rng(0)
    stretches = [windows[i : i + step] for i in range(0, len(windows), step)]
    pairs = [stretch[int(random.integers(len(stretch)))] for stretch in stretches]
    halves: tuple[list[Window], list[Window]] = ([], [])
    for first in range(0, len(pairs), 2):
        for half, window in zip(random.permutation(2), pairs[first : first + 2], strict=False):
            halves[half].append(window)
    return Texts(name, *halves, context)


def _step(count: int, tokens: int) -> int:
    """Return which of ``count`` items to use, every so many, for TOKENS of all ``tokens``."""
    return min(max(1, tokens // TOKENS), max(1, count // 2))  # at least two items


def _made_up(model: Model, report: Callable[[str], None]) -> list[Window]:
    """Return the lines of the built-in text as sources, with the model's outputs as targets."""
    text = built_in().read_text(encoding="utf-8")
    manifest = model.bundle.manifest
    longest = manifest.dimensions.max_positions  # None: no limit
    lines = [line for line in text.splitlines() if line.strip()]
    every = [model.tokenizer.encode(line)[:longest] for line in lines]
    sources = every[:: _step(len(every), sum(len(source) + ANSWER_TOKENS for source in every))]
    defaults = resolve_options(manifest.generation, {}, manifest.kind)
    starts = decoder_prompts(sources, None, defaults, manifest)
    windows: dict[int, Window] = {}
    sizes = manifest.dimensions
    positions = CACHE_BYTES // (2 * 4 * sizes.layers * sizes.heads * sizes.stored_head_size)
    rows = max(1, min(BATCH_ROWS, positions // (ANSWER_TOKENS + 1)))
    tokens = min(BATCH_TOKENS, positions)
    report(f"generating targets for {len(sources)} lines")
    with progress_in_lines("generating targets", len(sources), "lines", report) as done:
        for batch in batches(list(map(len, sources)), rows=rows, tokens=tokens):
            results = model.generate_ids(
                [sources[i] for i in batch], do_sample=False, max_new_tokens=ANSWER_TOKENS
            )
            for i, result in zip(batch, results, strict=True):
                windows[i] = pair_window(sources[i], result.token_ids, starts[i])
            done(len(batch))
    return [windows[i] for i in range(len(sources))]
