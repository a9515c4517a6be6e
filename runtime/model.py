"""``Model``: a loaded model and its calls."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from .bundle.reading import Bundle
from .decoder import NewDecoder
from .decoding.choices import choose
from .decoding.generation import Generation, Outputs, new_generation
from .decoding.loop import Found
from .decoding.scoring import window_logits
from .errors import EdgeseqError, OptionError, PromptError
from .logits.softmax import log_probabilities
from .prefix_cache import CachePool, PrefixCache
from .request.controls import Controls
from .request.passages import scored
from .request.prompts import id_lists, listed
from .request.request import Request, checked_request
from .request.value_checks import check_integer
from .results import GenerationResult, Score, Timings
from .session import Session
from .text.byte_tokenizer import AnyTokenizer
from .text.stop_strings import StopFilter, cut

if TYPE_CHECKING:
    from .ort.engine import Engine
    from .tasks.runs import TaskResult

Results = list[GenerationResult]
Ids = Sequence[int]
CACHE_BYTES = 256 * 2**20  # default memory limit of a session's KV caches
NO_BOUND = 2**30  # position limit for models without one
ONE_SEQUENCE = ("num_return_sequences", 1)  # option value that a stream may be given


class Model:
    """A bundle that is ready to generate; ``edgeseq.runtime.load`` makes one.

    Calls may come from several threads: they share the weights, and each has its own KV cache.
    Options are those of Transformers' ``GenerationConfig``: see ``GenerationOptions``. An unknown
    option, or one that has no effect, raises ``OptionError``. Calls also take:

    - ``choices``: restricts the output to a list of strings and scores each of them;
    - ``json_schema``, ``regex`` or ``grammar``: restricts the output to matching texts (extra
      ``guidance``);
    - ``prefix_allowed_tokens_fn``: a function from a prompt's index and all ids so far to the ids
      that may come next, as in Transformers;
    - ``logits_processor``: a function, or several, from all ids so far, (n,), and the logits,
      (vocabulary,), to the changed logits;
    - ``cancel``: a function, or an event with ``is_set``, called at every step and while prompts
      are read: once it is true, the call returns the text generated so far, without any
      ``choices``;
    - ``decoder_input_ids``, after an encoder: tokens that the output continues, one list of ids for
      all texts or one for each. Results hold the tokens after them.
    """

    def __init__(
        self,
        bundle: Bundle,
        tokenizer: AnyTokenizer,
        engine: Engine,
        new_decoder: NewDecoder | None = None,
    ) -> None:
        self.bundle = bundle
        self.tokenizer = tokenizer
        self._engine = engine
        self._new_decoder = engine.decoder if new_decoder is None else new_decoder

    def __repr__(self) -> str:
        manifest = self.bundle.manifest
        return (
            f"Model({str(self.bundle.folder)!r}, architecture={manifest.architecture!r}, "
            f"recipe={manifest.quantization.recipe!r}, device={self.device!r})"
        )

    @property
    def device(self) -> str:
        """The device's name, such as "cpu" or "cuda:1"; with "auto", the chosen one."""
        return self._engine.device

    @property
    def device_reason(self) -> str:
        """The reason for the device: that it was requested, or with "auto" why it was chosen."""
        return self._engine.device_reason

    @property
    def new_decoder(self) -> NewDecoder:
        """The function that makes decoders over the bundle's graphs."""
        return self._new_decoder

    def with_decoders(self, new_decoder: NewDecoder) -> Model:
        """Return the same model with decoders from ``new_decoder``."""
        return Model(self.bundle, self.tokenizer, self._engine, new_decoder)

    def with_defaults(self, generation: Mapping[str, Any]) -> Model:
        """Return the same model with other generation defaults than the bundle's."""
        manifest = replace(self.bundle.manifest, generation=dict(generation))
        bundle = replace(self.bundle, manifest=manifest)
        return Model(bundle, self.tokenizer, self._engine, self._new_decoder)

    def generate(self, text: str | Sequence[str], **options: Any) -> Results:
        """Generate from one text or several at once; return results in the texts' order.

        The ``num_return_sequences`` results of a text are adjacent, the best first. Raises
        ``OptionError`` for a bad option and ``PromptError`` for a text that cannot be served.
        """
        began = time.perf_counter()
        texts = [text] if isinstance(text, str) else listed(text)
        if texts is None or not all(isinstance(item, str) for item in texts):
            raise PromptError("generate takes a text or a list of texts; for ids: generate_ids.")
        return self._run([self.tokenizer.encode(item) for item in texts], options, began)

    def generate_ids(self, prompts: Sequence[Ids], **options: Any) -> Results:
        """Generate from lists of token ids; return results in their order.

        Raises ``OptionError`` for a bad option and ``PromptError`` for ids that cannot be served.
        """
        began = time.perf_counter()
        return self._run(id_lists(prompts, "generate_ids"), options, began)

    def stream(self, text: str, **options: Any) -> Iterator[str]:
        """Yield pieces of the generated text, each as soon as it is certain.

        Joined they are the text that ``generate`` returns. With beams a piece is certain once all
        of them agree on it. Bad options and prompts raise at once, not at the first piece. Closing
        the iterator ends the work.
        """
        self._check_stream(text, options)
        request = self._request([self.tokenizer.encode(text)], options)
        single = replace(request.options, num_return_sequences=1, logprobs=None)
        request = request._replace(options=single)
        return self._pieces(request, self._generation(request, time.perf_counter()))

    def astream(self, text: str, **options: Any) -> AsyncIterator[str]:
        """Stream as ``stream`` does, without blocking the event loop.

        Bad options raise at once. A prompt that cannot be served raises at the first piece. Closing
        the iterator (``aclose``) or cancelling the task that reads it ends the work within a token
        or a chunk of a prompt.
        """
        from .concurrency.async_stream import is_interpreter_ending, relay  # late: asyncio

        stop = threading.Event()
        given = Controls(cancel=options.get("cancel"))
        options["cancel"] = lambda: stop.is_set() or is_interpreter_ending() or given.is_cancelled()
        self._check_stream(text, options)
        # The thread does the rest of the work before the first token, such as reading prefixes.
        of_prompts = {"decoder_input_ids"} if self.bundle.manifest.has_encoder else set()
        self._request([], {name: options[name] for name in options.keys() - of_prompts})
        return relay(lambda: self.stream(text, **options), stop)

    def run(
        self, task: str | os.PathLike[str], text: str | Sequence[str] | None = None, /, **given: Any
    ) -> TaskResult | list[TaskResult]:
        """Do a task: "summarization", "translation", or a template of your own (.toml).

        ``text``: the task's first field; a list gives a list of answers. ``given``: its other
        fields, as ``question="..."``, and options of ``generate``, which override the template's.
        ``edgeseq tasks`` lists the templates. Raises ``OptionError`` for an unknown task or a bad
        option, ``PromptError`` for an input that cannot be served.
        """
        from .tasks.runs import run_all  # late: most programs do not need it
        from .tasks.templates import read_template

        template = read_template(task)
        values = {name: given.pop(name) for name in template.fields if name in given}
        first = template.fields[0]
        if text is not None:
            if first in values:
                raise OptionError(f"{first} has no effect beside the text: pass one of them.")
            values[first] = text
        texts = values.get(first, template.defaults.get(first))
        if isinstance(texts, str):
            return run_all(self, template, [values], given)[0]
        if not isinstance(texts, list | tuple):
            raise PromptError(
                f"The task {template.name} takes texts for {', '.join(template.fields)}; {first} "
                f"is {texts!r:.60}."
            )
        return run_all(self, template, [{**values, first: item} for item in texts], given)

    def close(self) -> None:
        """Free the memory once calls under way have ended and sessions are closed.

        All later calls raise ``EdgeseqError``, including calls of this model's sessions.
        """
        self._engine.close()

    def __enter__(self) -> Model:
        self._engine.check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise EdgeseqError(
            "A loaded model cannot be pickled or copied: pass on the path of its bundle "
            f"({self.bundle.folder}), and load it there."
        )

    def session(self, *, max_cache_bytes: int = CACHE_BYTES) -> Session:
        """Open a session: calls on texts that continue each other read only the new tokens.

        ``max_cache_bytes``: memory for the KV caches of the session and its forks.
        """
        self._engine.check_open()
        check_integer("max_cache_bytes", max_cache_bytes, at_least=0)
        manifest = self.bundle.manifest
        pool = CachePool(max_cache_bytes)
        cache = PrefixCache(
            self._new_decoder,
            pool,
            has_encoder=manifest.has_encoder,
            longest=manifest.dimensions.max_positions or NO_BOUND,
        )
        return Session(self.with_decoders, cache, pool)

    def score(self, text: str, target: str | None = None) -> Score:
        """Return the log-probability of each token of ``text``, given the tokens before it.

        The first token is not predicted. A text longer than the model's positions is read in
        windows that overlap by half. A model with an encoder reads ``text`` and scores ``target``,
        its end-of-sequence token included. Raises ``PromptError`` for a text that cannot be served,
        ``OptionError`` for a target that is missing or has no effect.
        """
        for item in (text, "" if target is None else target):
            if not isinstance(item, str):
                raise PromptError(f"score takes one text, not {item!r:.60}.")
        self._engine.check_open()
        windows, ids = scored(text, target, self.bundle.manifest, self.tokenizer)
        with self._engine.slots.one():
            known = [
                float(value)
                for window in windows
                for targets, logits in window_logits(self._new_decoder, window)
                for value in log_probabilities(logits, targets)
            ]
        unknown = (None,) * (len(ids) - len(known))
        return Score(token_ids=tuple(ids), log_probabilities=(*unknown, *known))

    def _check_stream(self, text: Any, options: Mapping[str, Any]) -> None:
        if not isinstance(text, str):
            raise PromptError("stream takes one text; several at once: generate.")
        for name in ("num_return_sequences", "logprobs", "choices"):
            if options.get(name) is not None and (name, options[name]) != ONE_SEQUENCE:
                raise OptionError(f"{name} has no effect with stream: use generate.")

    def _pieces(self, request: Request, generation: Generation) -> Iterator[str]:
        detokenizer = self._outputs.detokenizer(request.starts[0])
        stops = StopFilter(request.options.stops)
        with self._engine.slots.one(request.controls.cancelled) as slot:
            for new_tokens in generation.steps:
                slot.step()
                for new in new_tokens:
                    if piece := stops.push(detokenizer.push(new.token)):
                        yield piece
        if piece := stops.push(detokenizer.finish()) + stops.finish():
            yield piece

    def _run(self, prompts: list[list[int]], options: Mapping[str, Any], began: float) -> Results:
        """Generate from all prompts; ``began``: ``time.perf_counter()`` at the call's start."""
        request = self._request(prompts, options)
        if not prompts:
            return []
        with self._engine.slots.one(request.controls.cancelled):
            if request.controls.choices is not None:
                return choose(self._outputs, self._new_decoder, request, began)
            search, steps = self._generation(request, began)
            times: dict[int, _Times] = {}
            for new_tokens in steps:
                now = time.perf_counter() - began
                for new in new_tokens:
                    times.setdefault(new.text, _Times(now)).last_s = now
            now = time.perf_counter() - began
            return [
                self._result(request, found, times.get(found.text, _Times(now, now)))
                for found in search.results()
            ]

    def _result(self, request: Request, found: Found, times: _Times) -> GenerationResult:
        prompt = found.text // request.options.num_return_sequences
        known = found.logprobs
        text = self._outputs.text(request.starts[prompt], found.token_ids)
        return GenerationResult(
            text=cut(text, request.options.stops),
            token_ids=tuple(found.token_ids),
            finish_reason=found.finish_reason,
            prompt_tokens=len(request.prompts[prompt]),
            generated_tokens=len(found.token_ids),
            timings=Timings(first_token_s=times.first_s, total_s=times.last_s),
            prompt_index=prompt,
            sequence_score=found.score,
            logprobs=None if known is None else tuple(known.of_tokens),
            top_logprobs=None if known is None else tuple(known.of_others),
        )

    def _request(self, prompts: Sequence[list[int]], options: Mapping[str, Any]) -> Request:
        self._engine.check_open()
        return checked_request(self.bundle.manifest, prompts, options)

    def _generation(self, request: Request, began: float) -> Generation:
        return new_generation(self._outputs, self._new_decoder, request, began)

    @property
    def _outputs(self) -> Outputs:
        return Outputs(self.bundle.manifest, self.tokenizer)


@dataclass
class _Times:
    """Seconds until the first and the last token of a sequence were known."""

    first_s: float
    last_s: float = 0.0
