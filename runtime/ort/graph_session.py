"""Sessions of ONNX Runtime's over a bundle's graphs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from types import MappingProxyType
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ..bundle.manifest import SharedWeight
from ..bundle.weights_file import WEIGHTS_FILE_NAME
from ..concurrency.background import Background
from ..concurrency.locks import FairLock
from ..decoder import CancelledError
from ..errors import BundleError, DeviceError, EdgeseqError, OptionError, reason
from .cpu import usable_cores
from .devices import CPU, CUDA, Assigned, Device, hidden_nodes, parse_device
from .library import onnxruntime
from .library import status as _status
from .providers import check_build, check_opened, plug_in, prepare

MAX_THREADS = 1024
POLL_S = 0.05
LONG = 128  # tokens; with fewer a run ends sooner than anybody notices
_WITH_PACKED_WEIGHTS = {
    "session.save_external_prepacked_constant_initializers": "1",
    "session.optimized_model_external_initializers_file_name": WEIGHTS_FILE_NAME,
}
_WITHOUT_PACKING = {"session.disable_prepacking": "1"}
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
# Where a device other than the CPU is the cause; bindings raise Python's own, some providers too.
_DEVICE_ERRORS = (
    _status.EPFail,
    _status.Fail,
    _status.InvalidArgument,
    _status.NotImplemented,
    _status.RuntimeException,
    RuntimeError,
)


SharedWeights = Mapping[str, onnxruntime.OrtValue]


class GraphSession(onnxruntime.InferenceSession):  # type: ignore[misc]  # untyped
    """A session that keeps the weights alive that it shares with others.

    ``graph``: its file, or its bytes where the weights lie in ``folder``. It is run as it is, since
    bundles' graphs are optimized when they are made, unless ``optimize``. ``save_to``: where the
    graph is written as it is run. ``entries``: further settings of ONNX Runtime's.
    """

    def __init__(
        self,
        graph: Path | bytes,
        device: Device | str,
        threads: int | None,
        shared: SharedWeights,
        folder: Path | None = None,
        *,
        optimize: bool = False,
        save_to: Path | None = None,
        entries: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        device = parse_device(device)
        options = session_options(threads)
        levels = onnxruntime.GraphOptimizationLevel
        # Further levels would bring SkipLayerNormalization (docs/performance.md), and nothing else.
        level = levels.ORT_ENABLE_BASIC if optimize else levels.ORT_DISABLE_ALL
        options.graph_optimization_level = level
        if save_to is not None:
            options.optimized_model_filepath = os.fspath(save_to)
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        if folder is not None:
            key = "session.model_external_initializers_file_folder_path"
            options.add_session_config_entry(key, os.fspath(folder))
        for name, value in shared.items():
            options.add_initializer(name, value)
        self._shared = shared
        self._turns = FairLock()
        self._process = os.getpid()
        if device.provider != CPU:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        self._device = device
        self.copies_inputs = device.provider != CPU
        prepare(device)
        providers: list[Any] | None = [(device.provider, dict(device.options))]
        if device.library is not None:
            plug_in(options, device)
            providers = None  # those of the options
        super().__init__(
            graph if isinstance(graph, bytes) else os.fspath(graph),
            options,
            providers=providers,
            enable_fallback=0,
        )
        check_opened(self, device)

    def assigned_nodes(self) -> list[Assigned]:
        """Each node with the provider that runs it; not on the CPU."""
        return [
            Assigned(part.ep_name, node.op_type, node.name)
            for part in self.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        ]

    def run_with_iobinding(self, *arguments: Any) -> None:
        """As ONNX Runtime's; threads take turns, since each run is computed by all cores.

        Raises ``EdgeseqError`` in a child process, which has none of those threads, ``DeviceError``
        where another device than the CPU fails, as for lack of memory.
        """
        if os.getpid() != self._process:
            raise EdgeseqError(
                "This process was forked while a text was generated, which cannot go on here: load "
                "the model in this process."
            )
        with self._turns:
            if self._device.provider == CPU:
                super().run_with_iobinding(*arguments)
            else:
                with _failing(self._device):
                    super().run_with_iobinding(*arguments)

    def io_binding(self) -> Any:
        """As ONNX Runtime's. On another device than the CPU binding copies, and may fail for lack
        of memory: ``DeviceError``.
        """
        if self._device.provider == CPU:
            return super().io_binding()
        return _DeviceBinding(self, self._device)


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


@contextmanager
def _failing(device: Device) -> Iterator[None]:
    """Raise ``DeviceError`` for what ``device``, which is not the CPU, fails at."""
    try:
        yield
    except _DEVICE_ERRORS as error:
        raise DeviceError(f"The device {device.name!r} failed: {_reason(error)}.") from error


def run_until_cancelled(
    session: Any, binding: Any, tokens: int, cancelled: Callable[[], bool]
) -> None:
    """``session.run_with_iobinding(binding)``; where it reads many ``tokens`` Ctrl-C ends it.

    So does ``cancelled``, asked every ``POLL_S``, on which ``CancelledError`` is raised; what was
    to be written is undefined then.
    """
    if tokens < LONG:
        session.run_with_iobinding(binding)
        return
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4  # that a run was ended is no error to be printed
    with Background(lambda: session.run_with_iobinding(binding, options)) as run:
        try:
            while not run.wait(POLL_S):
                if cancelled():
                    raise CancelledError(read=0)
        except BaseException:
            options.terminate = True
            raise
        run.result()


def open_session(
    graph: Path,
    device: Device | str,
    threads: int | None,
    shared: SharedWeights | None = None,
    **settings: Any,
) -> GraphSession:
    """A session over ``graph`` on ``device``, with ``threads`` threads (None: ``usable_cores``).

    ``shared``: weights to read there instead of mapping them once more; ``settings``: other
    arguments of ``Session``. Raises ``DeviceError`` for a device that is not there, ``BundleError``
    for a broken graph.
    """
    device = parse_device(device)
    check_build(device)
    try:
        session = GraphSession(graph, device, threads, shared or {}, **settings)
    except (
        *_LOAD_ERRORS,
        *_DEVICE_ERRORS,
        UnicodeDecodeError,
    ) as error:  # its message may quote damaged bytes
        if device.provider != CPU and isinstance(error, _DEVICE_ERRORS):
            raise DeviceError(
                f"The device {device.name!r} cannot be used: {_reason(error)}."
            ) from error
        raise BundleError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {graph}: {_reason(error)}. "
            "Check the bundle with `edgeseq info BUNDLE --verify`."
        ) from error
    if device.provider == CUDA and (hidden := hidden_nodes(session.assigned_nodes())):
        raise DeviceError(
            f"{graph} was not made for the device {device.name!r}: it would leave "
            f"{', '.join(hidden)} to the CPU. Make the bundle anew for it "
            "(`edgeseq quantize --recipe fp16`), or use 'cpu'."
        )
    return session


def save_prepacked(graph: Path, out: Path, shared: SharedWeights) -> None:
    """Write ``graph`` to ``out``, with its packed weights in a file beside it."""
    open_session(graph, "cpu", 1, shared, save_to=out, entries=_WITH_PACKED_WEIGHTS)


def save_optimized(graph: Path, out: Path) -> None:
    """Write to ``out`` what ONNX Runtime makes of ``graph`` for any provider.

    Its weights stay where they are.
    """
    open_session(graph, "cpu", 1, optimize=True, save_to=out, entries=_WITHOUT_PACKING)


def runtime_version() -> str:
    """The version of ONNX Runtime."""
    return str(onnxruntime.__version__)


def map_shared_weights(path: Path, weights: Mapping[str, SharedWeight]) -> SharedWeights:
    """The matrices of the weights file ``path``, mapped; ``BundleError`` where it ends before."""
    mapped = {}
    for name, weight in weights.items():
        end = weight.offset_bytes + 4 * weight.rows * weight.columns
        inside = path.is_file() and 0 <= weight.offset_bytes < end <= path.stat().st_size
        if not inside or min(weight.rows, weight.columns) < 1 or weight.offset_bytes % 64:
            raise BundleError(
                f"The weight {name!r} is not in {path} as the manifest says: copy or export the "
                "bundle again."
            )
        shape = (weight.rows, weight.columns)
        array = np.memmap(path, "<f4", "r", weight.offset_bytes, shape)
        mapped[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
    return mapped


def session_options(threads: int | None) -> onnxruntime.SessionOptions:
    """How sessions run: see the comments for what differs from ONNX Runtime's defaults."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count(threads)
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # shapes vary, and patterns would be kept for each
    options.log_severity_level = 4  # errors are raised, not printed as well
    # Threads may spin between the nodes of a run, never between runs: an idle app burns no CPU.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def thread_count(threads: Any) -> int:
    """The number of threads, ``usable_cores`` for None; ``OptionError`` for what is none."""
    if threads is None:
        return usable_cores()
    if isinstance(threads, bool) or not isinstance(threads, Integral):
        raise OptionError(f"threads is {threads!r}; it must be an integer, or None for all cores.")
    if not 1 <= (count := int(threads)) <= MAX_THREADS:
        raise OptionError(f"threads is {threads}; it must be from 1 to {MAX_THREADS}.")
    return count


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is damaged"
    return reason(error)


_sessions: WeakValueDictionary[Hashable, GraphSession] = WeakValueDictionary()
_lock = threading.Lock()


def shared_session(
    files: Sequence[Path], settings: Hashable, open_new: Callable[[], GraphSession]
) -> GraphSession:
    """The session over ``files`` with ``settings`` that is open already, or else ``open_new()``.

    Of two loads that open the same at the same time each may get its own.
    """
    # A child after os.fork() has no threads for its parent's sessions.
    key = (os.getpid(), settings, tuple(map(_identity, files)))
    with _lock:
        found = _sessions.get(key)
    if found is None:
        found = open_new()
        with _lock:
            _sessions[key] = found
    return found


def _identity(path: Path) -> Hashable:
    """What changes when a file is replaced or written to; None: there is no such file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
