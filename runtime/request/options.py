"""How a generation is asked for.

Names and defaults are those of Transformers' ``GenerationConfig`` (4.57). ``resolving.py`` puts the
caller's options over the bundle's own defaults and says which have no effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..errors import OptionError
from . import value_checks as values

DEFAULT_NEW_TOKENS = 20  # Transformers' default `max_length`, which counts new tokens alone
FACTORS = (1e-6, 1e6)  # what logits are multiplied or divided by: float32 holds the result
EXPONENTS = (-20.0, 20.0)  # of lengths
MOST_ROWS = 10_000  # of a prompt
LONGEST_NGRAM = 64  # all n-grams up to it are kept
DEFAULT_NGRAM = 4  # Transformers: 2; the ids are the same, and fewer guesses are wrong

Strategy = Literal["greedy", "sampling", "beam search", "group beam search", "prompt lookup"]


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Checked on construction: a value that makes no sense raises ``OptionError``.

    Sampling's and beam search's own options are checked where they have an effect.
    """

    # How long, and what ends a text
    max_new_tokens: int | None = None  # new tokens per prompt at most
    max_length: int | None = None  # what the decoder starts from and new tokens together at most
    min_new_tokens: int | None = None  # no end of sequence before so many new tokens
    min_length: int = 0  # the same, counting what the decoder starts from
    max_time: float | None = None  # seconds after which no further token is begun
    stop_strings: str | tuple[str, ...] | None = None  # end a text that comes to contain one
    eos_token_id: int | tuple[int, ...] | None = None  # ends a text; None: nothing does
    # Which strategy, and what it gives back
    do_sample: bool = False  # draw tokens; else take the most probable one
    num_beams: int = 1  # hypotheses that are followed at once; 1: no beam search
    num_beam_groups: int = 1  # groups that the beams are divided into, to differ from each other
    num_return_sequences: int = 1  # texts for each prompt
    prompt_lookup_num_tokens: int | None = None  # tokens that are guessed at once, at most
    logprobs: int | None = None  # log-probabilities of tokens and of so many others (not of TF)
    # Sampling
    temperature: float = 1.0  # logits are divided by it before drawing
    top_k: int = 50  # draw from the k most probable tokens; 0: from all
    top_p: float = 1.0  # draw from the fewest tokens of this probability; 1: from all
    min_p: float | None = None  # draw from tokens at least this times as probable as the first
    typical_p: float = 1.0  # draw from the most typical tokens of this probability; 1: from all
    epsilon_cutoff: float = 0.0  # draw from tokens of at least this probability
    eta_cutoff: float = 0.0  # the same, lower where the next token is uncertain
    seed: int | None = None  # of the draws; None: another each time (not of Transformers)
    # Beam search
    length_penalty: float = 1.0  # a hypothesis' score is divided by its length to this power
    early_stopping: bool | str = False  # stop at num_beams hypotheses; False: a guess; or "never"
    diversity_penalty: float = 0.0  # taken off tokens that groups before have just chosen
    pad_token_id: int | None = None  # what a group of beams that is done counts as choosing
    # Prompt lookup
    max_matching_ngram_size: int | None = None  # longest n-gram that is looked up
    # What changes the logits
    repetition_penalty: float = 1.0  # logits of tokens seen before are lowered by this factor
    encoder_repetition_penalty: float = 1.0  # logits of the prompt's tokens are raised by it
    no_repeat_ngram_size: int = 0  # n-grams of this size come once; 0: no limit
    encoder_no_repeat_ngram_size: int = 0  # n-grams of the prompt of this size come not at all
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None  # sequences of ids that never come
    sequence_bias: Any = None  # {ids: bias}, added to the logit of the last id after the others
    suppress_tokens: tuple[int, ...] | None = None  # ids that never come
    begin_suppress_tokens: tuple[int, ...] | None = None  # ids that do not come first
    forced_bos_token_id: int | None = None  # comes after a start of a single token
    forced_eos_token_id: int | tuple[int, ...] | None = None  # comes at the limit of the length
    exponential_decay_length_penalty: tuple[int, float] | None = None  # (start, factor): towards
    # the end of sequence, from so many new tokens on
    remove_invalid_values: bool = False  # NaN becomes 0, infinities the largest numbers
    renormalize_logits: bool = False  # make log-probabilities of what the others left
    # Where a text starts
    bos_token_id: int | None = None  # what an empty prompt starts from
    decoder_start_token_id: int | None = None  # what a decoder starts from, after an encoder

    def __post_init__(self) -> None:
        self._check_ends()
        self._check_strategy()
        if self.do_sample:
            self._check_sampling()
        if self.num_beams > 1:
            values.check_number("length_penalty", self.length_penalty, *EXPONENTS)
            if type(self.early_stopping) is not bool and self.early_stopping != "never":
                raise OptionError(
                    f'early_stopping is {self.early_stopping!r}; it must be True, False or "never".'
                )
        self._check_logits()

    def _check_ends(self) -> None:
        for name in ("max_new_tokens", "max_length"):
            if getattr(self, name) is not None:
                values.check_integer(name, getattr(self, name), at_least=1)
        if self.min_new_tokens is not None:
            values.check_integer("min_new_tokens", self.min_new_tokens, at_least=0)
        values.check_integer("min_length", self.min_length, at_least=0)
        if self.max_time is not None:
            values.check_number("max_time", self.max_time, 0.0, 1e9)
        if self.stop_strings is not None:
            values.check_strings("stop_strings", self.stops)
        for token in self.eos_token_ids:
            values.check_integer("eos_token_id", token, at_least=0)
        for name in ("bos_token_id", "decoder_start_token_id", "pad_token_id"):
            if getattr(self, name) is not None:
                values.check_integer(name, getattr(self, name), at_least=0)

    def _check_strategy(self) -> None:
        values.check_flag("do_sample", self.do_sample)
        for name in ("num_beams", "num_beam_groups", "num_return_sequences"):
            values.check_integer(name, getattr(self, name), at_least=1, at_most=MOST_ROWS)
        for name, least, most in (
            ("prompt_lookup_num_tokens", 1, None),
            ("max_matching_ngram_size", 1, LONGEST_NGRAM),
            ("logprobs", 0, None),
        ):
            if getattr(self, name) is not None:
                values.check_integer(name, getattr(self, name), at_least=least, at_most=most)
        values.check_number("diversity_penalty", self.diversity_penalty, 0.0, FACTORS[1])
        self._check_returned()
        self._check_groups()
        if self.prompt_lookup_num_tokens is not None and (self.do_sample or self.num_beams > 1):
            raise OptionError(
                "prompt_lookup_num_tokens is for greedy search: do_sample=False and num_beams=1."
            )

    def _check_returned(self) -> None:
        count = self.num_return_sequences
        if count > 1 and self.num_beams == 1 and not self.do_sample:
            raise OptionError(
                f"num_return_sequences is {count}, but greedy search finds one text: use num_beams "
                "or do_sample."
            )
        if count > self.num_beams > 1:
            raise OptionError(
                f"num_return_sequences is {count}; it must be at most num_beams, {self.num_beams}."
            )

    def _check_groups(self) -> None:
        groups = self.num_beam_groups
        if groups == 1 or self.num_beams == 1:
            return
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

    def _check_sampling(self) -> None:
        values.check_number("temperature", self.temperature, *FACTORS)
        values.check_integer("top_k", self.top_k, at_least=0)
        values.check_probability("top_p", self.top_p)
        if self.min_p is not None:
            values.check_probability("min_p", self.min_p)
        values.check_probability("typical_p", self.typical_p, above_0=True)
        values.check_probability("epsilon_cutoff", self.epsilon_cutoff, below_1=True)
        values.check_probability("eta_cutoff", self.eta_cutoff, below_1=True)
        if self.seed is not None:
            values.check_integer("seed", self.seed, at_least=0)

    def _check_logits(self) -> None:
        for name in ("repetition_penalty", "encoder_repetition_penalty"):
            values.check_number(name, getattr(self, name), *FACTORS)
        for name in ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"):
            values.check_integer(name, getattr(self, name), at_least=0)
        for name in ("remove_invalid_values", "renormalize_logits"):
            values.check_flag(name, getattr(self, name))
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            if getattr(self, name) is not None:
                values.check_token_ids(name, getattr(self, name))
        if self.bad_words_ids is not None:
            values.check_words("bad_words_ids", self.bad_words_ids)
        if self.sequence_bias is not None:
            values.biases("sequence_bias", self.sequence_bias)
        if self.forced_bos_token_id is not None:
            values.check_integer("forced_bos_token_id", self.forced_bos_token_id, at_least=0)
        if self.forced_eos_token_id is not None:
            values.check_token_ids("forced_eos_token_id", _several(self.forced_eos_token_id))
        if self.exponential_decay_length_penalty is not None:
            name = "exponential_decay_length_penalty"
            values.check_decay(name, self.exponential_decay_length_penalty)

    @property
    def strategy(self) -> Strategy:
        """How tokens are chosen."""
        if self.num_beam_groups > 1 and self.num_beams > 1:
            return "group beam search"
        if self.num_beams > 1:
            return "beam search"
        if self.do_sample:
            return "sampling"
        return "greedy" if self.prompt_lookup_num_tokens is None else "prompt lookup"

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end a text, none of them if nothing does."""
        return _several(self.eos_token_id)

    @property
    def forced_eos_token_ids(self) -> tuple[int, ...]:
        """The tokens one of which comes at the limit, none of them if any may."""
        return _several(self.forced_eos_token_id)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        stops: tuple[str, ...] = _several(self.stop_strings)
        return stops

    @property
    def biases(self) -> values.Biases:
        """The sequences of ``sequence_bias`` and their biases; none where there are none."""
        given = self.sequence_bias
        return () if given is None else values.biases("sequence_bias", given)

    @property
    def decoder_start(self) -> int | None:
        """What a decoder starts from after an encoder; None if nothing says it."""
        start = self.decoder_start_token_id
        return self.bos_token_id if start is None else start

    def new_tokens(self, prompt_length: int) -> int:
        """How many tokens may follow a prompt; ``OptionError`` where there is no room for one."""
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


def _several(value: Any) -> tuple[Any, ...]:
    """One value or several as a tuple, None as none."""
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)
