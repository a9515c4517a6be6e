"""A worker of a cluster: answers shards with a loaded model. Knows nothing of Ray."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from ...runtime.bundle.demo_bundles import DEMOS, demo_bundle
from ...runtime.bundle.manifest import CARD_NAME, MANIFEST_NAME
from ...runtime.bundle.reading import file_entry, open_bundle
from ...runtime.errors import BundleError, EdgeseqError, reason
from ...runtime.tasks.templates import Template
from ..answering import Answering
from ..assembling import assemble
from ..columns import ERROR, Columns
from ..files import Answers, in_this_process, write_answers
from ..forms import Form
from ..job import Job, changing
from .folder import ERRORS, SHARED, synced, temporary
from .shards import Shard, ShardSource, shard_source


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a worker needs to answer shards."""

    bundle: Path | None  # None: a demo model
    demo: str | None
    bundle_hash: str
    loading: Mapping[str, Any]  # further keyword arguments of ``load``
    template: Template
    options: Mapping[str, Any]
    columns: Columns
    found: list[str]  # columns of the input
    id_column: str | None
    folder: Path  # of the output
    token: str  # the content of its file SHARED
    form: Form


class Computing(NamedTuple):
    """How a worker computes."""

    machine: str
    kernels: str  # "native" or "stock": the native forms for all processors have the same bits
    edgeseq: str  # version
    onnxruntime: str  # version

    @property
    def told(self) -> dict[str, Any]:
        """What must be equal for all workers, by the name that errors have for it."""
        versions = {"edgeseq": self.edgeseq, "onnxruntime": self.onnxruntime}
        return {"kernels": self.kernels, "versions": versions}


class Done(NamedTuple):
    """The numbers of a finished shard."""

    rows: int
    failed: int


class Worker:
    """Answers shards; its methods return errors, so that they arrive as they are."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._answering: Answering | None = None
        self._job: Job | None = None

    def ready(self) -> Computing | EdgeseqError:
        """Load the model, whose bundle must be the driver's; return how it computes."""
        try:
            return self._load()
        except EdgeseqError as error:
            return error
        except OSError as error:
            what = f"{platform.node()} cannot load the model"
            return EdgeseqError(f"{what} ({reason(error)}): run the same command again.")

    def answer(self, shard: Shard) -> Done | EdgeseqError:
        """Write the answers to a shard; they appear whole or not at all."""
        assert self._answering is not None
        assert self._job is not None
        work = self._work
        try:
            source = shard_source(shard, work.columns, work.id_column)
            answers = in_this_process(self._answering)
            return write_shard(self._job, source, answers, work.folder, shard, work.form)
        except EdgeseqError as error:
            return error
        except OSError as error:
            what = f"{platform.node()} cannot answer {shard.file.path}"
            return EdgeseqError(f"{what} ({reason(error)}): run the same command again.")

    def _load(self) -> Computing:
        import onnxruntime

        from ...runtime import __version__
        from ...runtime.loading import load

        work, machine = self._work, platform.node()
        shared = work.folder / SHARED
        if not shared.is_file() or shared.read_text(encoding="utf-8") != work.token:
            raise EdgeseqError(
                f"{machine} does not see the folder {work.folder} as this machine does: --output "
                "must be in a folder that all machines of the cluster share, under the same path."
            )
        bundle = bundle_folder(work.bundle, work.demo)
        if not bundle.is_dir():
            raise BundleError(
                f"{machine} has no folder {bundle}: the bundle must be on all machines of the "
                "cluster, under the same path."
            )
        if bundle_hash(bundle) != work.bundle_hash:
            raise BundleError(
                f"{machine} has another bundle in {bundle} than this machine: copy it there."
            )
        model = load(bundle, **work.loading)
        self._answering = Answering(model, work.template, work.options)
        self._answering.check(work.columns.constants, work.found)
        loading = changing(work.loading.get("kv_cache"), model.device, model.kernels)
        manifest = model.bundle.manifest
        self._job = Job(manifest, work.template, work.columns, work.options, loading)
        kernels = loading.get("kernels", "stock")
        return Computing(machine, kernels, __version__, onnxruntime.__version__)


def bundle_folder(bundle: Path | None, demo: str | None) -> Path:
    """Return the folder of a bundle, or of a demo model on this machine."""
    return bundle if bundle is not None else demo_bundle(demo or DEMOS[0])


def bundle_hash(folder: Path) -> str:
    """Return a hash of the files of a bundle, without its model card.

    Raises ``BundleError`` for a folder that is not a bundle.
    """
    manifest = open_bundle(folder).manifest
    names = sorted(name for name in manifest.files if name != CARD_NAME)
    hashes = {name: file_entry(folder / name).sha256 for name in (MANIFEST_NAME, *names)}
    return sha256(json.dumps(hashes).encode()).hexdigest()


def write_shard(
    job: Job, source: ShardSource, answers: Answers, folder: Path, shard: Shard, form: Form
) -> Done:
    """Write the answers to a shard, under a temporary name until they are complete.

    Its errors are in a file of their own, too, which is written before.
    """
    target = folder / shard.name(form.format)
    part = temporary(target)
    with ExitStack() as stack:
        stack.callback(part.unlink, missing_ok=True)
        with part.open("wb") as file:
            answered = write_answers(job, source, answers, file)
        if answered.failed:
            _write_errors(part, folder / ERRORS / shard.name("jsonl"))
        whole = part
        if form.format == "parquet":
            whole = temporary(target)
            stack.callback(whole.unlink, missing_ok=True)
            with source.open() as rows:
                columns = rows.columns
            assemble(job, source, columns, part, whole, form)
        synced(whole)
        whole.replace(target)
    return Done(answered.rows, answered.failed)


def _write_errors(part: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    new = temporary(target)
    with part.open("rb") as lines, new.open("wb") as file:
        file.writelines(line for line in lines if ERROR in json.loads(line))
    synced(new)
    new.replace(target)
