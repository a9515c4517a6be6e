"""The graph contract: a graph that does not fit its manifest is refused when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from edgeseq.runtime import BundleError
from edgeseq.runtime.bundle.graph_contract import (
    check_graph,
    decoder_inputs,
    decoder_outputs,
    encoder_inputs,
    encoder_outputs,
    layer_names,
)
from edgeseq.runtime.bundle.manifest import Kind, Manifest
from edgeseq.runtime.bundle.reading import open_bundle
from edgeseq.runtime.ort.graph_session import open_session
from tests.support.errors import refusal

ROLES: list[tuple[Kind, str]] = [
    ("decoder-only", "decoder"),
    ("encoder-decoder", "decoder"),
    ("encoder-decoder", "encoder"),
]


@dataclass(frozen=True)
class Value:
    name: str
    shape: list[str | int]
    type: str = "tensor(float)"


@dataclass
class DeclaredSession:
    """A session that declares inputs and outputs, by default those of the contract."""

    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)

    def get_inputs(self) -> list[Value]:
        return [Value(name, list(shape)) for name, shape in self.inputs.items()]

    def get_outputs(self) -> list[Value]:
        return [Value(name, list(shape)) for name, shape in self.outputs.items()]


@pytest.fixture
def manifest(bundle: Path) -> Manifest:
    return open_bundle(bundle).manifest


def declared(manifest: Manifest, role: str) -> DeclaredSession:
    sizes = manifest.dimensions
    if role == "encoder":
        return DeclaredSession(dict(encoder_inputs()), dict(encoder_outputs(sizes)))
    inputs = decoder_inputs(sizes, after_encoder=manifest.has_encoder)
    return DeclaredSession(dict(inputs), dict(decoder_outputs(sizes)))


def graph_error(session: Any, role: str, manifest: Manifest) -> str:
    """Return the sentence of the ``BundleError`` about a wrong graph."""
    message = refusal(BundleError, lambda: check_graph(session, role, manifest))
    assert message.startswith(f"The {role} graph ")
    assert message.endswith("export the bundle again.")
    return message


def test_layers_are_named_in_one_order(manifest: Manifest) -> None:
    assert layer_names(manifest.dimensions) == ["0.key", "0.value", "1.key", "1.value"]


def test_an_exported_graph_keeps_the_contract(bundle: Path, manifest: Manifest) -> None:
    session = open_session(bundle / manifest.graphs["decoder"], threads=1)
    check_graph(session, "decoder", manifest)
    graph_error(session, "encoder", manifest)


@pytest.mark.parametrize(("kind", "role"), ROLES)
def test_every_tensor_is_required_in_its_shape(kind: Kind, role: str, manifest: Manifest) -> None:
    manifest = replace(manifest, kind=kind)
    check_graph(declared(manifest, role), role, manifest)
    for part in ("inputs", "outputs"):
        for name in getattr(declared(manifest, role), part):
            session = declared(manifest, role)
            del getattr(session, part)[name]
            assert f"{name} is missing" in graph_error(session, role, manifest)
            session = declared(manifest, role)
            getattr(session, part)[name] = ("rows", 5, 5)
            assert f"{name} has the shape ['rows', 5, 5]" in graph_error(session, role, manifest)


@pytest.mark.parametrize(("kind", "role"), ROLES)
def test_a_further_tensor_is_refused(kind: Kind, role: str, manifest: Manifest) -> None:
    manifest = replace(manifest, kind=kind)
    for part in ("inputs", "outputs"):
        session = declared(manifest, role)
        getattr(session, part)["attention_mask"] = ("rows", "n")
        assert "attention_mask is unexpected" in graph_error(session, role, manifest)


@pytest.mark.parametrize("name", ["layers", "heads", "stored_head_size", "vocabulary"])
def test_other_sizes_than_the_manifests_are_refused(
    name: str, bundle: Path, manifest: Manifest
) -> None:
    session = open_session(bundle / manifest.graphs["decoder"], threads=1)
    sizes = manifest.dimensions
    for change in (-1, 1):
        other = sizes._replace(**{name: getattr(sizes, name) + change})
        graph_error(session, "decoder", replace(manifest, dimensions=other))


def test_names_that_are_not_utf8_are_refused(manifest: Manifest) -> None:
    class Damaged(DeclaredSession):
        def get_inputs(self) -> list[Value]:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    assert "damaged" in graph_error(Damaged(), "decoder", manifest)
