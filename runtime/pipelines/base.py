"""The base class of all pipelines: prompts with the task's prefix, its defaults, and records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar

from ..bundle.manifest import Kind, Manifest
from ..errors import OptionError, PromptError
from ..model import Model
from ..request.controls import split_controls
from ..request.prompts import check_one_each, encode_prompt, listed, lists_by_prompt
from ..request.request import check_id
from ..request.resolving import INSTEAD, resolve_options
from .arguments import COMMON, RETURNS, PipelineArguments, ReturnType, read_arguments

Record = dict[str, Any]
Records = list[Record]
Ids = Sequence[int]
GLOBAL_MAX_LENGTH = 20  # Transformers' default ``max_length``
WITHOUT_EFFECT = {"choices", "logprobs"}  # records cannot hold their results


class Pipeline(ABC):
    """A task of a model; ``pipeline`` returns one. A call returns records, which are dictionaries.

    Attributes:
        model: The model.
        task: The name of the task.
    """

    kind: ClassVar[Kind]
    default_return: ClassVar[ReturnType]
    return_name: ClassVar[str] = "generated"
    defaults: ClassVar[Mapping[str, Any]]  # the checkpoint's defaults for the task override them
    cleans_up: ClassVar[bool]
    arguments: ClassVar[frozenset[str]] = COMMON  # arguments besides ``generate``'s options

    def __init__(self, model: Model, task: str, **options: Any) -> None:
        manifest = model.bundle.manifest
        if manifest.kind != self.kind:
            raise OptionError(
                f"{task} is for {self.kind} models, but this model is {manifest.kind}: use another "
                "task or model."
            )
        self.model = model
        self.task = task
        arguments, generation = read_arguments(
            options, self.arguments, self.default_return
        )  # here, so that bad arguments raise at once
        _check_effects(generation)
        padding, generation = _padding(generation, manifest)
        _, self._defaults = split_controls(generation)
        if arguments.truncation and self._defaults.get("max_length") is not None:
            raise OptionError(
                "max_length with truncation limits the prompt of a call: pass it to each call, not "
                "to pipeline."
            )
        defaults = self._for_task(None)[1].bundle.manifest.generation
        resolve_options({**defaults, **padding}, self._defaults, self.kind)
        self._own = {name: options[name] for name in options if name not in self._defaults}

    def __call__(self, text_inputs: str | Iterable[str], **options: Any) -> Any:
        """Run the task on one text, several texts or an iterator of texts; return the records.

        Args:
            text_inputs: A text; several texts, such as a list, a tuple or an array; an iterator of
                texts, which is read as the results are; or a data set of PyTorch, which is read
                like an iterator.
            **options: The arguments of Transformers' pipeline of this task, as ``pipeline``
                describes them, and generation options and controls.

        Returns:
            For one text, a list with one record for each sequence. For several texts, a list of
                such lists; if each has a single record, pipelines of encoder-decoder models return
                a flat list of records. For an iterator, an iterator of lists of records.

        Raises:
            PromptError: An input is not a text or is too long.
            OptionError: An option is unknown, invalid or without effect.
        """
        own = self._own
        if RETURNS & options.keys():
            own = {name: value for name, value in own.items() if name not in RETURNS}
        arguments, generation = read_arguments(
            {**own, **options}, self.arguments, self.default_return
        )
        if isinstance(options.get("truncation"), bool):
            generation["truncation"] = None  # in place of a side that is a default
        if isinstance(text_inputs, str):
            _check_starts(generation, 1)
            return self._records([text_inputs], arguments, generation)[0]
        if isinstance(text_inputs, Iterator):
            return self._iterate(text_inputs, arguments, generation)
        if _is_data_set(text_inputs):
            data: Any = text_inputs
            items = (data[i] for i in range(len(data)))
            return self._iterate(items, arguments, generation)
        texts = listed(text_inputs)
        if texts is None:
            raise PromptError(
                f"A pipeline takes a text, several texts, an iterator of texts or a data set of "
                f"texts, not {text_inputs!r:.60}."
            )
        _check_starts(generation, len(texts))
        return self._joined(self._records(texts, arguments, generation))

    def _joined(self, found: list[Records]) -> list[Any]:
        return found

    def _iterate(
        self, texts: Iterator[str], arguments: PipelineArguments, options: Mapping[str, Any]
    ) -> Iterator[Records]:
        batch, before = [], 0
        for text in texts:
            batch.append(text)
            if len(batch) == arguments.batch_size:
                yield from self._records(batch, arguments, options, before)
                before += len(batch)
                batch = []
        yield from self._records(batch, arguments, options, before)

    def _records(
        self,
        texts: Sequence[str],
        arguments: PipelineArguments,
        options: Mapping[str, Any],
        before: int = 0,
    ) -> list[Records]:
        """Return the records of each text, generated in batches of ``batch_size``.

        ``before``: the number of texts of the same call before these.
        """
        for text in texts:
            if not isinstance(text, str):
                raise PromptError(f"A pipeline takes texts, not {text!r:.60}.")
        _check_effects(options)
        prefix, model = self._for_task(arguments.task)
        padding, options = _padding(options, model.bundle.manifest)
        model = model.with_defaults({**model.bundle.manifest.generation, **padding})
        prefix = prefix if arguments.prefix is None else arguments.prefix
        prompts = [self._prompt(prefix + text, model, arguments, options) for text in texts]
        options = self._generation_options(prefix, model, arguments, options)
        found: list[Records] = [[] for _ in texts]
        for first in range(0, len(texts), arguments.batch_size):
            part = prompts[first : first + arguments.batch_size]
            for result in model.generate_ids(part, **_of_batch(options, before + first, len(part))):
                i = first + result.prompt_index
                record = self._record(texts[i], prompts[i], result.token_ids, arguments)
                found[i].append(record)
        return found

    def _for_task(self, task: str | None) -> tuple[str, Model]:
        """Return a task's prefix, and the model with its defaults; None: the pipeline's task."""
        manifest = self.model.bundle.manifest
        params = dict(manifest.task_specific_params.get(task or self.task, {}))
        prefix = params.pop("prefix", manifest.prefix)
        generation = _generation(manifest, self.defaults, params)
        for pair in INSTEAD.items():
            if not self._defaults.keys().isdisjoint(pair):
                generation = {n: value for n, value in generation.items() if n not in pair}
        return prefix or "", self.model.with_defaults({**generation, **self._defaults})

    def _prompt(
        self, text: str, model: Model, arguments: PipelineArguments, options: Mapping[str, Any]
    ) -> list[int]:
        longest = self.longest("truncation") if arguments.truncation else None
        return encode_prompt(model.tokenizer, text, longest)

    def longest(self, name: str) -> int:
        """Return the tokenizer's limit in tokens.

        Raises ``OptionError`` for the argument ``name`` if there is no limit.
        """
        longest = self.model.bundle.manifest.tokenizer.model_max_length
        if longest is None:
            raise OptionError(
                f"{name} has no effect, because the tokenizer has no limit of length: leave it out."
            )
        return longest

    def _generation_options(
        self, prefix: str, model: Model, arguments: PipelineArguments, options: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return ``options`` with the tokens of ``stop_sequence`` as end-of-sequence tokens.

        As in Transformers, each of these tokens ends a text. In an encoder-decoder model only the
        first one does.
        """
        if arguments.stop_sequence is None:
            return options
        if "eos_token_id" in options:
            raise OptionError("stop_sequence has no effect with eos_token_id: pass one of them.")
        ids = self.model.tokenizer.encode(arguments.stop_sequence, add_special_tokens=False)
        if not ids:
            raise OptionError(
                f"stop_sequence is {arguments.stop_sequence!r:.60}, which has no tokens: pass "
                "another text."
            )
        return {**options, "eos_token_id": self._stop_ids(ids)}

    def _stop_ids(self, ids: list[int]) -> list[int]:
        """Return the ids of ``stop_sequence`` that end a text."""
        return ids

    @abstractmethod
    def _record(
        self, text: str, prompt: Ids, token_ids: Ids, arguments: PipelineArguments
    ) -> Record:
        """Return the record of one generated sequence."""

    def _decode(self, ids: Ids, arguments: PipelineArguments) -> str:
        given = arguments.clean_up_tokenization_spaces
        clean_up = self.cleans_up if given is None else given
        return self.model.tokenizer.decode(ids, clean_up_tokenization_spaces=clean_up)


def _is_data_set(value: Any) -> bool:
    """Return whether ``value`` is like a ``torch.utils.data.Dataset``: it has items by index."""
    has_items = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    return has_items and not hasattr(value, "__iter__")


def _check_effects(options: Mapping[str, Any]) -> None:
    for name in WITHOUT_EFFECT & {n for n, value in options.items() if value is not None}:
        raise OptionError(f"{name} has no effect with a pipeline: use generate.")


def _padding(
    options: Mapping[str, Any], manifest: Manifest
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split ``options`` into ``pad_token_id``, as a default, and the others.

    Callers of Transformers' pipelines often pass it. Here only group beam search uses it, and
    without groups the option would raise an error. As a default it does not.
    """
    rest = dict(options)
    token = rest.pop("pad_token_id", None)
    if isinstance(token, Integral):
        check_id("pad_token_id", int(token), manifest.dimensions.vocabulary)
    return {} if token is None else {"pad_token_id": token}, rest


def _check_starts(options: Mapping[str, Any], count: int) -> None:
    """Raise ``PromptError`` if ``decoder_input_ids`` has lists, but not ``count`` of them."""
    starts = lists_by_prompt(options.get("decoder_input_ids"))
    if starts is not None:
        check_one_each(starts, count, "texts")


def _of_batch(options: Mapping[str, Any], first: int, count: int) -> Mapping[str, Any]:
    """Return ``options`` for ``count`` texts from ``first`` on; some options differ by text."""
    changed = dict(options)
    function = options.get("prefix_allowed_tokens_fn")
    starts = lists_by_prompt(options.get("decoder_input_ids"))
    if callable(function):
        changed["prefix_allowed_tokens_fn"] = lambda i, ids: function(first + i, ids)
    if starts is not None:
        if len(starts) < first + count:  # an iterator has more texts
            check_one_each(starts, first + count, "texts")
        changed["decoder_input_ids"] = starts[first : first + count]
    return changed


def _generation(
    manifest: Manifest, defaults: Mapping[str, Any], params: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the generation defaults, merged as in Transformers' pipelines.

    The checkpoint's defaults for the task (``params``) override the pipeline's (``defaults``), and
    these override the checkpoint's. But a ``max_length`` of the checkpoint replaces the pipeline's
    ``max_new_tokens``.
    """
    own = manifest.generation
    merged = {**own, **defaults}
    if own.get("max_length") not in (None, GLOBAL_MAX_LENGTH):
        merged["max_new_tokens"] = own.get("max_new_tokens")
    return {**merged, **params}
