"""Checks of error messages: each of them is one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest


def assert_one_sentence(message: str, *, marks: str = ".", longest: int = 500) -> None:
    """Check that a message is one line of fewer than ``longest`` characters, ended by a mark.

    What is before the mark has to be a word, not another mark: no `?.`, `:.` or `..`.
    """
    assert message.splitlines() == [message]
    assert re.search(rf"[^\W_]['\"\])}}]*[{re.escape(marks)}]$", message)
    assert len(message) < longest


def refusal(
    error_type: type[BaseException] | tuple[type[BaseException], ...],
    call: Callable[[], object],
    *,
    match: str | None = None,
    marks: str = ".",
    longest: int = 500,
) -> str:
    """Return the one sentence of the error that ``call`` raises; ``match`` is a pattern in it."""
    with pytest.raises(error_type, match=match) as caught:
        call()
    message = str(caught.value)
    assert_one_sentence(message, marks=marks, longest=longest)
    return message
