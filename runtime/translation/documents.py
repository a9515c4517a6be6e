"""Translation of whole documents: sentence by sentence, in batches, joined with their layout."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..bundle.manifest import Manifest
from ..errors import OptionError, PromptError
from ..request.batching import BATCH_ROWS, batches
from ..request.prompts import encode_prompt
from ..request.request import checked_request
from ..results import GenerationResult, Timings
from ..text.sentences import split_sentences, split_to_fit
from .directions import Direction, TaskModel

BEAMS = 4  # unless the checkpoint has another default
LONGEST_SOURCE = 512  # tokens of a source, for a model without a limit
ROOM = 64  # new tokens that every translation may have, besides its share
GROWTH = 4  # new tokens for each token of the source
WITHOUT_EFFECT = (
    "choices",
    "decoder_input_ids",
    "logprobs",
    "num_return_sequences",
    "prefix_allowed_tokens_fn",
)
LENGTHS = ("max_new_tokens", "max_length")
# Scripts whose sentences touch: Thai to Tibetan, Burmese, Khmer, Chinese and Japanese.
UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]"
)

OnProgress = Callable[[int, int], None]


class Translation(NamedTuple):
    """The translation of a document, and the results of its pieces."""

    text: str
    results: list[GenerationResult]

    def as_result(self, index: int) -> GenerationResult:
        """Return the results as one, of the document with this index in the call."""
        results = self.results
        scored = len(results) == 1
        return GenerationResult(
            text=self.text,
            token_ids=tuple(token for result in results for token in result.token_ids),
            finish_reason=next(
                (r.finish_reason for r in results if r.finish_reason != "eos"), "eos"
            ),
            prompt_tokens=sum(result.prompt_tokens for result in results),
            generated_tokens=sum(result.generated_tokens for result in results),
            timings=Timings(
                first_token_s=min((r.timings.first_token_s for r in results), default=0.0),
                total_s=max((result.timings.total_s for result in results), default=0.0),
            ),
            prompt_index=index,
            sequence_score=results[0].sequence_score if scored else None,
        )


class _Piece(NamedTuple):
    """A sentence, or a part of one, of a document."""

    document: int
    start: int
    end: int
    ids: list[int]  # of its prompt


def translate_documents(
    way: Direction,
    texts: Sequence[str],
    options: Mapping[str, Any],
    *,
    batch_size: int = BATCH_ROWS,
    on_progress: OnProgress | None = None,
) -> list[Translation]:
    """Return the translations of ``texts``, in their order.

    ``batch_size``: the limit of pieces in a batch. ``on_progress`` is called after each batch with
    the number of translated pieces and the number of all pieces. Raises ``PromptError`` for a
    translation that reaches the limit of its tokens, unless ``options`` set the limit.
    """
    model, options = _with_options(way.model, options)
    manifest = model.bundle.manifest
    checked_request(manifest, model.tokenizer, [], options)
    rows = 1 if options.get("prompt_lookup_num_tokens") else batch_size  # it takes one prompt
    chooses_length = any(options.get(name) is not None for name in LENGTHS)
    pieces = [
        piece for number, text in enumerate(texts) for piece in _pieces(model, way, number, text)
    ]
    checked_request(manifest, model.tokenizer, [piece.ids for piece in pieces], options)
    found: dict[int, GenerationResult] = {}
    for limit, batch in _batches(pieces, manifest.dimensions.max_positions, rows):
        of_batch = options if chooses_length else {**options, "max_new_tokens": limit}
        for result in model.generate_ids([pieces[i].ids for i in batch], **of_batch):
            i = batch[result.prompt_index]
            found[i] = result
            if not chooses_length and _is_cut(result, limit):
                raise PromptError(_cut_off(texts, pieces[i], limit))
        if on_progress is not None:
            on_progress(len(found), len(pieces))
    of_documents: dict[int, list[int]] = defaultdict(list)
    for i, piece in enumerate(pieces):
        of_documents[piece.document].append(i)
    return [
        _joined(text, [(pieces[i], found[i]) for i in of_documents[number]])
        for number, text in enumerate(texts)
    ]


def _with_options(model: TaskModel, options: Mapping[str, Any]) -> tuple[TaskModel, dict[str, Any]]:
    """Return the model with the defaults of translation, and the options of the call."""
    given = dict(options)
    if given.get("num_return_sequences") == 1:
        given.pop("num_return_sequences")
    if given.pop("truncation", None) is not None:
        raise OptionError(
            "truncation has no effect with a translation, which is made sentence by sentence: "
            "leave it out."
        )
    for name in WITHOUT_EFFECT:
        if given.pop(name, None) is not None:
            raise OptionError(
                f"{name} has no effect with a translation, which is one text: use generate."
            )
    defaults = dict(model.bundle.manifest.generation)
    defaults.pop("num_return_sequences", None)
    merged = {**defaults, **given}
    if not (merged.get("do_sample") or merged.get("prompt_lookup_num_tokens")):
        defaults = {"num_beams": BEAMS, **defaults}
    return model.with_defaults(defaults), given


def _pieces(model: TaskModel, way: Direction, number: int, text: str) -> Iterator[_Piece]:
    """Yield the pieces of a document that are translated; others, such as "1.", stay as they are.

    A sentence that the model cannot read at once is split so that the translation of each part has
    room.
    """
    longest = _longest_source(model.bundle.manifest)

    def encode(part: str) -> list[int]:
        return encode_prompt(model.tokenizer, way.prompt(part))

    def fits(part: str) -> bool:
        return len(model.tokenizer.encode(way.prompt(part))) <= longest // 2

    for span in split_sentences(text):
        if not any(map(str.isalpha, text[slice(*span)])):
            continue
        whole = encode(text[slice(*span)])
        if len(whole) <= longest:
            yield _Piece(number, *span, whole)
            continue
        for start, end in split_to_fit(text, span, fits):
            if any(map(str.isalpha, text[start:end])):
                yield _Piece(number, start, end, encode(text[start:end]))


def _longest_source(manifest: Manifest) -> int:
    """Return the limit of tokens of a source."""
    limits = (manifest.dimensions.max_positions, manifest.tokenizer.model_max_length)
    return min((limit for limit in limits if limit is not None), default=LONGEST_SOURCE)


def _batches(
    pieces: Sequence[_Piece], positions: int | None, rows: int
) -> Iterator[tuple[int, list[int]]]:
    """Yield batches of pieces of similar length, each with its limit of new tokens.

    ``positions``: of the decoder; None: no limit. The limit of a piece does not depend on others.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for i, piece in enumerate(pieces):
        limit = ROOM + GROWTH * (1 << (len(piece.ids) - 1).bit_length())
        groups[limit if positions is None else min(limit, positions)].append(i)
    for limit, group in sorted(groups.items()):
        for batch in batches([len(pieces[i].ids) for i in group], rows=rows):
            yield limit, [group[i] for i in batch]


def _is_cut(result: GenerationResult, limit: int) -> bool:
    """Return whether the limit ended a translation.

    An end-of-sequence token at the limit may be a forced one, as Marian's.
    """
    is_full = result.finish_reason == "eos" and result.generated_tokens >= limit
    return result.finish_reason == "length" or is_full


def _cut_off(texts: Sequence[str], piece: _Piece, limit: int) -> str:
    text = texts[piece.document][piece.start : piece.end]
    where = f"document {piece.document}, " if len(texts) > 1 else ""
    return (
        f"The translation of {where}{text!r:.60} has no end after {limit} tokens, probably because "
        "the model repeats itself: pass no_repeat_ngram_size=3, or max_new_tokens to cut it off."
    )


def _joined(text: str, translated: Sequence[tuple[_Piece, GenerationResult]]) -> Translation:
    """Return a document in which each piece is replaced by its translation."""
    parts, end = [""], 0
    for piece, result in translated:
        gap, new = text[end : piece.start], result.text.strip()
        end = piece.end
        before = parts[-1][-1:]
        if not gap and before and new and not UNSPACED.match(before) and not UNSPACED.match(new):
            gap = " "  # the sentences touch in the source only
        parts += [gap, new]
    return Translation("".join(parts) + text[end:], [result for _, result in translated])
