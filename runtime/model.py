"""A loaded model: what users call."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from edgeseq.runtime.arguments import Arguments, split_arguments
from edgeseq.runtime.bundle import Bundle
from edgeseq.runtime.byte_tokenizer import ByteTokenizer
from edgeseq.runtime.choices import check_choosing, choose
from edgeseq.runtime.decoder import NewDecoder
from edgeseq.runtime.errors import OptionError, PromptError
from edgeseq.runtime.generating import Generation, Outputs, check_ids_of_options, new_generation
from edgeseq.runtime.kept_decoder import CachePool, KeptDecoder
from edgeseq.runtime.option_values import plain
from edgeseq.runtime.options import GenerationOptions
from edgeseq.runtime.passages import scored
from edgeseq.runtime.prompts import check_prompt, decoder_prompts, id_lists, listed
from edgeseq.runtime.resolving import resolve_options
from edgeseq.runtime.results import GenerationResult, Score, Timings
from edgeseq.runtime.scoring import log_probabilities, window_logits
from edgeseq.runtime.search import Found
from edgeseq.runtime.session import Session
from edgeseq.runtime.stop_strings import StopFilter, cut
from edgeseq.runtime.tokenizer import Tokenizer

Results = list[GenerationResult]
Ids = Sequence[int]
CACHE_BYTES = 256 * 2**20  # of a session
ONE_TEXT = ("num_return_sequences", 1)  # what a stream gives anyway
LONGEST = 2**30  # positions of a model that has no bound


class Model:
    """A bundle that is ready to generate; ``edgeseq.runtime.load`` makes one.

    Calls may come from several threads: they share the weights, and each has its own cache.
    Options are those of Transformers' ``GenerationConfig``: see ``GenerationOptions``. An unknown
    option, or one that has no effect, raises ``OptionError``. Calls take besides:

    - ``choices``: the only outputs there are, of which the most probable is given and each scored;
    - ``json_schema``, ``regex`` or ``grammar``: what the output has to match (extra ``guidance``);
    - ``prefix_allowed_tokens_fn``: from a prompt's index and all ids so far to the ids that may
      come next, as in Transformers;
    - ``logits_processor``: a function, or several, from all ids so far, (n,), and the logits,
      (vocabulary,), to the logits that count;
    - ``cancel``: a function, or an event with ``is_set``, asked at every step: once it is true,
      what has been generated is returned;
    - ``decoder_input_ids``, after an encoder: tokens that the output goes on from, a list of ids
      for all texts or a list of such lists. Results hold what comes after them.
    """

    def __init__(
        self, bundle: Bundle, tokenizer: Tokenizer | ByteTokenizer, new_decoder: NewDecoder
    ) -> None:
        self.bundle = bundle
        self.tokenizer = tokenizer
        self._new_decoder = new_decoder

    @property
    def new_decoder(self) -> NewDecoder:
        """What makes decoders over the bundle's graphs, for those who read logits."""
        return self._new_decoder

    def with_decoders(self, new_decoder: NewDecoder) -> Model:
        """The same model, whose calls get their decoders from ``new_decoder``."""
        return Model(self.bundle, self.tokenizer, new_decoder)

    def generate(self, text: str | Sequence[str], **options: Any) -> Results:
        """Generate from one text or several at once; the results come in the texts' order.

        ``num_return_sequences`` of each text stand together, the best first. Raises ``OptionError``
        for an option and ``PromptError`` for a text that cannot be served.
        """
        began = time.perf_counter()
        texts = [text] if isinstance(text, str) else listed(text)
        if texts is None or not all(isinstance(item, str) for item in texts):
            raise PromptError("generate takes a text or a list of texts; for ids: generate_ids.")
        return self._run([self.tokenizer.encode(item) for item in texts], options, began)

    def generate_ids(self, prompts: Sequence[Ids], **options: Any) -> Results:
        """Generate from lists of token ids; the results come in their order.

        Raises ``OptionError`` for an option and ``PromptError`` for ids that cannot be served.
        """
        began = time.perf_counter()
        return self._run(id_lists(prompts, "generate_ids"), options, began)

    def stream(self, text: str, **options: Any) -> Iterator[str]:
        """Pieces of the generated text, each as soon as it is certain.

        Joined they are the text that ``generate`` gives. With beams a piece is certain once all of
        them agree on it. Bad options and prompts raise at once, not at the first piece. Closing the
        iterator ends the work.
        """
        if not isinstance(text, str):
            raise PromptError("stream takes one text; several at once: generate.")
        for name in ("num_return_sequences", "logprobs", "choices"):
            useless = options.get(name) is not None and (name, options[name]) != ONE_TEXT
            if useless:
                raise OptionError(f"{name} has no effect with stream: use generate.")
        call = self._call([self.tokenizer.encode(text)], options)
        call = call._replace(options=replace(call.options, num_return_sequences=1, logprobs=None))
        return self._pieces(call, self._generation(call, time.perf_counter()))

    def session(self, *, max_cache_bytes: int = CACHE_BYTES) -> Session:
        """Calls that go on from each other's texts, so that only what is new is read."""
        if type(max_cache_bytes) is not int or max_cache_bytes < 0:
            raise OptionError(
                f"max_cache_bytes is {max_cache_bytes!r}; it must be an integer of at least 0."
            )
        manifest = self.bundle.manifest
        pool = CachePool(max_cache_bytes)
        kept = KeptDecoder(
            self._new_decoder,
            pool,
            has_encoder=manifest.kind == "encoder-decoder",
            longest=manifest.dimensions.max_positions or LONGEST,
        )
        return Session(self, kept, pool)

    def score(self, text: str, target: str | None = None) -> Score:
        """The log-probability of each token of ``text``, given all that stands before it.

        Nothing predicts its first token. A text beyond the model's positions is read in windows
        that overlap by half. A model with an encoder reads ``text``, and the tokens are those of
        ``target``, with its end-of-sequence token. Raises ``PromptError`` for a text that cannot be
        served, ``OptionError`` for a target that is missing or has no effect.
        """
        for item in (text, "" if target is None else target):
            if not isinstance(item, str):
                raise PromptError(f"score takes one text, not {item!r:.60}.")
        windows, ids = scored(text, target, self.bundle.manifest, self.tokenizer)
        known = [
            float(value)
            for window in windows
            for targets, logits in window_logits(self._new_decoder, window)
            for value in log_probabilities(logits, targets)
        ]
        unknown = (None,) * (len(ids) - len(known))
        return Score(token_ids=tuple(ids), log_probabilities=(*unknown, *known))

    def _pieces(self, call: _Call, generation: Generation) -> Iterator[str]:
        detokenizer = self._outputs.detokenizer(call.starts[0])
        stops = StopFilter(call.options.stops)
        for new_tokens in generation.steps:
            for new in new_tokens:
                if piece := stops.push(detokenizer.push(new.token)):
                    yield piece
        if piece := stops.push(detokenizer.finish()) + stops.finish():
            yield piece

    def _run(self, prompts: list[list[int]], options: Mapping[str, Any], began: float) -> Results:
        call = self._call(prompts, options)
        if not prompts:
            return []
        if call.arguments.choices is not None:
            choices = call.arguments.choices
            return [
                replace(
                    choose(self._outputs, self._new_decoder, *pair, choices, began),
                    prompt_index=index,
                )
                for index, pair in enumerate(zip(prompts, call.starts, strict=True))
            ]
        search, steps = self._generation(call, began)
        times: dict[int, _Times] = {}
        for new_tokens in steps:
            now = time.perf_counter() - began
            for new in new_tokens:
                times.setdefault(new.text, _Times(now)).last_s = now
        now = time.perf_counter() - began
        count = call.options.num_return_sequences
        return [
            self._result(call, found.text // count, found, times.get(found.text, _Times(now, now)))
            for found in search.results()
        ]

    def _result(self, call: _Call, prompt: int, found: Found, times: _Times) -> GenerationResult:
        known = found.logprobs
        return GenerationResult(
            text=cut(self._outputs.text(call.starts[prompt], found.token_ids), call.options.stops),
            token_ids=tuple(found.token_ids),
            finish_reason=found.finish_reason,
            prompt_tokens=len(call.prompts[prompt]),
            generated_tokens=len(found.token_ids),
            timings=Timings(first_token_s=times.first_s, total_s=times.last_s),
            prompt_index=prompt,
            sequence_score=found.score,
            logprobs=None if known is None else tuple(known.of_tokens),
            top_logprobs=None if known is None else tuple(known.of_others),
        )

    def _call(self, prompts: list[list[int]], options: Mapping[str, Any]) -> _Call:
        """Check all that can be known before the work begins."""
        manifest = self.bundle.manifest
        arguments, rest = split_arguments(options)
        resolved = resolve_options(manifest.generation, rest, manifest.kind)
        resolved = check_ids_of_options(resolved, manifest.dimensions.vocabulary)
        check_choosing(arguments, rest)
        self._check_ends(rest)
        for number, prompt in enumerate(prompts):
            check_prompt(number, prompt, resolved, manifest)
        starts = decoder_prompts(prompts, arguments.decoder_input_ids, resolved, manifest)
        return _Call(prompts, starts, resolved, arguments)

    def _check_ends(self, options: Mapping[str, Any]) -> None:
        """Refuse ids of the caller's that cannot come; a bundle's are left unused."""
        vocabulary = self.bundle.manifest.dimensions.vocabulary
        for name in ("eos_token_id", "pad_token_id"):
            given = plain(options.get(name))
            for token in given if isinstance(given, tuple) else (given,):
                if token is not None and token >= vocabulary:
                    raise OptionError(
                        f"{name} is {token}; token ids are integers from 0 to {vocabulary - 1}."
                    )

    def _generation(self, call: _Call, began: float) -> Generation:
        return new_generation(
            self._outputs,
            self._new_decoder,
            call.prompts,
            call.starts,
            call.options,
            call.arguments,
            began,
        )

    @property
    def _outputs(self) -> Outputs:
        return Outputs(self.bundle.manifest, self.tokenizer)


class _Call(NamedTuple):
    """What a call asks for, checked."""

    prompts: Sequence[Ids]
    starts: Sequence[Ids]  # what the decoder reads first
    options: GenerationOptions
    arguments: Arguments


@dataclass
class _Times:
    """When the first and the last token of a text were known, in seconds."""

    first_s: float
    last_s: float = 0.0
