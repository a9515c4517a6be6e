"""Pipelines with the same names, arguments and results as in Transformers 4.57, without torch.

    from edgeseq.runtime import pipeline

    summarizer = pipeline("summarization", "my-t5-bundle")
    print(summarizer("A long text.")[0]["summary_text"])

A call generates the same text as Transformers' pipeline with the same checkpoint.
docs/how-to/pipelines.md lists the differences and their reasons.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from ..bundle.manifest import Kind
from ..errors import OptionError
from ..loading import load
from ..model import Model
from ..request.controls import split_controls
from ..request.options import GenerationOptions
from ..request.prompts import encode_prompt
from ..request.resolving import INSTEAD, resolve_options
from ..translation.directions import task_of_pair
from .arguments import COMMON, PipelineArguments
from .base import Ids, Pipeline, Record, Records

LOADING = (
    "device",
    "provider_options",
    "provider_library",
    "threads",
    "verify",
    "kv_cache",
    "prepack",
    "max_concurrent",
    "kernels",
)  # arguments of ``load``
DEMO_OF: Mapping[Kind, str] = {"decoder-only": "gpt2", "encoder-decoder": "t5"}


class TextGenerationPipeline(Pipeline):
    """The pipeline ``"text-generation"``: continue a text; by default records include the prompt.

    By default it samples up to 256 new tokens with a temperature of 0.7. The checkpoint's settings
    for the task and the call's options override this.
    """

    kind = "decoder-only"
    default_return = "full_text"
    arguments = COMMON | {"return_full_text", "handle_long_generation"}
    defaults: ClassVar[Mapping[str, Any]] = {
        "max_new_tokens": 256,
        "do_sample": True,
        "temperature": 0.7,
    }
    cleans_up = True

    def _prompt(
        self, text: str, model: Model, arguments: PipelineArguments, options: Mapping[str, Any]
    ) -> list[int]:
        if arguments.truncation and options.get("max_length") is not None:
            longest = GenerationOptions(max_length=options["max_length"]).max_length
            return encode_prompt(model.tokenizer, text, longest)
        ids = super()._prompt(text, model, arguments, options)
        if arguments.handle_long_generation is None:
            return ids
        longest = self.longest("handle_long_generation")
        if options.get("max_length") is not None:
            raise OptionError("handle_long_generation needs max_new_tokens, not max_length.")
        _, given = split_controls(options)
        resolved = resolve_options(model.bundle.manifest.generation, given, self.kind)
        left = longest - resolved.new_tokens(len(ids))
        if left < 1:
            raise OptionError(
                f"handle_long_generation leaves no room for the prompt: the limit of new tokens is "
                f"{longest - left}, and the tokenizer's limit is {longest}; lower max_new_tokens."
            )
        return ids[-left:]

    def _generation_options(
        self, prefix: str, model: Model, arguments: PipelineArguments, options: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return the options; as in Transformers, limits of length do not count the prefix.

        With ``truncation``, ``max_length`` limits the prompt instead.
        """
        changed = dict(super()._generation_options(prefix, model, arguments, options))
        if arguments.truncation:
            changed.pop("max_length", None)
        defaults = model.bundle.manifest.generation
        encode = self.model.tokenizer.encode
        added = len(encode(prefix, add_special_tokens=False)) if prefix else 0
        for name, instead in INSTEAD.items():
            if changed.get(instead) is None:
                bounded = defaults.get(instead) is not None
                length = changed.get(name, None if bounded else defaults.get(name))
                if type(length) is int and added:
                    changed[name] = length + added
        return changed

    def _record(
        self, text: str, prompt: Ids, token_ids: Ids, arguments: PipelineArguments
    ) -> Record:
        if arguments.return_type == "tensors":
            start = self.model.bundle.manifest.generation.get("bos_token_id")
            begin = [start] if start is not None and not prompt else prompt
            return {"generated_token_ids": [*begin, *token_ids]}
        read = len(self._decode(prompt, arguments))
        new = self._decode([*prompt, *token_ids], arguments)[read:]
        return {"generated_text": text + new if arguments.return_type == "full_text" else new}


class Text2TextGenerationPipeline(Pipeline):
    """The pipeline ``"text2text-generation"``: the output of an encoder-decoder model.

    By default it generates up to 256 new tokens with four beams. The checkpoint's settings for the
    task and the call's options override this.
    """

    kind = "encoder-decoder"
    default_return = "text"
    defaults: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 256, "num_beams": 4}
    cleans_up = False

    def _stop_ids(self, ids: list[int]) -> list[int]:
        return ids[:1]  # as in Transformers

    def _joined(self, found: list[Records]) -> list[Any]:
        single = all(len(records) == 1 for records in found)
        return [records[0] for records in found] if single else found

    def _record(
        self, text: str, prompt: Ids, token_ids: Ids, arguments: PipelineArguments
    ) -> Record:
        if arguments.return_type == "tensors":
            return {f"{self.return_name}_token_ids": list(token_ids)}
        return {f"{self.return_name}_text": self._decode(token_ids, arguments)}


class SummarizationPipeline(Text2TextGenerationPipeline):
    """The pipeline ``"summarization"``, with the checkpoint's prefix and defaults for that task."""

    return_name = "summary"


class TranslationPipeline(Text2TextGenerationPipeline):
    """The pipelines ``"translation"`` and ``"translation_en_to_fr"``, with any two languages.

    Each uses the checkpoint's prefix and defaults for its task. ``"translation"`` uses the first
    translation task of the checkpoint, or the task of ``src_lang`` and ``tgt_lang``, such as "en"
    and "fr". A model whose tokenizer has languages, such as NLLB, translates between the two that
    the task or the arguments name, and uses no prefix. A text is not split: use ``translate`` for
    long documents.
    """

    return_name = "translation"
    arguments = COMMON | {"src_lang", "tgt_lang"}

    def _for_task(self, task: str | None) -> tuple[str, Model]:
        manifest = self.model.bundle.manifest
        source, _, target = (task or self.task).removeprefix("translation_").partition("_to_")
        if manifest.tokenizer.languages is not None:
            _, model = super()._for_task(task)
            return "", model.with_languages(source, target) if target else model
        if task is not None and manifest.tokenizer.fixed_languages is not None:
            prefix, model = super()._for_task(None)
            return prefix, model.with_languages(source, target)
        pairs = [name for name in manifest.task_specific_params if name.startswith("translation")]
        if task is not None and task not in pairs:
            if not pairs:
                raise OptionError(
                    f"The checkpoint has no settings for {task!r}: leave out src_lang and tgt_lang."
                )
            task = task_of_pair(manifest, source, target)
        if task is None and self.task == "translation" and pairs:
            task = pairs[0]  # as in Transformers
        return super()._for_task(task)

    def _prompt(
        self, text: str, model: Model, arguments: PipelineArguments, options: Mapping[str, Any]
    ) -> list[int]:
        has_languages = model.bundle.manifest.tokenizer.languages is not None
        if has_languages and arguments.task is None and self.task == "translation":
            raise OptionError(
                "The model translates between many languages: pass src_lang and tgt_lang."
            )
        return super()._prompt(text, model, arguments, options)


TASKS: dict[str, type[Pipeline]] = {
    "text-generation": TextGenerationPipeline,
    "text2text-generation": Text2TextGenerationPipeline,
    "summarization": SummarizationPipeline,
    "translation": TranslationPipeline,
}
PAIR = re.compile(r"translation_[^_]+_to_[^_]+")


def pipeline(
    task: str,
    model: Model | str | os.PathLike[str] | None = None,
    **options: Any,
) -> Pipeline:
    """Return a pipeline for a task, which takes and returns the same as Transformers' pipeline.

    Call the pipeline with a text, a list of texts or an iterator of texts. For one text it returns
    a list of records, one for each sequence. For several texts it returns a list of such lists; if
    each has a single record, pipelines of encoder-decoder models return a flat list of records. For
    an iterator it returns an iterator. A record is a dictionary such as ``{"generated_text": "…"}``
    (``"summary_text"``, ``"translation_text"``).

    Calls take these arguments, besides generation options and controls:

    - ``batch_size``: the number of texts that are generated at once; 8 by default.
    - ``prefix``: the text before each input; by default the checkpoint's prefix for the task.
    - ``truncation``: True to cut prompts to the tokenizer's limit of length, as in Transformers.
      "left", "right" and "sliding" are the option of ``Model.generate``.
    - ``stop_sequence``: a text whose tokens end the output.
    - ``return_text``: True, the default; for token ids use ``return_tensors``.
    - ``return_tensors``: whether records hold token ids instead of text.
    - ``return_full_text`` ("text-generation"): whether the text includes the prompt, as by default.
    - ``handle_long_generation`` ("text-generation"): "hole" cuts the start of a prompt that leaves
      no room for the new tokens.
    - ``src_lang`` and ``tgt_lang`` ("translation"): the languages, by their names or codes, such as
      "English" and "fr".
    - ``clean_up_tokenization_spaces``: whether to remove the spaces before punctuation.

    Args:
        task: "text-generation" for decoder-only models; "text2text-generation", "summarization",
            "translation" or "translation_en_to_fr" (with any two languages) for encoder-decoder
            models.
        model: The folder of a bundle, or a model from ``load``; None for a demo model.
        **options: Arguments of calls, which become the defaults of all calls; and arguments of
            ``load``, unless ``model`` is a loaded model. A number as ``device`` is a GPU, or -1 the
            CPU, as in Transformers.

    Returns:
        The pipeline.

    Raises:
        OptionError: The task is unknown or is not for this kind of model, or an option is unknown,
            invalid or without effect.
        BundleError: As for ``load``.
        DeviceError: As for ``load``.
        MissingPackageError: As for ``load``.

    Examples:
        >>> from edgeseq.runtime import pipeline
        >>> generator = pipeline("text-generation")
        >>> generator("Once upon a time,", max_new_tokens=8, do_sample=False)
        [{'generated_text': 'Once upon a time, there was a great many years old.'}]
    """
    given: Any = task  # callers without type checks may pass anything
    name = given if isinstance(given, str) else ""
    made = TASKS.get("translation" if PAIR.fullmatch(name) else name)
    if made is None:
        raise OptionError(
            f"There is no task {task!r:.60}: use {', '.join(TASKS)}, or translation_en_to_fr with "
            "any two languages."
        )
    loading = {name: options.pop(name) for name in LOADING if name in options}
    if type(number := loading.get("device")) is int:  # as in Transformers: a GPU, or -1
        loading["device"] = "cpu" if number == -1 else f"cuda:{number}"
    if isinstance(model, Model):
        if loading:
            raise OptionError(
                f"{next(iter(loading))} has no effect on a loaded model: pass it to load."
            )
        loaded = model
    elif model is None:
        loaded = load(demo=DEMO_OF[made.kind], **loading)
    else:
        loaded = load(model, **loading)
    return made(loaded, task, **options)
