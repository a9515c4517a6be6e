"""A full disk and too little memory: status 1 and one sentence, whatever a library calls it."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeseq.runtime import BundleError, DeviceError, load
from edgeseq.runtime.errors import is_out_of_memory
from edgeseq.runtime.ort import engine, graph_session
from edgeseq.runtime.ort.import_onnxruntime import onnxruntime, status
from tests.support.commands import Captured, failure, process
from tests.support.errors import CODE, assert_one_sentence, refusal

LIMITED = """
import resource, sys
limit = int(sys.argv.pop(1)) << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from edgeseq.cli import main
sys.exit(main())
"""


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


OUT_OF_MEMORY: list[Exception] = [
    MemoryError(),
    RuntimeError("std::bad_alloc"),
    RuntimeError("can't start new thread"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    status.RuntimeException("Exception during initialization: std::bad_alloc"),
    caused(BundleError("The bundle cannot be loaded."), MemoryError()),
]
OTHERS: list[Exception] = [
    RuntimeError("shapes do not fit"),
    OSError(errno.EACCES, "Permission denied"),
    ImportError("library.so: failed to map segment from shared object"),  # no limit is set here
    BundleError("The bundle is damaged."),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_too_little_memory_is_one_sentence(
    error: Exception, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("edgeseq.runtime.bundle.reading.open_bundle", fail)
    message = failure(capsys, "info", "--demo", "gpt2")
    assert message.startswith("There is not enough memory (")


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_errors_do_not_mean_too_little_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_a_library_that_cannot_be_mapped_for_lack_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is not even memory for the module that knows the limit."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert is_out_of_memory(ImportError("library.so: failed to map segment from shared object"))


@pytest.mark.parametrize("name", ["weights.bin", None])
def test_a_full_disk_is_one_sentence(
    name: str | None, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", name)

    monkeypatch.setattr("edgeseq.runtime.bundle.reading.open_bundle", fail)
    of = f" of {name}" * (name is not None)
    expected = f"The disk{of} is full: free some space and run the same command again."
    assert failure(capsys, "info", "--demo", "gpt2") == expected


def test_a_graph_that_memory_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise status.Fail("Load model failed:std::bad_alloc")

    monkeypatch.setattr(graph_session, "GraphSession", fail)
    with pytest.raises(DeviceError, match="There is not enough memory to load") as caught:
        engine.open_session(Path("decoder.onnx"))
    assert_one_sentence(str(caught.value))


def test_a_run_that_memory_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise status.RuntimeException("std::bad_alloc")

    with load(threads=1) as model:
        monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", fail)
        refusal(DeviceError, lambda: model.generate("a"), match="not enough memory for this run")


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by Linux")
@pytest.mark.parametrize("mebibytes", [50, 100, 150, 200, 250, 4000])
def test_a_process_with_a_limit_works_or_says_one_sentence(mebibytes: int) -> None:
    command = [sys.executable, "-c", LIMITED, str(mebibytes)]
    environment = {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
    options = ["--threads", "1", "--max-new-tokens", "2"]
    done = process("generate", "Once", *options, command=command, env=environment)
    if done.returncode == 0:
        assert mebibytes > 100
        return
    assert (done.returncode, mebibytes < 4000) == (1, True)
    message = done.stderr.decode().splitlines()[-1].removeprefix("edgeseq: ")
    assert_one_sentence(message, ending=CODE, longest=1000)
