"""``Model``: a loaded model and its calls."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn, overload

from .bundle.reading import Bundle
from .decoder import NewDecoder
from .decoding.generation import Generation, Outputs, new_generation
from .decoding.loop import Found
from .errors import EdgeseqError, OptionError, PromptError
from .request.batching import BATCH_ROWS
from .request.controls import Controls
from .request.prompts import encode_prompt, id_lists, listed
from .request.request import Request, checked_request
from .request.value_checks import check_integer
from .results import (
    AsyncTextStream,
    GenerationResult,
    Score,
    StreamEvent,
    TextStream,
    Timings,
)
from .text.byte_tokenizer import AnyTokenizer, ByteTokenizer
from .text.special_tokens import choose_languages
from .text.stop_strings import PieceStream, cut

if TYPE_CHECKING:
    from .ort.engine import Engine
    from .session import Session
    from .tasks.runs import TaskResult

CACHE_BYTES = 256 * 2**20  # default memory limit of a session's KV caches
NO_BOUND = 2**30  # limit of positions for models without a limit
ONE_SEQUENCE = ("num_return_sequences", 1)  # the only value that a stream accepts


class Model:
    """A loaded bundle that generates and scores text; ``load`` returns one.

    You may call a model from several threads. The calls share the weights, and each call has its
    own KV cache. A model is also a context manager, which closes it at the end of the block.

    All calls that generate take the same keyword arguments: generation options and controls. An
    argument that is unknown or has no effect raises ``OptionError``.

    **Generation options** have the names, meanings and defaults of Transformers'
    ``GenerationConfig``. An option that you do not pass has the bundle's default, or else
    Transformers'. The most common options:

    - ``max_new_tokens``: the limit of new tokens, 20 unless the bundle has another default.
    - ``do_sample``: whether to sample tokens instead of taking the most probable one. With it:
      ``temperature``, ``top_k``, ``top_p``, ``min_p`` and ``seed``.
    - ``num_beams``: the number of beams. With it: ``length_penalty`` and ``early_stopping``.
    - ``num_return_sequences``: the number of texts for each prompt.
    - ``repetition_penalty`` and ``no_repeat_ngram_size``: avoid repetitions.
    - ``stop_strings``: a string or a list of strings that end the text.
    - ``max_time``: the limit of time in seconds.
    - ``truncation``: "left", "right" or "sliding": cut a prompt that is too long for the model.
    - ``prompt_lookup_num_tokens``: the limit of tokens that prompt lookup guesses at once.
    - ``logprobs``: return the log-probability of each new token and of this many most probable
      tokens at its position.

    ``GenerationOptions`` describes all options.

    **Controls** restrict the output, change the logits or end the work:

    - ``choices``: a list of strings. The output is one of them, and each gets a probability. Only
      ``cancel``, ``decoder_input_ids`` and ``truncation`` have an effect together with it.
    - ``json_schema`` (a dictionary or JSON text), ``regex`` or ``grammar`` (in llguidance's dialect
      of Lark): the output matches it. Needs the extra ``guidance``.
    - ``prefix_allowed_tokens_fn``: a function that takes a prompt's index and all token ids so far,
      (n,), and returns the ids that may come next, as in Transformers.
    - ``logits_processor``: a function, or a list of functions, that takes all token ids so far,
      (n,), and the logits of the next token, (vocabulary,), and returns the changed logits. With
      beam search it gets log-probabilities.
    - ``cancel``: a function, or an object with ``is_set`` such as ``threading.Event``. It is called
      at every step and while prompts are read. Once it returns True, the call returns the text
      generated so far, and no ``choices``.
    - ``decoder_input_ids``, for encoder-decoder models: token ids that the output continues, one
      list for all prompts or one list for each. Results hold only the tokens after them.

    Args:
        bundle: The bundle: its ``folder`` and its ``manifest``.
        tokenizer: The bundle's tokenizer, with the methods ``encode`` and ``decode``.
        engine: The graphs of the bundle, opened on a device.
        new_decoder: The function that makes the decoder of each generation; None for the engine's.

    Attributes:
        bundle: The bundle: its ``folder`` and its ``manifest``.
        tokenizer: The bundle's tokenizer, with the methods ``encode`` and ``decode``.
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
        """The name of the device, such as "cpu" or "cuda:1"; with "auto", the chosen device."""
        return self._engine.device

    @property
    def kernels(self) -> str:
        """What multiplies with quantized weights: "stock" for ONNX Runtime's operators, or the name
        of edgeseq's own kernels for this processor, such as "avx512-vnni"."""
        if not self._engine.has_native_kernels:
            return "stock"
        from .native.library import processor_kernels  # late: only reports need it

        return processor_kernels() or "stock"

    @property
    def device_reason(self) -> str:
        """The reason for the device: it was requested, or why "auto" chose it."""
        return self._engine.device_reason

    @property
    def new_decoder(self) -> NewDecoder:
        """The function that makes the decoder of each generation, of type ``NewDecoder``."""
        return self._new_decoder

    def with_decoders(self, new_decoder: NewDecoder) -> Model:
        """Return a model with the same weights, whose decoders come from another function.

        Args:
            new_decoder: A function that takes the token ids of the prompts (or of the encoder's
                sources) and the limit of positions per row, and returns a ``Decoder``.

        Returns:
            The model. Closing either model closes both.
        """
        return Model(self.bundle, self.tokenizer, self._engine, new_decoder)

    def with_defaults(self, generation: Mapping[str, Any]) -> Model:
        """Return a model with the same weights and other generation defaults.

        Args:
            generation: The default options of all calls. They replace all of the bundle's defaults,
                also the special token ids such as ``eos_token_id``.

        Returns:
            The model. Closing either model closes both.
        """
        manifest = replace(self.bundle.manifest, generation=dict(generation))
        bundle = replace(self.bundle, manifest=manifest)
        return Model(bundle, self.tokenizer, self._engine, self._new_decoder)

    def with_languages(self, source: str | None = None, target: str | None = None) -> Model:
        """Return a model with the same weights that translates between two languages.

        This is for multilingual models. NLLB, M2M100 and mBART have a token for the language of the
        source, and the target language becomes the default ``forced_bos_token_id``. A Marian model
        with several target languages reads a token for the target before each source. ``translate``
        chooses the languages of these models and of others.

        Args:
            source: The source language: its name, such as "French", an ISO 639 code such as "fr" or
                "fra", or the model's own code, such as "fra_Latn". ``edgeseq info`` lists the
                languages. None for the checkpoint's default.
            target: The target language, in the same forms; None for the bundle's
                ``forced_bos_token_id``.

        Returns:
            The model. Closing either model closes both.

        Raises:
            OptionError: The model has no such language, or its tokenizer has no languages.
        """
        manifest = self.bundle.manifest
        chosen = choose_languages(manifest.tokenizer, manifest.languages, source, target)
        tokenizer = self.tokenizer
        if chosen.tokens is not None:
            assert not isinstance(tokenizer, ByteTokenizer)  # it has no languages
            tokenizer = tokenizer.with_languages(chosen.tokens)
        generation = dict(manifest.generation)
        if chosen.first_token is not None:
            generation["forced_bos_token_id"] = chosen.first_token
        bundle = replace(self.bundle, manifest=replace(manifest, generation=generation))
        return Model(bundle, tokenizer, self._engine, self._new_decoder)

    def generate(self, text: str | Sequence[str], **options: Any) -> list[GenerationResult]:
        """Generate text from one prompt, or from several prompts as one batch.

        Args:
            text: A prompt, or a sequence of prompts. A decoder-only model continues the prompt. An
                encoder-decoder model reads it as the source.
            **options: Generation options and controls, which the class ``Model`` describes.

        Returns:
            The results in the order of the prompts. With ``num_return_sequences``, the results of
                one prompt are adjacent, with beam search the best first. The results of a prompt do
                not depend on the other prompts.

        Raises:
            OptionError: An option or control is unknown, invalid or without effect, or no token may
                come next.
            PromptError: A prompt is not a string, has more tokens than the model has positions, or
                is empty and the model has no ``bos_token_id``.
            MissingPackageError: A constraint needs llguidance, which is not installed.
            BundleError: The weights are damaged, so that logits are not finite.
            DeviceError: There is not enough memory for the KV cache.
            EdgeseqError: The model is closed, or was loaded before the process was forked.

        Examples:
            >>> from edgeseq.runtime import load
            >>> model = load()
            >>> results = model.generate("Once upon a time,", max_new_tokens=8, do_sample=False)
            >>> results[0].text
            ' there was a great many years old.'
        """
        began = time.perf_counter()
        texts = [text] if isinstance(text, str) else listed(text)
        if texts is None or not all(isinstance(item, str) for item in texts):
            raise PromptError(
                f"generate takes a text or a list of texts, not {text!r:.60}: for token ids, use "
                "generate_ids."
            )
        return self._run([encode_prompt(self.tokenizer, item) for item in texts], options, began)

    def generate_ids(
        self, prompts: Sequence[Sequence[int]], **options: Any
    ) -> list[GenerationResult]:
        """Generate text from prompts that are lists of token ids, as one batch.

        Args:
            prompts: A sequence of prompts, each a sequence of token ids. Lists, tuples and numpy
                arrays of integers are accepted. Special tokens are not added.
            **options: Generation options and controls, which the class ``Model`` describes.

        Returns:
            The results in the order of the prompts, as ``generate`` returns them.

        Raises:
            OptionError: An option or control is unknown, invalid or without effect, or no token may
                come next.
            PromptError: A prompt is not a list of token ids, is empty, is too long, or holds an id
                outside the vocabulary.
            MissingPackageError: A constraint needs llguidance, which is not installed.
            BundleError: The weights are damaged, so that logits are not finite.
            DeviceError: There is not enough memory for the KV cache.
            EdgeseqError: The model is closed, or was loaded before the process was forked.
        """
        began = time.perf_counter()
        return self._run(id_lists(prompts, "generate_ids"), options, began)

    def stream(self, text: str, **options: Any) -> TextStream:
        """Generate text from one prompt, and yield pieces of it as soon as they are certain.

        The joined pieces equal the text that ``generate`` returns. With beam search, a piece is
        certain once all beams agree on it. Bad options and prompts raise at once, not at the first
        piece. Tokens are generated only as the pieces are read. Close the stream to end the work
        early.

        Args:
            text: The prompt.
            **options: Generation options and controls, which the class ``Model`` describes, except
                ``choices``, ``logprobs`` and a ``num_return_sequences`` above 1.

        Returns:
            The stream: an iterator of pieces of the new text, each at least one character. After
                the last piece, its attribute ``result`` is the ``GenerationResult``.

        Raises:
            OptionError: An option or control is unknown, invalid or without effect, or no token may
                come next.
            PromptError: The prompt is not a string, has more tokens than the model has positions,
                or is empty and the model has no ``bos_token_id``.
            MissingPackageError: A constraint needs llguidance, which is not installed.
            BundleError: The weights are damaged, so that logits are not finite.
            DeviceError: There is not enough memory for the KV cache.
            EdgeseqError: The model is closed, or was loaded before the process was forked.

        Examples:
            >>> from edgeseq.runtime import load
            >>> model = load()
            >>> list(model.stream("Once upon a time,", max_new_tokens=8, do_sample=False))
            [' there', ' was', ' a', ' great', ' many', ' years', ' old', '.']
            >>> stream = model.stream("Once upon a time,", max_new_tokens=8, do_sample=False)
            >>> text = "".join(stream)
            >>> stream.result.finish_reason
            'length'
        """
        began = time.perf_counter()
        self._check_stream(text, options)
        request = self._request([encode_prompt(self.tokenizer, text)], options)
        single = replace(request.options, num_return_sequences=1, logprobs=None)
        request = request._replace(options=single)
        return TextStream(self._pieces(request, self._generation(request, began), began))

    def stream_ids(self, prompts: Sequence[Sequence[int]], **options: Any) -> Iterator[StreamEvent]:
        """Generate text from prompts that are lists of token ids, and yield each new token.

        This is for servers, which need the tokens, their log-probabilities and the reason for the
        end of a text beside its pieces, for several texts at once. Bad options and prompts raise at
        once, not at the first event. Tokens are generated only as the events are read. Close the
        iterator to end the work early.

        With beam search, the tokens of a prompt's best text are yielded once all beams agree on
        them, and its further texts at the end, each in one event.

        Args:
            prompts: A sequence of prompts, each a sequence of token ids, as for ``generate_ids``.
            **options: Generation options and controls, which the class ``Model`` describes, except
                ``choices``, and except ``logprobs`` with beam search.

        Yields:
            StreamEvent: New tokens of one text, with their piece of text. Events of several texts
                are interleaved.

        Raises:
            OptionError: An option or control is unknown, invalid or without effect, or no token may
                come next.
            PromptError: A prompt is not a list of token ids, is empty, is too long, or holds an id
                outside the vocabulary.
            MissingPackageError: A constraint needs llguidance, which is not installed.
            BundleError: The weights are damaged, so that logits are not finite.
            DeviceError: There is not enough memory for the KV cache.
            EdgeseqError: The model is closed, or was loaded before the process was forked.

        Examples:
            >>> from edgeseq.runtime import load
            >>> model = load()
            >>> ids = model.tokenizer.encode("Once upon a time,")
            >>> events = model.stream_ids([ids], max_new_tokens=2, do_sample=False)
            >>> [(event.token_ids, event.text, event.finish_reason) for event in events]
            [((438,), ' there', None), ((308,), ' was', 'length')]
        """
        began = time.perf_counter()
        lists = id_lists(prompts, "stream_ids")
        if options.get("choices") is not None:
            raise OptionError("choices has no effect with stream_ids: use generate_ids.")
        request = self._request(lists, options)
        if request.options.logprobs is not None and request.options.num_beams > 1:
            raise OptionError("logprobs has no effect with stream_ids and beams: use generate_ids.")
        if not lists:
            return iter(())
        return self._events(request, self._generation(request, began))

    def astream(self, text: str, **options: Any) -> AsyncTextStream:
        """Stream text as ``stream`` does, without blocking the event loop of asyncio.

        A thread does the work. Bad options raise at once, and a bad prompt raises at the first
        piece. To end the work early, close the stream (``aclose``) or cancel the task that reads
        it. The work ends after the current token or chunk of the prompt.

        Args:
            text: The prompt.
            **options: Generation options and controls, as for ``stream``.

        Returns:
            The stream: an asynchronous iterator of pieces of the new text, each at least one
                character. After the last piece, its attribute ``result`` is the
                ``GenerationResult``.

        Raises:
            OptionError: As for ``stream``.
            PromptError: As for ``stream``.
            MissingPackageError: As for ``stream``.
            BundleError: As for ``stream``.
            DeviceError: As for ``stream``.
            EdgeseqError: As for ``stream``.
        """
        from .concurrency.async_stream import is_interpreter_ending, relay  # late: asyncio

        stop = threading.Event()
        given = Controls(cancel=options.get("cancel"))
        options["cancel"] = lambda: stop.is_set() or is_interpreter_ending() or given.is_cancelled()
        self._check_stream(text, options)
        # The thread does the rest of the work before the first token, such as reading prefixes.
        of_prompts = {"decoder_input_ids"} if self.bundle.manifest.has_encoder else set()
        self._request([], {name: options[name] for name in options.keys() - of_prompts})
        streams: list[TextStream] = []

        def begin() -> TextStream:
            streams.append(self.stream(text, **options))
            return streams[0]

        return AsyncTextStream(relay(begin, stop), lambda: streams[0].result if streams else None)

    def run(
        self, task: str | os.PathLike[str], text: str | Sequence[str] | None = None, /, **given: Any
    ) -> TaskResult | list[TaskResult]:
        """Run a task on one input or several: fill the task's prompt template and generate.

        Args:
            task: The name of a task, such as "summarization" or "translation" (``edgeseq tasks``
                lists all), or the path of your own template, a .toml file.
            text: The value of the task's first field, or a list of values for several inputs. You
                can also pass it by the field's name.
            **given: The values of the task's other fields by name, such as ``question="..."``,
                which apply to all inputs; and generation options and controls, which override the
                template's options.

        Returns:
            A ``TaskResult`` with the answer, or for several inputs a list of them in the same
                order.

        Raises:
            OptionError: The task is unknown, its template is wrong or is not for this kind of
                model, or an option is unknown, invalid or without effect.
            PromptError: A field is missing or is not a string, or the prompt is too long.
            EdgeseqError: The model is closed, or was loaded before the process was forked.

        Examples:
            >>> from edgeseq.runtime import load
            >>> model = load()
            >>> model.run("classification", "What a happy day!").text
            'positive'
        """
        from .tasks.runs import run_all  # late: most programs do not need it
        from .tasks.templates import read_template

        template = read_template(task)
        values = {name: given.pop(name) for name in template.fields if name in given}
        first = template.fields[0]
        if text is not None:
            if first in values:
                raise OptionError(
                    f"{first} has no effect if the text is also passed: pass one of them."
                )
            values[first] = text
        texts = values.get(first, template.defaults.get(first))
        if isinstance(texts, str):
            return run_all(self, template, [values], given)[0]
        if not isinstance(texts, list | tuple):
            raise PromptError(
                f"{first} is {texts!r:.60}; the task {template.name} takes a text or a list of "
                "texts for it."
            )
        return run_all(self, template, [{**values, first: item} for item in texts], given)

    @overload
    def translate(
        self,
        text: str,
        *,
        source_language: str | None = None,
        target_language: str | None = None,
        batch_size: int = BATCH_ROWS,
        on_progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> str: ...

    @overload
    def translate(
        self,
        text: Sequence[str],
        *,
        source_language: str | None = None,
        target_language: str | None = None,
        batch_size: int = BATCH_ROWS,
        on_progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> list[str]: ...

    def translate(
        self,
        text: str | Sequence[str],
        *,
        source_language: str | None = None,
        target_language: str | None = None,
        batch_size: int = BATCH_ROWS,
        on_progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> str | list[str]:
        """Translate a document, or several documents.

        A document is split at sentences. Sentences with more tokens than the model reads are split
        further. The sentences of all documents are translated in batches and joined with the layout
        of the source: paragraphs, line breaks, bullets and white space. Text without letters stays
        as it is.

        The model is told its languages as its checkpoint needs: by the language tokens of NLLB,
        M2M100 and mBART, the target token of a Marian model with several targets, or the prefix
        that a T5 has for a pair of languages. Other encoder-decoder models get the checkpoint's
        prefix and take no languages.

        Args:
            text: The document, or a sequence of documents.
            source_language: The language of the text: its name, such as "French", an ISO 639 code
                such as "fr" or "fra", or the model's own code, such as "fra_Latn". ``edgeseq info``
                lists the languages. None for the checkpoint's default, or if it has only one.
            target_language: The language to translate into, in the same forms.
            batch_size: The limit of sentences in a batch.
            on_progress: A function that is called after each batch with the number of translated
                sentences and the number of all sentences.
            **options: Generation options and controls, except those that are for one prompt or give
                several texts. By default there are four beams, unless the checkpoint has another
                default, and as many new tokens as a sentence needs.

        Returns:
            The translation, or a list of translations in the order of the documents.

        Raises:
            OptionError: The model does not have a language, needs one, or takes none; the model is
                decoder-only; or an option is unknown, invalid or without effect.
            PromptError: A document is not a string, or a translation does not end within the limit
                of tokens and you did not set ``max_new_tokens`` or ``max_length``.
            MissingPackageError: A constraint needs llguidance, which is not installed.
            BundleError: The weights are damaged, so that logits are not finite.
            DeviceError: There is not enough memory for the KV cache.
            EdgeseqError: The model is closed, or was loaded before the process was forked.
        """
        from .translation.directions import direction  # late: most programs do not need it
        from .translation.documents import translate_documents

        texts = [text] if isinstance(text, str) else listed(text)
        if texts is None or not all(isinstance(item, str) for item in texts):
            raise PromptError(f"translate takes a text or a list of texts, not {text!r:.60}.")
        check_integer("batch_size", batch_size, at_least=1)
        way = direction(self, source_language, target_language)
        found = translate_documents(
            way, texts, options, batch_size=batch_size, on_progress=on_progress
        )
        translations = [translation.text for translation in found]
        return translations[0] if isinstance(text, str) else translations

    def close(self) -> None:
        """Refuse new calls, and free the memory once all calls have ended and sessions are closed.

        Later calls of this model and of its sessions raise ``EdgeseqError``.
        """
        self._engine.close()

    def __enter__(self) -> Model:
        self._engine.check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise EdgeseqError(
            "A loaded model cannot be pickled or copied: pass the path of its bundle "
            f"({self.bundle.folder}), and load the bundle there."
        )

    def session(self, *, max_cache_bytes: int = CACHE_BYTES) -> Session:
        """Open a session, which keeps the KV cache of its last call as a prefix cache.

        A call of a session reads only the tokens after the longest prefix that its text shares with
        the text of the previous call. Use it for a chat, or for a text that is being written.

        Args:
            max_cache_bytes: The memory for the KV caches of the session and its forks, in bytes. A
                call that needs more still runs.

        Returns:
            The session. Use it as a context manager, or close it to free its memory.

        Raises:
            OptionError: ``max_cache_bytes`` is not an integer of at least 0.
            EdgeseqError: The model is closed, or was loaded before the process was forked.

        Examples:
            >>> from edgeseq.runtime import load
            >>> model = load()
            >>> text = "Once upon a time,"
            >>> with model.session() as session:
            ...     story = session.generate(text, max_new_tokens=8, do_sample=False)[0].text
            ...     text += story + " But"
            ...     more = session.generate(text, max_new_tokens=8, do_sample=False)[0].text
            >>> more
            ' the King had no children to be seen'
        """
        from .prefix_cache import CachePool, PrefixCache  # late: many programs do not need it
        from .session import Session

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
        """Return the log-probability of each token of a text, given the tokens before it.

        A decoder-only model scores ``text``, except its first token, which has nothing before it. A
        text with more tokens than the model has positions is read in windows that overlap by half.
        An encoder-decoder model reads ``text`` as the source and scores ``target``, including its
        end-of-sequence token.

        Args:
            text: The text to score, or the source with an encoder-decoder model.
            target: The text to score with an encoder-decoder model; None with a decoder-only model.

        Returns:
            The token ids and their natural log-probabilities.

        Raises:
            OptionError: ``target`` is missing, or has no effect.
            PromptError: The text or the target is not a string, is too long, or
                has no token to predict.
            BundleError: The weights are damaged, so that logits are not finite.
            DeviceError: There is not enough memory for the KV cache.
            EdgeseqError: The model is closed, or was loaded before the process was forked.

        Examples:
            >>> from edgeseq.runtime import load
            >>> model = load()
            >>> score = model.score("Once upon a time")
            >>> score.token_ids
            (2247, 669, 259, 522)
            >>> round(score.total)
            -3
        """
        from .decoding.scoring import window_logits  # late: many programs do not need it
        from .logits.softmax import log_probabilities
        from .request.passages import scored

        for name, item in (("text", text), ("target", "" if target is None else target)):
            if not isinstance(item, str):
                raise PromptError(
                    f"score takes one string as {name}, not {item!r:.60}: call it once for each "
                    "text."
                )
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

    def score_ids(self, token_ids: Sequence[int], *, logprobs: int = 0) -> Score:
        """Return the log-probability of each token of a decoder-only model's prompt.

        Args:
            token_ids: The token ids, at most as many as the model has positions. Special tokens are
                not added.
            logprobs: The number of most probable tokens to return for each position.

        Returns:
            The token ids, their natural log-probabilities, and ``top_logprobs``. The first token
                has none, because nothing is before it.

        Raises:
            OptionError: The model is an encoder-decoder, or ``logprobs`` is invalid.
            PromptError: The token ids are not valid, or there are too many.
            BundleError: The weights are damaged, so that logits are not finite.
            DeviceError: There is not enough memory for the KV cache.
            EdgeseqError: The model is closed, or was loaded before the process was forked.

        Examples:
            >>> from edgeseq.runtime import load
            >>> model = load()
            >>> score = model.score_ids(model.tokenizer.encode("Once upon"), logprobs=1)
            >>> score.top_logprobs[1][0][0] == score.token_ids[1]
            True
        """
        from .decoding.scoring import Logprobs, window_logits  # late: few programs need it
        from .request.passages import Window

        if self.bundle.manifest.has_encoder:
            raise OptionError(
                "score_ids has no effect with an encoder-decoder model: use score with a target."
            )
        [ids] = id_lists([token_ids], "score_ids")
        request = self._request([ids], {"logprobs": logprobs})
        window = Window((), request.prompts[0], 1)
        known = Logprobs(logprobs)
        with self._engine.slots.one():
            for targets, logits in window_logits(self._new_decoder, window):
                for token, row in zip(targets.tolist(), logits, strict=True):
                    known.record(row, token)
        return Score(
            token_ids=tuple(request.prompts[0]),
            log_probabilities=(None, *known.of_tokens),
            top_logprobs=(None, *known.of_others),
        )

    def _check_stream(self, text: Any, options: Mapping[str, Any]) -> None:
        if not isinstance(text, str):
            raise PromptError(
                f"stream takes one text, not {text!r:.60}: for several texts, use generate."
            )
        for name in ("num_return_sequences", "logprobs", "choices"):
            if options.get(name) is not None and (name, options[name]) != ONE_SEQUENCE:
                raise OptionError(f"{name} has no effect with stream: use generate.")

    def _pieces(
        self, request: Request, generation: Generation, began: float
    ) -> Generator[str, None, GenerationResult]:
        times: _Times | None = None
        text = PieceStream(self._outputs.detokenizer(request.starts[0]), request.options.stops)
        with self._engine.slots.one(request.controls.cancelled) as slot:
            for new_tokens in generation.steps:
                slot.step()
                if new_tokens:
                    now = time.perf_counter() - began
                    times = times or _Times(now)
                    times.last_s = now
                for new in new_tokens:
                    if piece := text.push(new.token):
                        yield piece
        if piece := text.finish():
            yield piece
        now = time.perf_counter() - began
        return self._result(request, generation.search.results()[0], times or _Times(now, now))

    def _events(self, request: Request, generation: Generation) -> Iterator[StreamEvent]:
        from .decoding.streaming import stream_events  # late: few programs need it

        with self._engine.slots.one(request.controls.cancelled) as slot:
            for event in stream_events(self._outputs, request, generation):
                slot.step()
                yield event

    def _run(
        self, prompts: list[list[int]], options: Mapping[str, Any], began: float
    ) -> list[GenerationResult]:
        """Generate from all prompts; ``began``: ``time.perf_counter()`` at the call's start."""
        request = self._request(prompts, options)
        if not prompts:
            return []
        with self._engine.slots.one(request.controls.cancelled):
            if request.controls.choices is not None:
                from .decoding.choices import choose  # late: few calls need it

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
            truncated_tokens=request.truncated[prompt],
            generated_tokens=len(found.token_ids),
            timings=Timings(first_token_s=times.first_s, total_s=times.last_s),
            prompt_index=prompt,
            sequence_score=found.score,
            logprobs=None if known is None else tuple(known.of_tokens),
            top_logprobs=None if known is None else tuple(known.of_others),
        )

    def _request(self, prompts: Sequence[list[int]], options: Mapping[str, Any]) -> Request:
        self._engine.check_open()
        return checked_request(self.bundle.manifest, self.tokenizer, prompts, options)

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
