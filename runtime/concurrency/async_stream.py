"""A stream for an event loop: a thread does the work, and a queue passes on the pieces."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Final

END: Final = object()
OWN = "edgeseq-"  # prefix of the names of threads that work for a call


async def relay(begin: Callable[[], Iterator[str]], stop: threading.Event) -> AsyncGenerator[str]:
    """Yield the pieces of ``begin()``; a thread calls it and reads its iterator.

    ``stop`` is set when this generator is closed or the task that reads it is cancelled. The
    iterator must then end. The thread has ended when this generator ends, unless the task is
    cancelled a second time.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[object] = asyncio.Queue()

    def put(item: object) -> None:
        try:
            loop.call_soon_threadsafe(queue.put_nowait, item)
        except RuntimeError:  # the loop was closed, so nobody reads the pieces
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
        if _is_running(loop):  # else the interpreter is exiting, and waiting is impossible
            while item is not END:
                item = await queue.get()
            thread.join()


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:  # no loop is running
        return False


def is_interpreter_ending() -> bool:
    """Return whether the program's threads have ended and Python waits only for edgeseq's own."""
    main = threading.main_thread()
    return not main.is_alive() and not any(
        not thread.daemon and thread is not main and not thread.name.startswith(OWN)
        for thread in threading.enumerate()
    )
