"""A training run: from files and a template to a trained checkpoint, and to a bundle."""

from __future__ import annotations

import gc
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import set_seed

from ..export.checkpoint.reading import quiet_transformers
from ..runtime.bundle.manifest import Kind
from ..runtime.concurrency.file_lock import lock_file
from ..runtime.concurrency.temporary import temporary_folder
from ..runtime.errors import OptionError, TrainingError, reason
from ..runtime.ort.cpu import thread_count
from . import models
from .data import Dataset, describe, prompt_of, read_dataset, write_held_out
from .folder import RunFolder, base_facts, check_space, run_facts, whole_folder
from .template import Template, read_template, with_overrides
from .tokens.new_tokenizer import train_tokenizer
from .tokens.prepared import Prepared, prepare_pairs, prepare_texts, texts_of
from .trainer.checkpoints import Checkpoints, Mark, saving
from .trainer.curves import plot_curves
from .trainer.memory import available_bytes, check_memory, estimate
from .trainer.settings import check_names, own_settings, training_arguments, uses_muon
from .trainer.trainer import Trainer
from .trainer.watching import Figures, Watcher, sample_answers, sample_continuations, spoken

Report = Callable[[str], None]
SEED = 42  # Transformers' default
PLACES = 3  # checkpoints on the disk at the same time: the newest, the best, the next


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a run has made: the files, and the held-out figures of its best checkpoint."""

    checkpoint: Path
    held_out: Path
    figures: Mapping[str, Any]
    bundle: Path | None = None
    bundle_figures: Mapping[str, Any] | None = None  # what each step to the bundle lost


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A run that is ready to begin: checked settings, data and base."""

    template: Template
    folder: RunFolder
    base: models.Base | None
    kind: Kind
    dataset: Dataset
    threads: int
    report: Report

    @property
    def is_pairs(self) -> bool:
        return self.template.data.form == "pairs"

    def prompt(self, source: str) -> str:
        """Return what the model reads for a source."""
        joined = self.kind == "decoder-only"
        return prompt_of(self.template.data, source, is_decoder_only=joined)


def train(
    template: str | Path | Template,
    data: Sequence[Path],
    out: Path,
    *,
    base: str | None = None,
    held_out: Sequence[Path] = (),
    overrides: Mapping[str, str] = MappingProxyType({}),
    precision: str | None = None,
    resume: bool = False,
    threads: int | None = None,
    progress: Report = lambda message: None,
) -> TrainingResult:
    """Train a model on files of data, and keep the best checkpoint.

    Args:
        template: The name of a template, the path of one's own, or a ``Template``.
        data: The files of training data.
        out: The folder of the run, which is created. `docs/guides/train.md` lists its files.
        base: The checkpoint to fine-tune, a folder or a Hub id; by default the template's.
        held_out: Files of held-out data; by default a seeded share of ``data`` is held out.
        overrides: Other values of settings, such as ``{"trainer.learning_rate": "3e-4"}``.
        precision: A recipe of ``edgeseq quantize``, ``"auto"`` or ``"fp32"``, to make a bundle too.
        resume: Whether to continue an interrupted run in ``out``. It ends with the same weights.
        threads: The number of threads. By default, one per core that the process may use.
        progress: A function that is called with one line of text at a time.

    Returns:
        The trained checkpoint, the held-out data, the figures and the bundle.

    Raises:
        OptionError: A setting is unknown or has a bad value.
        PromptError: The data cannot be used.
        CheckpointError: The base cannot be found, read or exported.
        TrainingError: The run cannot begin in ``out``, needs more memory than there is, or cannot
            be saved.
        QuantizationError: The bundle loses more quality than is allowed; the checkpoint stays.

    Examples:
        >>> from edgeseq.training import train
        >>> result = train("t5-scratch", ["pairs.jsonl"], "out", precision="int8")
        >>> result.figures["exact_match"]
        0.985
    """
    from .bundling import check_precision

    check_precision(precision)
    plan = _plan(template, data, out, base, held_out, overrides, resume, threads, progress)
    place = plan.folder.out
    place.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(place.parent / f".{place.name}.lock", place), _quiet(plan.threads):
        if RunFolder(place, resume=resume).resumed != plan.folder.resumed:
            raise TrainingError(
                f"Another run has begun or deleted {place} in the meantime: run the same command "
                "again, with --resume to continue that run."
            )
        if not plan.folder.is_trained:
            _train(plan)
        return _finish(plan, precision)


def _plan(
    template: str | Path | Template,
    data: Sequence[Path],
    out: Path,
    base: str | None,
    held_out: Sequence[Path],
    overrides: Mapping[str, str],
    resume: bool,
    threads: int | None,
    report: Report,
) -> _Plan:
    """Check all that can be checked before any work, and read the data."""
    chosen = template if isinstance(template, Template) else read_template(template)
    if base is not None:
        if chosen.from_scratch:
            raise OptionError(
                f"The template {chosen.name} trains a new model, without a base: use a template "
                "that fine-tunes, or leave the base out."
            )
        chosen = replace(chosen, model={**chosen.model, "base": str(base)})
    chosen = with_overrides(chosen, overrides)
    folder = RunFolder(Path(out), resume=resume)
    count = thread_count(threads)
    if folder.resumed and threads is None:  # other threads would change the last digits
        count = thread_count(folder.facts().get("machine", {}).get("threads"))
    check_names(chosen)
    own_settings(chosen)
    training_arguments(chosen, folder.checkpoints)
    if chosen.from_scratch:
        found, kind = None, models.family_of(chosen.model["model_type"]).KIND
    else:
        found = models.find_base(str(chosen.model["base"]))
        kind = found.kind
    models.check_form(chosen, kind)
    dataset = read_dataset(
        chosen.data, [Path(file) for file in data], [Path(file) for file in held_out]
    )
    for line in describe(dataset):
        report(line)
    plan = _Plan(
        template=chosen,
        folder=folder,
        base=found,
        kind=kind,
        dataset=dataset,
        threads=count,
        report=report,
    )
    if folder.resumed:
        for difference in folder.compare(_facts(plan)):
            report(f"the result may differ in its last digits: {difference}")
    return plan


def _facts(plan: _Plan) -> dict[str, Any]:
    base = plan.base
    return run_facts(
        plan.template,
        base=None
        if base is None
        else base_facts(str(plan.template.model["base"]), base.folder, base.id, base.revision),
        files=plan.dataset.files,
        held_out_files=plan.dataset.held_out_files,
        threads=plan.threads,
    )


@contextmanager
def _quiet(threads: int) -> Iterator[None]:
    """Use ``threads`` threads, and keep the libraries' warnings from the screen in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before)


def _train(plan: _Plan) -> None:
    """Train, and write the figures, the adapter and the checkpoint."""
    template, folder, report = plan.template, plan.folder, plan.report
    arguments = training_arguments(template, folder.checkpoints)
    with temporary_folder() as temporary:
        place = _tokenizer_folder(plan, temporary)
        tokenizer = models.load_tokenizer(place)
        set_seed(arguments.seed)
        if plan.base is None:
            model = models.new_model(template.model, tokenizer)
        else:
            model = models.base_model(plan.base, lambda message: None)
        prepared = _prepared(plan, model, tokenizer)
        if template.peft:
            model = models.with_lora(model, template.peft, plan.kind)
        generation = models.trained_generation(model, tokenizer, prepared.new_tokens)
        model.generation_config = generation
        total, trained = models.parameter_count(model), models.parameter_count(model, trained=True)
        report(
            f"the model has {total:,} parameters"
            + (f", of which {trained:,} are trained" if trained < total else "")
        )
        _check_resources(plan, arguments, model, prepared)
        if not folder.resumed:
            folder.create(template, _facts(plan), place if plan.base is None else None)
    checkpoints, figures = Checkpoints(folder.checkpoints), Figures(folder.figures)
    own = own_settings(template)
    trainers: list[Trainer] = []

    def samples() -> Sequence[str]:
        if plan.is_pairs:
            shown = trainers[0].found_answers, prepared.held_out.targets
            return sample_answers(prepared.prompts, *shown, own.eval_samples)
        texts, device = prepared.prompts, arguments.device
        return sample_continuations(trainers[0].model, tokenizer, texts, own.eval_samples, device)

    watcher = Watcher(figures, report, lambda: trainers[0].tokens_seen, samples)
    trainer = Trainer(
        model,
        arguments,
        own,
        tokenizer=tokenizer,
        examples=prepared.examples,
        held_out=prepared.held_out,
        collator=prepared.collator,
        generation=generation,
        checkpoints=checkpoints,
        callbacks=[watcher],
        muon=uses_muon(template.trainer),
    )
    trainers.append(trainer)
    newest = checkpoints.newest() if folder.resumed else None
    if newest is not None:
        trainer.args.eval_on_start = False
    if folder.resumed:
        figures.keep_until(0 if newest is None else newest.step)
        report(f"continuing after step {0 if newest is None else newest.step:,}")
    if newest is None or not newest.finished:
        _run(trainer, newest, checkpoints, plan)
        newest = checkpoints.newest()
    if newest is None or newest.best_step is None:
        raise TrainingError(
            "No checkpoint is better than another one, because no held-out figure is a number: "
            "pass a lower --trainer.learning_rate."
        )
    trainer.load_step(newest.best_step)
    plot_curves(figures.records(), newest.best_step, folder.curves)
    _save(plan, trainer.model, tokenizer)


def _tokenizer_folder(plan: _Plan, temporary: Path) -> Path:
    """Return the folder of the tokenizer; that of a new model is trained first."""
    settings = plan.template.tokenizer
    if plan.folder.resumed and plan.base is None:
        return plan.folder.tokenizer
    if "path" in settings:
        return Path(settings["path"]).expanduser()
    if plan.base is not None:
        return plan.base.folder
    plan.report(f"training a tokenizer ({settings['algorithm']})")
    texts = texts_of(plan.dataset.training, plan.template.data)
    try:
        tokenizer = train_tokenizer(settings, texts)
    except Exception as error:  # tokenizers raises plain exceptions
        raise TrainingError(
            f"No tokenizer can be trained on this data ({reason(error)}): give more data, a larger "
            "--tokenizer.vocab_size, or an existing tokenizer with --tokenizer.path FOLDER."
        ) from error
    plan.report(f"the tokenizer has {len(tokenizer):,} tokens")
    tokenizer.save_pretrained(temporary)
    return temporary


def _prepared(plan: _Plan, model: Any, tokenizer: Any) -> Prepared:
    """Return the examples as token ids."""
    own, limit = own_settings(plan.template), models.longest_sequence(model, tokenizer)
    settings, dataset, start = plan.template.data, plan.dataset, None
    if plan.kind == "encoder-decoder":
        start = model.config.decoder_start_token_id
    if plan.is_pairs:
        prepared = prepare_pairs(
            settings,
            dataset,
            tokenizer,
            plan.prompt,
            limit=limit,
            start=start,
            answers=own.eval_answers,
        )
    else:
        prepared = prepare_texts(settings, dataset, tokenizer, limit=limit)
    for line in prepared.notes:
        plan.report(line)
    return prepared


def _check_resources(plan: _Plan, arguments: Any, model: Any, prepared: Prepared) -> None:
    """Raise ``TrainingError`` if the memory or the disk is too small for the run."""
    optim = "muon" if uses_muon(plan.template.trainer) else str(arguments.optim)
    need = estimate(model, optim, prepared.examples.longest(), prepared.collator)
    check_memory(
        need,
        rows=min(arguments.per_device_train_batch_size, prepared.examples.batch_count(1)),
        accumulation=arguments.gradient_accumulation_steps,
        available=available_bytes(arguments.device),
        has_lora=bool(plan.template.peft),
        report=plan.report,
    )
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    checkpoint = need.optimizer + (need.gradients if plan.template.peft else weights)
    check_space(plan.folder.out, PLACES * checkpoint + weights)


def _run(trainer: Trainer, newest: Mark | None, checkpoints: Checkpoints, plan: _Plan) -> None:
    """Train from the newest checkpoint on."""
    path = None if newest is None else str(checkpoints.path(newest.step))
    try:
        trainer.train(resume_from_checkpoint=path)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(
            f"training was interrupted at step {trainer.state.global_step:,}: run the same command "
            "with --resume to continue."
        ) from interrupt
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        raise TrainingError(
            "The memory is full: continue with --resume when more is free, or begin again with a "
            "smaller --trainer.per_device_train_batch_size."
        ) from error


def _save(plan: _Plan, model: Any, tokenizer: Any) -> None:
    """Write the held-out data, the adapter and, last, the checkpoint."""
    folder = plan.folder
    with saving(folder.checkpoint):
        write_held_out(plan.dataset, _held_out_file(plan), plan.prompt)
        shutil.rmtree(folder.adapter, ignore_errors=True)
        adapter = folder.adapter if plan.template.peft else None
        with whole_folder(folder.checkpoint) as partial:
            models.save_checkpoint(model.cpu(), tokenizer, partial, adapter=adapter)
    plan.report(f"wrote {folder.checkpoint}")


def _held_out_file(plan: _Plan) -> Path:
    return plan.folder.out / ("held_out.jsonl" if plan.is_pairs else "held_out.txt")


def _finish(plan: _Plan, precision: str | None) -> TrainingResult:
    """Write the task of pairs and the bundle; return the result."""
    from .bundling import RunFacts, make_bundle, write_task

    gc.collect()  # the trained model, before the bundle's are loaded
    folder, template, dataset = plan.folder, plan.template, plan.dataset
    mark = Checkpoints(folder.checkpoints).newest()
    figures = _best_figures(folder, mark)
    plan.report(f"best checkpoint, step {figures['best_step']:,}: held-out {_shown(figures)}")
    if plan.is_pairs:
        labels = {pair.target: None for pair in dataset.training if not isinstance(pair, str)}
        write_task(folder.out, template, plan.kind, labels=[*labels] * template.data.labels)
    result = TrainingResult(
        checkpoint=folder.checkpoint, held_out=_held_out_file(plan), figures=figures
    )
    if precision is None:
        return result
    facts = RunFacts(
        base=None if plan.base is None else str(template.model["base"]),
        files=dataset.files,
        held_out_files=dataset.held_out_files,
        training_examples=len(dataset.training),
        held_out_examples=len(dataset.held_out),
        figures=figures,
    )
    bundled = make_bundle(
        folder.checkpoint,
        folder.out,
        held_out=result.held_out,
        precision=precision,
        template=template,
        facts=facts,
        progress=plan.report,
        threads=plan.threads,
    )
    Figures(folder.figures).add({"step": figures["steps"], "bundle": bundled})
    return replace(result, bundle=folder.bundle, bundle_figures=bundled)


def _best_figures(folder: RunFolder, mark: Mark | None) -> dict[str, Any]:
    """Return the held-out figures of the best checkpoint, and the steps of the run."""
    records = Figures(folder.figures).records()
    best = next(
        (
            record
            for record in records
            if mark is not None and record["step"] == mark.best_step and "held_out_loss" in record
        ),
        None,
    )
    if mark is None or best is None:
        raise TrainingError(
            f"{folder.out} lacks the figures of its run: choose another folder and begin again."
        )
    epochs = next(record["epoch"] for record in reversed(records) if "epoch" in record)
    figures = {"best_step": mark.best_step, "steps": mark.step, "epochs": epochs}
    before = next((record for record in records if record["step"] == 0), {})
    return figures | _held_out(best, "") | _held_out(before, "base_")


def _held_out(record: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the held-out figures of a record, with other names."""
    start = "held_out_"
    return {f"{prefix}{k.removeprefix(start)}": v for k, v in record.items() if k.startswith(start)}


def _shown(figures: Mapping[str, Any]) -> str:
    others = ("best_step", "steps", "epochs")
    named = {k: v for k, v in figures.items() if k not in others and not k.startswith("base_")}
    before = {k: v for k, v in figures.items() if k in ("base_loss", "base_exact_match")}
    return spoken(named) + (f" ({spoken(before)})" if before else "")
