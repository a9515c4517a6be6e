"""A loaded model: what users call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from edgeseq.runtime.bundle import Bundle
from edgeseq.runtime.decoder import Decoder
from edgeseq.runtime.detokenizer import Detokenizer
from edgeseq.runtime.errors import PromptError
from edgeseq.runtime.loop import decode
from edgeseq.runtime.options import GenerationOptions, resolve_options
from edgeseq.runtime.results import FinishReason, GenerationResult, Timings
from edgeseq.runtime.search import NewToken, RowSearch
from edgeseq.runtime.tokenizer import Tokenizer

NewDecoder = Callable[[int, int], Decoder]  # (rows, capacity in tokens)


class Model:
    """A bundle that is ready to generate; ``edgeseq.runtime.load`` makes one.

    Calls may come from several threads: they share the weights, and each has its own cache.
    Options are those of Transformers' ``GenerationConfig``: see ``GenerationOptions``. An unknown
    option, or one that has no effect, raises ``OptionError``.
    """

    def __init__(self, bundle: Bundle, tokenizer: Tokenizer, new_decoder: NewDecoder) -> None:
        self.bundle = bundle
        self.tokenizer = tokenizer
        self._new_decoder = new_decoder

    def generate(self, text: str | Sequence[str], **options: Any) -> list[GenerationResult]:
        """Generate from one text or several at once; the results come in the texts' order.

        Raises ``OptionError`` for an option and ``PromptError`` for a text that cannot be served.
        """
        started = time.perf_counter()
        texts = [text] if isinstance(text, str) else text
        if not hasattr(texts, "__iter__") or not all(isinstance(t, str) for t in texts):
            raise PromptError("generate takes a text or a list of texts; for ids: generate_ids.")
        return self._run([self.tokenizer.encode(item) for item in texts], options, started)

    def generate_ids(
        self, prompts: Sequence[Sequence[int]], **options: Any
    ) -> list[GenerationResult]:
        """Generate from lists of token ids; the results come in their order.

        Raises ``OptionError`` for an option and ``PromptError`` for ids that cannot be served.
        """
        started = time.perf_counter()
        return self._run(_id_lists(prompts), options, started)

    def stream(self, text: str, **options: Any) -> Iterator[str]:
        """Pieces of the generated text, each as soon as it is certain.

        Joined they are the text that ``generate`` gives. Bad options and prompts raise at once,
        not at the first piece. Closing the iterator ends the work.
        """
        prompts = [self.tokenizer.encode(text)]
        return self._pieces(self._steps(prompts, resolve_options(self._defaults, options)))

    @property
    def _defaults(self) -> dict[str, Any]:
        return dict(self.bundle.manifest.generation)

    def _pieces(self, steps: Iterator[Sequence[NewToken]]) -> Iterator[str]:
        detokenizer = Detokenizer(self.tokenizer)
        for new_tokens in steps:
            for new in new_tokens:
                if piece := detokenizer.push(new.token):
                    yield piece
        if piece := detokenizer.finish():
            yield piece

    def _run(
        self, prompts: list[list[int]], options: dict[str, Any], started: float
    ) -> list[GenerationResult]:
        resolved = resolve_options(self._defaults, options)
        texts = [_Text() for _ in prompts]
        for new_tokens in self._steps(prompts, resolved):
            now = time.perf_counter() - started
            for new in new_tokens:
                texts[new.text].append(new, now)
        return [
            text.result(self.tokenizer.decode(text.token_ids), len(prompt))
            for text, prompt in zip(texts, prompts, strict=True)
        ]

    def _steps(
        self, prompts: list[list[int]], options: GenerationOptions
    ) -> Iterator[Sequence[NewToken]]:
        """Check everything now; the returned iterator does the work."""
        if not prompts:
            return iter(())
        limits = []
        for number, prompt in enumerate(prompts):
            self._check_prompt(number, prompt, options)
            limits.append(self._limit(len(prompt), options))
        # The last new token is never read, so it needs no place in the cache.
        capacity = max(len(p) + limit - 1 for p, limit in zip(prompts, limits, strict=True))
        search = RowSearch(prompts, limits, options)
        return decode(self._new_decoder(len(prompts), capacity), prompts, search)

    def _check_prompt(self, number: int, prompt: list[int], options: GenerationOptions) -> None:
        """Start an empty prompt with the beginning-of-sequence token; refuse what cannot run."""
        sizes = self.bundle.manifest.dimensions
        if not prompt:
            if options.bos_token_id is None:
                raise PromptError(
                    f"Prompt {number} is empty, and the model has no bos_token_id to start from: "
                    "give it some text."
                )
            prompt.append(options.bos_token_id)
        for token in prompt:
            if type(token) is not int or not 0 <= token < sizes.vocabulary:
                raise PromptError(
                    f"Prompt {number} holds {token!r}; token ids are integers from 0 to "
                    f"{sizes.vocabulary - 1}."
                )
        if sizes.max_positions is not None and len(prompt) > sizes.max_positions:
            raise PromptError(
                f"Prompt {number} has {len(prompt)} tokens; this model reads at most "
                f"{sizes.max_positions}: shorten it."
            )

    def _limit(self, prompt_length: int, options: GenerationOptions) -> int:
        """New tokens of a prompt at most: the options' limit, or where the positions end."""
        limit = options.new_tokens(prompt_length)
        positions = self.bundle.manifest.dimensions.max_positions
        return limit if positions is None else min(limit, positions - prompt_length + 1)


def _id_lists(prompts: Any) -> list[list[Any]]:
    """Lists of Python's own integers, from any sequences of integers."""
    if isinstance(prompts, str | bytes) or not hasattr(prompts, "__iter__"):
        raise PromptError("generate_ids takes lists of token ids; for text: generate.")
    lists = []
    for number, prompt in enumerate(prompts):
        if not hasattr(prompt, "__iter__"):
            raise PromptError(
                f"generate_ids takes a list of lists of token ids, one a prompt; prompt {number} "
                f"is {prompt!r}."
            )
        lists.append([_plain_integer(token) for token in prompt])
    return lists


def _plain_integer(token: Any) -> Any:
    """Python's own integer for one of numpy's; anything else as it is, to be refused."""
    return int(token) if not isinstance(token, bool) and isinstance(token, Integral) else token


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
