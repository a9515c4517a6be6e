"""How a model is told its languages: by tokens, by a prefix of its checkpoint, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol, Self

from ..bundle.manifest import LanguageNames, Manifest
from ..bundle.reading import Bundle
from ..errors import OptionError
from ..results import GenerationResult
from ..text.byte_tokenizer import AnyTokenizer
from ..text.languages import MOST_LISTED, described, find_language, language_pairs


class TaskModel(Protocol):
    """The part of a ``Model`` that translation and tasks use."""

    @property
    def bundle(self) -> Bundle: ...
    @property
    def tokenizer(self) -> AnyTokenizer: ...
    def generate_ids(
        self, prompts: Sequence[Sequence[int]], **options: Any
    ) -> list[GenerationResult]: ...
    def with_defaults(self, generation: Mapping[str, Any]) -> Self: ...
    def with_languages(self, source: str | None = None, target: str | None = None) -> Self: ...


class Direction(NamedTuple):
    """A model that translates in one direction, and the function from a text to its prompt."""

    model: TaskModel
    prompt: Callable[[str], str]


def knows_languages(manifest: Manifest) -> bool:
    """Return whether a model's bundle says which languages it translates between."""
    form = manifest.tokenizer
    return form.languages is not None or form.fixed_languages is not None or has_pairs(manifest)


def has_pairs(manifest: Manifest) -> bool:
    """Return whether the checkpoint has prefixes for pairs of languages, whose names are known."""
    return manifest.languages is not None and bool(language_pairs(manifest.task_specific_params))


def direction(model: TaskModel, source: str | None, target: str | None) -> Direction:
    """Return the direction from one language to another, given by names or codes.

    None stands for the checkpoint's own language. Raises ``OptionError`` for a language that the
    model does not have, if there are several targets and none is chosen, for languages of a model
    that knows none, and for a decoder-only model.
    """
    manifest = model.bundle.manifest
    if not manifest.has_encoder:
        raise OptionError(
            "translate is for encoder-decoder models, but this model is decoder-only: use "
            "model.run('translation', text), which asks for a translation in its prompt."
        )
    form = manifest.tokenizer
    if form.languages is not None or form.fixed_languages is not None:
        chosen = model.with_languages(source, _checked_target(manifest, target))
        return Direction(chosen, _with_prefix(manifest.prefix))
    if language_pairs(manifest.task_specific_params):
        params = dict(manifest.task_specific_params[task_of_pair(manifest, source, target)])
        prefix = params.pop("prefix", manifest.prefix)
        chosen = model.with_defaults({**manifest.generation, **params})
        return Direction(chosen, _with_prefix(prefix))
    for side, given in (("source", source), ("target", target)):
        if given is not None:
            raise OptionError(
                f"{side}_language has no effect, because the model's bundle knows no languages: "
                "leave it out."
            )
    return Direction(model, _with_prefix(manifest.prefix))


def _with_prefix(prefix: str | None) -> Callable[[str], str]:
    return lambda text: (prefix or "") + text


def _checked_target(manifest: Manifest, target: str | None) -> str | None:
    """Return the target; raise ``OptionError`` if there are several and none is chosen."""
    form, defaults = manifest.tokenizer, manifest.generation
    if target is not None:
        return target
    if form.languages is None:
        assert form.fixed_languages is not None
        codes: Collection[str] = form.fixed_languages.target_tokens
        only = form.fixed_languages.target if not codes else None
        if len(codes) < 2:
            return next(iter(codes), only)
    else:
        codes = form.languages.ids
        starts = {*form.languages.ids.values()}
        if "forced_bos_token_id" in defaults or defaults.get("decoder_start_token_id") in starts:
            return None  # the checkpoint's own
        if form.languages.target is not None:
            return form.languages.target
    example = described(next(iter(codes)), manifest.languages)
    raise OptionError(
        f"The model translates into {len(codes)} languages, such as {example}: pass "
        "target_language."
    )


def task_of_pair(manifest: Manifest, source: str | None, target: str | None) -> str:
    """Return the checkpoint's task for two languages, such as "translation_en_to_de".

    Either language may be None. Raises ``OptionError`` unless exactly one task fits.
    """
    pairs, names = language_pairs(manifest.task_specific_params), manifest.languages
    codes = [
        None
        if given is None
        else find_language(given, dict.fromkeys(pair[i] for pair in pairs), names, side=side)
        for i, (side, given) in enumerate((("source", source), ("target", target)))
    ]
    found = [
        task
        for pair, task in pairs.items()
        if all(code in (None, own) for code, own in zip(codes, pair, strict=True))
    ]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(_arrow(pair, names) for pair in islice(pairs, MOST_LISTED))
    if found:
        raise OptionError(
            f"The model translates {listed}: pass source_language and target_language."
        )
    raise OptionError(f"The model does not translate {source} to {target}: it has {listed}.")


def _arrow(pair: tuple[str, str], names: Mapping[str, LanguageNames] | None) -> str:
    source, target = (described(code, names) for code in pair)
    return f"{source} to {target}"
