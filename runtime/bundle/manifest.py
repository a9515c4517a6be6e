"""The manifest of a bundle, ``edgeseq.json``: its fields, and how they are read and checked.

This module knows files only by name. ``reading.py`` compares the manifest with the folder. The
parts of the manifest are named tuples: Python needs a tenth of the time to create such a class that
it needs for a frozen dataclass, and every load waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import PurePosixPath, PureWindowsPath
from types import UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from ..errors import BundleError

MANIFEST_NAME = "edgeseq.json"
WEIGHTS_FILE_NAME = "weights.bin"
CARD_NAME = "README.md"  # the model card, which a trained bundle has
SCHEMA = 1  # docs/how-it-works/bundle.md says when it has to be raised
AGAIN = "export the bundle again"  # the advice for a manifest that is wrong

Side = Literal["left", "right"]
WeightDtype = Literal["uint8", "int8", "float16", "float32"]
Place = Literal["prefix", "suffix"]
Kind = Literal["decoder-only", "encoder-decoder"]
ROLES: dict[Kind, tuple[str, ...]] = {
    "decoder-only": ("decoder",),
    "encoder-decoder": ("encoder", "decoder"),
}
CacheDtype = Literal["float32", "int8", "float16"]
# The role of the decoder's graph, by the dtype of its KV cache. Every bundle has the first one.
DECODERS: dict[CacheDtype, str] = {
    "float32": "decoder",
    "int8": "decoder_int8_cache",
    "float16": "decoder_float16_cache",  # for CUDA
}


MOST_SENTINELS = 1 << 16  # ByT5 has 125
LONGEST_SHOWN = 200  # characters of a value that errors quote
DEEPEST = 32  # levels of lists and objects in a value of any form


class Dimensions(NamedTuple):
    """The sizes that the runtime needs to allocate memory."""

    layers: int  # decoder layers
    heads: int
    head_size: int  # head size in the model
    stored_head_size: int  # head size in the graphs: padded to a multiple of 8
    vocabulary: int
    max_positions: int | None  # None: no limit
    source_vocabulary: int | None = None  # the encoder's, if it differs from the decoder's

    @property
    def prompt_vocabulary(self) -> int:
        """The size of the vocabulary of prompts: of the encoder, if there is one."""
        return self.source_vocabulary or self.vocabulary


class CacheFormat(NamedTuple):
    """The default dtype of the KV cache."""

    dtype: CacheDtype


class Languages(NamedTuple):
    """The languages of a multilingual tokenizer, which adds a token for the language to a text."""

    ids: Mapping[str, int]  # language code -> token id
    place: Place  # where the token is: first, or last, after the end-of-sequence token
    end: int  # end-of-sequence token
    source: str  # default language of sources
    target: str | None  # default language of targets


class FixedLanguages(NamedTuple):
    """The languages of a tokenizer for one source or one target, such as Marian's."""

    source: str | None  # None: several, or the checkpoint does not name it
    target: str | None  # None: several, or the checkpoint does not name it
    target_tokens: Mapping[str, int]  # such as ">>fra<<", before a source -> token id
    end: int  # end-of-sequence token


class LanguageNames(NamedTuple):
    """The names of a language that callers may use instead of its code."""

    name: str  # in English
    aliases: Sequence[str]  # other names and ISO 639 codes, as ``text/languages.py`` writes them


class ChatFormat(NamedTuple):
    """The chat template of a checkpoint, in Jinja2's language."""

    template: str
    special_tokens: Mapping[str, str]  # name in the template, such as "eos_token" -> its text


class TokenizerFormat(NamedTuple):
    """The tokenizer and its settings."""

    file: str | None  # None: ByT5's tokenizer, whose tokens are bytes
    sentinels: int  # number of ByT5's sentinel tokens; 0 with a file
    special_tokens_strip: bool  # whether special tokens strip whitespace; False with a file
    clean_up_tokenization_spaces: bool
    model_max_length: int | None  # most tokens after truncation; None: no limit
    truncation_side: Side  # the side that truncation cuts off
    is_sentencepiece: bool | None = None  # whether the file has edgeseq's format for SentencePiece
    languages: Languages | None = None  # None: the tokenizer adds no token for the language
    fixed_languages: FixedLanguages | None = None  # Marian's; None for other tokenizers
    chat: ChatFormat | None = None  # None: the checkpoint has no chat template


class SharedWeight(NamedTuple):
    """A float32 matrix in the weights file that several graphs read."""

    offset_bytes: int
    rows: int
    columns: int


class OverlappingWeight(NamedTuple):
    """A quantized weight whose bytes in the weights file belong to another weight too.

    The rows of a table that is also the lm_head are such weights, and the parts of the lm_head.
    """

    offset_bytes: int
    dtype: WeightDtype
    shape: Sequence[int]


class Quality(NamedTuple):
    """The loss of quality through quantization, measured on a text against the source bundle."""

    text: str  # name of the text's file
    tokens: int  # number of predicted tokens
    context_tokens: int | None  # most tokens per window; None: pairs of source and target
    kv_cache: CacheDtype  # dtype of the quantized model's KV cache
    source_cross_entropy: float  # cross-entropy of the source bundle, nats per token
    cross_entropy: float  # cross-entropy of the quantized bundle, nats per token
    perplexity_rise: float  # 0.01: one percent above the source bundle's perplexity
    perplexity_rise_limit: float  # the highest rise that the recipe or the caller allowed
    kl_divergence: float  # nats, mean over tokens of KL(source || quantized)
    top1_agreement: float  # share of positions with the same most probable token


class Quantization(NamedTuple):
    """The form in which the weights are stored."""

    recipe: str
    block_size: int | None  # weights that share a scale; None if the recipe stores no blocks
    kept: Mapping[str, str]  # sensitive layer -> its storage
    quality: Quality | None  # None if nothing was quantized


class Source(NamedTuple):
    """The checkpoint that the bundle was made from."""

    id: str  # folder name or Hub id
    revision: str | None  # commit on the Hub


class Verification(NamedTuple):
    """The difference between the bundle's and the PyTorch model's logits on random prompts."""

    positions: int  # number of positions whose logits were compared
    max_logit_difference: float  # largest absolute difference
    max_logit: float  # largest absolute logit of the PyTorch model


class FileEntry(NamedTuple):
    """The size and hash of a file of the bundle."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``edgeseq.json``, which describes the whole bundle."""

    schema: int
    architecture: str  # Hugging Face `model_type`
    kind: Kind
    dimensions: Dimensions
    kv_cache: CacheFormat
    graphs: Mapping[str, str]  # role -> file
    shared_weights: Mapping[str, SharedWeight]  # name in the graphs -> matrix
    tokenizer: TokenizerFormat
    generation: Mapping[str, Any]  # default options, including special token ids
    prefix: str | None  # text that pipelines add before every input
    task_specific_params: Mapping[str, Mapping[str, Any]]  # task -> prefix and default options
    weights_per_token_bytes: int  # size of the weights that a decode step reads
    quantization: Quantization
    source: Source
    verification: Verification | None  # None only while the bundle is being written
    producers: Mapping[str, str]  # package -> version
    files: Mapping[str, FileEntry] = field(default_factory=dict)  # all but the manifest itself
    languages: Mapping[str, LanguageNames] | None = None  # language code -> its names
    overlapping_weights: Mapping[str, OverlappingWeight] | None = None  # name in the graphs -> it
    seal: str = ""  # sha256 of all other fields

    @property
    def has_encoder(self) -> bool:
        """Whether the decoder reads encoder output."""
        return self.kind == "encoder-decoder"

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the graphs that a model of this kind runs."""
        return ROLES[self.kind]

    def sealed(self) -> Manifest:
        """Return the same manifest with its seal."""
        return replace(self, seal=_seal(_plain(self)))

    def check_seal(self, text: str) -> None:
        """Raise ``BundleError`` if ``text``, the file's content, changed after it was written.

        The seal also covers fields of later versions, which this version does not read.
        """
        content = json.loads(text)
        if self.seal != _seal(content) or text != _to_text(content):
            raise BundleError(
                f"{MANIFEST_NAME} was changed after it was written (its seal does not match): "
                "copy or export the bundle again."
            )

    def to_json(self) -> str:
        """Return the text of ``edgeseq.json``."""
        return _to_text(_plain(self))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Return the manifest in the ``text`` of ``edgeseq.json``.

        Raises ``BundleError`` for anything unexpected.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(
                f"{MANIFEST_NAME} is not valid JSON ({error}): export the bundle again."
            ) from error
        if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
            raise BundleError(
                f"{MANIFEST_NAME} has no schema version, so this folder is not an edgeseq bundle: "
                "export the checkpoint again."
            )
        _check_schema(data)
        try:
            manifest: Manifest = _read(cls, data, "")
            _check_values(manifest)
        except BundleError as error:
            later = _later_version(data)
            if later is None:
                raise
            step = f"install edgeseq {later} or later, which made it"
            raise BundleError(str(error).replace(AGAIN, step)) from error
        return manifest


def _to_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _seal(content: Mapping[str, Any]) -> str:
    """Return the hash of all keys of a manifest but ``seal``."""
    import hashlib  # late: it loads OpenSSL, which only this needs

    unsealed = json.dumps({**content, "seal": ""}, sort_keys=True)
    return hashlib.sha256(unsealed.encode()).hexdigest()


def _later_version(data: Mapping[str, Any]) -> str | None:
    """Return the version of edgeseq that made a bundle if it is later than this one."""
    from importlib.metadata import PackageNotFoundError, version  # late: only errors need it

    producers = data.get("producers")
    made_by = producers.get("edgeseq") if isinstance(producers, dict) else None
    try:
        own = _numbers(version("edgeseq"))
    except PackageNotFoundError:  # a frozen app without the package's metadata
        return None
    return made_by if isinstance(made_by, str) and _numbers(made_by) > own else None


def _numbers(version: str) -> list[int]:
    """Return the numbers of a version such as 0.1.0; none for other texts."""
    parts = version.split(".")
    known = all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts)
    return [int(part) for part in parts] if known else []


def _plain(value: Any) -> Any:
    """Return a field as JSON values; optional fields that are None are left out.

    A field is optional if its default is None. Older bundles do not have it.
    """
    if isinstance(value, Manifest) or hasattr(value, "_fields"):
        content = {
            name: (default, getattr(value, name))
            for name, default in _defaults(type(value)).items()
        }
        return {
            name: _plain(of_field)
            for name, (default, of_field) in content.items()
            if of_field is not None or default is not None
        }
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _check_schema(data: Mapping[str, Any]) -> None:
    schema = data["schema"]
    if schema > SCHEMA:
        later = _later_version(data)
        step = "a newer edgeseq" if later is None else f"edgeseq {later} or later"
        raise BundleError(
            f"The bundle has schema {shown(schema)}, but this version of edgeseq reads only up to "
            f"{SCHEMA}: install {step}."
        )
    if schema < 1:
        raise BundleError(
            f"The bundle has schema {shown(schema)}, but this version of edgeseq reads 1 to "
            f"{SCHEMA}: {AGAIN}."
        )


def _check_values(manifest: Manifest) -> None:
    """Raise ``BundleError`` for an unsafe path, a missing graph or file, and too many sentinels."""
    for name in manifest.files:
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        unsafe = posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts
        if unsafe or ".." in posix.parts or name in {"", ".", MANIFEST_NAME}:
            raise BundleError(
                f"{MANIFEST_NAME} lists the unsafe path {shown(name)}: get the bundle from a "
                "source that you trust."
            )
    sentinels = manifest.tokenizer.sentinels
    if not 0 <= sentinels <= MOST_SENTINELS:
        raise BundleError(
            f"{MANIFEST_NAME}: tokenizer.sentinels is {shown(sentinels)}, expected 0 to "
            f"{MOST_SENTINELS}: export the bundle again."
        )
    for role in manifest.roles:
        if role not in manifest.graphs:
            raise BundleError(f"{MANIFEST_NAME} lists no {role} graph: export the bundle again.")
    dtype = manifest.kv_cache.dtype
    if DECODERS[dtype] not in manifest.graphs:
        there = [repr(name) for name, role in DECODERS.items() if role in manifest.graphs]
        raise BundleError(
            f"{MANIFEST_NAME}: kv_cache.dtype is {dtype!r}, but the bundle has graphs only for "
            f"{' and '.join(there)}: export the bundle again."
        )
    used = [*manifest.graphs.values(), WEIGHTS_FILE_NAME]
    if manifest.tokenizer.file is not None:
        used.append(manifest.tokenizer.file)
    for name in used:
        if name not in manifest.files:
            raise BundleError(
                f"{MANIFEST_NAME} uses {shown(name)} but lists no size and hash for it: "
                "export the bundle again."
            )


def shown(value: Any) -> str:
    """Return a value of a manifest as errors quote it, which may be of any form and size."""
    try:
        text = repr(value)
    except RecursionError:
        return "nested too deeply"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _check_depth(value: Any, where: str, level: int = 0) -> None:
    """Raise ``BundleError`` for a value that code which follows its levels could not handle."""
    if level > DEEPEST:
        raise BundleError(
            f"{MANIFEST_NAME}: {where} is nested too deeply, expected at most {DEEPEST} levels: "
            "export the bundle again."
        )
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, where, level + 1)


def _read(kind: Any, value: Any, where: str) -> Any:
    """Return ``value`` from JSON as the annotated type ``kind``.

    Raises ``BundleError``, which names the field ``where``, for a value of another type.
    """
    if kind is Manifest or hasattr(kind, "_fields"):
        return _read_object(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal and value in arguments:
        return value
    if origin is UnionType and value is None and type(None) in arguments:
        return None
    if origin is UnionType:
        return _read(arguments[0], value, where)
    if origin is Mapping and isinstance(value, dict):
        names = {key: key if key.isprintable() and len(key) < 60 else shown(key) for key in value}
        return {k: _read(arguments[1], item, f"{where}.{names[k]}") for k, item in value.items()}
    if origin is Sequence and isinstance(value, list):
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if kind is Any:
        _check_depth(value, where)
        return value
    if kind is float and type(value) is int and abs(value) < 2**64:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    expected = " or ".join(map(repr, arguments)) if origin is Literal else kind
    expected = expected.__name__ if isinstance(expected, type) else expected
    expected = {Mapping: "an object", Sequence: "a list"}.get(origin, expected)
    raise BundleError(
        f"{MANIFEST_NAME}: {where} is {shown(value)}, expected {expected}: export the bundle again."
    )


def _defaults(kind: Any) -> dict[str, Any]:
    """Return the names of the fields of ``kind`` with their defaults; ``MISSING``: none."""
    if kind is Manifest:
        return {item.name: item.default for item in fields(kind)}
    return {name: kind._field_defaults.get(name, MISSING) for name in kind._fields}


def _read_object(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise BundleError(
            f"{MANIFEST_NAME}: {where} is {shown(value)}, expected an object: export the bundle "
            "again."
        )
    hints = get_type_hints(kind)
    prefix = f"{where}." if where else ""
    defaults = _defaults(kind)
    names = [name for name in defaults if name in value or defaults[name] is not None]
    for name in names:
        if name not in value:
            raise BundleError(f"{MANIFEST_NAME} lacks {prefix}{name}: export the bundle again.")
    return kind(**{name: _read(hints[name], value[name], prefix + name) for name in names})
