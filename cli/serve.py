"""The command ``edgeseq serve``: a server for clients of OpenAI's API, or a helper of one app."""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from ..runtime.errors import MissingPackageError
from .flags import add_machine, integer, machine_of, number

KEY_VARIABLE = "EDGESEQ_API_KEY"
M_ARENA_MAX = -8  # of glibc's <malloc.h>
HOST, PORT = "127.0.0.1", 8000
# Flags that have an effect without HTTP, besides those for the models.
OF_STDIO = {"max_body_bytes", "max_concurrent", "max_queue"}
SERVE_EPILOG = """\
Clients of OpenAI's API use the address with /v1, such as http://127.0.0.1:8000/v1, and the name of
a model: the name of its bundle's folder, or NAME with --bundle NAME=PATH.

A desktop app in any language may start edgeseq as its helper:
  edgeseq serve --stdio --bundle PATH            lines of JSON-RPC 2.0, without a port
  edgeseq serve --port 0 --parent PID -b PATH    HTTP; the address is a line of JSON
Both end within two seconds of the app, also if it is killed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "edgeseq serve (--bundle [NAME=]PATH... | --demo) [options]"
    parser.description = (
        "Serve models to clients of OpenAI's API, to programs and to browsers (needs the extra "
        "'server'). Only programs of this machine reach the server unless --host says otherwise. "
        "With --stdio, serve one app on standard input and output (needs no extra)."
    )
    parser.epilog = SERVE_EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--bundle",
        "-b",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="folder of a bundle to serve, and its name; may be given several times",
    )
    parser.add_argument(
        "--demo", action="store_true", help="serve the demo models demo-gpt2 and demo-t5"
    )
    parser.add_argument("--host", default=HOST, help=f"address to listen at ({HOST})")
    parser.add_argument(
        "--port", type=integer, default=PORT, metavar="N", help=f"port; 0: any free one ({PORT})"
    )
    helper = parser.add_argument_group("helper of an app")
    helper.add_argument(
        "--stdio",
        action="store_true",
        help="answer lines of JSON-RPC 2.0 on standard input with lines on standard output, until "
        "the end of standard input",
    )
    helper.add_argument(
        "--parent",
        type=integer,
        metavar="PID",
        help="end when this process ends, and without --stdio print the address as a line of JSON "
        "(default: with --stdio the process that has started this one; 0: none)",
    )
    access = parser.add_argument_group("access")
    access.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"key that clients must send (default: the environment variable {KEY_VARIABLE}; "
        "other users of the machine can see a key that is an argument)",
    )
    access.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="web pages that may call the server, such as https://example.org; may be given "
        "several times",
    )
    access.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name in the Host header that is answered beside localhost and --host; may be given "
        "several times",
    )
    access.add_argument(
        "--log-prompts", action="store_true", help="log requests and tracebacks of errors"
    )
    _add_limits(parser.add_argument_group("limits"))
    add_machine(parser)
    parser.set_defaults(run=_serve)


def _add_limits(group: Any) -> None:
    from ..serving.settings import LIMITS

    for name, limit in LIMITS.items():
        default = limit["default"]
        kind: Callable[[str], Any] = integer if type(default) is int else number
        group.add_argument(
            _flag(name),
            dest=name,
            type=kind,
            default=default,
            metavar=limit["metavar"],
            help=f"{limit['help']} (default: {str(default).removesuffix('.0')})",
        )


def _flag(name: str) -> str:
    """Return the flag of a limit, or of another argument."""
    return f"--{name.removesuffix('_s').replace('_', '-')}{'-time' * name.endswith('_s')}"


def _serve(arguments: argparse.Namespace) -> int:
    if not arguments.bundle and not arguments.demo:
        arguments.usage_error("give the folder of a bundle with --bundle, or --demo")
    return _serve_stdio(arguments) if arguments.stdio else _serve_http(arguments)


def _serve_stdio(arguments: argparse.Namespace) -> int:
    from ..serving.settings import LIMITS, Settings
    from ..serving.sources import model_sources
    from ..serving.stdio.process import serve_stdio

    limits = {name: limit["default"] for name, limit in LIMITS.items() if name not in OF_STDIO}
    access: dict[str, Any] = {"api_key": None, "allow_origin": [], "allow_host": []}
    for name, default in {"host": HOST, "port": PORT, **access, **limits}.items():
        if getattr(arguments, name) != default:
            arguments.usage_error(f"{_flag(name)} has no effect with --stdio")
    settings = Settings(
        log_prompts=arguments.log_prompts,
        **{name: getattr(arguments, name) for name in sorted(OF_STDIO)},
    )
    models = model_sources(
        arguments.bundle,
        demo=arguments.demo,
        max_concurrent=settings.max_concurrent,
        **machine_of(arguments),
    )
    # 0 for none, and where the parent is outside of this container.
    parent = os.getppid() if arguments.parent is None else arguments.parent
    _prepare_process()
    return serve_stdio(models, settings, parent=parent or None)


def _serve_http(arguments: argparse.Namespace) -> int:
    from ..serving.settings import LIMITS, LOCAL_HOSTS, Settings
    from ..serving.sources import model_sources

    try:
        from ..serving.server import is_local, serve
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"The server needs {error.name}: install the extra 'server' "
            '(python -m pip install "edgeseq[cpu,server]").'
        ) from error

    key = arguments.api_key
    if key is None:
        key = os.environ.get(KEY_VARIABLE)  # an empty one is an error, not a server without key
    settings = Settings(
        api_key=key,
        allow_origins=tuple(arguments.allow_origin),
        allow_hosts=(*LOCAL_HOSTS, *arguments.allow_host),
        log_prompts=arguments.log_prompts,
        **{name: getattr(arguments, name) for name in LIMITS},
    )
    models = model_sources(
        arguments.bundle,
        demo=arguments.demo,
        max_concurrent=settings.max_concurrent,
        **machine_of(arguments),
    )

    def say(url: str) -> None:
        print(f"edgeseq serves {', '.join(models)} at {url} (Ctrl-C ends it)", file=sys.stderr)
        if arguments.parent:
            print(json.dumps({"url": url, "port": urlsplit(url).port}), flush=True)
        if key is None and not is_local(arguments.host):
            print(
                f"Everyone who reaches {arguments.host} can use the server: set a key with "
                f"{KEY_VARIABLE}.",
                file=sys.stderr,
            )
        sys.stderr.flush()

    _prepare_process()
    with _logging_to_standard_error(arguments.log_prompts):
        serve(
            models,
            settings,
            host=arguments.host,
            port=arguments.port,
            on_listening=say,
            parent=arguments.parent or None,
        )
    return 0


def _prepare_process() -> None:
    """Let threads share freed memory, and go on while one of them encodes a long text.

    By default each thread may have its own arena of glibc's allocator, and memory that it freed
    there is used by no other thread: a server under load grew from 150 to 430 MB, and stays at 195
    MB with two arenas.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # runtime/text/tokenizer.py
    if platform.libc_ver()[0] == "glibc" and "MALLOC_ARENA_MAX" not in os.environ:
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


@contextmanager
def _logging_to_standard_error(with_tracebacks: bool) -> Iterator[None]:
    """Log requests while the block runs; uvicorn's own errors have tracebacks."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    levels = {
        "edgeseq.serving": logging.INFO,
        "uvicorn.error": logging.ERROR if with_tracebacks else logging.CRITICAL,
    }
    loggers = [logging.getLogger(name) for name in levels]
    for logger in loggers:
        logger.setLevel(levels[logger.name])
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.setLevel(logging.NOTSET)
            logger.removeHandler(handler)
