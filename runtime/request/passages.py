"""Texts to score as windows of token ids: one text, or pairs of source and target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..bundle.manifest import Manifest
from ..errors import OptionError, PromptError
from ..text.byte_tokenizer import AnyTokenizer
from ..text.input_lines import decode_utf8, json_object, split_lines
from .prompts import check_ids, check_prompt, decoder_prompts
from .resolving import resolve_options
from .value_checks import is_text

Pair = tuple[str, str]  # source, target


@dataclass(frozen=True)
class Window:
    """The token ids that a decoder reads, and the part of them that it predicts."""

    source: Sequence[int]  # token ids for the encoder; empty in a decoder-only model
    tokens: Sequence[int]  # the decoder reads all but the last; the first is never predicted
    first: int  # index in `tokens` of the first predicted token, at least 1

    @property
    def predicted(self) -> int:
        """The number of predicted tokens: all from ``first`` on."""
        return max(len(self.tokens) - self.first, 0)

    @property
    def prompt(self) -> Sequence[int]:
        """The token ids of the prompt: the source, or the tokens that are not predicted."""
        return self.source or self.tokens[: self.first]


def text_windows(ids: Sequence[int], context: int, stride: int) -> list[Window]:
    """Return windows over a text that predict each token but the first exactly once.

    The decoder reads at most ``context`` tokens of each window. The first window predicts
    ``context`` tokens. Each later window starts ``stride`` tokens after the previous one and
    predicts the next ``stride`` tokens, each of them after at least ``context - stride + 1`` tokens
    of the window. Fewer than two ids give no window. Raises ``OptionError`` unless
    ``1 <= stride <= context``.
    """
    if context < 1:
        raise OptionError(f"context is {context}; it must be at least 1.")
    if not 1 <= stride <= context:
        raise OptionError(f"stride is {stride}; it must be from 1 to {context} (the context).")
    if len(ids) < 2:
        return []
    beyond_first = max(len(ids) - 1 - context, 0)  # tokens after the first window
    return [
        Window((), ids[start : start + context + 1], 1 if start == 0 else context - stride + 1)
        for start in range(0, beyond_first + stride, stride)
    ]


def pair_window(source: Sequence[int], target: Sequence[int], start: Sequence[int]) -> Window:
    """Return the window of a ``target`` after its ``source``; the decoder reads ``start`` first."""
    return Window(source, [*start, *target], len(start))


@dataclass(frozen=True, kw_only=True)
class Passages:
    """The windows of a text, or one window for each pair."""

    windows: Sequence[Window]
    size_bytes: int  # UTF-8 bytes of the text after its first token, or of the targets
    ids: Sequence[int] = ()  # token ids of the text; empty with pairs
    context: int | None = None  # tokens of the text that are read at once; None with pairs
    stride: int | None = None  # tokens of the text from one window to the next; None with pairs
    pairs: Sequence[Pair] = ()

    @property
    def tokens(self) -> int:
        """The number of predicted tokens."""
        return sum(window.predicted for window in self.windows)


def read_passages(
    path: Path,
    manifest: Manifest,
    tokenizer: AnyTokenizer,
    *,
    context: int | None = None,
    stride: int | None = None,
) -> Passages:
    """Return the passages of a UTF-8 file for the model of ``manifest``.

    For an encoder-decoder model each line is a pair: ``{"source": …, "target": …}`` in a ``.jsonl``
    file, otherwise a source, a tab and a target. For a decoder-only model such a ``.jsonl`` file
    holds prompts and answers, and any other file is one text: see ``text_passages``. Raises
    ``PromptError`` for any other file, ``OptionError`` for a ``context`` or ``stride`` that is out
    of range or has no effect.
    """
    text = _read_text(path)
    if not _holds_pairs(path, text, manifest):
        passages = text_passages(
            text, manifest, tokenizer, context=context, stride=stride, name=path
        )
        if not passages.size_bytes:
            raise PromptError(
                f"{path} has no text after its first token, which is not predicted: give a longer "
                "text."
            )
        return passages
    for name, value in (("context", context), ("stride", stride)):
        if value is not None:
            raise OptionError(
                f"{name} has no effect with pairs of source and target, which are read as a whole: "
                "leave it out."
            )
    return pair_passages(_read_pairs(path, text), manifest, tokenizer)


def holds_pairs(path: Path, manifest: Manifest) -> bool:
    """Return whether ``read_passages`` reads pairs from a file; raise ``PromptError`` as it does.

    A decoder-only model has pairs in a ``.jsonl`` file whose first line is an object with a source
    and a target.
    """
    return _holds_pairs(path, _read_text(path), manifest)


def text_passages(
    text: str,
    manifest: Manifest,
    tokenizer: AnyTokenizer,
    *,
    context: int | None = None,
    stride: int | None = None,
    name: object = "The text",
) -> Passages:
    """Return the windows of a text, which predict all of its tokens but the first.

    ``context``: None for the model's positions, or for the whole text if they have no limit.
    ``stride``: None for half of the context. The bytes of the first token do not count, unless the
    token ends within a character. Raises ``PromptError`` if there is no token to predict, and
    ``OptionError`` for a ``context`` or ``stride`` out of range. ``name``: the text's name in
    errors.
    """
    positions = manifest.dimensions.max_positions
    if context is not None and positions is not None and context > positions:
        raise OptionError(
            f"context is {context}; it must be from 1 to {positions} (the model's positions)."
        )
    ids = tokenizer.encode(text)
    if len(ids) < 2:
        raise PromptError(
            f"{name} has {len(ids)} token{'s' * (len(ids) != 1)}, and the first is not predicted: "
            "give a text of at least two tokens."
        )
    check_ids(str(name), ids, manifest.dimensions.vocabulary)
    if context is None:
        context = len(ids) if positions is None else positions
    if stride is None:
        stride = max(context // 2, 1)
    start = tokenizer.decode(ids[:1])
    return Passages(
        windows=text_windows(ids, context, stride),
        size_bytes=len(text.removeprefix(start).encode()),
        ids=ids,
        context=context,
        stride=stride,
    )


def pair_passages(pairs: Sequence[Pair], manifest: Manifest, tokenizer: AnyTokenizer) -> Passages:
    """Return the windows of pairs, which are tokenized as for training.

    With an encoder, the tokenizer adds a token at the end of a text, usually the end-of-sequence
    token. It is read at the end of a source and predicted at the end of a target. In a decoder-only
    model, the source is the prompt, and the end-of-sequence token is predicted after the target.
    The token adds no bytes to a target. Raises ``PromptError`` for a pair that is too long.
    """
    options = resolve_options(manifest.generation, {}, manifest.kind)
    sources = [tokenizer.encode(source) for source, _ in pairs]
    if manifest.has_encoder:
        targets = [tokenizer.encode_target(target) for _, target in pairs]
    else:
        end = options.eos_token_ids[:1]
        targets = [[*tokenizer.encode(t, add_special_tokens=False), *end] for _, t in pairs]
    for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
        check_prompt(f"Prompt {number}", source, options, manifest)
        check_ids(f"Target {number}", target, manifest.dimensions.vocabulary)
    starts = decoder_prompts(sources, None, options, manifest)
    if not manifest.has_encoder:
        _check_lengths(starts, targets, manifest.dimensions.max_positions)
        sources = [[]] * len(targets)
    return Passages(
        windows=list(map(pair_window, sources, targets, starts)),
        size_bytes=sum(len(target.encode()) for _, target in pairs),
        pairs=pairs,
    )


def _check_lengths(
    prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], positions: int | None
) -> None:
    """Raise ``PromptError`` for a prompt and target that a decoder cannot read together."""
    for number, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        length = len(prompt) + len(target) - 1  # the last token is never read
        if positions is not None and length > positions:
            raise PromptError(
                f"Prompt {number} and its target have {length} tokens, but this model reads at "
                f"most {positions}: shorten them."
            )


def scored(
    text: str, target: str | None, manifest: Manifest, tokenizer: AnyTokenizer
) -> tuple[Sequence[Window], Sequence[int]]:
    """Return the windows that predict the scored text, and its token ids.

    The scored text is ``text`` with a decoder-only model, and ``target`` with an encoder-decoder
    model. Raises ``OptionError`` for a target that is missing or has no effect.
    """
    if not manifest.has_encoder:
        if target is not None:
            raise OptionError(
                "target has no effect with a decoder-only model: pass only the text to score."
            )
        passages = text_passages(text, manifest, tokenizer)
        return passages.windows, passages.ids
    if target is None:
        raise OptionError(
            "target is missing, and an encoder-decoder model needs it: pass a text and the target "
            "to score."
        )
    [window] = windows = pair_passages([(text, target)], manifest, tokenizer).windows
    return windows, window.tokens[window.first :]


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise PromptError(f"There is no file {path}: give the path of a text file.")
    text = decode_utf8(path.read_bytes(), path)
    if not text.strip():
        raise PromptError(f"{path} has no text: give a file with text.")
    return text


def _holds_pairs(path: Path, text: str, manifest: Manifest) -> bool:
    if manifest.has_encoder or path.suffix != ".jsonl":
        return manifest.has_encoder
    try:
        first = json_object(split_lines(text)[0], str(path), "")
    except PromptError:
        return False
    return {"source", "target"} <= first.keys()


def _read_pairs(path: Path, text: str) -> list[Pair]:
    read: Callable[[str, str], Pair] = _json_pair if path.suffix == ".jsonl" else _tab_pair
    pairs = []
    for number, line in enumerate(split_lines(text), 1):
        where = f"{path}, line {number}"
        source, target = pair = read(line, where)
        for name, part in (("source", source), ("target", target)):
            if not part.strip():
                raise PromptError(f"{where}: the {name} is empty; write a source and a target.")
        pairs.append(pair)
    return pairs


def _tab_pair(line: str, where: str) -> Pair:
    parts = line.split("\t")
    if len(parts) != 2:
        raise PromptError(
            f"{where} has {len(parts) - 1} tabs: write a source, one tab and its target, or give a "
            ".jsonl file."
        )
    return parts[0], parts[1]


def _json_pair(line: str, where: str) -> Pair:
    expected = 'write {"source": "…", "target": "…"}'
    data = json_object(line, where, expected)
    for name in ("source", "target"):
        if not isinstance(data.get(name), str):
            raise PromptError(f"{where} has no string {name!r}: {expected}.")
        if not is_text(data[name]):
            raise PromptError(
                f"{where}: the {name} has a lone surrogate, which is not a character: remove it."
            )
    return data["source"], data["target"]
