"""A loaded model: what users call."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeseq.runtime.bundle import Bundle
from edgeseq.runtime.byte_tokenizer import ByteTokenizer
from edgeseq.runtime.decoder import NewDecoder
from edgeseq.runtime.detokenizer import Detokenizer
from edgeseq.runtime.errors import PromptError
from edgeseq.runtime.loop import decode
from edgeseq.runtime.options import GenerationOptions, resolve_options
from edgeseq.runtime.passages import scored
from edgeseq.runtime.prompts import check_prompt, decoder_prompts, id_lists, listed
from edgeseq.runtime.results import FinishReason, GenerationResult, Score, Timings
from edgeseq.runtime.scoring import log_probabilities, window_logits
from edgeseq.runtime.search import NewToken, RowSearch
from edgeseq.runtime.tokenizer import Tokenizer

Results = list[GenerationResult]


class Model:
    """A bundle that is ready to generate; ``edgeseq.runtime.load`` makes one.

    Calls may come from several threads: they share the weights, and each has its own cache.
    Options are those of Transformers' ``GenerationConfig``: see ``GenerationOptions``. An unknown
    option, or one that has no effect, raises ``OptionError``. A model with an encoder also takes
    ``decoder_input_ids``, tokens that its output goes on from: a list of ids for all texts, or a
    list of such lists. Results hold what comes after them.
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

    def generate(self, text: str | Sequence[str], **options: Any) -> Results:
        """Generate from one text or several at once; the results come in the texts' order.

        Raises ``OptionError`` for an option and ``PromptError`` for a text that cannot be served.
        """
        started = time.perf_counter()
        texts = [text] if isinstance(text, str) else listed(text)
        if texts is None or not all(isinstance(item, str) for item in texts):
            raise PromptError("generate takes a text or a list of texts; for ids: generate_ids.")
        return self._run([self.tokenizer.encode(item) for item in texts], options, started)

    def generate_ids(self, prompts: Sequence[Sequence[int]], **options: Any) -> Results:
        """Generate from lists of token ids; the results come in their order.

        Raises ``OptionError`` for an option and ``PromptError`` for ids that cannot be served.
        """
        started = time.perf_counter()
        return self._run(id_lists(prompts, "generate_ids"), options, started)

    def stream(self, text: str, **options: Any) -> Iterator[str]:
        """Pieces of the generated text, each as soon as it is certain.

        Joined they are the text that ``generate`` gives. Bad options and prompts raise at once,
        not at the first piece. Closing the iterator ends the work.
        """
        if not isinstance(text, str):
            raise PromptError("stream takes one text; several at once: generate.")
        prompts = [self.tokenizer.encode(text)]
        starts, steps = self._start(prompts, options)
        return self._pieces(starts[0], steps)

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

    def _pieces(self, start: Sequence[int], steps: Iterator[Sequence[NewToken]]) -> Iterator[str]:
        detokenizer = self._detokenizer(start)
        for new_tokens in steps:
            for new in new_tokens:
                if piece := detokenizer.push(new.token):
                    yield piece
        if piece := detokenizer.finish():
            yield piece

    def _run(self, prompts: list[list[int]], options: dict[str, Any], started: float) -> Results:
        starts, steps = self._start(prompts, options)
        texts = [_Text() for _ in prompts]
        for new_tokens in steps:
            now = time.perf_counter() - started
            for new in new_tokens:
                texts[new.text].append(new, now)
        return [
            text.result(self._decode(start, text.token_ids), len(prompt))
            for text, start, prompt in zip(texts, starts, prompts, strict=True)
        ]

    def _decode(self, start: Sequence[int], token_ids: Sequence[int]) -> str:
        """The text that ``token_ids`` add to what the decoder started from."""
        if not self._context(start):
            return self.tokenizer.decode(token_ids)
        detokenizer = self._detokenizer(start)
        return "".join(map(detokenizer.push, token_ids)) + detokenizer.finish()

    def _detokenizer(self, start: Sequence[int]) -> Detokenizer:
        detokenizer = Detokenizer(self.tokenizer)
        for token in self._context(start):
            detokenizer.push(token)
        return detokenizer

    def _context(self, start: Sequence[int]) -> Sequence[int]:
        """The tokens of the output that the text goes on from: those after the start token.

        A prompt's continuation without an encoder is a text by itself, as in Transformers.
        """
        return start[1:] if self.bundle.manifest.kind == "encoder-decoder" else ()

    def _start(
        self, prompts: list[list[int]], options: dict[str, Any]
    ) -> tuple[Sequence[Sequence[int]], Iterator[Sequence[NewToken]]]:
        """Check everything now; returns what the decoder starts from and what does the work."""
        manifest = self.bundle.manifest
        prefixes = options.pop("decoder_input_ids", None)
        resolved = resolve_options(manifest.generation, options, manifest.kind)
        for number, prompt in enumerate(prompts):
            check_prompt(number, prompt, resolved, manifest)
        starts = decoder_prompts(prompts, prefixes, resolved, manifest)
        if not prompts:
            return starts, iter(())
        limits = [self._limit(len(start), resolved) for start in starts]
        # The last new token is never read, so it needs no place in the cache.
        capacity = max(len(s) + limit - 1 for s, limit in zip(starts, limits, strict=True))
        search = RowSearch(starts, limits, resolved)
        return starts, decode(lambda: self._new_decoder(prompts, capacity), starts, search)

    def _limit(self, prompt_length: int, options: GenerationOptions) -> int:
        """New tokens of a prompt at most: the options' limit, or where the positions end."""
        limit = options.new_tokens(prompt_length)
        positions = self.bundle.manifest.dimensions.max_positions
        return limit if positions is None else min(limit, positions - prompt_length + 1)


@dataclass
class _Text:
    """A text that is being generated."""

    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    first_token_s: float = 0.0
    total_s: float = 0.0

    def append(self, new: NewToken, now: float) -> None:
        if not self.token_ids:
            self.first_token_s = now
        self.token_ids.append(new.token)
        self.finish_reason, self.total_s = new.finish_reason, now

    def result(self, text: str, prompt_tokens: int) -> GenerationResult:
        assert self.finish_reason is not None  # the loop ends when every text has
        return GenerationResult(
            text=text,
            token_ids=tuple(self.token_ids),
            finish_reason=self.finish_reason,
            prompt_tokens=prompt_tokens,
            generated_tokens=len(self.token_ids),
            timings=Timings(first_token_s=self.first_token_s, total_s=self.total_s),
        )
