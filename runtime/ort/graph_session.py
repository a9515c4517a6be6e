"""Sessions of ONNX Runtime over a bundle's graphs."""

from __future__ import annotations

import errno
import math
import mmap  # noqa: F401  # np.memmap imports it, but the thread of a load must not import
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ..bundle.manifest import WEIGHTS_FILE_NAME, OverlappingWeight, SharedWeight
from ..concurrency.locks import FairLock
from ..errors import BundleError, DeviceError, EdgeseqError, is_out_of_memory, reason
from ..native.library import Kernels, add_kernels, calls_kernels, calls_products
from .cpu import thread_count
from .devices import CPU, CPU_DEVICE, CUDA, Device
from .import_onnxruntime import onnxruntime
from .import_onnxruntime import status as _status
from .providers import Assigned, check_build, check_opened, hidden_nodes, plug_in, prepare

_LITTLE_SPACE = 1 << 16  # bytes; with less, a failure to write means that the disk is full
_WITH_PACKED_WEIGHTS = {
    "session.save_external_prepacked_constant_initializers": "1",
    "session.optimized_model_external_initializers_file_name": WEIGHTS_FILE_NAME,
}
WITHOUT_PACKING = {"session.disable_prepacking": "1"}
_LOAD_ERRORS = (
    _status.EPFail,
    _status.Fail,
    _status.InvalidArgument,
    _status.InvalidGraph,
    _status.InvalidProtobuf,
    _status.NoModel,
    _status.NoSuchFile,
    _status.NotImplemented,
    _status.RuntimeException,
)
# Raised by runs; bindings and some providers raise Python's RuntimeError.
_RUN_ERRORS = (
    _status.EPFail,
    _status.Fail,
    _status.InvalidArgument,
    _status.NotImplemented,
    _status.RuntimeException,
    RuntimeError,
)


MappedWeights = Mapping[str, onnxruntime.OrtValue]


class GraphSession(onnxruntime.InferenceSession):  # type: ignore[misc]  # untyped
    """A session over one graph, which keeps alive the weights that it shares with others.

    ``graph``: its file, or its bytes if the weights lie in ``folder``. ``shared``: weights that the
    session uses in place of its own. ``overlapping``: the same, but only with the native kernels,
    which read weights where they are mapped: ONNX Runtime would map these more than once.

    The graph runs as it is, because bundles hold optimized graphs, unless ``optimize``, or if it
    has products whose kernels are not used: ONNX Runtime then simplifies what it puts in their
    place. ``save_to``: path to write the graph to as it is run. ``entries``: further settings of
    ONNX Runtime. ``kernels``: see ``load``.

    ``has_native_kernels``: whether edgeseq's own kernels compute some of the graph's nodes.
    """

    def __init__(
        self,
        graph: Path | bytes,
        device: Device = CPU_DEVICE,
        threads: int | None = None,
        shared: MappedWeights = MappingProxyType({}),
        folder: Path | None = None,
        *,
        overlapping: MappedWeights = MappingProxyType({}),
        optimize: bool = False,
        save_to: Path | None = None,
        entries: Mapping[str, str] = MappingProxyType({}),
        kernels: Kernels = "auto",
    ) -> None:
        options = session_options(threads)
        content = graph if isinstance(graph, bytes) else _content(graph)
        calls = device.provider == CPU and calls_kernels(content)
        self.has_native_kernels = calls and add_kernels(options, content, kernels)
        if calls_products(content) and not self.has_native_kernels and device.provider == CPU:
            # The functions repeat nodes, and reorder weights.
            optimize = True
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        levels = onnxruntime.GraphOptimizationLevel
        # Higher levels would only add SkipLayerNormalization: it is slower
        # (docs/how-it-works/performance.md).
        level = levels.ORT_ENABLE_BASIC if optimize else levels.ORT_DISABLE_ALL
        options.graph_optimization_level = level
        if save_to is not None:
            options.optimized_model_filepath = os.fspath(save_to)
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        if folder is not None:
            key = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(key, os.fspath(folder))
        given = {**shared, **overlapping} if self.has_native_kernels else shared
        for name, value in given.items():
            options.add_initializer(name, value)
        self._given = given
        self._turn = FairLock()
        self._process = os.getpid()
        self._device = device
        self.copies_inputs = device.provider != CPU  # when inputs are bound, not at each run
        if device.provider != CPU:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        prepare(device)
        providers: list[Any] | None = [(device.provider, dict(device.options))]
        if device.library is not None:
            plug_in(options, device)
            providers = None  # the options name the provider
        super().__init__(
            graph if isinstance(graph, bytes) else os.fspath(graph),
            options,
            providers=providers,
            enable_fallback=0,
        )
        check_opened(self, device)

    def assigned_nodes(self) -> list[Assigned]:
        """Return each node with the provider that runs it; devices other than the CPU only."""
        return [
            Assigned(part.ep_name, node.op_type, node.name)
            for part in self.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        ]

    def run_with_iobinding(self, *arguments: Any) -> None:
        """Run the session; one thread at a time runs it, because a run uses all cores.

        Decode steps (bindings with a true ``is_step``) and longer runs take turns while both wait.
        Raises ``EdgeseqError`` in a forked child, which lacks the session's threads. Raises
        ``DeviceError`` for lack of memory, and if a device other than the CPU fails;
        ``BundleError`` if the CPU cannot run the graph.
        """
        check_process(self._process)
        is_step = getattr(arguments[0], "is_step", False)
        with self._turn.other_kind if is_step else self._turn:
            if self._device.provider == CPU:
                try:
                    super().run_with_iobinding(*arguments)
                except (*_RUN_ERRORS, MemoryError, UnicodeDecodeError) as error:
                    raise _failed_run(error) from error
            else:
                with _failing(self._device):
                    super().run_with_iobinding(*arguments)

    def io_binding(self) -> Any:
        """Return an IOBinding. On devices other than the CPU its errors are ``DeviceError``.

        Binding an input copies it to the device, which may fail for lack of memory.
        """
        if self._device.provider == CPU:
            return super().io_binding()
        return _DeviceBinding(self, self._device)


def check_process(process: int) -> None:
    """Raise ``EdgeseqError`` in a forked child of ``process``, where its sessions cannot run."""
    if os.getpid() != process:
        raise EdgeseqError(
            "A generation that started before this process was forked cannot continue in it: "
            "load the model in this process."
        )


def _content(graph: Path) -> bytes:
    """Return the bytes of a graph's file; none if it cannot be read, which ONNX Runtime reports."""
    try:
        return graph.read_bytes()
    except OSError:
        return b""


class _DeviceBinding(onnxruntime.IOBinding):  # type: ignore[misc]  # untyped
    def __init__(self, session: GraphSession, device: Device) -> None:
        super().__init__(session)
        self._device = device

    def bind_input(self, *place: Any) -> None:
        with _failing(self._device):
            super().bind_input(*place)

    def bind_output(self, *place: Any) -> None:
        with _failing(self._device):
            super().bind_output(*place)


def _failed_run(error: Exception) -> EdgeseqError:
    """Return the error for a run that failed on the CPU."""
    if is_out_of_memory(error):
        return DeviceError(
            f"There is not enough memory for this run ({_reason(error)}): use fewer beams, prompts "
            "or tokens."
        )
    return BundleError(
        f"ONNX Runtime {onnxruntime.__version__} cannot run the model ({_reason(error)}): check "
        "the bundle with `edgeseq info BUNDLE --verify`."
    )


@contextmanager
def _failing(device: Device) -> Iterator[None]:
    """Raise ``DeviceError`` for the errors of ``device``, which is not the CPU."""
    try:
        yield
    except _RUN_ERRORS as error:
        raise DeviceError(
            f"The device {device.name!r} failed ({_reason(error)}): use fewer beams, prompts or "
            "tokens if its memory is full, or use 'cpu'."
        ) from error


def open_session(
    graph: Path,
    device: Device = CPU_DEVICE,
    threads: int | None = None,
    shared: MappedWeights = MappingProxyType({}),
    **settings: Any,
) -> GraphSession:
    """Open a session over ``graph`` on ``device`` with ``threads`` threads.

    ``threads``: None for ``usable_cores()``. ``shared``: weights to read from there instead of
    mapping them again. ``settings``: other arguments of ``GraphSession``. Raises ``DeviceError``
    for a device that is not available, ``BundleError`` for a broken graph.
    """
    check_build(device)
    try:
        session = GraphSession(graph, device, threads, shared, **settings)
    except (
        *_LOAD_ERRORS,
        *_RUN_ERRORS,
        UnicodeDecodeError,
    ) as error:  # its message may quote damaged bytes
        if device.provider != CPU and isinstance(error, _RUN_ERRORS):
            raise DeviceError(
                f"The device {device.name!r} cannot be used ({_reason(error)}): use 'cpu'."
            ) from error
        if is_out_of_memory(error):
            raise DeviceError(
                f"There is not enough memory to load {graph} ({_reason(error)}): close other "
                "programs, raise the limit of memory, or use a smaller or a quantized bundle."
            ) from error
        raise BundleError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {graph} ({_reason(error)}): check "
            "the bundle with `edgeseq info BUNDLE --verify`."
        ) from error
    if device.provider == CUDA and (hidden := hidden_nodes(session.assigned_nodes())):
        raise DeviceError(
            f"{graph} was not made for the device {device.name!r}, because its operators "
            f"{', '.join(hidden)} would run on the CPU: make a bundle for the device (`edgeseq "
            "quantize --recipe fp16`), or use 'cpu'."
        )
    return session


_sessions: WeakValueDictionary[Hashable, GraphSession] = WeakValueDictionary()
_sessions_lock = threading.Lock()


def shared_session(
    files: Sequence[Path], settings: Hashable, open_new: Callable[[], GraphSession]
) -> GraphSession:
    """Return the open session over ``files`` with ``settings``, or else ``open_new()``.

    A bundle that is loaded twice in a process is in memory once. Sessions have no state between
    runs and may run in several threads. A session is shared only for unchanged files and while it
    is in use. Two loads at the same time may each open their own session.
    """
    # A child after os.fork() lacks the threads of its parent's sessions.
    key = (os.getpid(), settings, tuple(map(_file_identity, files)))
    with _sessions_lock:
        found = _sessions.get(key)
    if found is None:
        found = open_new()
        with _sessions_lock:
            _sessions[key] = found
    return found


def _file_identity(path: Path) -> Hashable:
    """Return a value that changes when a file is replaced or written; None if it is missing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def save_prepacked(graph: Path, out: Path, shared: MappedWeights, kernels: Kernels) -> None:
    """Write ``graph`` to ``out``, with its packed weights in a file beside it.

    Raises ``OSError`` if the disk is full.
    """
    with _saving(out):
        open_session(
            graph, CPU_DEVICE, 1, shared, save_to=out, entries=_WITH_PACKED_WEIGHTS, kernels=kernels
        )


def save_optimized(graph: Path, out: Path) -> None:
    """Write ``graph`` to ``out`` after ONNX Runtime's basic optimizations for any provider.

    Its weights stay where they are. Raises ``OSError`` if the disk is full.
    """
    with _saving(out):
        open_session(graph, CPU_DEVICE, 1, optimize=True, save_to=out, entries=WITHOUT_PACKING)


@contextmanager
def _saving(out: Path) -> Iterator[None]:
    """Raise ``OSError`` if the disk is full, for which ONNX Runtime has no error of its own."""
    try:
        yield
    except BundleError as error:
        from shutil import disk_usage  # late: running a bundle does not need it

        if disk_usage(out.parent).free < _LITTLE_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out)) from error
        raise


def runtime_version() -> str:
    """Return the version of ONNX Runtime."""
    return str(onnxruntime.__version__)


def map_shared_weights(path: Path, weights: Mapping[str, SharedWeight]) -> MappedWeights:
    """Map the float32 matrices of the weights file ``path``.

    Raises ``BundleError`` if the file ends before one of them.
    """
    places = {
        name: OverlappingWeight(weight.offset_bytes, "float32", (weight.rows, weight.columns))
        for name, weight in weights.items()
    }
    return map_weights(path, places)


def map_weights(path: Path, weights: Mapping[str, OverlappingWeight]) -> MappedWeights:
    """Map weights of the weights file ``path``; what overlaps shares its memory.

    Raises ``BundleError`` if the file ends before one of them.
    """
    mapped: dict[str, onnxruntime.OrtValue] = {}
    if not weights:
        return mapped
    size = path.stat().st_size if path.is_file() else 0
    file = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
    for name, weight in weights.items():
        begin, dtype = weight.offset_bytes, np.dtype(weight.dtype)
        end = begin + math.prod(weight.shape) * dtype.itemsize
        if not 0 <= begin < end <= size or min(weight.shape, default=1) < 1 or begin % 64:
            raise BundleError(
                f"The weight {name!r} does not lie in {path} as the manifest describes: copy or "
                "export the bundle again."
            )
        array = file[begin:end].view(dtype.newbyteorder("<")).reshape(weight.shape)
        mapped[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
    return mapped


def session_options(threads: int | None) -> onnxruntime.SessionOptions:
    """Return the session options; comments mark the deviations from ONNX Runtime's defaults."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count(threads)
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # shapes vary, and each shape would keep a pattern
    options.log_severity_level = 4  # errors are raised, not printed as well
    # Threads may spin between the nodes of a run, but not between runs: idle programs use no CPU.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "the file is damaged"
    return reason(error)
