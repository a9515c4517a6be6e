"""The text that a quantized model is calibrated and judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ..runtime.bundle.reading import Bundle
from ..runtime.decoding.scoring import Window, pair_window
from ..runtime.errors import PromptError
from ..runtime.evaluation.passages import read_passages
from ..runtime.loading import open_tokenizer
from ..runtime.model import Model
from ..runtime.ort.engine import open_engine
from ..runtime.request.batching import batches
from ..runtime.request.prompts import decoder_prompts
from ..runtime.request.resolving import resolve_options

BUILT_IN = "calibration.txt"
CONTEXT = 512  # tokens of a window at most
TOKENS = 8192  # of a longer text that are used, up to twice as many, half of them to judge
ANSWER_TOKENS = 64  # of a target that the model has to make up itself


@dataclass(frozen=True)
class Texts:
    """Windows to calibrate on and windows to judge on: every other one, so that both are alike."""

    name: str
    calibration: Sequence[Window]
    judged: Sequence[Window]
    context: int | None  # None: pairs


def find_texts(bundle: Bundle, path: Path | None) -> Texts:
    """Windows of the file ``path``, as ``edgeseq eval`` reads it, or of the built-in text.

    A model with an encoder reads the built-in text line by line and makes up the targets itself.
    Raises ``PromptError`` for a file that cannot be read so.
    """
    manifest, tokenizer = bundle.manifest, open_tokenizer(bundle)
    context = None
    if not manifest.has_encoder:
        context = min(CONTEXT, manifest.dimensions.max_positions or CONTEXT)
        source = built_in() if path is None else path
        passages = read_passages(source, manifest, tokenizer, context=context, stride=context)
    elif path is not None:
        passages = read_passages(path, manifest, tokenizer)
    else:
        model = Model(bundle, tokenizer, open_engine(manifest, bundle.folder))
        return _halves(BUILT_IN, _made_up(model), None)
    if len(passages.windows) < 2:
        raise PromptError(
            f"{path} is too short to calibrate on one half and judge by the other: give at least "
            f"{'two pairs' if context is None else f'{context + 2} tokens'}."
        )
    return _halves(BUILT_IN if path is None else path.name, passages.windows, context)


def built_in() -> Path:
    """The text that comes with edgeseq."""
    return Path(str(files("edgeseq.quantize") / BUILT_IN))


def _halves(name: str, windows: Sequence[Window], context: int | None) -> Texts:
    """As many windows as predict about TOKENS tokens, from all over the text, in two halves."""
    total = sum(window.predicted for window in windows)
    step = min(max(1, total // TOKENS), max(1, len(windows) // 2))
    some = windows[::step]  # two at least
    return Texts(name, some[0::2], some[1::2], context)


def _made_up(model: Model) -> list[Window]:
    """The lines of the built-in text, each with what the model says to it."""
    text = built_in().read_text(encoding="utf-8")
    sources = [model.tokenizer.encode(line) for line in text.splitlines() if line.strip()]
    manifest = model.bundle.manifest
    defaults = resolve_options(manifest.generation, {}, manifest.kind)
    starts = decoder_prompts(sources, None, defaults, manifest)
    windows: dict[int, Window] = {}
    for batch in batches(list(map(len, sources))):
        results = model.generate_ids(
            [sources[i] for i in batch], do_sample=False, max_new_tokens=ANSWER_TOKENS
        )
        for i, result in zip(batch, results, strict=True):
            windows[i] = pair_window(sources[i], result.token_ids, starts[i])
    return [windows[i] for i in range(len(sources))]
