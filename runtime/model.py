"""A loaded model: what users call."""

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
from .evaluation.passages import scored
from .logits.softmax import log_probabilities
from .ort.engine import Loaded
from .request.controls import Controls
from .request.prompts import id_lists, listed
from .request.request import Request, checked_request
from .results import GenerationResult, Score, Timings
from .session import Session, new_session
from .text.byte_tokenizer import ByteTokenizer
from .text.stop_strings import StopFilter, cut
from .text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from .tasks.runs import TaskResult

Results = list[GenerationResult]
Ids = Sequence[int]
CACHE_BYTES = 256 * 2**20  # of a session
ONE_TEXT = ("num_return_sequences", 1)  # what a stream gives anyway


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
    - ``cancel``: a function, or an event with ``is_set``, asked at every step and between chunks of
      a prompt: once it is true, what has been generated is returned, of ``choices`` none;
    - ``decoder_input_ids``, after an encoder: tokens that the output goes on from, a list of ids
      for all texts or a list of such lists. Results hold what comes after them.
    """

    def __init__(
        self,
        bundle: Bundle,
        tokenizer: Tokenizer | ByteTokenizer,
        new_decoder: NewDecoder,
        loaded: Loaded | None = None,
    ) -> None:
        self.bundle = bundle
        self.tokenizer = tokenizer
        self._loaded = Loaded(new_decoder) if loaded is None else loaded
        self._new_decoder = self._loaded if loaded is None else new_decoder

    @property
    def device(self) -> str:
        """What computes: "cpu", "cuda:1"; where "auto" was asked for, what was taken."""
        return self._loaded.device

    @property
    def device_reason(self) -> str:
        """Why that device: a sentence where "auto" did not take a better one."""
        return self._loaded.device_reason

    @property
    def new_decoder(self) -> NewDecoder:
        """What makes decoders over the bundle's graphs, for those who read logits."""
        return self._new_decoder

    def with_decoders(self, new_decoder: NewDecoder) -> Model:
        """The same model, whose calls get their decoders from ``new_decoder``."""
        return Model(self.bundle, self.tokenizer, new_decoder, self._loaded)

    def with_defaults(self, generation: Mapping[str, Any]) -> Model:
        """The same model with other defaults than the bundle's."""
        manifest = replace(self.bundle.manifest, generation=dict(generation))
        bundle = replace(self.bundle, manifest=manifest)
        return Model(bundle, self.tokenizer, self._new_decoder, self._loaded)

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
        self._check_stream(text, options)
        call = self._call([self.tokenizer.encode(text)], options)
        call = call._replace(options=replace(call.options, num_return_sequences=1, logprobs=None))
        return self._pieces(call, self._generation(call, time.perf_counter()))

    def astream(self, text: str, **options: Any) -> AsyncIterator[str]:
        """As ``stream``, for an event loop, which is never kept waiting by the work.

        Bad options raise at once, a text that cannot be served at the first piece. Closing it
        (``aclose``) or cancelling the task that reads it ends the work within a token, or a chunk
        of a prompt.
        """
        from .concurrency.async_stream import is_interpreter_ending, relay  # late: asyncio

        stop = threading.Event()
        given = Controls(cancel=options.get("cancel"))
        options["cancel"] = lambda: stop.is_set() or is_interpreter_ending() or given.is_cancelled()
        self._check_stream(text, options)
        # The rest of the work before the first token is the thread's: what it reads, too.
        is_t5 = self.bundle.manifest.kind == "encoder-decoder"
        of_prompts = {"decoder_input_ids"} if is_t5 else set()
        self._call([], {name: options[name] for name in options.keys() - of_prompts})
        return relay(lambda: self.stream(text, **options), stop)

    def run(
        self, task: str | os.PathLike[str], text: str | Sequence[str] | None = None, /, **given: Any
    ) -> TaskResult | list[TaskResult]:
        """The answer to a task: "summarization", "translation", a template of your own (.toml).

        ``text``: what its first field is; a list gives a list of answers. ``given``: its other
        fields, as ``question="..."``, and options of ``generate``, over the template's.
        ``edgeseq tasks`` lists the templates. Raises ``OptionError`` for a task or an option,
        ``PromptError`` for an input that cannot be served.
        """
        from .tasks.runs import run  # late: most programs do without

        return run(self, task, text, **given)

    def close(self) -> None:
        """Give the memory back, once calls that have begun have ended, and sessions are closed.

        Calls raise ``EdgeseqError`` from then on, of all that was made of this model.
        """
        self._loaded.close()

    def __enter__(self) -> Model:
        self._loaded.check()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise EdgeseqError(
            "A loaded model cannot be pickled or copied: pass on the path of its bundle "
            f"({self.bundle.folder}), and load it there."
        )

    def session(self, *, max_cache_bytes: int = CACHE_BYTES) -> Session:
        """Calls that go on from each other's texts, so that only what is new is read."""
        self._loaded.check()
        return new_session(self, max_cache_bytes)

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
        self._loaded.check()
        windows, ids = scored(text, target, self.bundle.manifest, self.tokenizer)
        with self._loaded.places.one():
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
            if options.get(name) is not None and (name, options[name]) != ONE_TEXT:
                raise OptionError(f"{name} has no effect with stream: use generate.")

    def _pieces(self, call: Request, generation: Generation) -> Iterator[str]:
        detokenizer = self._outputs.detokenizer(call.starts[0])
        stops = StopFilter(call.options.stops)
        with self._loaded.places.one(call.arguments.cancelled) as place:
            for new_tokens in generation.steps:
                place.step()
                for new in new_tokens:
                    if piece := stops.push(detokenizer.push(new.token)):
                        yield piece
        if piece := stops.push(detokenizer.finish()) + stops.finish():
            yield piece

    def _run(self, prompts: list[list[int]], options: Mapping[str, Any], began: float) -> Results:
        call = self._call(prompts, options)
        if not prompts:
            return []
        with self._loaded.places.one(call.arguments.cancelled):
            if call.arguments.choices is not None:
                return self._choose(call, call.arguments.choices, began)
            return self._finish(call, began)

    def _choose(self, call: Request, choices: Sequence[str], began: float) -> Results:
        cancelled = call.arguments.is_cancelled
        found = (
            choose(self._outputs, self._new_decoder, prompt, start, choices, began, cancelled)
            for prompt, start in zip(call.prompts, call.starts, strict=True)
        )
        return [replace(result, prompt_index=index) for index, result in enumerate(found)]

    def _finish(self, call: Request, began: float) -> Results:
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

    def _result(self, call: Request, prompt: int, found: Found, times: _Times) -> GenerationResult:
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

    def _call(self, prompts: Sequence[list[int]], options: Mapping[str, Any]) -> Request:
        self._loaded.check()
        return checked_request(self.bundle.manifest, prompts, options)

    def _generation(self, call: Request, began: float) -> Generation:
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


@dataclass
class _Times:
    """When the first and the last token of a text were known, in seconds."""

    first_s: float
    last_s: float = 0.0
