"""The lines of a text file, plain or compressed with gzip, one after another."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from ..errors import PromptError

LONGEST_LINE = 64 << 20  # bytes; a longer line is not read into memory
LOOKED_AT = 4096  # bytes at the beginning of a file that tell whether it is text
GZIP = b"\x1f\x8b"
OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class Line(NamedTuple):
    """A line without its line break, or the fault because of which it cannot be read."""

    number: int  # from 1
    text: str
    fault: str = ""
    ending: str = "\n"  # its line break


def check_file(path: Path) -> None:
    """Raise ``PromptError`` unless there is a file."""
    if not path.exists():
        raise PromptError(f"There is no file {path}: give the path of an existing file.")
    if path.is_dir():
        raise PromptError(f"{path} is a folder: give a file.")


class Lines:
    """An iterator over the lines of a UTF-8 file, which end with LF or CR LF.

    Byte order marks before lines, which joined files have, are skipped. Raises ``PromptError`` for
    a file that is not text, and for a gzip file that is damaged; a line that is not UTF-8 has a
    fault instead. ``stream``: is read instead of the file, and stays open; ``path`` is its name in
    errors. ``before``: the number of lines that precede the stream.
    """

    def __init__(self, path: Path, stream: BinaryIO | None = None, before: int = 0) -> None:
        if stream is None:
            check_file(path)
        self._path, self._number = path, before
        self._back: deque[Line] = deque()
        self._size = 0 if stream is not None else path.stat().st_size
        self._stream = stream
        raw = path.open("rb") if stream is None else _buffered(stream)
        is_gzip = raw.peek(2)[:2] == GZIP
        self._file = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if is_gzip else raw
        self._raw = raw
        try:
            self._check_beginning(is_gzip)
        except BaseException:
            self.close()
            raise

    def _check_beginning(self, is_gzip: bool) -> None:
        if self._path.suffix.lower() == ".gz" and not is_gzip and self._raw.peek(1):
            raise PromptError(f"{self._path} is not a gzip file: rename it, or compress it again.")
        try:
            beginning = self._file.peek(LOOKED_AT)[:LOOKED_AT]
        except DAMAGED as error:
            raise self._damaged() from error
        for mark, name in OTHER_ENCODINGS.items():
            if beginning.startswith(mark):
                raise PromptError(f"{self._path} is encoded as {name}: save the file as UTF-8.")
        if b"\0" in beginning:
            raise PromptError(
                f"{self._path} has zero bytes, so it is not text in UTF-8: save it as a text file."
            )

    def _damaged(self) -> PromptError:
        return PromptError(f"{self._path} is a damaged or incomplete gzip file: compress it again.")

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> Line:
        if self._back:
            return self._back.popleft()
        content = self._read()
        if not content:
            raise StopIteration
        self._number += 1
        if len(content) > LONGEST_LINE:
            while content and not content.endswith(b"\n"):
                content = self._read()
            return Line(self._number, "", f"the line is longer than {LONGEST_LINE >> 20} MB")
        content = content.removeprefix(codecs.BOM_UTF8)
        try:
            text = content.removesuffix(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            fault = f"the line is not valid UTF-8 at byte {error.start + 1}"
            return Line(self._number, "", fault)
        return Line(self._number, text, ending="\r\n" if content.endswith(b"\r\n") else "\n")

    def _read(self) -> bytes:
        try:
            return self._file.readline(LONGEST_LINE + 1)
        except DAMAGED as error:
            raise self._damaged() from error

    def put_back(self, lines: Iterable[Line]) -> None:
        """Yield ``lines``, which were read before, once more."""
        self._back.extendleft(reversed(list(lines)))

    def share(self) -> float:
        """Return how much of the file is read, from 0 to 1; 0 if its size is unknown."""
        return min(self._raw.tell() / self._size, 1.0) if self._size else 0.0

    def close(self) -> None:
        """Close the file, but not a stream that was given."""
        if self._file is not self._raw:
            self._file.close()
        if self._stream is None:
            self._raw.close()
        elif self._stream is not self._raw:
            self._raw.detach()


def _buffered(stream: BinaryIO) -> io.BufferedReader:
    if isinstance(stream, io.BufferedReader):
        return stream
    return io.BufferedReader(cast(io.RawIOBase, stream))


DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)
