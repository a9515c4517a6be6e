"""Damage to the content of a bundle's tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from . import Mutation
from .manifests import NUMBERS, OTHERS, any_place

PATTERNS = (
    "(a+)+$",
    "(.*)*b",
    "(?:(?:x?){50}){50}",
    "((((((((((",
    "\\p{L",
    "(a|a)*c",
    ".{0,1000}" * 9,
    "",
)


def _edit(folder: Path) -> tuple[Path, dict[str, Any]]:
    [path] = [*folder.glob("tokenizer.json"), *folder.glob("sentencepiece.json")]
    return path, json.loads(path.read_bytes())


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _value(folder: Path, rng: Random) -> str:
    path, content = _edit(folder)
    parent, key, where = _place(content, rng)
    parent[key] = rng.choice([*NUMBERS, *OTHERS])
    _write(path, content)
    return f"{where} = {parent[key]!r:.40}"


def _place(content: Any, rng: Random) -> tuple[Any, Any, str]:
    """Return any place, but rarely one in the vocabulary, which has most of them."""
    if rng.random() < 0.8:
        content = {
            key: {name: part for name, part in value.items() if name not in ("vocab", "merges")}
            if key == "model"
            else value
            for key, value in content.items()
            if key not in ("vocabulary", "target_vocabulary", "source", "target")
        } or content
        parent, key, where = any_place(content, rng)
        return parent, key, where
    return any_place(content, rng)


def _top(folder: Path, rng: Random) -> str:
    """Change or remove a whole part, such as the decoder."""
    path, content = _edit(folder)
    owner = rng.choice([content, content.get("model", content)])
    key = rng.choice(sorted(owner))
    if rng.random() < 0.5:
        del owner[key]
        shown = "removed"
    else:
        owner[key] = rng.choice([*OTHERS, rng.choice(list(content.values()))])
        shown = f"= {owner[key]!r:.40}"
    _write(path, content)
    return f"{key} {shown}"


def _vocabulary(folder: Path, rng: Random) -> str:
    path, content = _edit(folder)
    vocabulary = content["model"]["vocab"] if "model" in content else content["vocabulary"]
    change = rng.choice(["ids", "ids", "one id", "removed", "emptied", "more", "renamed"])
    if isinstance(vocabulary, dict) and vocabulary:
        names = rng.sample(sorted(vocabulary), min(len(vocabulary), rng.choice([1, 5, 100])))
        for name in names:
            if change == "ids":
                vocabulary[name] = rng.choice(
                    [10**6, 2**31, 2**32 - 1, 10**9, vocabulary[name] + 999]
                )
            elif change == "one id":
                vocabulary[name] = 0
            elif change == "removed":
                del vocabulary[name]
            elif change == "renamed":
                vocabulary[rng.choice(["", "\ud800", "x" * 10000, " "])] = vocabulary.pop(name)
        if change == "emptied":
            vocabulary.clear()
        if change == "more":
            vocabulary.update({f"new{i}": 10**6 + i for i in range(1000)})
    elif vocabulary:
        at = rng.randrange(len(vocabulary))
        vocabulary[at] = rng.choice([["", 0.0], ["x", 1e308], ["x", "y"], [], None, ["\ud800", 1]])
        if change == "emptied":
            vocabulary.clear()
        if change == "removed":
            del vocabulary[at:]
        if change == "more":
            vocabulary += [[f"new{i}", -1.0] for i in range(100_000)]
    _write(path, content)
    return f"vocabulary: {change}"


def _merges(folder: Path, rng: Random) -> str:
    path, content = _edit(folder)
    if "merges" not in content.get("model", {}):
        return _vocabulary(folder, rng)
    merges = content["model"]["merges"]
    change = rng.choice(["emptied", "unknown", "shuffled", "form", "repeated", "cut"])
    match change:
        case "emptied":
            merges.clear()
        case "unknown":
            merges.insert(0, ["nobody", "knows"])
        case "shuffled":
            rng.shuffle(merges)
        case "form":
            merges[0] = rng.choice(["a", "a b c", ["a"], [], None, 1])
        case "repeated":
            merges *= 50
        case _:
            del merges[rng.randrange(len(merges)) :]
    _write(path, content)
    return f"merges: {change}"


def _added(folder: Path, rng: Random) -> str:
    path, content = _edit(folder)
    added = content.get("added_tokens", [])
    entries = list(added.values()) if isinstance(added, dict) else added
    if not entries:
        return _top(folder, rng)
    entry = rng.choice(entries)
    key = rng.choice(sorted(entry))
    entry[key] = rng.choice([*NUMBERS, *OTHERS])
    if key == "id":
        entry[key] = rng.choice([number for number in NUMBERS if type(number) is int])
    _write(path, content)
    return f"added_tokens.{key} = {entry[key]!r:.40}"


def _pattern(folder: Path, rng: Random) -> str:
    path, content = _edit(folder)
    pattern = rng.choice(PATTERNS)
    kind = rng.choice(["Regex", "String"])
    split = {"type": "Split", "pattern": {kind: pattern}, "behavior": "Isolated", "invert": False}
    replace = {
        "type": "Replace",
        "pattern": {kind: pattern},
        "content": rng.choice(["", "a" * 1000]),
    }
    place = rng.choice(["pre_tokenizer", "normalizer", "decoder"])
    content[place] = split if place == "pre_tokenizer" else replace
    if rng.random() < 0.2:
        inner = "pretokenizers" if place == "pre_tokenizer" else f"{place}s"
        content[place] = {"type": "Sequence", inner: [content[place]] * 50}
    _write(path, content)
    return f"{place}: {kind} {pattern!r:.40}"


def _deep(folder: Path, rng: Random) -> str:
    path, content = _edit(folder)
    depth = rng.choice([100, 1000, 100_000, 1_000_000])
    key = rng.choice(sorted(content))
    opening, closing = rng.choice([("[", "]"), ('{"type":"Sequence","normalizers":[', "]}")])
    nested = opening * depth + closing * depth
    content[key] = "a place for the nesting"
    text = json.dumps(content).replace('"a place for the nesting"', nested)
    path.write_text(text, encoding="utf-8")
    return f"{key}: nested {depth} deep"


VALUES: dict[str, Mutation] = {
    "values": _value,
    "parts": _top,
    "vocabulary": _vocabulary,
    "merges": _merges,
    "added tokens": _added,
    "patterns": _pattern,
    "deep nesting": _deep,
}
