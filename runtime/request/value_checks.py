"""Checks of single option values, and the plain form in which options are stored.

A check takes the option's name, for the error, and the value. It raises ``OptionError`` for a bad
value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import OptionError

LARGEST = 10**300  # limit of integers for options that are numbers
LARGEST_BIAS = 1e9  # largest bias: float32 holds it divided by the lowest temperature
Biases = tuple[tuple[tuple[int, ...], float], ...]
Check = Callable[[str, Any], None]


def plain(value: Any) -> Any:
    """Return a numpy value as a Python value, and a list as a tuple."""
    if hasattr(value, "tolist"):  # numpy's scalars and arrays, without importing numpy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    return tuple(plain(item) for item in value) if isinstance(value, list | tuple) else value


def several(value: Any) -> tuple[Any, ...]:
    """Return one value or several as a tuple; an empty tuple for None."""
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)


def check_flag(name: str, value: Any) -> None:
    """Raise ``OptionError`` unless the value is True or False."""
    if type(value) is not bool:
        raise OptionError(f"{name} is {value!r}; it must be True or False.")


def check_integer(name: str, value: Any, *, at_least: int, at_most: int | None = None) -> None:
    """Raise ``OptionError`` unless the value is an integer in range."""
    if not _is_integer(value) or value < at_least or (at_most is not None and value > at_most):
        wanted = f"of at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"
        raise OptionError(f"{name} is {value!r:.60}; it must be an integer {wanted}.")


def check_number(name: str, value: Any, at_least: float, at_most: float) -> None:
    """Raise ``OptionError`` unless the value is a number in range."""
    if not _is_number(value) or not at_least <= value <= at_most:
        raise OptionError(
            f"{name} is {value!r:.60}; it must be a number from {at_least:g} to {at_most:g}."
        )


def check_probability(
    name: str, value: Any, *, above_0: bool = False, below_1: bool = False
) -> None:
    """Raise ``OptionError`` unless the value is in [0, 1].

    ``above_0`` excludes 0, ``below_1`` excludes 1.
    """
    check_number(name, value, 0.0, 1.0)
    if (above_0 and value == 0) or (below_1 and value == 1):
        raise OptionError(f"{name} is {value!r}; it must be {'above 0' if above_0 else 'below 1'}.")


def check_token_ids(name: str, value: Any) -> None:
    """Raise ``OptionError`` unless the value is a sequence of at least one token id."""
    if not isinstance(value, tuple) or not value or not all(map(_is_token, value)):
        raise OptionError(
            f"{name} is {value!r:.60}; it must be a list of token ids, integers of at least 0."
        )


def check_words(name: str, value: Any) -> None:
    """Raise ``OptionError`` unless the value is a sequence of sequences of token ids."""
    if not isinstance(value, tuple) or not value:
        raise OptionError(f"{name} is {value!r:.60}; it must be a list of lists of token ids.")
    for word in value:
        check_token_ids(f"An item of {name}", word)


def biases(name: str, value: Any) -> Biases:
    """Return (token ids, bias) pairs from a dictionary or a list of pairs."""
    items = tuple(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(items, tuple) or not items:
        raise OptionError(
            f"{name} is {value!r:.60}; it must be a dictionary from tuples of token ids to "
            "numbers, or a list of such pairs."
        )
    for item in items:
        if not isinstance(item, Sequence) or len(item) != 2 or not _is_number(item[1]):
            raise OptionError(
                f"An item of {name} is {item!r:.60}; it must be a pair of token ids and a number."
            )
        check_token_ids(f"The first part of an item of {name}", item[0])
        if abs(item[1]) > LARGEST_BIAS:
            raise OptionError(
                f"A bias of {name} is {item[1]!r}; it must be from -{LARGEST_BIAS:g} to "
                f"{LARGEST_BIAS:g}: to forbid token ids, use bad_words_ids."
            )
    return tuple((tuple(ids), float(bias)) for ids, bias in items)


def check_strings(name: str, value: Any) -> None:
    """Raise ``OptionError`` unless the value is a sequence of non-empty strings."""
    if (
        not isinstance(value, tuple)
        or not value
        or not all(item and is_text(item) for item in value)
    ):
        raise OptionError(
            f"{name} is {value!r:.60}; it must be a string or a list of strings, none of them "
            "empty."
        )


def check_decay(name: str, value: Any) -> None:
    """Raise ``OptionError`` unless the value is a pair of a number of tokens and a factor."""
    if (
        not isinstance(value, tuple)
        or len(value) != 2
        or not _is_token(value[0])
        or not _is_number(value[1])
        or not 0 < value[1] <= 1e6
    ):
        raise OptionError(
            f"{name} is {value!r:.60}; it must be a pair of start, an integer of at least 0, and "
            "factor, a number above 0 and up to 1e6."
        )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_token(value: Any) -> bool:
    return _is_integer(value) and value >= 0


def _is_number(value: Any) -> bool:
    if _is_integer(value):
        return bool(abs(value) < LARGEST)  # larger integers do not fit into a float
    return isinstance(value, float) and math.isfinite(value)


def is_text(value: Any) -> bool:
    """Return whether ``value`` is a string without lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
