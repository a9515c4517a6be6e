"""Who may call the server, and its limits: one definition of every default.

The flags of ``edgeseq serve`` are made from these fields (``cli/serve.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from ..runtime.errors import OptionError

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")


def _limit(default: float, metavar: str, text: str, at_least: float = 1) -> Any:
    """Return a field for a limit; its type is the type of ``default``."""
    metadata = {"metavar": metavar, "help": text, "at_least": at_least}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a server; a bad value raises ``OptionError`` on construction.

    Attributes:
        api_key: The key that clients must send as a bearer token; None: no key is needed.
        allow_origins: The origins of web pages that may call the server, such as
            ``https://example.org``; "*" for all.
        allow_hosts: The names in the ``Host`` header that are answered, without a port; "*" for
            all. Web pages of other names cannot reach a local server by DNS rebinding.
        log_prompts: Whether prompts, and tracebacks of unexpected errors, are logged.
    """

    api_key: str | None = None
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = LOCAL_HOSTS
    log_prompts: bool = False
    max_body_bytes: int = _limit(2**20, "N", "limit of a request's body, in bytes")
    max_prompt_tokens: int = _limit(4096, "N", "limit of tokens of a prompt")
    max_tokens: int = _limit(2048, "N", "limit of max_tokens")
    max_texts: int = _limit(
        64,
        "N",
        "limit of texts of a request, and of all that a model generates at once: prompts, times n, "
        "best_of or num_beams",
    )
    max_constraint_chars: int = _limit(
        16384, "N", "limit of characters of regex, grammar, json_schema and choices"
    )
    max_concurrent: int = _limit(16, "N", "limit of requests of a model that generate at once")
    max_queue: int = _limit(
        64, "N", "limit of requests of a model that wait; more get status 429", 0
    )
    constraint_s: float = _limit(5.0, "SECONDS", "limit of time to check a request", 0.01)
    request_s: float = _limit(300.0, "SECONDS", "limit of time of a request, with its wait", 0.01)
    stall_s: float = _limit(
        30.0, "SECONDS", "time after which a client that neither sends nor reads is dropped", 0.01
    )
    comment_s: float = _limit(
        5.0, "SECONDS", "time without a token after which a stream sends a comment", 0.01
    )
    shutdown_s: float = _limit(
        30.0, "SECONDS", "time that running requests get to end after SIGTERM", 0
    )

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            value, kind = getattr(self, name), type(limit["default"])
            is_number = type(value) is int or (kind is float and type(value) is float)
            if not is_number or not limit["at_least"] <= value < math.inf:
                wanted = "an integer" if kind is int else "a number"
                raise OptionError(
                    f"{name} is {value!r:.60}; it must be {wanted} of at least "
                    f"{limit['at_least']:g}."
                )
        key = self.api_key
        if key is not None and (
            not key or not key.isascii() or not key.isprintable() or " " in key
        ):
            raise OptionError(
                "The API key is empty or has characters other than printable ASCII without spaces: "
                "use another key."
            )


LIMITS: dict[str, dict[str, Any]] = {
    item.name: {**item.metadata, "default": item.default}
    for item in fields(Settings)
    if item.metadata
}
