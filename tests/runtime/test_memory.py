"""The memory of a device, with a stand-in on the CPU that is reached by address only."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeseq.export.graphs.device_graphs import TYPES, copy_graph, top_graph
from edgeseq.runtime import Model
from edgeseq.runtime.errors import DeviceError
from edgeseq.runtime.ort.engine import Engine
from edgeseq.runtime.ort.graph_session import open_session
from edgeseq.runtime.ort.memory import (
    GRAPHS,
    Buffer,
    CpuMemory,
    DeviceLogits,
    DeviceMemory,
    address_of,
)

DEVICE_TENSORS = {"source", "target", "logits"}  # in the stand-in's memory, by address


class CopyingBinding:
    """A binding that copies inputs in main memory, as ONNX Runtime does for devices."""

    def __init__(self, binding: Any) -> None:
        self.binding = binding
        self._copies: dict[str, Any] = {}

    def bind_input(
        self, name: str, device: str, number: int, dtype: Any, shape: Any, at: int
    ) -> None:
        kept = name in DEVICE_TENSORS or name.startswith(("past_key_values.", "cross."))
        if device == "cpu" and not kept:
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            copied = ctypes.create_string_buffer(ctypes.string_at(at, size), size)
            self._copies[name] = copied
            at = ctypes.addressof(copied)
        self.binding.bind_input(name, device, number, dtype, shape, at)

    def bind_output(self, *arguments: Any) -> None:
        self.binding.bind_output(*arguments)


class CopyingSession:
    """A session whose bindings are those of another device than the CPU."""

    copies_inputs = True

    def __init__(self, session: Any) -> None:
        self._session = session

    def io_binding(self) -> CopyingBinding:
        return CopyingBinding(self._session.io_binding())

    def run_with_iobinding(self, binding: CopyingBinding, *options: Any) -> None:
        self._session.run_with_iobinding(binding.binding, *options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class Tensor:
    """A tensor of which only the address is known."""

    def __init__(self, shape: Any, dtype: Any) -> None:
        self._array = np.full(shape, 77, dtype)

    def data_ptr(self) -> int:
        return self._array.ctypes.data


class StandIn(DeviceMemory):
    """Counts copied positions; no buffer is an array, so that a copy by the host fails."""

    def __init__(self) -> None:
        super().__init__("cpu", 0, Tensor, lambda graph: open_session(graph, threads=1))
        self.copied = 0

    def copy_row(self, block: Buffer, source: int, target: int, begin: int, end: int) -> None:
        self.copied += end - begin
        super().copy_row(block, source, target, begin, end)

    def copy_out(self, block: Buffer, source: int, other: Buffer, target: int, length: int) -> None:
        self.copied += length
        super().copy_out(block, source, other, target, length)


def contents(buffer: Buffer) -> np.ndarray[Any, Any]:
    size = int(np.prod(buffer.shape)) * buffer.dtype.itemsize
    raw = (ctypes.c_char * size).from_address(buffer.address)
    return np.frombuffer(raw, buffer.dtype).reshape(buffer.shape)


def filled(memory: Any, dtype: str, rows: int, capacity: int) -> Buffer:
    block = memory.allocate((4, rows, 3, capacity, 8), np.dtype(dtype))
    assert isinstance(block, Buffer)
    values = np.random.default_rng(rows).integers(-100, 100, block.shape)
    contents(block)[:] = values.astype(dtype)
    return block


@pytest.mark.parametrize("dtype", TYPES)
def test_the_device_copies_what_the_host_would_copy(dtype: str) -> None:
    results = []
    for memory in (CpuMemory(), StandIn()):
        block = filled(memory, dtype, rows=3, capacity=10)
        address = block.address
        memory.copy_row(block, 2, 0, 4, 9)
        memory.copy_row(block, 0, 1, 3, 3)
        other = filled(memory, dtype, rows=2, capacity=12)
        memory.copy_out(block, 1, other, 0, 7)
        assert block.address == address
        results.append((contents(block).copy(), contents(other).copy()))
    for host, device in zip(*results, strict=True):
        np.testing.assert_array_equal(host, device)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_graphs_are_what_the_script_makes(dtype: str) -> None:
    shipped = onnx.load(GRAPHS / f"copy_{dtype}.onnx")
    assert shipped == copy_graph(dtype)
    onnx.checker.check_model(shipped, full_check=True)


def test_the_graph_of_the_best_logits_is_what_the_script_makes() -> None:
    shipped = onnx.load(GRAPHS / "top_logits.onnx")
    assert shipped == top_graph()
    onnx.checker.check_model(shipped, full_check=True)


def test_only_the_best_logits_come_back() -> None:
    memory = StandIn()
    logits = DeviceLogits(memory, 3, vocabulary=50)
    rng = np.random.default_rng(0)
    for rows, count in ((3, 4), (2, 1), (3, 60), (1, 2)):
        values = rng.normal(size=(rows, 50)).astype(np.float32)
        place = address_of(memory, logits.buffer, rows)
        device, number, dtype, shape, address = place
        assert (device, number, tuple(shape)) == ("cpu", 0, (rows, 50))
        contents(Buffer(address, (rows, 50), dtype, None))[:] = values
        found = logits.fetch(rows, count)
        for row in range(rows):
            kept = np.argsort(-values[row])[:count]
            expected = np.full(50, -np.inf, np.float32)
            expected[kept] = values[row, kept]
            np.testing.assert_array_equal(found[row], expected)


def test_a_failed_allocation_is_a_device_error() -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    memory = DeviceMemory("cuda", 0, refuse, open_session)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match=r"^2 MiB of device memory cannot be allocated"):
        memory.allocate((2, 1, 1, 1024, 256), np.dtype(np.float32))


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"num_beams": 4, "num_return_sequences": 4},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"do_sample": True, "num_return_sequences": 3, "seed": 3},
        {"do_sample": True, "top_k": 7, "temperature": 0.8, "top_p": 0.9, "seed": 3},
        {"do_sample": True, "top_k": 0, "seed": 3},
        {"do_sample": False, "repetition_penalty": 1.3},
        {"do_sample": False, "logprobs": 3},
        {"do_sample": False, "prompt_lookup_num_tokens": 5},
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_the_ids_are_those_of_a_cache_in_main_memory(
    family: str, options: dict[str, Any], model: Model, t5_model: Model
) -> None:
    """Also where beams continue each other, and where the cache grows."""
    model = model if family == "gpt2" else t5_model
    manifest = model.bundle.manifest
    sessions = {
        role: CopyingSession(open_session(model.bundle.file(file), threads=1))
        for role, file in manifest.graphs.items()
        if role in ("encoder", "decoder")
    }
    memory = StandIn()
    there = model.with_decoders(Engine(manifest, sessions, memory=memory).decoder)
    prompts = [[5, 6, 7, 5, 6, 7], [9, 8]][: 1 if "prompt_lookup_num_tokens" in options else 2]
    given: dict[str, Any] = {"max_new_tokens": 20, "eos_token_id": None, **options}
    expected = model.generate_ids(prompts, **given)
    assert [r.token_ids for r in there.generate_ids(prompts, **given)] == [
        r.token_ids for r in expected
    ]
    if "num_beams" in options:
        assert memory.copied
        assert memory.copied < 20 * 6 * 8  # not whole rows each step


def test_a_session_keeps_its_cache_on_the_device(model: Model) -> None:
    manifest = model.bundle.manifest
    sessions = {"decoder": open_session(model.bundle.file("decoder.onnx"), threads=1)}
    there = model.with_decoders(Engine(manifest, sessions, memory=StandIn()).decoder)
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 4, "eos_token_id": None}
    with there.session() as session:
        session.generate_ids([5, 6, 7, 8], **options)
        with session.fork() as other:
            found = other.generate_ids([5, 6, 7, 9, 9], **options)[0].token_ids
    assert found == model.generate_ids([[5, 6, 7, 9, 9]], **options)[0].token_ids
    assert Path(GRAPHS / "copy_float32.onnx").is_file()
