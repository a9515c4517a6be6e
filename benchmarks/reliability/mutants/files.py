"""Damage to the bytes of any file of a bundle, and other things in a file's place."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

from . import Mutation


def _any_file(folder: Path, rng: Random) -> Path:
    return rng.choice(sorted(path for path in folder.iterdir() if path.stat().st_size))


def _flip(folder: Path, rng: Random) -> str:
    path = _any_file(folder, rng)
    content = bytearray(path.read_bytes())
    places = [rng.randrange(len(content)) for _ in range(rng.choice([1, 1, 2, 8, 64]))]
    for place in places:
        content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"{path.name}: bits flipped at {places[:4]}"


def _overwrite(folder: Path, rng: Random) -> str:
    path = _any_file(folder, rng)
    content = bytearray(path.read_bytes())
    begin = rng.randrange(len(content))
    size = min(rng.choice([1, 4, 64, 4096]), len(content) - begin)
    fill = rng.choice([b"\0" * size, b"\xff" * size, rng.randbytes(size)])
    content[begin : begin + size] = fill
    path.write_bytes(content)
    return f"{path.name}: {size} bytes from {begin} set to {fill[:2].hex()}..."


def _swap(folder: Path, rng: Random) -> str:
    path = _any_file(folder, rng)
    content = path.read_bytes()
    size = min(rng.choice([1, 16, 256, 4096]), len(content) // 2)
    first = rng.randrange(len(content) - 2 * size + 1)
    second = rng.randrange(first + size, len(content) - size + 1)
    blocks = (
        content[:first],
        content[second : second + size],
        content[first + size : second],
        content[first : first + size],
        content[second + size :],
    )
    path.write_bytes(b"".join(blocks))
    return f"{path.name}: {size} bytes at {first} and {second} swapped"


def _truncate(folder: Path, rng: Random) -> str:
    path = _any_file(folder, rng)
    content = path.read_bytes()
    size = rng.choice([0, 1, len(content) - 1, rng.randrange(len(content))])
    path.write_bytes(content[:size])
    return f"{path.name}: cut to {size} bytes"


def _extend(folder: Path, rng: Random) -> str:
    path = _any_file(folder, rng)
    more = rng.choice([b"\0", b"\n", rng.randbytes(5000), path.read_bytes()])
    path.write_bytes(path.read_bytes() + more)
    return f"{path.name}: {len(more)} bytes more"


def _remove_middle(folder: Path, rng: Random) -> str:
    path = _any_file(folder, rng)
    content = path.read_bytes()
    begin = rng.randrange(len(content))
    end = min(len(content), begin + rng.choice([1, 8, 1000]))
    path.write_bytes(content[:begin] + content[end:])
    return f"{path.name}: bytes {begin} to {end} left out"


def _other_content(folder: Path, rng: Random) -> str:
    first, second = rng.sample(sorted(folder.iterdir()), 2)
    first.write_bytes(second.read_bytes())
    return f"{first.name}: the content of {second.name}"


def _missing(folder: Path, rng: Random) -> str:
    path = _any_file(folder, rng)
    path.unlink()
    return f"{path.name}: missing"


def _folder(folder: Path, rng: Random) -> str:
    path = _any_file(folder, rng)
    path.unlink()
    path.mkdir()
    return f"{path.name}: a folder"


def _link_loop(folder: Path, rng: Random) -> str:
    path = _any_file(folder, rng)
    path.unlink()
    path.symlink_to(path.name)
    return f"{path.name}: a link to itself"


def _pipe(folder: Path, rng: Random) -> str:
    path = _any_file(folder, rng)
    path.unlink()
    os.mkfifo(path)
    return f"{path.name}: a pipe that nobody writes to"


def _device(folder: Path, rng: Random) -> str:
    path = _any_file(folder, rng)
    target = rng.choice(["/dev/zero", "/dev/full", "/proc/self/mem", "/"])
    path.unlink()
    path.symlink_to(target)
    return f"{path.name}: a link to {target}"


def _unreadable(folder: Path, rng: Random) -> str:
    path = _any_file(folder, rng)
    path.unlink()
    path.symlink_to("no-such-file")
    return f"{path.name}: a link to nothing"


BYTES: dict[str, Mutation] = {
    "bits flipped": _flip,
    "bytes overwritten": _overwrite,
    "blocks swapped": _swap,
    "truncated": _truncate,
    "extended": _extend,
    "bytes left out": _remove_middle,
    "another file's content": _other_content,
}
PLACES: dict[str, Mutation] = {
    "missing": _missing,
    "a folder in its place": _folder,
    "a link to itself": _link_loop,
    "a pipe": _pipe,
    "a link to a device": _device,
    "a link to nothing": _unreadable,
}
