"""Damage to the values of a manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from edgeseq.runtime.bundle.manifest import MANIFEST_NAME, Manifest
from edgeseq.runtime.bundle.reading import file_entry
from edgeseq.runtime.errors import BundleError

from . import Mutation

Parent = dict[str, Any] | list[Any]
NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 255, 10**6, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63, 2**64, 10**30),
    *(-(2**31), -(2**63), 1e308, -1e308, 1e-320, float("nan"), float("inf"), -float("inf"), 0.5),
)
OTHERS: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        "",
        "text",
        "\ud800",
        "\0",
        "a\nb",
        [],
        {},
        [[]],
        {"": {}},
        [None],
        {"a": 1},
    ),
    *("-1", "1e999", "x" * 100_000, [1] * 1000, {"eos_token_id": -1}),
)
NAMES = (
    *("../outside.bin", "a/../../outside.bin", "/etc/passwd", "/proc/self/environ", "..", ".", ""),
    *("edgeseq.json", "./weights.bin", "weights.bin/", "weights.bin\0", "//weights.bin", "C:\\x"),
    *("a\\..\\..\\outside.bin", "~/x", "decoder.onnx", "tokenizer.json", "x" * 300, "\ud800"),
)


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest as it stands."""
    content: dict[str, Any] = json.loads((folder / MANIFEST_NAME).read_bytes())
    return content


def write(folder: Path, content: Any) -> None:
    """Write a manifest without regard to its form."""
    (folder / MANIFEST_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def remake(folder: Path) -> bool:
    """Make the manifest's sizes, hashes and seal those of the files that are there.

    Returns whether the seal could be made.
    """
    try:
        content = read(folder)
        for name in content["files"]:
            if (folder / name).is_file() and not (folder / name).is_symlink():
                content["files"][name] = file_entry(folder / name)._asdict()
        write(folder, content)
        manifest = Manifest.from_json(json.dumps(content)).sealed()
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8", newline="\n")
    except (BundleError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
    return True


def places(content: Any) -> Iterator[tuple[Parent, Any, str]]:
    """Yield the parent, the key and the path of each value in JSON."""
    yield from _places(content, "")


def _places(parent: Any, where: str) -> Iterator[tuple[Parent, Any, str]]:
    items = parent.items() if isinstance(parent, dict) else enumerate(parent)
    for key, value in list(items):
        yield parent, key, f"{where}.{key}"
        if isinstance(value, dict | list):
            yield from _places(value, f"{where}.{key}")


def any_place(content: Any, rng: Random, kind: Any = object) -> tuple[Any, Any, str]:
    """Return a place of a value of ``kind``; all keys and depths are equally likely."""
    found = [place for place in places(content) if isinstance(place[0][place[1]], kind)]
    return rng.choice(found)


def _remove(folder: Path, rng: Random) -> str:
    content = read(folder)
    parent, key, where = any_place(content, rng)
    del parent[key]
    write(folder, content)
    return f"{where} removed"


def _other_type(folder: Path, rng: Random) -> str:
    content = read(folder)
    parent, key, where = any_place(content, rng)
    parent[key] = rng.choice(OTHERS)
    write(folder, content)
    return f"{where} = {parent[key]!r:.40}"


def _number(folder: Path, rng: Random) -> str:
    content = read(folder)
    parent, key, where = any_place(content, rng, int | float | None)
    before = parent[key]
    made = [*NUMBERS, *([before + 1, before - 1, before * 2**40] if before is not None else [])]
    parent[key] = rng.choice(made)
    write(folder, content)
    return f"{where} = {parent[key]!r}"


def _dimension(folder: Path, rng: Random) -> str:
    content = read(folder)
    part = rng.choice([content["dimensions"], content["dimensions"], content["tokenizer"]])
    if rng.random() < 0.3:
        part = rng.choice([*content["shared_weights"].values(), part])
    key = rng.choice([key for key, value in part.items() if value is None or type(value) is int])
    part[key] = rng.choice([number for number in NUMBERS if type(number) is int])
    write(folder, content)
    return f"{key} = {part[key]}"


def _default(folder: Path, rng: Random) -> str:
    content = read(folder)
    options = (
        *("eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id"),
        *("forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids"),
        *("num_beams", "num_return_sequences", "max_new_tokens", "min_new_tokens", "temperature"),
        *("top_k", "top_p", "repetition_penalty", "no_repeat_ngram_size", "num_beam_groups"),
        *("max_length", "length_penalty", "sequence_bias", "do_sample", "prompt_lookup_num_tokens"),
    )
    name = rng.choice(options)
    content["generation"][name] = rng.choice([*NUMBERS, *OTHERS, [10**9], [[0]], [-1, 2**40], [[]]])
    write(folder, content)
    return f"generation.{name} = {content['generation'][name]!r:.40}"


def _name(folder: Path, rng: Random) -> str:
    shutil.copy(folder / "weights.bin", folder.parent / "outside.bin")
    content = read(folder)
    name = rng.choice(NAMES)
    old = rng.choice(sorted(content["files"]))
    if rng.random() < 0.7:
        content["files"][name] = content["files"].pop(old)
    for role, graph in content["graphs"].items():
        if graph == old:
            content["graphs"][role] = name
    if content["tokenizer"]["file"] == old:
        content["tokenizer"]["file"] = name
    write(folder, content)
    return f"{old} is named {name!r:.40}"


def _roles(folder: Path, rng: Random) -> str:
    content = read(folder)
    roles, graphs = list(content["graphs"]), list(content["graphs"].values())
    graphs += [name for name in content["files"] if name not in graphs]
    for role in roles:
        content["graphs"][role] = rng.choice(graphs)
    if rng.random() < 0.3:
        content["kind"] = rng.choice(["decoder-only", "encoder-decoder"])
    if rng.random() < 0.3:
        content["tokenizer"]["file"] = rng.choice([*content["files"], None])
    if rng.random() < 0.2:
        content["tokenizer"]["is_sentencepiece"] = rng.choice([True, False])
    write(folder, content)
    return f"graphs = {content['graphs']}, tokenizer = {content['tokenizer']['file']}"


def _duplicate(folder: Path, rng: Random) -> str:
    text = (folder / MANIFEST_NAME).read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    line = rng.choice([line for line in lines if line.rstrip().endswith((",", "{"))][1:])
    again = line if line.rstrip().endswith(",") else line.rstrip() + "},\n"
    at = lines.index(line)
    lines[at:at] = [again] * rng.choice([1, 3, 1000])
    (folder / MANIFEST_NAME).write_text("".join(lines), encoding="utf-8")
    return f"{again.strip()!r} repeated"


def _nesting(folder: Path, rng: Random) -> str:
    content = read(folder)
    parent, key, where = any_place(content, rng)
    depth = rng.choice([10, 500, 900, 1500, 100_000])
    mark = "a place for the nesting"
    parent[key] = mark
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
    inner = "1" if opening != "[" else ""
    nested = opening * depth + inner + closing * depth
    text = json.dumps(content).replace(json.dumps(mark), nested)
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return f"{where}: nested {depth} deep"


def _text(folder: Path, rng: Random) -> str:
    path = folder / MANIFEST_NAME
    text = path.read_text(encoding="utf-8")
    change = rng.choice(["NaN", "utf-16", "mark", "huge number", "control", "surrogate", "comment"])
    match change:
        case "NaN":
            content = text.replace(": 1", ": NaN", 1).encode()
        case "utf-16":
            content = text.encode("utf-16")
        case "mark":
            content = text.encode("utf-8-sig")
        case "huge number":
            content = text.replace(": 1", ": " + "9" * rng.choice([400, 5000]), 1).encode()
        case "control":
            content = text.replace(":", ":\x00", 1).encode()
        case "surrogate":
            content = text.replace('"decoder.onnx"', '"\\udfff.onnx"').encode()
        case _:
            content = ("// " + text).encode()
    path.write_bytes(content)
    return change


VALUES: dict[str, Mutation] = {
    "a key removed": _remove,
    "another type": _other_type,
    "another number": _number,
    "dimensions": _dimension,
    "generation defaults": _default,
    "names of files": _name,
    "roles of files": _roles,
    "keys repeated": _duplicate,
    "deep nesting": _nesting,
    "form of the text": _text,
}
