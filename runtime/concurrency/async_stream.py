"""A stream for an event loop: the work is done in a thread, the pieces come through a queue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

END: Final = object()
OWN = "edgeseq-"  # what the names of threads begin with that work for a call


async def relay(begin: Callable[[], Iterator[str]], stop: threading.Event) -> AsyncIterator[str]:
    """The pieces of ``begin()`` as they come; it is called, and they are taken, in a thread.

    When this is closed, or the task that reads it is cancelled, ``stop`` is set, on which the
    pieces have to end; the thread has ended when this has, unless it is cancelled once more.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[object] = asyncio.Queue()

    def put(item: object) -> None:
        try:
            loop.call_soon_threadsafe(queue.put_nowait, item)
        except RuntimeError:  # the loop was closed: nobody reads any more
            stop.set()

    def work() -> None:
        try:
            for piece in begin():
                put(piece)
        except BaseException as error:
            put(error)
        finally:
            put(END)

    thread = threading.Thread(target=work, name=f"{OWN}stream")
    thread.start()
    item: object = None
    try:
        while (item := await queue.get()) is not END:
            if isinstance(item, BaseException):
                raise item
            assert isinstance(item, str)
            yield item
    finally:
        stop.set()
        if _is_running(loop):  # else the interpreter ends, and nothing can be waited for
            while item is not END:
                item = await queue.get()
            thread.join()


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:  # none is
        return False


def is_interpreter_ending() -> bool:
    """Whether Python waits for none but edgeseq's own threads: the program's have ended."""
    main = threading.main_thread()
    return not main.is_alive() and not any(
        not thread.daemon and thread is not main and not thread.name.startswith(OWN)
        for thread in threading.enumerate()
    )
