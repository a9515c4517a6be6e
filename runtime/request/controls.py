"""Arguments of a call besides its options: constraints, callbacks and cancellation.

A bundle has no defaults for them: most of their values, such as functions, cannot be stored in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..decoder import Logits, TokenIds
from ..errors import OptionError
from .value_checks import is_text

# processor(ids, logits): takes all ids of a text so far, (n,), and the logits of its next token,
# (vocabulary,). Returns the changed logits.
LogitsProcessor = Callable[[TokenIds, Logits], Logits]
# allowed(prompt, ids): takes a prompt's index and all ids of a text so far, (n,). Returns the ids
# that may come next.
PrefixAllowedTokens = Callable[[int, TokenIds], Sequence[int]]
GUIDES = ("json_schema", "regex", "grammar")
BESIDE_CHOICES = {"choices", "decoder_input_ids", "cancel", "truncation"}


@dataclass(frozen=True, kw_only=True)
class Controls:
    """The controls of a call; a bad value raises ``OptionError`` on construction."""

    decoder_input_ids: Any = None  # tokens that an encoder-decoder model's output continues
    choices: Sequence[str] | None = None  # the only possible outputs
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None
    prefix_allowed_tokens_fn: PrefixAllowedTokens | None = None
    json_schema: Any = None  # JSON Schema of the output, as a dictionary or JSON text
    regex: str | None = None  # regular expression that matches the whole output
    grammar: str | None = None  # grammar of the output, in llguidance's dialect of Lark
    cancel: Any = None  # a function, or an object with `is_set`; ends the work once it is true

    def __post_init__(self) -> None:
        given = self.logits_processor
        several = isinstance(given, list | tuple) and all(map(callable, given))
        if given is not None and not callable(given) and not several:
            raise OptionError(
                f"logits_processor is {given!r:.60}; it must be a function that takes token ids "
                "and logits, or a list of such functions."
            )
        function = self.prefix_allowed_tokens_fn
        if function is not None and not callable(function):
            raise OptionError(
                f"prefix_allowed_tokens_fn is {function!r:.60}; it must be a function that takes "
                "the index of a prompt and token ids."
            )
        is_class = isinstance(self.cancel, type)
        is_callable = callable(getattr(self.cancel, "is_set", self.cancel))
        if self.cancel is not None and (is_class or not is_callable):
            raise OptionError(
                f"cancel is {self.cancel!r:.60}; it must be a function without arguments, or an "
                "object with the method is_set, such as an event."
            )
        if len(guides := self.guides) > 1:
            raise OptionError(f"{guides[1]} has no effect with {guides[0]}: pass one of them.")
        for name in ("regex", "grammar"):
            value = getattr(self, name)
            if value is not None and not is_text(value):
                raise OptionError(
                    f"{name} is {value!r:.60}; it must be a string without lone surrogates."
                )

    @property
    def processors(self) -> Sequence[LogitsProcessor]:
        """The logits processors that the caller passed."""
        given = self.logits_processor
        if given is None:
            return ()
        return (given,) if callable(given) else tuple(given)

    @property
    def guides(self) -> list[str]:
        """The names of the constraints that the caller passed, of those in ``GUIDES``."""
        return [name for name in GUIDES if getattr(self, name) is not None]

    @property
    def cancelled(self) -> Callable[[], bool] | None:
        """``is_cancelled``, or None if the call cannot be cancelled."""
        return None if self.cancel is None else self.is_cancelled

    def is_cancelled(self) -> bool:
        """Return whether the caller has cancelled the call."""
        if self.cancel is None:
            return False
        return bool(self.cancel.is_set() if hasattr(self.cancel, "is_set") else self.cancel())


CONTROL_NAMES = tuple(control.name for control in fields(Controls))
FUNCTIONS = ("logits_processor", "prefix_allowed_tokens_fn", "cancel")  # JSON cannot hold them


def split_controls(options: Mapping[str, Any]) -> tuple[Controls, dict[str, Any]]:
    """Split a call's keyword arguments into controls and generation options."""
    controls = Controls(**{name: options[name] for name in CONTROL_NAMES if name in options})
    return controls, {name: value for name, value in options.items() if name not in CONTROL_NAMES}


def check_choosing(controls: Controls, options: Mapping[str, Any]) -> None:
    """Raise ``OptionError`` for bad ``choices``, or for options without effect with choices."""
    choices: Any = controls.choices
    if choices is None:
        return
    given = {name for name, value in vars(controls).items() if value is not None}
    given |= {name for name, value in options.items() if value is not None}
    for name in sorted(given - BESIDE_CHOICES):
        raise OptionError(f"{name} has no effect with choices: pass one of them.")
    is_list = isinstance(choices, list | tuple) or hasattr(choices, "tolist")  # numpy's arrays
    if not is_list or not len(choices) or not all(item and is_text(item) for item in choices):
        raise OptionError(
            f"choices is {choices!r:.60}; it must be a list of strings, none of them empty."
        )
    if len(set(choices)) < len(choices):
        twice = next(item for i, item in enumerate(choices) if item in choices[:i])
        raise OptionError(f"choices has {str(twice)!r:.60} twice: pass each choice once.")
