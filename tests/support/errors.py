"""Checks of error messages: each of them is one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

# How a sentence ends: with a word, perhaps in quotes or brackets, and a full stop (no `?.`, `:.` or
# `..`); with code; or with any value or a question mark.
WORD = r"[^\W_]['\"\])}]*\."
CODE = rf"{WORD}|[`…]['\"\])}}]*\."
VALUE = r"[.?]"


def assert_one_sentence(message: str, *, ending: str = WORD, longest: int = 500) -> None:
    """Check that a message is one line of fewer than ``longest`` characters with that ending."""
    assert message.splitlines() == [message]
    assert re.search(f"({ending})$", message)
    assert len(message) < longest


def refusal(
    error_type: type[BaseException] | tuple[type[BaseException], ...],
    call: Callable[[], object],
    *,
    match: str | None = None,
    ending: str = WORD,
    longest: int = 500,
) -> str:
    """Return the one sentence of the error that ``call`` raises; ``match`` is a pattern in it."""
    with pytest.raises(error_type, match=match) as caught:
        call()
    message = str(caught.value)
    assert_one_sentence(message, ending=ending, longest=longest)
    return message
