"""``serve``: run the application with uvicorn, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from email.utils import formatdate
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..runtime.errors import EdgeseqError, OptionError
from .app import create_app
from .parent import CLOSING_S, watch
from .settings import Settings
from .sources import Source
from .state import Server

LOG = logging.getLogger("edgeseq.serving")
MOST_CONNECTIONS = 1024  # more are answered with 503
CANCELLED_S = 5  # time that cancelled requests get to send their last bytes
NEEDS_TICKS = sys.platform == "win32"  # where a signal cannot wake an event loop that selects
TICK_S = 0.1  # between two looks while models are loaded, and while the server ends


def serve(
    models: Mapping[str, Source],
    settings: Settings | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    on_listening: Callable[[str], None] = lambda url: None,
    parent: int | None = None,
) -> None:
    """Serve models until SIGTERM or Ctrl-C.

    After the first signal, running requests end and new ones get status 503. After the second
    signal, or ``shutdown_s`` seconds, running requests are cancelled.

    Args:
        models: The models by their names, as for ``create_app``.
        settings: Who may call the server, and its limits; None for the defaults.
        host: The address to listen at, which ``allow_hosts`` then has, too. The default is for
            programs of this machine alone.
        port: The port; 0 for any free one.
        on_listening: A function that is called with the URL once the server listens.
        parent: The id of the process, such as an app, whose end also ends the server: running
            requests are cancelled, and the whole process exits soon after. None for none.

    Raises:
        EdgeseqError: The address cannot be used, a model cannot be loaded, or there is no process
            ``parent``.
        KeyboardInterrupt: After Ctrl-C.
    """
    settings = settings or Settings()
    if not 0 <= port <= 65535:
        raise OptionError(f"port is {port}; it must be from 0 to 65535.")
    listener = listen(host, port)
    with listener:
        if not _is_any(host):
            settings = replace(settings, allow_hosts=(*settings.allow_hosts, _in_url(host)))
        app = create_app(models, settings)
        server = _UvicornServer(app, settings)
        if parent is not None:
            watch(parent, server.end_with_parent)
        shown = "localhost" if _is_any(host) else _in_url(host)
        on_listening(f"http://{shown}:{listener.getsockname()[1]}")
        server.run(sockets=[listener])
    if (error := server.state.models.error) is not None:
        raise error
    if server.signal == signal.SIGINT:
        raise KeyboardInterrupt


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; port 0: at a free port."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        raise EdgeseqError(
            f"The address {host}:{port} cannot be used ({error.strerror or error}): give another "
            "--host or --port."
        ) from error
    # asyncio sets TCP_NODELAY only where the protocol is named. Without it, the second part of an
    # answer waits 40 ms for the client to acknowledge the first.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=listener.detach())


def _is_any(host: str) -> bool:
    """Return whether ``host`` stands for all addresses of the machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""


def is_local(host: str) -> bool:
    """Return whether only programs of this machine reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host.lower()


class _Timer:
    """A limit of time for a client that takes no bytes, started and stopped again and again.

    At its end the connection is closed, unless the client has taken bytes meanwhile: then the time
    starts anew.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, transport: asyncio.Transport
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._transport = transport
        self._buffered = 0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the time, unless it is running."""
        if self._handle is None:
            self._buffered = self._transport.get_write_buffer_size()
            self._handle = self._loop.call_later(self._seconds, self._end)

    def stop(self) -> None:
        """Stop the time."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _end(self) -> None:
        self._handle = None
        if self._transport.get_write_buffer_size() < self._buffered:
            self.start()
        else:
            self._transport.abort()


class _Connection(H11Protocol):
    """A connection that is closed if its client stalls.

    A client stalls if it takes longer than ``stall_s`` to send the head of a request, or to read
    what fills the memory for its answer.
    """

    stall_s = 0.0  # set in a subclass

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._reading = _Timer(self.loop, self.stall_s, transport)
        self._writing = _Timer(self.loop, self.stall_s, transport)
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading.stop()
        self._writing.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # uvicorn would renew the date every second, also in an idle server.
        self.server_state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        super().data_received(data)
        self._watch_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writing.stop()

    def _watch_head(self) -> None:
        """Start or stop the time for the head of a request."""
        cycle: Any = self.cycle  # None before the first request
        if self.transport.is_closing() or (cycle is not None and not cycle.response_complete):
            self._reading.stop()
        else:
            self._reading.start()


@contextmanager
def _waking_on_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Wake ``loop`` by a signal, to whichever thread of the process the system gives it.

    Python runs handlers of signals in the main thread, once that is awake.
    """
    if NEEDS_TICKS or threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        loop.add_reader(reader, reader.recv, 4096)
        try:
            yield
        finally:
            loop.remove_reader(reader)
            signal.set_wakeup_fd(before)


class _UvicornServer(uvicorn.Server):
    """A uvicorn server that answers with status 503 while its last requests end.

    An idle one sleeps: uvicorn's own would wake up ten times a second.
    """

    def __init__(self, app: Any, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=type("Connection", (_Connection,), {"stall_s": settings.stall_s}),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,  # each connection sets it
                limit_concurrency=MOST_CONNECTIONS,
                timeout_graceful_shutdown=CANCELLED_S,
            )
        )
        self.state: Server = app.state.server
        self.signal: int | None = None
        self._settings = settings
        self._deadline_s: float | None = None
        self._is_orphan = False
        self._loop: asyncio.AbstractEventLoop | None = None  # while the main loop runs
        self._news = asyncio.Event()  # of a signal, or of the end of the parent

    async def main_loop(self) -> None:
        """Ask ``on_tick`` whether the server must end, whenever that may have changed."""
        self._loop = asyncio.get_running_loop()
        with _waking_on_signals(self._loop):
            while True:
                self._news.clear()
                if await self.on_tick(1):  # 0 would renew the date
                    return
                is_busy = self._must_end or not self.state.models.is_ready
                with suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S if is_busy or NEEDS_TICKS else None):
                        await self._news.wait()

    @property
    def _must_end(self) -> bool:
        """Whether the server ends once its requests have."""
        return self.signal is not None or self._is_orphan

    def _wake(self) -> None:
        """Let the main loop look; from any thread, or from the handler of a signal."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._news.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take SIGTERM or SIGINT; the second signal ends running requests."""
        if self.signal is not None:
            self._deadline_s = 0.0
        self.signal = sig
        self._wake()

    def end_with_parent(self) -> None:
        """End running requests, and then the process; from a thread of its own."""
        self._deadline_s = 0.0
        self._is_orphan = True
        self._wake()
        threading.Event().wait(CLOSING_S)
        # A model that is being loaded, or a client that reads nothing, must not keep it here.
        os._exit(0)

    async def on_tick(self, counter: int) -> bool:
        """Return whether the server must end now."""
        if self.state.models.error is not None:
            return True
        if not self._must_end:
            return await super().on_tick(counter)
        if not self.state.is_stopping:
            LOG.info("shutting down: %d requests are running", self.state.in_flight)
            self.state.stop()
            if self._deadline_s is None:
                self._deadline_s = time.monotonic() + self._settings.shutdown_s
        if not self.state.in_flight:
            return True
        if self._deadline_s is not None and time.monotonic() > self._deadline_s:
            self.state.cancel()
            return True
        return await super().on_tick(counter)
