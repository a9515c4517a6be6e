"""The manifest of a bundle, ``edgeseq.json``: what it says and how it is read.

It knows nothing of files beyond their names: ``bundle.py`` compares it with the folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import PurePosixPath, PureWindowsPath
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import BundleError

MANIFEST_NAME = "edgeseq.json"
SCHEMA = 1

Side = Literal["left", "right"]
Kind = Literal["decoder-only", "encoder-decoder"]
ROLES: dict[Kind, tuple[str, ...]] = {
    "decoder-only": ("decoder",),
    "encoder-decoder": ("encoder", "decoder"),
}
CacheDtype = Literal["float32", "int8", "float16"]
# The role of the decoder's graph by what its cache holds; the first is in every bundle.
DECODERS: dict[CacheDtype, str] = {
    "float32": "decoder",
    "int8": "decoder_int8_cache",
    "float16": "decoder_float16_cache",  # for CUDA
}


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """The sizes that the runtime allocates by."""

    layers: int  # of the decoder
    heads: int
    head_size: int  # as the model has it
    stored_head_size: int  # as the graphs have it: padded to a multiple of 8
    vocabulary: int
    max_positions: int | None  # None: not bound by a table


@dataclass(frozen=True, kw_only=True)
class CacheFormat:
    """The element type of the cache, unless another is asked for."""

    dtype: CacheDtype


@dataclass(frozen=True, kw_only=True)
class TokenizerFormat:
    """The tokenizer and how its text is finished."""

    file: str | None  # None: the tokens are ByT5's bytes
    sentinels: int  # how many tokens follow ByT5's bytes; 0 with a file, which names its own
    special_tokens_strip: bool  # whether ByT5's take the whitespace around them; False with a file
    clean_up_tokenization_spaces: bool
    model_max_length: int | None  # tokens that truncation leaves; None: there is no bound
    truncation_side: Side  # where it cuts


@dataclass(frozen=True, kw_only=True)
class SharedWeight:
    """A float32 matrix of the weights file that more than one graph reads."""

    offset_bytes: int
    rows: int
    columns: int


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What quantizing cost, measured on a text with the source bundle beside it."""

    text: str  # name of its file
    tokens: int  # predicted
    context_tokens: int | None  # read at most at once; None: each target as a whole
    kv_cache: CacheDtype  # with which the quantized model read it
    source_cross_entropy: float  # nats a token
    cross_entropy: float
    perplexity_rise: float  # 0.01: one percent higher than the source's
    perplexity_rise_limit: float  # that the recipe, or the caller, asked for
    kl_divergence: float  # nats, of the next token's distribution from the source's, mean
    top1_agreement: float  # share of positions with the same most probable token


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What the weights are stored as."""

    recipe: str
    block_size: int | None  # weights that share a scale, where the recipe stores blocks
    kept: Mapping[str, str]  # sensitive layers, and as what they are stored instead
    quality: Quality | None  # None where nothing was quantized


@dataclass(frozen=True, kw_only=True)
class Source:
    """The checkpoint that the bundle was made from."""

    id: str  # folder name or Hub id
    revision: str | None  # commit of the Hub


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How far the bundle's logits are from those of the PyTorch model, on random prompts."""

    positions: int  # how many distributions were compared
    max_logit_difference: float  # largest absolute difference
    max_logit: float  # largest absolute logit of the PyTorch model


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Size and hash of a file of the bundle."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that a bundle says of itself."""

    schema: int
    architecture: str  # Hugging Face `model_type`
    kind: Kind
    dimensions: Dimensions
    kv_cache: CacheFormat
    graphs: Mapping[str, str]  # role -> file
    shared_weights: Mapping[str, SharedWeight]  # by the name that it has in those graphs
    tokenizer: TokenizerFormat
    generation: Mapping[str, Any]  # defaults, special token ids among them
    prefix: str | None  # what pipelines put before every text
    task_specific_params: Mapping[str, Mapping[str, Any]]  # by task: a prefix, and defaults
    weights_per_token_bytes: int  # what a step of the decoder reads of the weights
    quantization: Quantization
    source: Source
    verification: Verification | None  # None only while the bundle is being made
    producers: Mapping[str, str]  # package -> version
    files: Mapping[str, FileEntry] = field(default_factory=dict)  # all but the manifest itself
    seal: str = ""  # sha256 of all the above

    @property
    def has_encoder(self) -> bool:
        """Whether the decoder reads the output of an encoder."""
        return self.kind == "encoder-decoder"

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the graphs that a model of this kind runs."""
        return ROLES[self.kind]

    def sealed(self) -> Manifest:
        """The same with its seal."""
        return replace(self, seal=self._hash())

    def check_seal(self, text: str) -> None:
        """Raise ``BundleError`` if ``text`` is not what was written, to the byte."""
        if self.seal != self._hash() or text != self.to_json():
            raise BundleError(
                f"{MANIFEST_NAME} was changed after it was written (its seal does not fit): "
                "copy or export the bundle again."
            )

    def _hash(self) -> str:
        content = json.dumps(asdict(replace(self, seal="")), sort_keys=True)
        import hashlib  # late: it loads OpenSSL, which only this needs

        return hashlib.sha256(content.encode()).hexdigest()

    def to_json(self) -> str:
        """The text of ``edgeseq.json``."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read ``edgeseq.json``; anything unexpected raises ``BundleError``."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(
                f"{MANIFEST_NAME} is not valid JSON ({error}): export the bundle again."
            ) from error
        if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
            raise BundleError(
                f"{MANIFEST_NAME} names no schema version: this folder is not an edgeseq bundle."
            )
        _check_schema(data["schema"])
        manifest: Manifest = _read(cls, data, "")
        _check_names(manifest)
        return manifest


def _check_schema(schema: int) -> None:
    if schema > SCHEMA:
        raise BundleError(
            f"The bundle has schema {schema}, this edgeseq reads up to {SCHEMA}: "
            "install a newer edgeseq."
        )
    if schema < 1:
        raise BundleError(
            f"The bundle has schema {schema}, this edgeseq reads 1 to {SCHEMA}: "
            "export the bundle again."
        )


def _check_names(manifest: Manifest) -> None:
    """Every file lies in the folder itself or below it, and every file used is listed."""
    for name in manifest.files:
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        unsafe = posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts
        if unsafe or ".." in posix.parts or name in {"", ".", MANIFEST_NAME}:
            raise BundleError(f"{MANIFEST_NAME} names the unsafe path {name!r}: do not load it.")
    for role in manifest.roles:
        if role not in manifest.graphs:
            raise BundleError(f"{MANIFEST_NAME} names no {role} graph: export the bundle again.")
    if DECODERS[manifest.kv_cache.dtype] not in manifest.graphs:
        raise BundleError(
            f"{MANIFEST_NAME}: kv_cache.dtype is {manifest.kv_cache.dtype!r}, expected what there "
            "is a graph for, as 'float32': export the bundle again."
        )
    used = [*manifest.graphs.values()]
    if manifest.tokenizer.file is not None:
        used.append(manifest.tokenizer.file)
    for name in used:
        if name not in manifest.files:
            raise BundleError(
                f"{MANIFEST_NAME} uses {name!r} but gives no size and hash for it: "
                "export the bundle again."
            )


def _read(kind: Any, value: Any, where: str) -> Any:
    """``value`` from JSON as the annotated type ``kind``, or ``BundleError`` naming ``where``."""
    if hasattr(kind, "__dataclass_fields__"):
        return _read_dataclass(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal and value in arguments:
        return value
    if origin is UnionType and value is None and type(None) in arguments:
        return None
    if origin is UnionType:
        return _read(arguments[0], value, where)
    if origin is Mapping and isinstance(value, dict):
        names = {key: key if key.isprintable() else repr(key) for key in value}
        return {k: _read(arguments[1], item, f"{where}.{names[k]}") for k, item in value.items()}
    if kind is Any:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    expected = " or ".join(map(repr, arguments)) if origin is Literal else kind
    expected = expected.__name__ if isinstance(expected, type) else expected
    raise BundleError(
        f"{MANIFEST_NAME}: {where} is {value!r}, expected {expected}: export the bundle again."
    )


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise BundleError(f"{MANIFEST_NAME}: {where} is {value!r}, expected an object.")
    hints = get_type_hints(kind)
    prefix = f"{where}." if where else ""
    names = [item.name for item in fields(kind)]
    for name in names:
        if name not in value:
            raise BundleError(f"{MANIFEST_NAME} lacks {prefix}{name}: export the bundle again.")
    return kind(**{name: _read(hints[name], value[name], prefix + name) for name in names})
