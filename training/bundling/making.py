"""From a checkpoint to a bundle: export, quantize, and measure what each step lost.

The work happens in a hidden folder beside the bundle. The bundle is moved into place once its card
is written, so a run that fails or is interrupted leaves no bundle.
"""

from __future__ import annotations

import json
import math
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...export import export_checkpoint
from ...quantize import quantize_bundle
from ...quantize.recipes import AUTO, RECIPES
from ...runtime.bundle.manifest import CARD_NAME, MANIFEST_NAME
from ...runtime.bundle.reading import PARTIAL, Bundle
from ...runtime.bundle.writing import BundleWriter
from ...runtime.errors import EdgeseqError, OptionError, PromptError, QuantizationError
from ...runtime.evaluation.report import measure_report
from ...runtime.loading import load
from ...runtime.model import Model
from ...runtime.request.passages import Pair, Passages, holds_pairs, pair_passages, read_passages
from ...runtime.text.input_lines import split_lines
from ..template import Template
from .card import RunFacts, model_card
from .evaluating import checkpoint_figures
from .loss_table import COLUMNS, Figures

BUNDLE = "bundle"
FLOAT32 = "fp32"  # the precision without quantization
PAIRS = 500  # most held-out pairs that are measured
TEXT_BYTES = 200_000  # most bytes of held-out text that are measured
WORK = f".{FLOAT32}{PARTIAL}"  # beginning of the name of the folder for the work
CHECKPOINT_STAGE, FLOAT32_STAGE = "trained checkpoint", "float32 bundle"

ReportProgress = Callable[[str], None]


def check_precision(precision: str | None) -> None:
    """Raise ``OptionError`` unless ``make_bundle`` knows the precision; None: no bundle."""
    known = (FLOAT32, *RECIPES, AUTO)
    if precision is not None and precision not in known:
        raise OptionError(f"precision is {precision!r:.60}; it must be one of {', '.join(known)}.")


def make_bundle(
    checkpoint: Path,
    out: Path,
    *,
    held_out: Path,
    precision: str,
    template: Template,
    facts: RunFacts,
    progress: ReportProgress = lambda message: None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Make the bundle ``out/bundle`` of a trained checkpoint, and return its figures.

    Args:
        checkpoint: The folder of the checkpoint.
        out: The folder of the run. A bundle that is already there is replaced.
        held_out: The run's held-out pairs or text, as ``edgeseq eval`` reads it: for calibration,
            for the quality gate and for the figures. A sample of it is measured if it is long.
        precision: ``"fp32"``, or a recipe of ``edgeseq quantize``, or ``"auto"``.
        template: The settings of the run, for the card.
        facts: What the card says besides.
        progress: A function that is called with one line of text per step.
        threads: The number of threads. By default, one per core that the process may use.

    Returns:
        ``precision`` (the recipe), ``measured_on`` and ``stages``: the figures of the checkpoint,
        of the float32 bundle and of the quantized bundle by name.

    Raises:
        QuantizationError: The quantized bundle loses more than its recipe allows, or the held-out
            part is too small to judge. The checkpoint stays, and there is no bundle.
        CheckpointError: The checkpoint cannot be exported.
        BundleError: The disk has too little free space, or another process is writing there.
    """
    with _work_folder(out) as work:
        progress("exporting the checkpoint")
        bundle = export_checkpoint(checkpoint, work / "float32", progress=_but_where(progress))
        stages: dict[str, Figures] = {}
        with load(bundle.folder, threads=threads) as exported:
            sample, passages = _sample(held_out, exported, work)
            measured_on = _described(held_out, passages)
            progress(f"measuring the checkpoint and the float32 bundle on {measured_on}")
            stages[CHECKPOINT_STAGE] = {
                "size_bytes": _size(checkpoint),
                **_chosen(checkpoint_figures(checkpoint, exported, passages, threads)),
            }
            stages[FLOAT32_STAGE] = _bundle_figures(exported, passages)
        if precision != FLOAT32:
            bundle = _quantized(bundle, work, sample, precision, checkpoint, progress, threads)
            recipe = bundle.manifest.quantization.recipe
            progress(f"measuring the {recipe} bundle on {measured_on}")
            with load(bundle.folder, threads=threads) as quantized:
                stages[f"{recipe} bundle"] = _bundle_figures(quantized, passages)
        card = model_card(
            out.absolute().name, template, facts, bundle.manifest, stages, measured_on
        )
        written = _move(bundle, card, out / BUNDLE)
        progress(f"wrote {written.folder}")
        return {
            "precision": bundle.manifest.quantization.recipe,
            "measured_on": measured_on,
            "stages": stages,
        }


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Make a folder in ``out`` for the block; also delete what killed processes left there."""
    for left in out.glob(f"{WORK}*"):
        shutil.rmtree(left, ignore_errors=True)
    work = out / f"{WORK}{secrets.token_hex(4)}"
    work.mkdir(parents=True)
    try:
        yield work
    except EdgeseqError as error:  # the folder of the work is gone when the message is read
        if str(work) not in str(error):
            raise
        raise type(error)(str(error).replace(str(work), str(out))) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sample(held_out: Path, exported: Model, work: Path) -> tuple[Path, Passages]:
    """Return a file with the held-out examples that are measured, and their windows.

    Pairs that are too long for the model are left out. Raises ``QuantizationError`` if nothing is
    left.
    """
    manifest, tokenizer = exported.bundle.manifest, exported.tokenizer
    sample = work / held_out.name
    if not holds_pairs(held_out, manifest):
        text = held_out.read_bytes()[:TEXT_BYTES].decode(errors="ignore")
        sample.write_text(text, encoding="utf-8", newline="")
        return sample, read_passages(sample, manifest, tokenizer)
    lines = split_lines(held_out.read_text(encoding="utf-8"))
    found = [json.loads(line) for line in lines[:: math.ceil(len(lines) / PAIRS)]]
    pairs = [(pair["source"], pair["target"]) for pair in found]
    pairs = [pair for pair in pairs if _fits(pair, exported)]
    if not pairs:
        raise QuantizationError(
            f"All held-out pairs in {held_out} are too long for the model: give shorter ones with "
            "--held-out FILE."
        )
    with sample.open("w", encoding="utf-8", newline="\n") as file:
        for source, target in pairs:
            print(json.dumps({"source": source, "target": target}, ensure_ascii=False), file=file)
    return sample, pair_passages(pairs, manifest, tokenizer)


def _fits(pair: Pair, exported: Model) -> bool:
    manifest = exported.bundle.manifest
    positions = manifest.dimensions.max_positions
    try:
        [window] = pair_passages([pair], manifest, exported.tokenizer).windows
    except PromptError:
        return False
    return positions is None or len(window.tokens) <= positions + 1


def _described(held_out: Path, passages: Passages) -> str:
    if passages.pairs:
        return f"{len(passages.pairs):,} held-out pairs"
    return f"{passages.tokens:,} tokens of held-out text"


def _quantized(
    bundle: Bundle,
    work: Path,
    sample: Path,
    precision: str,
    checkpoint: Path,
    progress: ReportProgress,
    threads: int | None,
) -> Bundle:
    try:
        return quantize_bundle(
            bundle.folder,
            work / "quantized",
            recipe=precision,
            text=sample,
            threads=threads,
            progress=_but_where(progress),
        )
    except QuantizationError as error:
        lost = str(error).partition(":")[0]
        raise QuantizationError(
            f"There is no bundle, because {lost[:1].lower()}{lost[1:]}: the checkpoint stays in "
            f"{checkpoint}; run the same command with --resume and another --precision, such as "
            "int8-weights or fp32."
        ) from error
    except PromptError as error:
        raise QuantizationError(
            "There is no bundle, because the held-out part is too small for a quality gate, which "
            f"needs two pairs or two windows of text: the checkpoint stays in {checkpoint}; run "
            "the same command with --resume and --precision fp32, or hold out more in another run."
        ) from error


def _bundle_figures(model: Model, passages: Passages) -> dict[str, Any]:
    return {
        "size_bytes": _size(model.bundle.folder),
        **_chosen(measure_report(model, None, passages)),
    }


def _chosen(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: figures[name] for name in COLUMNS if name in figures}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _move(bundle: Bundle, card: str, out: Path) -> Bundle:
    """Move the files of a bundle to ``out``, with the card; replace a bundle that is there."""
    with BundleWriter(out, overwrite=True) as writer:
        for name in bundle.manifest.files:
            bundle.file(name).rename(writer.folder / name)
        (bundle.folder / MANIFEST_NAME).unlink()
        (writer.folder / CARD_NAME).write_text(card, encoding="utf-8", newline="\n")
        source = bundle.manifest.source._replace(id=out.parent.absolute().name)
        return writer.commit(replace(bundle.manifest, source=source))


def _but_where(progress: ReportProgress) -> ReportProgress:
    """Return ``progress`` without the messages that name a temporary folder."""

    def say(message: str) -> None:
        if not message.startswith(("wrote ", "moving ", "searching ")):
            progress(message)

    return say
