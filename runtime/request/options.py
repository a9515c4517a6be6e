"""The generation options of a call: names, defaults, checks and command-line flags.

Names and defaults equal Transformers' ``GenerationConfig`` (4.57). ``resolving.py`` merges the
caller's options with the bundle's defaults, and finds options without effect. A field's metadata
holds the option's check, flag and needs. To add an option, add a field and its description here,
and its effect in ``logits/processors.py``.
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
OPENAI_PENALTIES = (-2.0, 2.0)  # range of presence_penalty and frequency_penalty
MOST_ROWS = 10_000  # limit of rows per prompt
LONGEST_NGRAM = 64  # limit of the n-gram size: all shorter n-grams are kept too
DEFAULT_NGRAM = 4  # Transformers: 2; the ids are the same, and fewer guesses are wrong

TRUNCATIONS = ("left", "right", "sliding")

Strategy = Literal["greedy", "sampling", "beam search", "group beam search", "prompt lookup"]


class Need(NamedTuple):
    """The condition under which an option has an effect."""

    is_met: Callable[[GenerationOptions], bool]
    words: str  # end of the error message, after "has no effect": the condition and the next step
    gates_checks: bool = False  # whether the option's value is checked only if the need is met


class Flag(NamedTuple):
    """The command-line flag of an option."""

    group: Literal["length", "strategy", "logits"]
    type: Callable[[str], Any]
    help: str
    choices: tuple[str, ...] | None = None  # the only values


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
SAMPLING = Need(
    lambda options: options.do_sample, "without sampling: use do_sample=True (--do-sample)", True
)
BEAMS = Need(
    lambda options: options.num_beams > 1, "without beam search: use num_beams above 1", True
)
BEAMS_OR_NO_GROUPS = Need(
    lambda options: options.num_beams > 1 or options.num_beam_groups == 1,
    "without beam search: use num_beams above 1",
)
GROUPS = Need(
    lambda options: options.strategy == "group beam search",
    "without groups of beams: use num_beam_groups above 1",
)
LOOKUP = Need(
    lambda options: options.prompt_lookup_num_tokens is not None,
    "without prompt lookup: use prompt_lookup_num_tokens",
)
AN_END = Need(
    lambda options: bool(options.eos_token_ids),
    "without an end-of-sequence token: pass eos_token_id",
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


def _temperature(name: str, value: Any) -> None:
    if type(value) is not bool and value == 0:
        raise OptionError(
            f"{name} is {value!r}; it must be above 0: for greedy search use do_sample=False "
            "(--no-do-sample)."
        )
    checks.check_number(name, value, *FACTORS)


def _truncation(name: str, value: Any) -> None:
    if type(value) is not bool and value not in TRUNCATIONS:
        raise OptionError(
            f"{name} is {value!r:.60}; it must be True, False, {', '.join(map(repr, TRUNCATIONS))}."
        )


def _early_stopping(name: str, value: Any) -> None:
    if type(value) is not bool and value != "never":
        raise OptionError(f'{name} is {value!r}; it must be True, False or "never".')


def _biases(name: str, value: Any) -> None:
    checks.biases(name, value)


def _biased_ids(value: Any) -> list[int]:
    return [token for ids, _ in checks.biases("sequence_bias", value) for token in ids]


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """The generation options of a call; a bad value raises ``OptionError`` on construction.

    Names, meanings and defaults equal Transformers' ``GenerationConfig``, except for ``seed``,
    ``logprobs``, ``presence_penalty``, ``frequency_penalty`` and ``truncation``, which Transformers
    does not have, ``max_matching_ngram_size`` (4, not 2), and ``max_length``, whose default of 20
    new tokens is the default of ``max_new_tokens`` here.
    Options of sampling and beam search are checked only if they have an effect.
    """

    # Strategy
    do_sample: bool = _option(False, _flag)
    """Sample each token; False: take the most probable one (greedy search or beam search)."""
    num_beams: int = _option(
        1,
        _integer(1, MOST_ROWS),
        flag=Flag("strategy", int, "number of beams for beam search"),
    )
    """Hypotheses that beam search keeps per prompt; 1: no beam search."""
    # Length and end of a text
    max_new_tokens: int | None = _option(
        None, _integer(1), flag=Flag("length", int, "limit of new tokens")
    )
    """Limit of new tokens per text. Without it and ``max_length``: 20 in Python, as in
    Transformers, and 128 in `edgeseq generate`."""
    max_length: int | None = _option(
        None,
        _integer(1),
        flag=Flag("length", int, "limit of tokens, the decoder's start tokens included"),
    )
    """Limit of tokens per text, the start tokens included: the prompt of a decoder-only model,
    ``decoder_input_ids`` of an encoder-decoder. Pass it or ``max_new_tokens``."""
    min_new_tokens: int | None = _option(
        None,
        _integer(0),
        needs=AN_END,
        flag=Flag("length", int, "fewest new tokens before the text may end"),
    )
    """The text cannot end before this many new tokens."""
    min_length: int = _option(0, _integer(0), needs=AN_END)
    """The text cannot end before this many tokens, the start tokens included."""
    max_time: float | None = _option(
        None,
        _number(0.0, 1e9),
        flag=Flag("length", float, "stop after this many seconds"),
    )
    """Stop after the decode step in which this many seconds have passed."""
    stop_strings: str | tuple[str, ...] | None = _option(
        None, lambda name, value: checks.check_strings(name, several(value))
    )
    """End a text as soon as it contains one of these strings; the text is cut before it."""
    eos_token_id: int | tuple[int, ...] | None = _option(None, _ends)
    """Ids of the tokens that end a text; None: nothing ends it before a limit."""
    # Number of texts, and further strategies
    num_beam_groups: int = _option(
        1,
        _integer(1, MOST_ROWS),
        needs=BEAMS_OR_NO_GROUPS,
        flag=Flag("strategy", int, "divide the beams into this many groups that differ"),
    )
    """Divide the beams into this many groups that differ from each other (diverse beam search); it
    must divide ``num_beams``."""
    num_return_sequences: int = _option(
        1,
        _integer(1, MOST_ROWS),
        flag=Flag("strategy", int, "return this many texts, from beams or sampled"),
    )
    """Texts per prompt: sampled ones, or the best hypotheses of beam search."""
    prompt_lookup_num_tokens: int | None = _option(
        None,
        _integer(1),
        flag=Flag("strategy", int, "guess up to this many tokens per step (prompt lookup)"),
    )
    """Guess up to this many tokens per step from earlier text, and check them at once (prompt
    lookup decoding, greedy search only)."""
    max_matching_ngram_size: int | None = _option(None, _integer(1, LONGEST_NGRAM), needs=LOOKUP)
    """Longest n-gram that prompt lookup searches for; None: 4."""
    logprobs: int | None = _option(None, _integer(0))
    """Return the log-probability of each token, and of this many most probable tokens at its
    position. Only in edgeseq."""
    # Sampling
    temperature: float = _option(
        1.0,
        _temperature,
        needs=SAMPLING,
        flag=Flag("logits", float, "divide logits by this before sampling"),
    )
    """Divide the logits by this number before sampling: below 1 sharpens the distribution, above 1
    flattens it."""
    top_k: int = _option(
        50,
        _integer(0),
        needs=SAMPLING,
        flag=Flag("logits", int, "sample from the k most probable tokens; 0: from all"),
    )
    """Sample from this many most probable tokens; 0: from all."""
    top_p: float = _option(
        1.0,
        _probability(),
        needs=SAMPLING,
        flag=Flag("logits", float, "sample from the smallest set of tokens with this probability"),
    )
    """Sample from the smallest set of most probable tokens whose probabilities add up to this; 1:
    from all (nucleus sampling)."""
    min_p: float | None = _option(
        None,
        _probability(),
        needs=SAMPLING,
        flag=Flag("logits", float, "sample from tokens at least X times as probable as the first"),
    )
    """Sample from tokens whose probability is at least this times that of the most probable one."""
    typical_p: float = _option(
        1.0,
        _probability(above_0=True),
        needs=SAMPLING,
        flag=Flag("logits", float, "sample from the smallest typical set with this probability"),
    )
    """Sample from the smallest set of most typical tokens whose probabilities add up to this; 1:
    from all (locally typical sampling)."""
    epsilon_cutoff: float = _option(0.0, _probability(below_1=True), needs=SAMPLING)
    """Sample from tokens of at least this probability; 0: from all."""
    eta_cutoff: float = _option(0.0, _probability(below_1=True), needs=SAMPLING)
    """As ``epsilon_cutoff``, with a threshold that falls where the next token is uncertain (eta
    sampling); 0: from all."""
    seed: int | None = _option(
        None, _integer(0), needs=SAMPLING, flag=Flag("strategy", int, "seed for sampling")
    )
    """Seed of sampling; None: a new one per call. Only in edgeseq."""
    # Beam search
    length_penalty: float = _option(
        1.0,
        _number(*EXPONENTS),
        needs=BEAMS,
        flag=Flag("strategy", float, "divide a hypothesis' score by its length to this power"),
    )
    """A hypothesis' score is the sum of its log-probabilities divided by its length to this power.
    """
    early_stopping: bool | str = _option(False, _early_stopping, needs=BEAMS)
    """When beam search ends. True: at ``num_beams`` finished hypotheses. False: once no better one
    is expected. "never": once no better one is possible."""
    diversity_penalty: float = _option(
        0.0,
        _number(0.0, FACTORS[1]),
        needs=GROUPS,
        flag=Flag(
            "strategy", float, "subtract it from tokens that earlier groups have just chosen"
        ),
    )
    """Subtracted from the logits of tokens that earlier groups of beams chose in the same step."""
    pad_token_id: int | None = _option(None, _id, needs=GROUPS)
    """The token that a finished group of beams is counted as choosing."""
    # Changes of the logits
    repetition_penalty: float = _option(
        1.0,
        _number(*FACTORS),
        flag=Flag("logits", float, "lower the logits of earlier tokens by this factor"),
    )
    """Lower the logits of tokens that the text already contains by this factor (above 1)."""
    encoder_repetition_penalty: float = _option(1.0, _number(*FACTORS))
    """Raise the logits of the prompt's (the source's) tokens by this factor (above 1)."""
    presence_penalty: float = _option(
        0.0,
        _number(*OPENAI_PENALTIES),
        flag=Flag("logits", float, "subtract this from the logits of tokens generated before"),
    )
    """Subtracted from the logits of tokens that the new text already contains, without the prompt,
    as in OpenAI's API. Only in edgeseq."""
    frequency_penalty: float = _option(
        0.0,
        _number(*OPENAI_PENALTIES),
        flag=Flag("logits", float, "subtract this from a token's logit for each occurrence"),
    )
    """Subtracted from a token's logit once for each time that the new text contains it, without the
    prompt, as in OpenAI's API. Only in edgeseq."""
    no_repeat_ngram_size: int = _option(
        0,
        _integer(0),
        flag=Flag("logits", int, "let n-grams of this size occur once; 0: no limit"),
    )
    """No n-gram of this size occurs twice in the text; 0: no limit."""
    encoder_no_repeat_ngram_size: int = _option(0, _integer(0))
    """No n-gram of this size from the prompt (the source) occurs in the text; 0: no limit."""
    bad_words_ids: tuple[tuple[int, ...], ...] | None = _option(
        None, checks.check_words, ids=lambda words: [token for ids in words for token in ids]
    )
    """Sequences of token ids that never occur."""
    sequence_bias: Any = _option(None, _biases, ids=_biased_ids)  # noqa: RUF009
    """A dictionary from tuples of token ids to numbers, or a list of such pairs. The number is
    added to the logit of the last id when the text ends with the ids before it."""
    suppress_tokens: tuple[int, ...] | None = _option(None, _ids, ids=several)
    """Token ids that never occur."""
    begin_suppress_tokens: tuple[int, ...] | None = _option(None, _ids, ids=several)
    """Token ids that are never the first new token."""
    forced_bos_token_id: int | None = _option(None, _id, ids=several)
    """The only token that may follow a single start token, such as the target language of a
    multilingual model."""
    forced_eos_token_id: int | tuple[int, ...] | None = _option(
        None, lambda name, value: _ids(name, several(value)), ids=several
    )
    """The only tokens allowed at the limit of the length."""
    exponential_decay_length_penalty: tuple[int, float] | None = _option(None, _decay, needs=AN_END)
    """(start, factor): raise the logit of the end of sequence by a power of ``factor`` after
    ``start`` new tokens."""
    remove_invalid_values: bool = _option(False, _flag)
    """Replace NaN by 0, and infinities by the largest and the lowest float32, in the logits."""
    renormalize_logits: bool = _option(False, _flag)
    """Normalize the logits after all processors."""
    # Prompts that are longer than the model reads
    truncation: bool | str | None = _option(
        None,
        _truncation,
        flag=Flag(
            "length",
            str,
            "cut prompts that leave no room for the new tokens: at the left, at the right, or at "
            "the left in large steps (sliding)",
            TRUNCATIONS,
        ),
    )
    """Cut a prompt that is too long, instead of raising ``PromptError``. "left": cut its beginning,
    for an assistant. "right": cut its end, for a summary. "sliding": as "left", but a quarter of
    the prompt at a time, so that a session seldom reads the prompt again. True: the tokenizer's
    side. Only in edgeseq."""
    # Start of a text
    bos_token_id: int | None = _option(None, _id)
    """The start token of an empty prompt, and of an encoder-decoder model's decoder without
    ``decoder_start_token_id``."""
    decoder_start_token_id: int | None = _option(None, _id)
    """The start token of an encoder-decoder model's decoder."""

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
                f"num_return_sequences is {count}, but greedy search returns one text: use "
                "num_beams above 1, or do_sample=True."
            )
        if count > self.num_beams > 1:
            raise OptionError(
                f"num_return_sequences is {count}; it must be at most num_beams ({self.num_beams})."
            )
        if groups > 1 and self.num_beams > 1:
            self._check_groups(groups)
        if self.prompt_lookup_num_tokens is not None and (self.do_sample or self.num_beams > 1):
            raise OptionError(
                "prompt_lookup_num_tokens needs greedy search: use do_sample=False and num_beams=1."
            )

    def _check_groups(self, groups: int) -> None:
        if groups > self.num_beams or self.num_beams % groups:
            raise OptionError(
                f"num_beam_groups is {groups}; it must divide num_beams ({self.num_beams})."
            )
        if self.do_sample:
            raise OptionError(
                "num_beam_groups needs beam search without sampling: use do_sample=False."
            )
        if self.diversity_penalty == 0.0:
            raise OptionError(
                "num_beam_groups needs a diversity_penalty above 0, because without it all groups "
                "are the same."
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
        """The tokens that end a text; empty if there are none."""
        return several(self.eos_token_id)

    @property
    def forced_eos_token_ids(self) -> tuple[int, ...]:
        """The only tokens that are allowed at the limit of the length; empty if all are."""
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
        """The start token of an encoder-decoder model's decoder; None if it is unknown."""
        start = self.decoder_start_token_id
        return self.bos_token_id if start is None else start

    def new_tokens(self, prompt_length: int) -> int:
        """Return the limit of new tokens after ``prompt_length`` tokens that the decoder reads.

        Raises ``OptionError`` if it is 0.
        """
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        if self.max_length is None:
            return DEFAULT_NEW_TOKENS
        if self.max_length <= prompt_length:
            raise OptionError(
                f"max_length is {self.max_length}, but the decoder starts with {prompt_length} "
                "tokens, which count too: use a larger max_length, or max_new_tokens."
            )
        return self.max_length - prompt_length


def _traits(option: Field[Any]) -> Traits:
    traits: Traits = option.metadata["traits"]
    return traits


OPTION_TRAITS = {option.name: _traits(option) for option in fields(GenerationOptions)}
NONE_BY_DEFAULT = frozenset(o.name for o in fields(GenerationOptions) if o.default is None)
