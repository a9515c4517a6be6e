"""What a call takes beside the options: values that no file can hold, and other ways to ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..decoder import Logits, TokenIds
from ..errors import OptionError
from .value_checks import is_text

# From all ids of a text so far, (n,), and its logits, (vocabulary,), to the logits that count.
LogitsProcessor = Callable[[TokenIds, Logits], Logits]
# From a prompt's index and all ids of a text so far to the ids that may come next.
PrefixAllowedTokens = Callable[[int, TokenIds], Sequence[int]]
GUIDES = ("json_schema", "regex", "grammar")


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Checked on construction: what cannot be used raises ``OptionError``."""

    decoder_input_ids: Any = None  # what an output goes on from, after an encoder
    choices: Sequence[str] | None = None  # the only outputs there are
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None
    prefix_allowed_tokens_fn: PrefixAllowedTokens | None = None
    json_schema: Any = None  # of the output, as a dictionary or JSON
    regex: str | None = None  # of the whole output
    grammar: str | None = None  # of the output, in llguidance's dialect of Lark
    cancel: Any = None  # a callable, or an event with `is_set`, that ends the work once it is true

    def __post_init__(self) -> None:
        given = self.logits_processor
        several = isinstance(given, list | tuple) and all(map(callable, given))
        if given is not None and not callable(given) and not several:
            raise OptionError(
                "logits_processor must be a function of tokens and logits, or a list of them, not "
                f"{self.logits_processor!r:.60}."
            )
        function = self.prefix_allowed_tokens_fn
        if function is not None and not callable(function):
            raise OptionError(f"prefix_allowed_tokens_fn is {function!r:.60}; it must be callable.")
        is_class = isinstance(self.cancel, type)
        is_callable = callable(getattr(self.cancel, "is_set", self.cancel))
        if self.cancel is not None and (is_class or not is_callable):
            raise OptionError(
                f"cancel is {self.cancel!r:.60}; it must be a function or an event (is_set)."
            )
        if len(guides := self.guides) > 1:
            raise OptionError(f"{guides[1]} has no effect beside {guides[0]}: pass one of them.")
        for name in ("regex", "grammar"):
            value = getattr(self, name)
            if value is not None and not is_text(value):
                raise OptionError(f"{name} is {value!r:.60}; it must be a string of characters.")

    @property
    def processors(self) -> Sequence[LogitsProcessor]:
        """The caller's own processors."""
        given = self.logits_processor
        if given is None:
            return ()
        return (given,) if callable(given) else tuple(given)

    @property
    def guides(self) -> list[str]:
        """The names of what constrains the output and is given."""
        return [name for name in GUIDES if getattr(self, name) is not None]

    @property
    def cancelled(self) -> Callable[[], bool] | None:
        """What says whether the caller wants the work to end; None: nobody will."""
        return None if self.cancel is None else self.is_cancelled

    def is_cancelled(self) -> bool:
        """Whether the caller wants the work to end."""
        if self.cancel is None:
            return False
        return bool(self.cancel.is_set() if hasattr(self.cancel, "is_set") else self.cancel())


CONTROL_NAMES = tuple(argument.name for argument in fields(Controls))


def split_controls(options: Mapping[str, Any]) -> tuple[Controls, dict[str, Any]]:
    """The arguments among a call's options, and the options."""
    arguments = Controls(**{name: options[name] for name in CONTROL_NAMES if name in options})
    return arguments, {name: value for name, value in options.items() if name not in CONTROL_NAMES}


MAY_STAND_BESIDE = {"choices", "decoder_input_ids", "cancel"}


def check_choosing(arguments: Controls, options: Mapping[str, Any]) -> None:
    """Refuse choices that are none, and options that have no effect with them."""
    if arguments.choices is None:
        return
    given = {name for name, value in vars(arguments).items() if value is not None}
    others = given - MAY_STAND_BESIDE | {n for n, value in options.items() if value is not None}
    for name in sorted(others):
        raise OptionError(f"{name} has no effect with choices.")
    choices = arguments.choices
    is_list = isinstance(choices, list | tuple | np.ndarray)
    if not is_list or not len(choices) or not all(item and is_text(item) for item in choices):
        raise OptionError(
            f"choices is {arguments.choices!r:.60}; it must be a list of texts, none of them empty."
        )
    if len(set(choices)) < len(choices):
        raise OptionError("choices has the same text twice.")
