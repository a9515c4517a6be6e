"""Bundles on disk: every fault is a ``BundleError`` of one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseq.runtime import BundleError, load
from edgeseq.runtime.bundle.manifest import (
    MANIFEST_NAME,
    MOST_SENTINELS,
    SCHEMA,
    WEIGHTS_FILE_NAME,
    CacheFormat,
    Dimensions,
    FileEntry,
    Manifest,
    OverlappingWeight,
    Quality,
    Quantization,
    SharedWeight,
    Source,
    TokenizerFormat,
    Verification,
)
from edgeseq.runtime.bundle.reading import file_entry, open_bundle
from edgeseq.runtime.bundle.writing import BundleWriter
from tests.support.errors import CODE, refusal
from tests.support.files import forge

FILES = ("decoder.onnx", "tokenizer.json", "weights.bin")
LATER = "999.1"  # a version of edgeseq
FREE_FIELDS = (
    "generation",
    "task_specific_params",
    "graphs",
    "producers",
    "files",
)  # whose keys are not the schema's


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A copy of a good bundle, to be damaged."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


@pytest.fixture
def data(bundle: Path) -> dict[str, Any]:
    """The manifest of a good bundle as a dictionary, to be changed."""
    content: dict[str, Any] = json.loads((bundle / MANIFEST_NAME).read_text(encoding="utf-8"))
    return content


def write_manifest(folder: Path, content: object, indent: int | None = None) -> None:
    text = json.dumps(content, indent=indent) + "\n"
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8", newline="\n")


def flipped(content: bytes, position: int, mask: int) -> bytes:
    """Return ``content`` with the bits of ``mask`` flipped in one byte."""
    damaged = bytearray(content)
    damaged[position] ^= mask
    return bytes(damaged)


def test_a_good_bundle_opens_and_verifies(bundle: Path) -> None:
    opened = open_bundle(bundle, verify=True)
    assert set(opened.manifest.files) == set(FILES)
    assert opened.manifest == open_bundle(bundle).manifest
    assert all(opened.file(name).is_file() for name in FILES)


# A place that is no bundle


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "no-such" in refusal(BundleError, lambda: load(tmp_path / "no-such"))


def test_a_file_instead_of_a_folder(bundle: Path) -> None:
    assert "weights.bin" in refusal(BundleError, lambda: load(bundle / "weights.bin"))


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    assert MANIFEST_NAME in refusal(BundleError, lambda: load(tmp_path))


def test_a_folder_in_the_place_of_the_manifest(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).mkdir()
    assert MANIFEST_NAME in refusal(BundleError, lambda: load(tmp_path))


# A manifest that is none


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" \n",
        b"{",
        b"nonsense",
        b"\x00" * 100,
        b"\xff\xfe{\x00}\x00",
        b'{"schema": 1, "kind": "\xff"}',
        b'\xef\xbb\xbf{"schema": 1}',
        b"[]",
        b'[{"schema": 1}]',
        b"{}",
        b"null",
        b"1",
        b'"text"',
        b'{"schema": null}',
        b'{"schema": "1"}',
        b'{"schema": 1.0}',
        b'{"schema": NaN}',
        b'{"schema": true}',
        b'{"schema": 1}',
        b'{"schema": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda content: repr(content[:30]),
)
def test_content_that_is_no_manifest_is_refused(copy: Path, content: bytes) -> None:
    (copy / MANIFEST_NAME).write_bytes(content)
    assert MANIFEST_NAME in refusal(BundleError, lambda: load(copy))


def test_a_manifest_nested_too_deeply_to_be_read(copy: Path) -> None:
    (copy / MANIFEST_NAME).write_bytes(b'{"schema": 1, "generation": ' + b"[" * 100_000)
    assert MANIFEST_NAME in refusal(BundleError, lambda: load(copy))


def test_a_manifest_cut_off_anywhere(copy: Path) -> None:
    whole = (copy / MANIFEST_NAME).read_bytes().rstrip()
    for size in range(0, len(whole), 23):
        (copy / MANIFEST_NAME).write_bytes(whole[:size])
        refusal(BundleError, lambda: open_bundle(copy))


@pytest.mark.parametrize("schema", [SCHEMA + 1, 999, 10**30])
def test_a_newer_schema(copy: Path, schema: int) -> None:
    write_manifest(copy, {"schema": schema, "made": "by a later version"})
    message = refusal(BundleError, lambda: load(copy))
    assert f"schema {schema}" in message
    assert f"up to {SCHEMA}" in message
    assert "install a newer edgeseq." in message


def test_a_newer_schema_names_the_version_that_made_it(copy: Path) -> None:
    write_manifest(copy, {"schema": SCHEMA + 1, "producers": {"edgeseq": LATER}})
    assert f"install edgeseq {LATER} or later." in refusal(BundleError, lambda: load(copy))


@pytest.mark.parametrize("made_by", ["0.0.9", "x" * 5000, "9" * 5000, "", "१.0", 9, None, ["99"]])
def test_a_newer_schema_made_by_no_later_version(copy: Path, made_by: object) -> None:
    write_manifest(copy, {"schema": SCHEMA + 1, "producers": {"edgeseq": made_by}})
    assert "install a newer edgeseq." in refusal(BundleError, lambda: load(copy))


# Bundles of later versions with the same schema


def by_a_later_version(data: dict[str, Any]) -> dict[str, Any]:
    return data | {"producers": data["producers"] | {"edgeseq": LATER}}


def test_fields_of_a_later_version_are_ignored_and_sealed(copy: Path, data: dict[str, Any]) -> None:
    data = by_a_later_version(data) | {"mood": {"fair": True}}
    data["dimensions"]["depth"] = 3
    unsealed = json.dumps(data | {"seal": ""}, sort_keys=True)
    data["seal"] = hashlib.sha256(unsealed.encode()).hexdigest()
    write_manifest(copy, data, indent=2)
    assert load(copy, threads=1, verify=True).generate_ids([[1]], max_new_tokens=1)
    data["mood"]["fair"] = False
    write_manifest(copy, data, indent=2)
    assert "seal" in refusal(BundleError, lambda: load(copy, verify=True))


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("kv_cache", "dtype", "int4"),
        ("tokenizer", "truncation_side", "middle"),
        ("overlapping_weights", "wte", {"offset_bytes": 0, "dtype": "uint2", "shape": [64, 16]}),
        ("quantization", "block_size", "16 by 16"),
    ],
)
def test_a_value_of_a_later_version_is_refused_with_that_version(
    copy: Path, data: dict[str, Any], group: str, key: str, value: object
) -> None:
    data = by_a_later_version(data)
    data.setdefault(group, {})[key] = value
    write_manifest(copy, data)
    message = refusal(BundleError, lambda: load(copy))
    assert f"{group}.{key}" in message
    assert f"install edgeseq {LATER} or later, which made it." in message


def test_an_operator_of_a_later_version_is_refused(copy: Path) -> None:
    """A new form of weights has a new operator, so that no older version misreads it."""
    graph = onnx.load(copy / "decoder.onnx", load_external_data=False)
    product = next(node for node in graph.graph.node if node.op_type == "MatMul")
    product.op_type, product.domain = "RowLinear9", "edgeseq"
    graph.opset_import.append(onnx.helper.make_opsetid("edgeseq", 1))
    onnx.save(graph, copy / "decoder.onnx")
    content = json.loads((copy / MANIFEST_NAME).read_text(encoding="utf-8"))
    content["files"]["decoder.onnx"] = file_entry(copy / "decoder.onnx")._asdict()
    write_manifest(copy, content)
    refusal(BundleError, lambda: load(copy), match="RowLinear9", ending=CODE)


@pytest.mark.parametrize("schema", [0, -1])
def test_an_unknown_schema_is_refused(copy: Path, data: dict[str, Any], schema: int) -> None:
    write_manifest(copy, data | {"schema": schema})
    assert f"schema {schema}" in refusal(BundleError, lambda: load(copy))


# The manifest's fields


def paths_of(content: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of each field of the schema."""
    for name, value in content.items():
        yield (*prefix, name)
        if isinstance(value, dict) and name not in FREE_FIELDS:
            yield from paths_of(value, (*prefix, name))


def parent_of(content: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path[:-1]:
        content = content[name]
    return content


def reading_refused(content: object) -> str:
    return refusal(BundleError, lambda: Manifest.from_json(json.dumps(content)))


def test_every_field_is_required(data: dict[str, Any]) -> None:
    paths = list(paths_of(data))
    assert len(paths) > 25
    for path in paths:
        changed = deepcopy(data)
        del parent_of(changed, path)[path[-1]]
        assert (path[-1] if path != ("schema",) else MANIFEST_NAME) in reading_refused(changed)


WRONG_VALUES: dict[type, list[object]] = {
    bool: [0, 1, "true", None],
    int: [True, 0.5, 2.0, "1", {}],
    float: [True, "0.5", None, {}],
    str: [1, True, None, {}],
    dict: ["text", 1, False],
    type(None): [1, True, {}],
}


NULLABLE = [
    ("dimensions", "max_positions"),
    ("prefix",),
    ("source", "revision"),
    ("tokenizer", "file"),
    ("tokenizer", "model_max_length"),
]
NULL_HERE = [("quantization", "block_size"), ("tokenizer", "model_max_length")]


def test_every_field_of_another_type_is_refused(data: dict[str, Any]) -> None:
    for path in paths_of(data):
        for wrong in [["wrong"], *WRONG_VALUES[type(parent_of(data, path)[path[-1]])]]:
            if wrong is None and path in NULLABLE:
                continue
            if path in NULL_HERE and type(wrong) is int:
                continue
            changed = deepcopy(data)
            parent_of(changed, path)[path[-1]] = wrong
            assert (path[-1] if path != ("schema",) else MANIFEST_NAME) in reading_refused(changed)


@pytest.mark.parametrize("path", NULLABLE)
def test_fields_that_may_be_null(data: dict[str, Any], path: tuple[str, ...]) -> None:
    parent_of(data, path)[path[-1]] = None
    assert Manifest.from_json(json.dumps(data)) is not None


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        "sha256",
        {},
        {"size_bytes": 1},
        {"size_bytes": "1", "sha256": "0"},
        {"size_bytes": 1.0, "sha256": "0"},
        {"size_bytes": -1, "sha256": "0"},
        {"size_bytes": 1, "sha256": 0},
    ],
    ids=repr,
)
def test_a_malformed_file_entry_is_refused(copy: Path, data: dict[str, Any], entry: object) -> None:
    data["files"]["weights.bin"] = entry
    write_manifest(copy, data)
    refusal(BundleError, lambda: load(copy))


@pytest.mark.parametrize("value", ["float64", "int8", "", 32])
def test_an_unknown_cache_format_is_refused(
    copy: Path, data: dict[str, Any], value: object
) -> None:
    data["kv_cache"]["dtype"] = value
    write_manifest(copy, data)
    assert "float32" in refusal(BundleError, lambda: load(copy))


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("encoder-decoder", "no encoder graph"),
        ("decoder", "'decoder-only'"),
        ("", "'decoder-only'"),
    ],
)
def test_an_unknown_or_incomplete_kind_is_refused(
    copy: Path, data: dict[str, Any], kind: str, named: str
) -> None:
    write_manifest(copy, data | {"kind": kind})
    assert named in refusal(BundleError, lambda: load(copy))


@pytest.mark.parametrize("graphs", [{}, {"encoder": "decoder.onnx"}, {"Decoder": "decoder.onnx"}])
def test_no_decoder_among_the_graphs(
    copy: Path, data: dict[str, Any], graphs: dict[str, str]
) -> None:
    write_manifest(copy, data | {"graphs": graphs})
    assert "decoder" in refusal(BundleError, lambda: load(copy))


# Paths that leave the folder


@pytest.mark.parametrize(
    "name",
    [
        "../weights.bin",
        "a/../../weights.bin",
        "a/..",
        "..",
        ".",
        "",
        "..\\weights.bin",
        "a\\..\\..\\weights.bin",
        "/weights.bin",
        "//server/share/weights.bin",
        "\\weights.bin",
        "\\\\server\\share\\weights.bin",
        "\\\\?\\C:\\weights.bin",
        "C:\\weights.bin",
        "C:/weights.bin",
        "C:weights.bin",
        "edgeseq.json",
    ],
)
@pytest.mark.parametrize("use", ["weights", "graph", "tokenizer"])
def test_an_unsafe_path(copy: Path, data: dict[str, Any], name: str, use: str) -> None:
    shutil.copy(copy / "weights.bin", copy.parent / "weights.bin")  # only its name is wrong
    data["files"][name] = data["files"].pop("weights.bin")
    if use == "graph":
        data["graphs"]["decoder"] = name
    elif use == "tokenizer":
        data["tokenizer"]["file"] = name
    write_manifest(copy, data)
    assert repr(name) in refusal(BundleError, lambda: load(copy))


def test_an_absolute_path_to_the_very_file(copy: Path, data: dict[str, Any]) -> None:
    name = str(copy / "weights.bin")
    data["files"][name] = data["files"].pop("weights.bin")
    write_manifest(copy, data)
    assert "unsafe" in refusal(BundleError, lambda: load(copy))


@pytest.mark.parametrize("name", ["../decoder.onnx", "/etc/passwd", "unlisted.onnx"])
def test_a_file_that_is_used_but_not_listed(copy: Path, data: dict[str, Any], name: str) -> None:
    write_manifest(copy, data | {"graphs": {"decoder": name}})
    assert repr(name) in refusal(BundleError, lambda: load(copy))


@pytest.mark.parametrize("name", ["no\nsuch", "nul\0", "\ud800"], ids=ascii)
def test_an_impossible_file_name_is_refused(copy: Path, data: dict[str, Any], name: str) -> None:
    data["files"][name] = {"size_bytes": 1, "sha256": "0"}
    write_manifest(copy, data)
    refusal(BundleError, lambda: load(copy))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows says that the file is missing")
def test_a_file_name_that_the_system_refuses(copy: Path, data: dict[str, Any]) -> None:
    data["files"]["x" * 300] = {"size_bytes": 1, "sha256": "0"}
    write_manifest(copy, data)
    assert "cannot be read" in refusal(BundleError, lambda: load(copy), longest=900)


def test_weights_that_are_not_listed(copy: Path, data: dict[str, Any]) -> None:
    del data["files"]["weights.bin"]
    write_manifest(copy, data)
    assert "'weights.bin'" in refusal(BundleError, lambda: load(copy))


# Values that are too large


@pytest.mark.parametrize("value", ["x" * 10**6, [1] * 10**6, 10**4000], ids=["str", "list", "int"])
@pytest.mark.parametrize("path", [("schema",), ("dimensions", "heads"), ("prefix",), ("files",)])
def test_an_error_quotes_the_beginning_of_a_long_value(
    data: dict[str, Any], path: tuple[str, ...], value: object
) -> None:
    if path == ("dimensions", "heads") and type(value) is int:
        return  # the type is right
    if path == ("prefix",) and isinstance(value, str):
        return
    parent_of(data, path)[path[-1]] = value
    reading_refused(data)


def test_a_long_key_is_not_quoted_in_full(data: dict[str, Any]) -> None:
    data["files"]["x" * 10**6] = 1
    reading_refused(data)


@pytest.mark.parametrize("depth", [40, 900])
def test_a_default_that_is_nested_deeply(copy: Path, data: dict[str, Any], depth: int) -> None:
    data["generation"]["sequence_bias"] = "nested"
    text = json.dumps(data).replace('"nested"', "[" * depth + "]" * depth)
    (copy / MANIFEST_NAME).write_text(text, encoding="utf-8")
    for verify in (False, True):
        message = refusal(BundleError, lambda: load(copy, verify=verify))  # noqa: B023
        assert "generation.sequence_bias is nested too deeply" in message


def test_an_integer_that_is_no_float(data: dict[str, Any]) -> None:
    data["verification"]["max_logit"] = 10**400
    assert "max_logit" in reading_refused(data)


@pytest.mark.parametrize("sentinels", [-1, 2**31, 2**64])
def test_more_sentinels_than_a_vocabulary_has(data: dict[str, Any], sentinels: int) -> None:
    data["tokenizer"]["sentinels"] = sentinels
    assert "tokenizer.sentinels" in reading_refused(data)


@pytest.mark.parametrize("layers", [0, -1, 3, 10**6, 2**63, 2**64])
def test_other_layers_than_the_graph_has(copy: Path, data: dict[str, Any], layers: int) -> None:
    data["dimensions"]["layers"] = layers
    write_manifest(copy, data)
    assert "does not match" in refusal(BundleError, lambda: load(copy))


# Bundles whose hashes were made to fit the damage


def test_a_graph_that_fails_when_it_runs(copy: Path) -> None:
    graph = onnx.load(copy / "decoder.onnx", load_external_data=False)
    indices = {node.input[1] for node in graph.graph.node if node.op_type == "Gather"}
    for tensor in graph.graph.initializer:
        if tensor.name in indices:  # of the dimensions of a shape
            tensor.raw_data = (2**40).to_bytes(8, "little")
    onnx.save(graph, copy / "decoder.onnx")
    forge(copy)
    model = load(copy, verify=True, threads=1)
    message = refusal(BundleError, lambda: model.generate_ids([[1, 2]]), ending=CODE)
    assert "cannot run the model" in message


# Missing and damaged files


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert name in refusal(BundleError, lambda: load(copy))


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    (copy / name).mkdir()
    assert name in refusal(BundleError, lambda: load(copy))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("name", [*FILES, MANIFEST_NAME])
@pytest.mark.parametrize("target", ["pipe", "itself", "/dev/zero"])
def test_something_that_is_no_file_in_the_place_of_a_file(
    copy: Path, name: str, target: str
) -> None:
    (copy / name).unlink()
    if target == "pipe":
        os.mkfifo(copy / name)
    else:
        (copy / name).symlink_to(name if target == "itself" else target)
    for verify in (False, True):
        assert name in refusal(BundleError, lambda: load(copy, verify=verify))  # noqa: B023


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [lambda size: 0, lambda size: size // 2, lambda size: size - 1])
def test_a_truncated_file(copy: Path, name: str, change: Callable[[int], int]) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: change(len(whole))])
    message = refusal(BundleError, lambda: load(copy))
    assert name in message
    assert str(len(whole)) in message


@pytest.mark.parametrize("name", FILES)
def test_an_enlarged_file(copy: Path, name: str) -> None:
    with (copy / name).open("ab") as file:
        file.write(b"\0")
    assert name in refusal(BundleError, lambda: load(copy))


def test_hashes_are_checked_only_on_request(copy: Path) -> None:
    weights = copy / "weights.bin"
    weights.write_bytes(flipped(weights.read_bytes(), 0, 1))  # the lowest bit of a float
    assert load(copy, threads=1).generate_ids([[1]], max_new_tokens=1)
    assert "weights.bin" in refusal(BundleError, lambda: load(copy, verify=True))


@pytest.mark.parametrize("name", FILES)
def test_verify_notices_a_flipped_byte_in_a_file(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    rng = random.Random(name)
    positions = [0, len(whole) - 1, *rng.sample(range(len(whole)), 20)]
    for position in positions:
        (copy / name).write_bytes(flipped(whole, position, 1 << rng.randrange(8)))
        assert name in refusal(BundleError, lambda: open_bundle(copy, verify=True))


def test_verify_notices_a_flipped_byte_anywhere_in_the_manifest(copy: Path) -> None:
    whole = (copy / MANIFEST_NAME).read_bytes()
    for position in range(len(whole)):
        mask = (0x01, 0x80, 0xFF)[position % 3]
        (copy / MANIFEST_NAME).write_bytes(flipped(whole, position, mask))
        refusal(BundleError, lambda: open_bundle(copy, verify=True))


@pytest.mark.parametrize(
    ("pattern", "mask"),
    [(rb"\n", 0x07), (rb"(?<=\d)e(?=-\d)", 0x20)],
    ids=["line break", "exponent"],
)
def test_verify_notices_a_flipped_byte_that_json_does_not(
    copy: Path, data: dict[str, Any], pattern: bytes, mask: int
) -> None:
    whole = (copy / MANIFEST_NAME).read_bytes()
    found = re.search(pattern, whole)
    assert found is not None
    damaged = flipped(whole, found.start(), mask)
    assert json.loads(damaged) == data
    (copy / MANIFEST_NAME).write_bytes(damaged)
    assert MANIFEST_NAME in refusal(BundleError, lambda: open_bundle(copy, verify=True))


@pytest.mark.parametrize("name", ["decoder.onnx", "tokenizer.json"])
def test_a_flipped_byte_in_a_graph_or_tokenizer_is_refused_without_verify(
    copy: Path, name: str
) -> None:
    whole = (copy / name).read_bytes()
    rng = random.Random(name)
    for position in rng.sample(range(len(whole)), 20):
        (copy / name).write_bytes(flipped(whole, position, 1 << rng.randrange(8)))
        assert name in refusal(BundleError, lambda: load(copy))


def test_without_verify_a_flipped_byte_in_the_manifest_loads_or_is_refused(
    copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = (copy / MANIFEST_NAME).read_bytes()
    rng = random.Random(MANIFEST_NAME)
    refused = 0
    for position in rng.sample(range(len(whole)), 150):
        damaged = flipped(whole, position, rng.choice([1, 2, 16, 32, 128, 255]))
        (copy / MANIFEST_NAME).write_bytes(damaged)
        try:
            load(copy, threads=1)
        except BundleError as error:
            assert len(str(error).splitlines()) == 1
            refused += 1
    assert refused > 50
    assert capfd.readouterr().out == ""


# The manifest as text

names = st.text(st.characters(codec="utf-8"), max_size=12)
safe_names = st.from_regex(r"[a-z0-9_]{1,8}\.[a-z]{1,4}", fullmatch=True)
numbers = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    integers = st.integers(0, 10**6)
    entries = st.builds(FileEntry, size_bytes=st.integers(0), sha256=names)
    files = draw(st.dictionaries(safe_names, entries, max_size=4))
    files[WEIGHTS_FILE_NAME] = draw(entries)
    listed = st.sampled_from(sorted(files))
    tokenizer = st.builds(
        TokenizerFormat,
        file=st.none() | listed,
        sentinels=st.integers(0, MOST_SENTINELS),
        special_tokens_strip=st.booleans(),
        clean_up_tokenization_spaces=st.booleans(),
        model_max_length=st.none() | integers,
        truncation_side=st.sampled_from(["left", "right"]),
    )
    shared = st.builds(SharedWeight, offset_bytes=integers, rows=integers, columns=integers)
    overlapping = st.builds(
        OverlappingWeight,
        offset_bytes=integers,
        dtype=st.sampled_from(["uint8", "float16"]),
        shape=st.lists(integers, max_size=3).map(tuple),
    )
    return Manifest(
        schema=SCHEMA,
        architecture=draw(names),
        kind=draw(st.sampled_from(["decoder-only", "encoder-decoder"])),
        dimensions=draw(
            st.builds(
                Dimensions,
                layers=integers,
                heads=integers,
                head_size=integers,
                stored_head_size=integers,
                vocabulary=integers,
                max_positions=st.none() | integers,
            )
        ),
        kv_cache=CacheFormat(dtype=draw(st.sampled_from(["float32", "int8", "float16"]))),
        graphs={
            "decoder": draw(listed),
            "decoder_int8_cache": draw(listed),
            "decoder_float16_cache": draw(listed),
            "encoder": draw(listed),
            **draw(st.dictionaries(names, listed, max_size=2)),
        },
        overlapping_weights=draw(st.none() | st.dictionaries(names, overlapping, max_size=2)),
        shared_weights=draw(st.dictionaries(names, shared, max_size=2)),
        tokenizer=draw(tokenizer),
        generation=draw(st.dictionaries(names, json_values, max_size=4)),
        prefix=draw(st.none() | names),
        task_specific_params=draw(
            st.dictionaries(names, st.dictionaries(names, json_values, max_size=2), max_size=2)
        ),
        weights_per_token_bytes=draw(integers),
        quantization=Quantization(
            recipe=draw(names),
            block_size=draw(st.none() | integers),
            kept=draw(st.dictionaries(names, names, max_size=2)),
            quality=draw(
                st.none()
                | st.builds(
                    Quality,
                    text=names,
                    tokens=integers,
                    context_tokens=st.none() | integers,
                    kv_cache=st.sampled_from(["float32", "int8"]),
                    source_cross_entropy=numbers,
                    cross_entropy=numbers,
                    perplexity_rise=numbers,
                    perplexity_rise_limit=numbers,
                    kl_divergence=numbers,
                    top1_agreement=numbers,
                )
            ),
        ),
        source=Source(id=draw(names), revision=draw(st.none() | names)),
        verification=draw(
            st.none()
            | st.builds(
                Verification, positions=integers, max_logit_difference=numbers, max_logit=numbers
            )
        ),
        producers=draw(st.dictionaries(names, names, max_size=3)),
        files=files,
    )


@settings(deadline=None, max_examples=60, derandomize=True)
@given(manifests())
def test_a_manifest_round_trips_through_json(manifest: Manifest) -> None:
    sealed = manifest.sealed()
    again = Manifest.from_json(sealed.to_json().encode().decode())
    assert again == sealed
    again.check_seal(sealed.to_json())


@settings(deadline=None, max_examples=100, derandomize=True)
@given(manifests(), st.data())
def test_a_manifest_with_a_random_field_is_read_or_refused(
    manifest: Manifest, drawn: st.DataObject
) -> None:
    content = json.loads(manifest.sealed().to_json())
    path = drawn.draw(st.sampled_from(list(paths_of(content))))
    parent_of(content, path)[path[-1]] = drawn.draw(json_values)
    try:
        Manifest.from_json(json.dumps(content))
    except BundleError as error:
        assert len(str(error).splitlines()) == 1


def test_a_name_that_cannot_be_printed_is_quoted_in_the_error(bundle: Path) -> None:
    content = json.loads((bundle / "edgeseq.json").read_text(encoding="utf-8"))
    content["shared_weights"] = {"a\x1eb": None}
    with pytest.raises(BundleError, match=r"shared_weights\.'a\\x1eb' is None"):
        Manifest.from_json(json.dumps(content))


@settings(deadline=None, max_examples=100, derandomize=True)
@given(json_values | st.text())
def test_random_json_or_text_is_refused(content: object) -> None:
    refusal(
        BundleError,
        lambda: Manifest.from_json(content if isinstance(content, str) else json.dumps(content)),
    )


@pytest.mark.parametrize("path", [("source", "id"), ("files", "weights.bin", "sha256"), ("seal",)])
def test_the_seal_breaks_with_any_change(
    bundle: Path, data: dict[str, Any], path: tuple[str, ...]
) -> None:
    parent_of(data, path)[path[-1]] += "0"
    manifest = Manifest.from_json(json.dumps(data))
    refusal(BundleError, lambda: manifest.check_seal(manifest.to_json()))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse the name")
def test_path_that_is_not_utf8(bundle: Path, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path / "b") + b"\xff")
    shutil.copytree(bundle, name)
    message = refusal(BundleError, lambda: load(name), match="not UTF-8.*rename the folder")
    assert "\\udcff" in message
    refusal(BundleError, lambda: BundleWriter(Path(name) / "out"), match="not UTF-8")


def test_optional_fields_may_be_missing(data: dict[str, Any]) -> None:
    """Bundles of older versions have no languages."""
    text = json.dumps(data)
    assert "languages" not in text
    manifest = Manifest.from_json(text)
    assert manifest.tokenizer.languages is None
    assert manifest.to_json() == json.dumps(data, indent=2) + "\n"
    given = {"ids": {"en": 5}, "place": "prefix", "end": 2, "source": "en", "target": None}
    data["tokenizer"]["languages"] = given
    manifest = Manifest.from_json(json.dumps(data))
    assert manifest.tokenizer.languages is not None
    assert manifest.tokenizer.languages.ids == {"en": 5}
    assert json.loads(manifest.to_json())["tokenizer"]["languages"] == given
    data["tokenizer"]["languages"] = {**given, "place": "middle"}
    refusal(BundleError, lambda: Manifest.from_json(json.dumps(data)), match="place.*'prefix'")


def test_names_of_languages(data: dict[str, Any]) -> None:
    fixed = {"source": "en", "target": None, "target_tokens": {">>fra<<": 7}, "end": 0}
    data["tokenizer"]["fixed_languages"] = fixed
    data["languages"] = {">>fra<<": {"name": "French", "aliases": ["fr", "français"]}}
    manifest = Manifest.from_json(json.dumps(data))
    assert manifest.languages is not None
    assert manifest.languages[">>fra<<"].aliases == ("fr", "français")
    assert manifest.tokenizer.fixed_languages is not None
    assert json.loads(manifest.to_json()) == data
    for wrong, expected in (("fr", "a list"), ([3], r"aliases\[0\] is 3, expected str")):
        data["languages"][">>fra<<"]["aliases"] = wrong
        refusal(BundleError, lambda: Manifest.from_json(json.dumps(data)), match=expected)
