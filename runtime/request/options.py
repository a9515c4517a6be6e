"""The generation options of a call: names, defaults, checks and command-line flags.

Names and defaults are those of Transformers' ``GenerationConfig`` (4.57). ``resolving.py`` merges
the caller's options with the bundle's defaults and says which have no effect. A field's metadata
holds the option's check, flag and needs. To add an option, add a field here, and its effect in
``logits/processors.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import Field, dataclass, field, fields
from functools import partial
from typing import Any, Literal, NamedTuple

from ..errors import OptionError
from . import value_checks as checks
from .value_checks import Check, several

DEFAULT_NEW_TOKENS = 20  # Transformers' default `max_length`, which counts new tokens alone
FACTORS = (1e-6, 1e6)  # range of factors and divisors of logits: float32 holds the result
EXPONENTS = (-20.0, 20.0)  # range of length exponents
MOST_ROWS = 10_000  # most rows per prompt
LONGEST_NGRAM = 64  # largest n-gram size: all n-grams up to it are kept
DEFAULT_NGRAM = 4  # Transformers: 2; the ids are the same, and fewer guesses are wrong

Strategy = Literal["greedy", "sampling", "beam search", "group beam search", "prompt lookup"]


class Need(NamedTuple):
    """The condition under which an option has an effect."""

    is_met: Callable[[GenerationOptions], bool]
    words: str  # end of the error message, after "has no effect"
    gates_checks: bool = False  # whether the option's value is checked only if the need is met


class Flag(NamedTuple):
    """The command-line flag of an option."""

    group: Literal["length", "strategy", "logits"]
    type: Callable[[str], Any]
    help: str


class Traits(NamedTuple):
    """The metadata of an option's field, under the key "traits"."""

    check: Check | None
    needs: Need | None
    flag: Flag | None
    ids: Callable[[Any], Iterable[int]] | None  # the token ids in a value, which must exist


def _option(
    default: Any,
    check: Check | None = None,
    *,
    needs: Need | None = None,
    flag: Flag | None = None,
    ids: Callable[[Any], Iterable[int]] | None = None,
) -> Any:
    return field(default=default, metadata={"traits": Traits(check, needs, flag, ids)})


# Checkpoints may have options of sampling or beam search even if they use neither.
SAMPLING = Need(lambda options: options.do_sample, "without sampling (do_sample)", True)
BEAMS = Need(lambda options: options.num_beams > 1, "without beam search (num_beams)", True)
BEAMS_OR_NO_GROUPS = Need(
    lambda options: options.num_beams > 1 or options.num_beam_groups == 1,
    "without beam search (num_beams)",
)
GROUPS = Need(
    lambda options: options.strategy == "group beam search",
    "without groups of beams (num_beam_groups)",
)
LOOKUP = Need(
    lambda options: options.prompt_lookup_num_tokens is not None,
    "without prompt lookup (prompt_lookup_num_tokens)",
)
AN_END = Need(
    lambda options: bool(options.eos_token_ids), "where nothing ends a text (eos_token_id)"
)

_flag = checks.check_flag
_decay = checks.check_decay
_ids = checks.check_token_ids
_id = partial(checks.check_integer, at_least=0)


def _integer(at_least: int, at_most: int | None = None) -> Check:
    return partial(checks.check_integer, at_least=at_least, at_most=at_most)


def _number(at_least: float, at_most: float) -> Check:
    return partial(checks.check_number, at_least=at_least, at_most=at_most)


def _probability(*, above_0: bool = False, below_1: bool = False) -> Check:
    return partial(checks.check_probability, above_0=above_0, below_1=below_1)


def _ends(name: str, value: Any) -> None:
    for token in several(value):
        _id(name, token)


def _early_stopping(name: str, value: Any) -> None:
    if type(value) is not bool and value != "never":
        raise OptionError(f'{name} is {value!r}; it must be True, False or "never".')


def _biases(name: str, value: Any) -> None:
    checks.biases(name, value)


def _biased_ids(value: Any) -> list[int]:
    return [token for ids, _ in checks.biases("sequence_bias", value) for token in ids]


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """The options of a call. A bad value raises ``OptionError`` on construction.

    Options of sampling and of beam search are checked only where they have an effect.
    """

    # Strategy
    do_sample: bool = _option(False, _flag)  # sample tokens; else take the most probable one
    num_beams: int = _option(  # hypotheses that are followed at once; 1: no beam search
        1,
        _integer(1, MOST_ROWS),
        flag=Flag("strategy", int, "number of beams for beam search"),
    )
    # Length and end of a text
    max_new_tokens: int | None = _option(  # most new tokens per prompt
        None, _integer(1), flag=Flag("length", int, "limit of new tokens")
    )
    max_length: int | None = _option(  # most start tokens and new tokens together
        None,
        _integer(1),
        flag=Flag("length", int, "limit of tokens, the decoder's start tokens included"),
    )
    min_new_tokens: int | None = _option(  # no end of sequence before this many new tokens
        None,
        _integer(0),
        needs=AN_END,
        flag=Flag("length", int, "fewest new tokens before the text may end"),
    )
    min_length: int = _option(0, _integer(0), needs=AN_END)  # the same, start tokens included
    max_time: float | None = _option(  # stop after this many seconds
        None,
        _number(0.0, 1e9),
        flag=Flag("length", float, "stop after this many seconds"),
    )
    stop_strings: str | tuple[str, ...] | None = _option(  # end a text that contains one of them
        None, lambda name, value: checks.check_strings(name, several(value))
    )
    eos_token_id: int | tuple[int, ...] | None = _option(None, _ends)  # None: nothing ends a text
    # Number of texts, and further strategies
    num_beam_groups: int = _option(  # groups of beams, which are made to differ
        1,
        _integer(1, MOST_ROWS),
        needs=BEAMS_OR_NO_GROUPS,
        flag=Flag("strategy", int, "divide the beams into this many groups that differ"),
    )
    num_return_sequences: int = _option(  # texts for each prompt
        1,
        _integer(1, MOST_ROWS),
        flag=Flag("strategy", int, "return this many texts, from beams or sampled"),
    )
    prompt_lookup_num_tokens: int | None = _option(  # most tokens that are guessed at once
        None,
        _integer(1),
        flag=Flag("strategy", int, "guess up to this many tokens per step (prompt lookup)"),
    )
    max_matching_ngram_size: int | None = _option(  # longest n-gram that is looked up
        None, _integer(1, LONGEST_NGRAM), needs=LOOKUP
    )
    # Return the log-probability of each token and of this many alternatives (not in Transformers)
    logprobs: int | None = _option(None, _integer(0))
    # Sampling
    temperature: float = _option(  # divisor of the logits
        1.0,
        _number(*FACTORS),
        needs=SAMPLING,
        flag=Flag("logits", float, "divide logits by this before sampling"),
    )
    top_k: int = _option(  # sample from the k most probable tokens; 0: from all
        50,
        _integer(0),
        needs=SAMPLING,
        flag=Flag("logits", int, "sample from the k most probable tokens; 0: from all"),
    )
    top_p: float = _option(  # sample from the fewest tokens of this probability; 1: from all
        1.0,
        _probability(),
        needs=SAMPLING,
        flag=Flag("logits", float, "sample from the smallest set of tokens with this probability"),
    )
    min_p: float | None = _option(  # lowest probability, as a share of the highest
        None,
        _probability(),
        needs=SAMPLING,
        flag=Flag(
            "logits", float, "sample from tokens at least this times as probable as the first"
        ),
    )
    typical_p: float = _option(  # sample from the most typical tokens of this probability
        1.0,
        _probability(above_0=True),
        needs=SAMPLING,
        flag=Flag("logits", float, "sample from the smallest typical set with this probability"),
    )
    # Sample from tokens of at least this probability; eta: lower where the next token is uncertain
    epsilon_cutoff: float = _option(0.0, _probability(below_1=True), needs=SAMPLING)
    eta_cutoff: float = _option(0.0, _probability(below_1=True), needs=SAMPLING)
    seed: int | None = _option(  # seed of sampling; None: a new one per call (not in Transformers)
        None, _integer(0), needs=SAMPLING, flag=Flag("strategy", int, "seed for sampling")
    )
    # Beam search
    length_penalty: float = _option(  # a hypothesis' score is divided by its length to this power
        1.0,
        _number(*EXPONENTS),
        needs=BEAMS,
        flag=Flag("strategy", float, "divide a hypothesis' score by its length to this power"),
    )
    # True: stop at num_beams hypotheses. False: stop once no better one is expected. "never": stop
    # once no better one is possible
    early_stopping: bool | str = _option(False, _early_stopping, needs=BEAMS)
    diversity_penalty: float = _option(  # lowers the logits of earlier groups' tokens
        0.0,
        _number(0.0, FACTORS[1]),
        needs=GROUPS,
        flag=Flag(
            "strategy", float, "subtract it from tokens that earlier groups have just chosen"
        ),
    )
    pad_token_id: int | None = _option(None, _id, needs=GROUPS)  # choice of a finished group
    # Changes of the logits
    repetition_penalty: float = _option(  # logits of tokens seen before are lowered by this factor
        1.0,
        _number(*FACTORS),
        flag=Flag("logits", float, "lower the logits of earlier tokens by this factor"),
    )
    # Raises the logits of the prompt's tokens
    encoder_repetition_penalty: float = _option(1.0, _number(*FACTORS))
    no_repeat_ngram_size: int = _option(  # n-grams of this size occur once; 0: no limit
        0,
        _integer(0),
        flag=Flag("logits", int, "let n-grams of this size occur once; 0: no limit"),
    )
    # N-grams of the prompt of this size may not recur; 0: no limit
    encoder_no_repeat_ngram_size: int = _option(0, _integer(0))
    bad_words_ids: tuple[tuple[int, ...], ...] | None = _option(  # sequences that never occur
        None, checks.check_words, ids=lambda words: [token for ids in words for token in ids]
    )
    # {ids: bias}: added to the logit of the last id after the other ids
    sequence_bias: Any = _option(None, _biases, ids=_biased_ids)  # noqa: RUF009  # a field
    # Tokens that never occur
    suppress_tokens: tuple[int, ...] | None = _option(None, _ids, ids=several)
    # Tokens that never come first
    begin_suppress_tokens: tuple[int, ...] | None = _option(None, _ids, ids=several)
    # The only token allowed after a single start token
    forced_bos_token_id: int | None = _option(None, _id, ids=several)
    forced_eos_token_id: int | tuple[int, ...] | None = _option(  # only these at the length limit
        None, lambda name, value: _ids(name, several(value)), ids=several
    )
    # (start, factor): raise the end-of-sequence logit after `start` new tokens
    exponential_decay_length_penalty: tuple[int, float] | None = _option(None, _decay, needs=AN_END)
    # Replace NaN by 0 and infinities by the largest and the lowest float32
    remove_invalid_values: bool = _option(False, _flag)
    renormalize_logits: bool = _option(False, _flag)  # normalize logits after all processors
    # Start of a text
    bos_token_id: int | None = _option(None, _id)  # start of an empty prompt
    decoder_start_token_id: int | None = _option(None, _id)  # start of a decoder with an encoder

    def __post_init__(self) -> None:
        gated = []
        for name, traits in OPTION_TRAITS.items():
            if traits.needs is not None and traits.needs.gates_checks:
                gated.append((name, traits))
            else:
                self._check(name, traits)
        self._check_strategy()
        for name, traits in gated:
            if traits.needs is not None and traits.needs.is_met(self):
                self._check(name, traits)

    def _check(self, name: str, traits: Traits) -> None:
        value = getattr(self, name)
        if traits.check is not None and (value is not None or name not in NONE_BY_DEFAULT):
            traits.check(name, value)

    def _check_strategy(self) -> None:
        count, groups = self.num_return_sequences, self.num_beam_groups
        if count > 1 and self.num_beams == 1 and not self.do_sample:
            raise OptionError(
                f"num_return_sequences is {count}, but greedy search finds one text: use num_beams "
                "or do_sample."
            )
        if count > self.num_beams > 1:
            raise OptionError(
                f"num_return_sequences is {count}; it must be at most num_beams, {self.num_beams}."
            )
        if groups > 1 and self.num_beams > 1:
            self._check_groups(groups)
        if self.prompt_lookup_num_tokens is not None and (self.do_sample or self.num_beams > 1):
            raise OptionError(
                "prompt_lookup_num_tokens is for greedy search: do_sample=False and num_beams=1."
            )

    def _check_groups(self, groups: int) -> None:
        if groups > self.num_beams or self.num_beams % groups:
            raise OptionError(f"num_beam_groups is {groups}; it must divide num_beams.")
        if self.do_sample:
            raise OptionError(
                "num_beam_groups is for beam search without sampling: do_sample=False."
            )
        if self.diversity_penalty == 0.0:
            raise OptionError(
                "num_beam_groups needs a diversity_penalty above 0: all groups would be the same."
            )

    @property
    def strategy(self) -> Strategy:
        """The decoding strategy."""
        if self.num_beam_groups > 1 and self.num_beams > 1:
            return "group beam search"
        if self.num_beams > 1:
            return "beam search"
        if self.do_sample:
            return "sampling"
        return "greedy" if self.prompt_lookup_num_tokens is None else "prompt lookup"

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end a text, empty if nothing does."""
        return several(self.eos_token_id)

    @property
    def forced_eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that are allowed at the limit of the length, empty if all are."""
        return several(self.forced_eos_token_id)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        stops: tuple[str, ...] = several(self.stop_strings)
        return stops

    @property
    def biases(self) -> checks.Biases:
        """The sequences of ``sequence_bias`` and their biases."""
        given = self.sequence_bias
        return () if given is None else checks.biases("sequence_bias", given)

    @property
    def decoder_start(self) -> int | None:
        """The token that a decoder starts from after an encoder; None if it is unknown."""
        start = self.decoder_start_token_id
        return self.bos_token_id if start is None else start

    def new_tokens(self, prompt_length: int) -> int:
        """Return how many tokens may follow a prompt; ``OptionError`` if there is room for none."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        if self.max_length is None:
            return DEFAULT_NEW_TOKENS
        if self.max_length <= prompt_length:
            raise OptionError(
                f"max_length is {self.max_length}, which leaves nothing after the {prompt_length} "
                "that the decoder starts from: raise it, or use max_new_tokens."
            )
        return self.max_length - prompt_length


def _traits(option: Field[Any]) -> Traits:
    traits: Traits = option.metadata["traits"]
    return traits


OPTION_TRAITS = {option.name: _traits(option) for option in fields(GenerationOptions)}
NONE_BY_DEFAULT = frozenset(o.name for o in fields(GenerationOptions) if o.default is None)
