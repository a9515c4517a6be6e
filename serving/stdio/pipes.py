"""The pipes to the app: lines that come, messages that go, and the end of either."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final

from ..strict_json import encode_json
from .messages import Message

READ_BYTES = 2**16
TOO_LONG: Final = None  # stands for a line that is longer than the limit


def read_lines(descriptor: int, most_bytes: int) -> Iterator[bytes | None]:
    """Yield the lines that come, without their ends, until the end of the file.

    A line with more than ``most_bytes`` becomes ``TOO_LONG``, and its bytes are not kept. A last
    line without an end is left out: whoever wrote it may have been killed meanwhile.
    """
    line, is_too_long = bytearray(), False
    while part := os.read(descriptor, READ_BYTES):
        *ended, rest = part.split(b"\n")
        for piece in ended:
            line += piece
            if not is_too_long:
                yield TOO_LONG if len(line) > most_bytes else bytes(line)
            line, is_too_long = bytearray(), False
        if not is_too_long:
            line += rest
        if len(line) > most_bytes:
            yield TOO_LONG
            line, is_too_long = bytearray(), True


def line_of(message: Message) -> bytes:
    """Return the line of a message; raise ``ValueError`` for infinities and NaN."""
    return encode_json(message) + b"\n"


class Output:
    """Messages to the app, each as one line, from any thread.

    ``on_closed`` is called once nobody reads them; messages are then dropped.
    """

    def __init__(self, descriptor: int, on_closed: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_closed = on_closed
        self._lock = threading.Lock()
        self._is_closed = False

    def send(self, message: Message) -> None:
        """Write a message; wait while the app reads too slowly."""
        self.write(line_of(message))

    def write(self, line: bytes) -> None:
        """Write a line, as ``line_of`` returns it."""
        rest = memoryview(line)
        with self._lock:
            try:
                while rest and not self._is_closed:
                    rest = rest[os.write(self._descriptor, rest) :]
            except OSError:
                self._is_closed = True
                self._on_closed()


def watch_pipes(
    incoming: int,
    outgoing: int,
    *,
    on_end: Callable[[], None],
    on_closed: Callable[[], None],
) -> None:
    """Watch in a thread of its own whether the app closes a pipe, also while none is used.

    Someone who reads ``incoming`` notices its end only after what is still in the pipe, and not
    while the app reads no answers. ``on_end``: the app has closed ``incoming``. ``on_closed``:
    nobody reads ``outgoing``. Windows has no such watch.
    """
    if not hasattr(select, "poll"):
        return
    hung_up = getattr(select, "POLLRDHUP", 0)
    if sys.platform != "win32":
        hung_up |= select.POLLHUP | select.POLLERR
    poll = select.poll()
    poll.register(incoming, getattr(select, "POLLRDHUP", 0))
    poll.register(outgoing, 0)

    def watching() -> None:
        open_ones = {incoming, outgoing}
        while open_ones:
            for descriptor, events in poll.poll():
                poll.unregister(descriptor)
                open_ones.remove(descriptor)
                if events & hung_up:
                    (on_end if descriptor == incoming else on_closed)()

    threading.Thread(target=watching, name="edgeseq-pipes", daemon=True).start()
