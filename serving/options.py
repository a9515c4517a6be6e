"""OpenAI's fields for generation, and edgeseq's options beside them, as options of a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..runtime.request.controls import CONTROL_NAMES, FUNCTIONS, GUIDES
from ..runtime.request.options import OPENAI_PENALTIES, OPTION_TRAITS
from .errors import OPENAI_NAMES, bad_field
from .fields import MOST_ITEMS, Fields
from .settings import Settings

# Fields that have these names in OpenAI's API, or belong to it with another form.
OPENAI = {
    *("temperature", "top_p", "seed", "logprobs", "presence_penalty", "frequency_penalty"),
}
OWN = tuple(
    name
    for name in (*OPTION_TRAITS, *CONTROL_NAMES)
    if name not in OPENAI and name not in OPENAI_NAMES and name not in FUNCTIONS
)
MOST_STOPS = 4
MOST_STOP_CHARS = 1024  # of all stop strings together
BIASES = (-100.0, 100.0)  # range of logit_bias
SEEDS = (-(2**63), 2**64 - 1)
# With these, an omitted temperature does not mean sampling.
WITHOUT_SAMPLING = ("num_beams", "prompt_lookup_num_tokens", "choices")


@dataclass(frozen=True, kw_only=True)
class Call:
    """What to generate for each prompt of a request."""

    options: Mapping[str, Any]  # generation options and controls, without ``logprobs``
    max_tokens: int
    n: int  # texts that are returned for each prompt
    best_of: int  # texts that are generated for each prompt, of which the best are returned
    beams: int
    is_deterministic: bool  # whether the texts of a prompt are all equal: one is generated
    stream: bool
    include_usage: bool

    @property
    def generated(self) -> int:
        """The number of texts that are generated for each prompt."""
        return 1 if self.is_deterministic else self.best_of


def read_call(
    fields: Fields,
    settings: Settings,
    *,
    vocabulary: int,
    max_tokens: int,
    prompts: int,
    has_best_of: bool,
) -> Call:
    """Take the fields of generation; raise ``ApiError`` for a bad one.

    ``vocabulary``: the number of token ids. ``max_tokens``: its default. ``prompts``: the number of
    prompts. ``has_best_of``: whether ``best_of`` is a field.
    """
    for name, other in OPENAI_NAMES.items():
        if name in fields:
            raise bad_field(name, f"{name} has another name here: use {other}.")
    fields.text("user")  # OpenAI uses it against abuse; it has no effect on the output
    given = fields.integer("max_tokens", 0, settings.max_tokens)
    most = settings.max_texts
    n = fields.integer("n", 1, most) or 1
    best_of = (fields.integer("best_of", 1, most) if has_best_of else None) or n
    stream = fields.flag("stream")
    include_usage = _include_usage(fields, stream)
    options = fields.options(OWN)
    check_sizes(options, settings)
    beams = options.get("num_beams", 1)
    beams = beams if type(beams) is int else 1  # the runtime refuses other types
    if best_of < n:
        raise bad_field("best_of", f"best_of is {best_of}; it must be at least n ({n}).")
    if best_of > n and stream:
        raise bad_field("best_of", f"best_of is {best_of}, but a stream has no best text: use n.")
    if best_of > n and beams > 1:
        raise bad_field("best_of", "best_of has no effect with num_beams: use n.")
    if prompts * max(best_of, beams) > most:
        raise bad_field(
            "n",
            f"The request has {prompts} prompts with {max(best_of, beams)} texts or beams each; "
            f"the limit is {most} together: send several requests.",
        )
    options |= _sampling(fields, options)
    is_sampled = options.get("do_sample") is True
    has_choices = "choices" in options
    if not has_choices:
        options |= _other_options(fields, options, settings, vocabulary)
    if has_choices and stream:
        raise bad_field("stream", "stream has no effect with choices: leave it out.")
    if has_choices and n > 1:
        raise bad_field("n", "n has no effect with choices: use 1.")
    return Call(
        options=options,
        max_tokens=max_tokens if given is None else given,
        n=n,
        best_of=best_of,
        beams=beams,
        is_deterministic=has_choices or not (is_sampled or beams > 1),
        stream=stream,
        include_usage=include_usage,
    )


def check_stream(call: Call, *, has_logprobs: bool) -> None:
    """Raise ``ApiError`` for a stream of beams with log-probabilities, which come at the end."""
    if call.stream and call.beams > 1 and has_logprobs:
        raise bad_field(
            "logprobs", "logprobs has no effect with num_beams and stream: leave one of them out."
        )


def _include_usage(fields: Fields, stream: bool) -> bool:
    found = fields.take("stream_options")
    if found is None:
        return False
    if not stream:
        raise bad_field("stream_options", "stream_options has no effect without stream: true.")
    if not isinstance(found, dict):
        raise bad_field("stream_options", f"stream_options is {found!r:.60}; it must be an object.")
    options = Fields(found)
    value = options.flag("include_usage")
    options.finish(["include_usage"])
    return value


def check_sizes(options: Mapping[str, Any], settings: Settings) -> None:
    """Raise ``ApiError`` for a constraint, or stop strings, that are too large."""
    limits = dict.fromkeys((*GUIDES, "choices"), settings.max_constraint_chars)
    for name, limit in {**limits, "stop": MOST_STOP_CHARS, "stop_strings": MOST_STOP_CHARS}.items():
        size = _size(options.get(name))
        if size > limit:
            raise bad_field(
                name, f"{name} has {size} characters; the limit is {limit}: send a shorter one."
            )


def _size(value: Any) -> int:
    """Return the characters of the strings in a JSON value, and one for each other item."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(key) + _size(item) for key, item in value.items())
    return sum(map(_size, value)) if isinstance(value, list) else int(value is not None)


def _sampling(fields: Fields, options: Mapping[str, Any]) -> dict[str, Any]:
    """Take temperature, top_p and seed; return the options of sampling.

    With temperature 0 they have no effect, as in OpenAI's API.
    """
    temperature = fields.number("temperature", 0.0, 2.0)
    top_p = fields.number("top_p", 0.0, 1.0)
    seed = fields.integer("seed", *SEEDS)
    if "choices" in options:
        return {}
    is_sampled = options.get("do_sample")
    if is_sampled is None:
        plain = any(options.get(name, 1) != 1 for name in WITHOUT_SAMPLING)
        is_sampled = not plain if temperature is None else temperature > 0
    if is_sampled is not True:
        return {"do_sample": is_sampled}
    return {
        "do_sample": True,
        "temperature": 1.0 if temperature is None else temperature,
        "top_p": 1.0 if top_p is None else top_p,
        "top_k": options.get("top_k", 0),
        **({} if seed is None else {"seed": seed % 2**64}),
    }


def _other_options(
    fields: Fields, options: Mapping[str, Any], settings: Settings, vocabulary: int
) -> dict[str, Any]:
    """Take the stop strings, biases and penalties; return them as options."""
    found: dict[str, Any] = {}
    stops = fields.take("stop")
    if stops is not None and stops != []:
        several = [stops] if isinstance(stops, str) else stops
        if (
            not isinstance(several, list)
            or len(several) > MOST_STOPS
            or not all(isinstance(item, str) and item for item in several)
        ):
            raise bad_field(
                "stop",
                f"stop is {stops!r:.60}; it must be a string or a list of up to {MOST_STOPS} "
                "strings, none of them empty.",
            )
        check_sizes({"stop": several}, settings)
        found["stop_strings"] = several
    for name in ("presence_penalty", "frequency_penalty"):
        if penalty := fields.number(name, *OPENAI_PENALTIES):
            found[name] = penalty
    if biases := _biases(fields, vocabulary):
        if "sequence_bias" in options:
            raise bad_field("logit_bias", "logit_bias has no effect with sequence_bias: use one.")
        found["sequence_bias"] = biases
    return found


def _biases(fields: Fields, vocabulary: int) -> list[tuple[tuple[int, ...], float]]:
    """Take ``logit_bias``; return it in the form of ``sequence_bias``."""
    given = fields.take("logit_bias")
    if given is None:
        return []
    wrong = bad_field(
        "logit_bias",
        f"logit_bias is {given!r:.60}; it must be an object of at most {MOST_ITEMS} token ids from "
        f"0 to {vocabulary - 1} and numbers from {BIASES[0]:g} to {BIASES[1]:g}.",
    )
    if not isinstance(given, dict) or len(given) > MOST_ITEMS:
        raise wrong
    found: list[tuple[tuple[int, ...], float]] = []
    for token, bias in given.items():
        is_id = token.isascii() and token.isdigit() and len(token) < 10 and int(token) < vocabulary
        is_number = type(bias) is int or type(bias) is float
        if not is_id or not is_number or not BIASES[0] <= bias <= BIASES[1]:
            raise wrong
        found.append(((int(token),), float(bias)))
    return found
