"""Devices by name, and the errors for unavailable devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgeseq.runtime import BundleError, DeviceError, OptionError, load
from edgeseq.runtime.ort import engine, providers
from edgeseq.runtime.ort.devices import CPU, CUDA, Device, parse_device
from edgeseq.runtime.ort.providers import (
    Assigned,
    check_driver,
    check_opened,
    check_there,
    hidden_nodes,
    prepare,
    why_not_opened,
)
from tests.support.errors import refusal


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("cpu", None, Device("cpu", CPU)),
        ("cuda", None, Device("cuda", CUDA)),
        ("cuda:1", None, Device("cuda:1", CUDA, (("device_id", "1"),))),
        ("cuda:1", {"device_id": 1}, Device("cuda:1", CUDA, (("device_id", "1"),))),
        (
            "cuda",
            {"gpu_mem_limit": 2**31, "use_tf32": False},
            Device("cuda", CUDA, (("gpu_mem_limit", "2147483648"), ("use_tf32", "False"))),
        ),
        ("cuda:01", None, Device("cuda:01", CUDA, (("device_id", "1"),))),
        (
            "DmlExecutionProvider",
            {"device_id": 2},
            Device("DmlExecutionProvider", "DmlExecutionProvider", (("device_id", "2"),)),
        ),
        (
            "VitisAIExecutionProvider",
            None,
            Device("VitisAIExecutionProvider", "VitisAIExecutionProvider"),
        ),
    ],
)
def test_devices_by_name_and_options(name: str, options: Any, expected: Device) -> None:
    assert parse_device(name, options) == expected


def test_the_number_of_a_device() -> None:
    assert [parse_device(name).number for name in ("cuda", "cuda:0", "cuda:12")] == [0, 0, 12]


@pytest.mark.parametrize(
    "name",
    [
        *("tpu", "", "CPU", None, 3, "cuda:", "cuda:x", "cuda:-1", "cuda:\u0661", "cpu:1"),
        *("directml", "coreml", "CoreMLExecutionProvider:1"),
    ],
)
def test_an_unknown_device_is_refused(name: Any) -> None:
    with pytest.raises(DeviceError, match="There is no device"):
        parse_device(name)


@pytest.mark.parametrize(
    "options", [3, "a", [("a", 1)], {1: 2}, {"device_id": "x"}, {"device_id": -1}]
)
def test_malformed_provider_options_are_refused(options: Any) -> None:
    with pytest.raises(OptionError, match=r"provider_options|device_id"):
        parse_device("cuda", options)


def test_a_device_number_given_twice_is_refused() -> None:
    with pytest.raises(OptionError, match=r"^device_id is '0', but"):
        parse_device("cuda:1", {"device_id": 0})


# What is missing


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda", "no CUDAExecutionProvider: install the extra 'cuda' instead of 'cpu'"),
        (
            "DmlExecutionProvider",
            "no DmlExecutionProvider: install a build that has it, or use 'cpu'",
        ),
    ],
)
def test_a_build_without_the_provider(name: str, words: str) -> None:
    message = refusal(DeviceError, lambda: check_there(parse_device(name), [CPU], "1.31.1"))
    assert words in message
    assert repr(name) in message
    check_there(parse_device(name), [CPU, parse_device(name).provider], "1.31.1")


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "DRIVER", "libthere-is-none.so.1")
    with pytest.raises(DeviceError, match=r"driver is missing \(libthere-is-none.so.1"):
        check_driver(parse_device("cuda"))
    monkeypatch.setattr(providers, "DRIVER", None)  # the process itself, which can be loaded
    check_driver(parse_device("cuda"))


def test_a_library_is_missing(tmp_path: Path) -> None:
    library = tmp_path / "provider.so"
    library.write_bytes(b"no library")
    why = why_not_opened(library)
    assert why.startswith("a library that it needs is missing (")
    assert str(library) in why
    assert why_not_opened(tmp_path / "none.so").endswith("could not start it")


def test_onnx_runtimes_own_messages_are_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime prints which CUDA libraries are missing; other threads may print meanwhile."""
    calls = "print('not found'); import builtins; builtins.print('the program')"
    monkeypatch.setattr(providers, "check_driver", lambda _: None)
    monkeypatch.setattr(providers, "_preloaded", False)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: exec(calls, vars(onnxruntime)))
    for _ in range(2):
        prepare(parse_device("cuda"))
    assert capsys.readouterr().out == "the program\n"
    assert "print" not in vars(onnxruntime)


class FallenBack:
    def get_providers(self) -> list[str]:
        return [CPU]


def test_a_session_that_fell_back_to_the_cpu_is_refused() -> None:
    check_opened(FallenBack(), parse_device("cpu"))
    with pytest.raises(DeviceError, match="The device 'cuda:1' is not available, because "):
        check_opened(FallenBack(), parse_device("cuda:1"))


def test_nodes_that_stay_on_the_cpu() -> None:
    assigned = [
        Assigned(*(CUDA, "MatMul", "")),
        Assigned(*(CPU, "Shape", "positions.1")),
        Assigned(*(CPU, "Add", "positions.2")),
        Assigned(*(CPU, "MemcpyToHost", "copy")),
        Assigned(*(CPU, "Add", "residual")),
        Assigned(*(CPU, "MatMulInteger", "")),
        Assigned(*(CPU, "MatMulInteger", "")),
    ]
    assert hidden_nodes(assigned) == ["Add", "MatMulInteger"]


# Through `load`


def test_auto_reports_the_device_and_why(bundle: Path) -> None:
    model = load(bundle, device="auto")
    assert model.device == "cpu"
    assert "CUDAExecutionProvider" in model.device_reason
    asked = load(bundle)
    assert (asked.device, asked.device_reason) == ("cpu", "it was requested")
    load(bundle, device="auto", kv_cache="float32")
    ids = model.generate_ids([[1]], max_new_tokens=5)[0].token_ids
    assert ids == asked.generate_ids([[1]], max_new_tokens=5)[0].token_ids


@pytest.mark.parametrize("error", [BundleError, DeviceError, OptionError])
def test_auto_takes_the_cpu_whatever_cuda_fails_at(
    error: type[Exception], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = engine.open_on

    def fails(device: Device, *arguments: Any, **settings: Any) -> Any:
        if device.provider == CUDA:
            raise error("no kernel for it")
        return opened(device, *arguments, **settings)

    monkeypatch.setattr(engine, "open_on", fails)
    model = load(bundle, device="auto")
    assert (model.device, model.device_reason) == ("cpu", "no kernel for it")


@pytest.mark.parametrize("what", ["gpt2", "t5"])
def test_auto_computes_before_it_chooses_cuda(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session may open although a kernel is missing, which only a run shows."""
    opened, runs = engine.open_on, []

    def on_the_cpu(device: Device, *arguments: Any, **settings: Any) -> Any:
        found: Any = opened(parse_device("cpu"), *arguments, **settings)
        found.device, new_decoder = device.name, found.decoder

        def new(*given: Any) -> Any:
            decoder = new_decoder(*given)
            step = decoder.decode
            decoder.decode = lambda tokens: runs.append(1) or step(tokens)
            return decoder

        found.decoder = new
        return found

    monkeypatch.setattr(engine, "open_on", on_the_cpu)
    assert load(demo=what, device="auto").device == "cuda"
    assert runs


def test_an_error_while_binding_becomes_one_sentence(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Binding an input copies it to the device, which may be out of memory."""
    model = load(bundle, device="AzureExecutionProvider")

    def full(*_: Any) -> None:
        raise RuntimeError("Error when binding input: no memory\nat somewhere")

    monkeypatch.setattr(onnxruntime.IOBinding, "bind_input", full)
    message = refusal(DeviceError, lambda: model.generate_ids([[1]], max_new_tokens=3))
    reason = "Error when binding input: no memory"
    assert message.startswith(f"The device 'AzureExecutionProvider' failed ({reason}): use fewer")


def test_any_provider_of_the_build_can_be_named(bundle: Path) -> None:
    """Every build for the CPU has Azure's provider, which takes no nodes."""
    model = load(bundle, device="AzureExecutionProvider")
    assert model.generate_ids([[1]], max_new_tokens=3)
    assert model.device == "AzureExecutionProvider"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"device": "cuda"}, DeviceError),
        ({"device": "directml"}, DeviceError),
        ({"device": "auto", "provider_options": {}}, OptionError),
        ({"device": "AzureExecutionProvider", "prepack": True}, OptionError),
        ({"provider_options": 3}, OptionError),
        ({"provider_options": {"a": 1}}, OptionError),
        ({"device": "auto", "provider_options": {"a": 1}}, OptionError),
    ],
)
def test_devices_and_options_that_are_refused(
    options: dict[str, Any], error: type[Exception], bundle: Path
) -> None:
    refusal(error, lambda: load(bundle, **options))


def test_on_cuda_the_cache_is_one_of_16_bits(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "check_build", lambda _: None)
    for dtype in ("float32", "int8"):
        with pytest.raises(OptionError, match="supports only 'float16'"):
            load(bundle, device="cuda", kv_cache=dtype)
    with pytest.raises(DeviceError, match="no graph for the device 'cuda'"):
        load(bundle, device="cuda")


# Plug-ins


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda", "device is 'cuda'; with provider_library"),
        ("auto", "cannot be used with the device 'auto'"),
        (3, "device is 3; with"),
        ("A", "provider_library is 'there-is-none.so'"),
    ],
)
def test_a_plug_in_for_no_named_provider_is_refused(name: Any, message: str, bundle: Path) -> None:
    with pytest.raises((DeviceError, OptionError), match=message):
        load(bundle, device=name, provider_library="there-is-none.so")


def test_a_plug_in_that_cannot_be_loaded(bundle: Path, tmp_path: Path) -> None:
    library = tmp_path / "plugin.so"
    library.write_bytes(b"no library")
    with pytest.raises(DeviceError, match=f"The library {library} cannot be loaded"):
        load(bundle, device="PluginExecutionProvider", provider_library=library)


def test_a_plug_in_s_devices_compute(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU's devices, which need no library, stand in for a plug-in's."""
    library = tmp_path / "plugin.so"
    library.write_bytes(b"")
    seen: list[tuple[str, str]] = []
    register = lambda name, path: seen.append((name, path))  # noqa: E731
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", register)
    monkeypatch.setattr(providers, "_plugged_in", {})
    for _ in range(2):
        model = load(bundle, device=CPU, provider_library=library, threads=1)
        assert model.generate_ids([[1]], max_new_tokens=3)
    assert seen == [(CPU, str(library.resolve()))]  # once a process
    with pytest.raises(DeviceError, match="has no 'OtherExecutionProvider' for this machine"):
        load(bundle, device="OtherExecutionProvider", provider_library=library)


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        (RuntimeError("infer_request.cpp:223: dynamic shape"), "cannot run this bundle .infer_req"),
        (1.5, "computes other logits than the CPU .they differ by up to 1.5."),
        (np.nan, "computes other logits than the CPU .they differ by up to nan."),
    ],
)
def test_a_plug_in_that_computes_something_else_is_refused_at_load(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trial: Any, message: str
) -> None:
    library = tmp_path / "plugin.so"
    library.write_bytes(b"")
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda *_: None)
    monkeypatch.setattr(providers, "_plugged_in", {})
    run = engine._trial
    results: list[Any] = []

    def tried(opened: engine.Engine) -> Any:
        results.append(run(opened))
        if len(results) == 2:
            return results[1]  # the CPU's
        if isinstance(trial, Exception):
            raise DeviceError("The device failed.") from trial
        return results[0] + np.float32(trial)

    monkeypatch.setattr(engine, "_trial", tried)
    with pytest.raises(DeviceError, match=message):
        load(bundle, device=CPU, provider_library=library, threads=1)
