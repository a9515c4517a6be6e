"""Export a Hugging Face checkpoint to a bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch
from transformers import PreTrainedModel

from ..runtime.bundle.initializers import weights_per_run_bytes
from ..runtime.bundle.manifest import (
    SCHEMA,
    WEIGHTS_FILE_NAME,
    CacheFormat,
    Kind,
    LanguageNames,
    Manifest,
    Quantization,
    SharedWeight,
    TokenizerFormat,
)
from ..runtime.bundle.reading import Bundle
from ..runtime.bundle.weights_file import WeightsFile
from ..runtime.bundle.writing import BundleWriter
from ..runtime.errors import CheckpointError, OptionError
from ..runtime.ort.graph_session import runtime_version
from ..runtime.request.options import GenerationOptions
from ..runtime.request.resolving import resolve_options
from ..runtime.text.languages import language_pairs
from .checkpoint.adapters import check_adapter
from .checkpoint.defaults import generation_defaults, task_specific_params
from .checkpoint.hub import Checkpoint, find_checkpoint
from .checkpoint.languages import language_names
from .checkpoint.loading import load_model
from .checkpoint.reading import ReportProgress
from .checkpoint.tokenizer import write_tokenizer
from .families.family import Family, find_family
from .graphs.optimizing import optimize
from .graphs.tracing import Graph, write_graph
from .verification import Reference, make_reference, verify

PRODUCERS = ("edgeseq", "optimum-onnx", "torch", "transformers", "onnx")


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    revision: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: ReportProgress = lambda message: None,
) -> Bundle:
    """Export a Hugging Face checkpoint to a float32 bundle.

    The exported graphs are compared with the PyTorch model on random prompts before the bundle is
    moved into place. If the export fails or is interrupted, nothing is written to ``out``.

    Args:
        checkpoint: The folder of a checkpoint, or a Hub id such as ``openai-community/gpt2``, which
            is downloaded to the Hub's cache first. `docs/how-it-works/families.md` lists the
            supported model types.
        out: The folder of the new bundle. Missing parent folders are created.
        revision: A branch, tag or commit on the Hub; by default the main branch. A folder has no
            revisions.
        tokenizer: The folder of the tokenizer; None if it is in the checkpoint's folder.
        overwrite: Whether to replace a bundle that already exists at ``out``.
        progress: A function that is called with one line of text per step. By default, nothing is
            reported.

    Returns:
        The new bundle, with its folder and its manifest.

    Raises:
        CheckpointError: The checkpoint cannot be found, downloaded or read, is not supported, or
            its exported logits differ from PyTorch's.
        BundleError: ``out`` contains a bundle and ``overwrite`` is not set, or ``out`` exists and
            is neither a bundle nor an empty folder. Or another process is writing to ``out``, or
            its disk has too little free space.

    Examples:
        >>> from edgeseq.export import export_checkpoint
        >>> bundle = export_checkpoint("openai-community/gpt2", "gpt2-fp32")
        >>> bundle.manifest.architecture
        'gpt2'
    """
    with BundleWriter(Path(out), overwrite=overwrite) as writer:
        folder = None if tokenizer is None else _tokenizer_folder(tokenizer)
        progress(f"searching for {os.fspath(checkpoint)}")
        found = find_checkpoint(os.fspath(checkpoint), revision)
        check_adapter(found.folder)
        family = find_family(found.folder)
        progress("loading the checkpoint")
        manifest = _write_files(family, found, folder or found.folder, writer, progress)
        progress("moving the bundle into place")
        bundle = writer.commit(manifest)
    progress(f"wrote {bundle.folder}")
    return bundle


def _tokenizer_folder(tokenizer: str | os.PathLike[str]) -> Path:
    folder = Path(tokenizer).expanduser()
    if not folder.is_dir():
        raise CheckpointError(
            f"There is no folder {folder}: pass the folder of a tokenizer as tokenizer."
        )
    return folder


@torch.no_grad()
def _write_files(
    family: Family,
    checkpoint: Checkpoint,
    tokenizer_folder: Path,
    writer: BundleWriter,
    progress: ReportProgress,
) -> Manifest:
    """Write all files but the manifest, and compare them with PyTorch; return the manifest."""
    folder = writer.folder
    tokenizer = write_tokenizer(tokenizer_folder, folder, progress, checkpoint=checkpoint.folder)
    model = load_model(family, checkpoint.folder, progress)
    writer.check_space(sum(4 * weight.numel() for weight in model.parameters()))
    generation = generation_defaults(model, progress)
    _check_defaults(family.KIND, model, generation, progress)
    reference = make_reference(model, family.KIND, family.dimensions(model.config))
    graphs = family.graphs(model)
    shared = _write_graphs(graphs, folder, progress)
    tasks = task_specific_params(model.config, progress)
    manifest = _manifest(family, checkpoint, model, generation, tasks, graphs, shared, tokenizer)
    decoder = onnx.load(folder / manifest.graphs["decoder"], load_external_data=False).graph
    per_token = weights_per_run_bytes(decoder.node, decoder.initializer)
    manifest = replace(manifest, weights_per_token_bytes=per_token)
    del model, graphs  # a large model and its session may not fit into memory together
    progress("comparing with PyTorch")
    verification = verify(
        manifest, folder, reference, lambda: _precise_reference(family, checkpoint)
    )
    progress(
        f"max logit difference from PyTorch {verification.max_logit_difference:.1e} over "
        f"{verification.positions} positions (largest logit {verification.max_logit:.1f})"
    )
    return replace(manifest, verification=verification)


def _precise_reference(family: Family, checkpoint: Checkpoint) -> Reference:
    """Return the reference in double precision, for a model that magnifies rounding errors."""
    model = load_model(family, checkpoint.folder, lambda message: None).double()
    return make_reference(model, family.KIND, family.dimensions(model.config))


def _write_graphs(
    graphs: Sequence[Graph], folder: Path, progress: ReportProgress
) -> dict[str, SharedWeight]:
    """Write the graphs and their weights; return the matrices that several graphs read."""
    shared: dict[str, SharedWeight] = {}
    seen: dict[str, int] = {}
    with WeightsFile(folder / WEIGHTS_FILE_NAME) as weights_file:
        for graph in graphs:
            progress(f"exporting the {graph.role}")
            offsets = write_graph(graph, folder, weights_file)
            for name, offset in offsets.items() & seen.items():
                rows, columns = graph.weights[name].shape
                shared[name] = SharedWeight(offset_bytes=offset, rows=rows, columns=columns)
            seen |= offsets
    for graph in graphs:
        optimize(folder / graph.file_name)
    return shared


def _check_defaults(
    kind: Kind, model: PreTrainedModel, defaults: dict[str, Any], progress: ReportProgress
) -> None:
    """Raise ``CheckpointError`` for invalid generation defaults, and report unsupported ones."""
    try:
        resolve_options(defaults, {}, kind)
    except OptionError as error:
        raise CheckpointError(
            f"The checkpoint's generation_config.json has an invalid setting: {error}"
        ) from error
    start, vocabulary = defaults.get("decoder_start_token_id"), model.config.vocab_size
    if isinstance(start, int) and start >= vocabulary:
        raise CheckpointError(
            f"The checkpoint's decoder_start_token_id is {start}; it must be from 0 to "
            f"{vocabulary - 1}, the last id of the vocabulary."
        )
    known = {option.name for option in fields(GenerationOptions)}
    if ignored := sorted(defaults.keys() - known):
        progress(
            f"ignoring generation settings that edgeseq does not support: {', '.join(ignored)}"
        )


def _manifest(
    family: Family,
    checkpoint: Checkpoint,
    model: PreTrainedModel,
    generation: dict[str, Any],
    tasks: dict[str, dict[str, Any]],
    graphs: Sequence[Graph],
    shared: dict[str, SharedWeight],
    tokenizer: TokenizerFormat,
) -> Manifest:
    return Manifest(
        schema=SCHEMA,
        architecture=model.config.model_type,
        kind=family.KIND,
        dimensions=family.dimensions(model.config),
        kv_cache=CacheFormat(dtype="float32"),
        graphs={graph.role: graph.file_name for graph in graphs},
        shared_weights=shared,
        tokenizer=tokenizer,
        generation=generation,
        prefix=model.config.prefix,
        task_specific_params=tasks,
        weights_per_token_bytes=0,  # known once the graph is written
        quantization=Quantization(recipe="fp32", block_size=None, kept={}, quality=None),
        source=checkpoint.source,
        verification=None,
        producers={**{n: version(n) for n in PRODUCERS}, "onnxruntime": runtime_version()},
        languages=_languages(tokenizer, tasks),
    )


def _languages(
    tokenizer: TokenizerFormat, tasks: Mapping[str, Any]
) -> dict[str, LanguageNames] | None:
    """Return the names of all languages of the tokenizer and of the checkpoint's tasks."""
    codes = [code for pair in language_pairs(tasks) for code in pair]
    if tokenizer.languages is not None:
        codes += tokenizer.languages.ids
    if (fixed := tokenizer.fixed_languages) is not None:
        codes += [code for code in (fixed.source, fixed.target) if code is not None]
        codes += fixed.target_tokens
    return language_names(dict.fromkeys(codes)) or None
