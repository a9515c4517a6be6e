"""``serve_stdio``: the helper process, from its first message to its end."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, NoReturn

from ...runtime import __version__
from ...runtime.errors import EdgeseqError
from ..parent import CLOSING_S, watch
from ..settings import Settings
from ..sources import Source
from . import methods
from .jobs import Job, Jobs
from .messages import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    DuplicateIdError,
    Request,
    RpcError,
    answer,
    cancelled_error,
    error_answer,
    notification,
    read_request,
    rpc_error,
)
from .methods import LoadedModels, Work
from .pipes import TOO_LONG, Output, line_of, read_lines, watch_pipes

PROTOCOL = 1
WORKS: Mapping[str, Callable[[LoadedModels, Any], Work]] = {
    "run": methods.run,
    "tokenize": methods.tokenize,
    "models": methods.list_models,
    "close_session": methods.close_session,
}
METHODS = ("generate", *WORKS, "cancel", "shutdown")


class End(NamedTuple):
    """Why the process ends."""

    status: int
    error: BaseException | None = None


def serve_stdio(
    sources: Mapping[str, Source], settings: Settings, *, parent: int | None = None
) -> NoReturn:
    """Answer the app on standard input and output until it leaves; then exit.

    The exit status is 0, or 1 if the app has closed standard output.

    It leaves by ``shutdown``, by closing standard input, or by its own end. Running requests are
    then cancelled. What has not ended after ``CLOSING_S`` seconds, such as the loading of a model,
    is left behind: the process exits at once.

    From the call on, whatever else writes to standard output writes to standard error.

    Args:
        sources: The models by their names, each loaded or a function that loads one.
        settings: The limits: ``max_concurrent``, ``max_queue``, ``max_body_bytes`` for a line, and
            ``log_prompts``.
        parent: The process whose end also ends this one; None for none.

    Raises:
        EdgeseqError: A model cannot be loaded.
    """
    outgoing = _take_standard_output()
    helper = _Helper(sources, settings, outgoing)
    if parent is not None:
        watch(parent, lambda: helper.end(0))
    end = helper.run()
    has_ended = helper.close()
    if end.error is not None and has_ended:
        raise end.error
    if isinstance(end.error, EdgeseqError):
        _say(f"edgeseq: {end.error}")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.flush()
    os._exit(end.status)  # freeing the models would take longer


def _take_standard_output() -> int:
    """Return a descriptor of standard output, whose own one becomes that of standard error.

    Raises ``OSError`` if standard input or output is closed.
    """
    for descriptor in (0, 1):
        os.fstat(descriptor)
    try:
        os.fstat(2)
    except OSError:
        os.open(os.devnull, os.O_WRONLY)  # takes the lowest number that is free, which is 2
    outgoing = os.dup(1)
    os.dup2(2, 1)
    return outgoing


class _Helper:
    """The state of the process, and its threads."""

    def __init__(self, sources: Mapping[str, Source], settings: Settings, outgoing: int) -> None:
        self._sources = sources
        self._settings = settings
        self._outgoing = outgoing
        self._ends: queue.SimpleQueue[End] = queue.SimpleQueue()
        self._output = Output(outgoing, lambda: self.end(1))
        self._models = LoadedModels(tuple(sources))
        self._jobs = Jobs(settings.max_concurrent, settings.max_queue)
        self._is_loading = False
        self._loading = threading.Thread(target=self._load, name="edgeseq-load", daemon=True)
        self._reading = threading.Thread(target=self._read, name="edgeseq-read", daemon=True)

    def end(self, status: int, error: BaseException | None = None) -> None:
        """End the process; the first call counts."""
        self._ends.put(End(status, error))

    def run(self) -> End:
        """Answer requests until the end."""
        self._loading.start()
        self._reading.start()
        watch_pipes(0, self._outgoing, on_end=lambda: self.end(0), on_closed=lambda: self.end(1))
        try:
            return self._ends.get()
        except KeyboardInterrupt as interrupt:  # Ctrl-C in a terminal that the app shares
            return End(130, interrupt)

    def close(self) -> bool:
        """Cancel all requests; return whether all work has ended soon after."""
        self._jobs.cancel_all()
        return self._jobs.wait(CLOSING_S) and not self._is_loading

    def _load(self) -> None:
        began_s = time.monotonic()
        self._is_loading = True
        try:
            for name, source in self._sources.items():
                self._models.add(name, source() if callable(source) else source)
            ready = {
                "version": __version__,
                "protocol": PROTOCOL,
                "load_s": round(time.monotonic() - began_s, 3),
                "models": self._models.describe(),
            }
        except Exception as error:  # the main thread raises it
            self._is_loading = False
            self.end(1, error)
            return
        self._is_loading = False
        self._output.send(notification("ready", ready))
        self._jobs.open()

    def _read(self) -> None:
        try:
            for line in read_lines(0, self._settings.max_body_bytes):
                if line is TOO_LONG:
                    self._refuse_long_line()
                elif line.strip():
                    self._take(line)
        except OSError as error:  # such as a terminal that is gone
            self.end(1, error)
        self.end(0)

    def _refuse_long_line(self) -> None:
        limit = self._settings.max_body_bytes
        error = RpcError(
            INVALID_REQUEST, f"A line has more than {limit} bytes: send a shorter one."
        )
        self._output.send(error_answer(None, error))

    def _take(self, line: bytes) -> None:
        """Answer a line, or hand it on to a thread."""
        try:
            request = read_request(line)
        except RpcError as error:
            self._output.send(error_answer(error.request_id, error))
            return
        if self._settings.log_prompts:
            _say(line.decode("utf-8-sig").strip())
        try:
            self._begin(request)
        except DuplicateIdError as error:
            self._output.send(error_answer(None, error))
        except Exception as error:  # whatever it is, the other requests go on
            self._output.send(error_answer(request.id, self._rpc_error(error)))

    def _begin(self, request: Request) -> None:
        """Answer a request at once, or add it to the jobs."""
        if request.method == "cancel":
            self._cancel(request)
        elif request.method == "shutdown":
            request.params.finish()
            self._reply(request, {})
            self.end(0)
        else:
            work = self._work(request)
            if request.id is None:
                raise RpcError(
                    INVALID_REQUEST, f"{request.method} has no id for its answer: send one."
                )
            self._jobs.add(Job(request.id, partial(self._run, work), work.key))

    def _work(self, request: Request) -> Work:
        if request.method == "generate":
            return methods.generate(self._models, request.params, self._output.send)
        if request.method not in WORKS:
            raise RpcError(
                METHOD_NOT_FOUND,
                f"There is no method {request.method!r:.60}: choose from {', '.join(METHODS)}.",
            )
        return WORKS[request.method](self._models, request.params)

    def _cancel(self, request: Request) -> None:
        of_job = request.params.id("id")
        request.params.finish(["id"])
        try:
            not_begun = self._jobs.cancel(of_job)
        except KeyError:  # its answer may be on the way
            self._reply(request, {"cancelled": False})
            return
        if not_begun is not None:
            self._output.send(error_answer(not_begun.id, cancelled_error()))
        self._reply(request, {"cancelled": True})

    def _reply(self, request: Request, result: Any) -> None:
        if request.id is not None:  # a notification has no answer
            self._output.send(answer(request.id, result))

    def _run(self, work: Work, job: Job) -> Callable[[bool], None]:
        """Compute a job; return the function that sends its answer."""
        cancelled = line_of(error_answer(job.id, cancelled_error()))
        line = cancelled
        try:
            if not job.cancelled.is_set():
                line = line_of(answer(job.id, work.compute(job)))
        except Exception as error:  # the answer says what it was, and the other requests go on
            line = line_of(error_answer(job.id, self._rpc_error(error)))
        return lambda is_cancelled: self._output.write(cancelled if is_cancelled else line)

    def _rpc_error(self, error: Exception) -> RpcError:
        if isinstance(error, RpcError):
            return error
        if isinstance(error, EdgeseqError):
            return rpc_error(error)
        kind = type(error).__name__
        if self._settings.log_prompts:
            _say("".join(traceback.format_exception(error)))
        return RpcError(
            INTERNAL_ERROR,
            f"edgeseq has failed with {kind}: please report it, with the traceback that "
            "--log-prompts shows.",
        )


def _say(text: str) -> None:
    """Write to standard error, as long as somebody reads it."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)
