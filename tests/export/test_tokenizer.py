"""Export of T5's tokenizers: SentencePiece models, ByT5, and tokenizers that are refused."""

from __future__ import annotations

import io
import json
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from transformers import (
    ByT5Tokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
    T5TokenizerFast,
)

from edgeseq.export import CheckpointError, export_checkpoint
from edgeseq.export.checkpoint.tokenizer import write_tokenizer
from edgeseq.runtime import load
from edgeseq.runtime.bundle.manifest import TokenizerFormat
from edgeseq.runtime.text.byte_tokenizer import AnyTokenizer, ByteTokenizer
from edgeseq.runtime.text.tokenizer import Tokenizer
from tests.support.errors import refusal
from tests.support.files import assert_nothing_written
from tests.support.processes import python

# Transformers warns of every text that ends with </s>.
pytestmark = pytest.mark.filterwarnings("ignore:This sequence already has </s>")

PROSE = """
    the a clever fox said home , . ' ! ? n't 've It's 3.14 naïve café Ελλάδα 你好 שלום مرحبا 👩‍💻 🎉
"""
WORDS = PROSE.split()
SPACES = [*"   \t\n\v\xa0\u2003\u3000\x85\u2028\u200b", "\r\n", "    "]
ODD = [*"\u00bd\ufb01\u202e\ufffd\u2581\ufeff\x00\x01\x1b\x7f\x9f", "e\u0301", "\uff46\uff55"]
SPECIAL = ["<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_42>", "<extra_id_99>"]
NEARLY_SPECIAL = ["<extra_id_100>", "<extra_id_007>", "<extra_id_", "</S>"]
CONFIG = "tokenizer_config.json"
Change = Callable[[Path], None]


def varied_texts(count: int) -> Iterator[str]:
    generator = random.Random(count)
    kinds = [WORDS, WORDS, SPACES, SPACES, ODD, SPECIAL, NEARLY_SPECIAL]
    planes = [range(0x20, 0x800), range(0x800, 0xD800), range(0xE000, 0x110000)]
    for _ in range(count):
        parts = [
            generator.choice(generator.choice(kinds))
            if generator.random() < 0.9
            else chr(generator.choice(generator.choice(planes)))
            for _ in range(generator.randrange(14))
        ]
        yield "".join(parts)


@pytest.fixture(scope="module")
def spiece() -> bytes:
    """A SentencePiece model like T5's: Unigram, with <pad>, </s> and <unk> as 0, 1 and 2."""
    generator = random.Random(0)
    sentences = [
        " ".join(generator.choices(WORDS, k=generator.randrange(3, 9))) for _ in range(400)
    ]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=180,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint without tokenizer and weights; weights are read after the tokenizer."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": "t5"})
    return folder


def written(folder: Path) -> tuple[TokenizerFormat, AnyTokenizer]:
    """Export the tokenizer alone; return its entry in the manifest and the opened tokenizer."""
    out = folder.parent / "out"
    out.mkdir()
    form = write_tokenizer(folder, out)
    clean_up = form.clean_up_tokenization_spaces
    if form.file is None:
        assert list(out.iterdir()) == []
        strip = form.special_tokens_strip
        return form, ByteTokenizer(form.sentinels, clean_up, special_tokens_strip=strip)
    assert [path.name for path in out.iterdir()] == [form.file] == ["tokenizer.json"]
    return form, Tokenizer(out / form.file, clean_up)


# SentencePiece

MT5 = {"extra_ids": 0, "additional_special_tokens": None}


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [("t5", None), ("t5", {"clean_up_tokenization_spaces": True}), ("mt5", MT5)],
)
def test_spiece_model_alone(
    model_type: str, settings: dict[str, Any] | None, folder: Path, spiece: bytes
) -> None:
    """It equals the fast tokenizer on every text, and the slow one where those two agree."""
    write_json(folder / "config.json", {"model_type": model_type})
    (folder / "spiece.model").write_bytes(spiece)
    if settings is not None:
        write_json(folder / CONFIG, settings)
    form, ours = written(folder)
    assert form.sentinels == 0
    assert form.clean_up_tokenization_spaces is bool(settings and settings != MT5)
    fast = T5TokenizerFast.from_pretrained(folder)
    slow = T5Tokenizer.from_pretrained(folder, legacy=True)
    count, agreed = 1500, 0
    for text in varied_texts(count):
        ids = ours.encode(text)
        decoded = fast.decode(ids, skip_special_tokens=True)
        assert ids == fast(text).input_ids, ascii(text)
        assert ours.decode(ids) == decoded, ascii(text)
        theirs = slow(text).input_ids
        # The slow one takes off the spaces beside special tokens that it leaves out.
        if ids == theirs and not {0, 2}.intersection(ids) and "<" not in text:
            assert decoded == slow.decode(ids, skip_special_tokens=True), ascii(text)
            agreed += 1
    assert agreed > 0.1 * count


def test_spiece_model_that_falls_back_to_bytes(folder: Path) -> None:
    """Transformers' fast tokenizer does not: a line reports that, without a warning."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 50),
        model_writer=model,
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    out = folder.parent / "out"
    out.mkdir()
    lines: list[str] = []
    form = write_tokenizer(folder, out, lines.append)
    assert len(lines) == 1
    assert "unknown" in lines[0]
    assert form.file is not None
    with warnings.catch_warnings(action="ignore"):
        fast = T5TokenizerFast.from_pretrained(folder)
    assert Tokenizer(out / form.file, False).encode("漢 fox 🎉") == fast("漢 fox 🎉").input_ids


def test_spiece_model_on_plain_texts(folder: Path, spiece: bytes) -> None:
    """On these texts the slow tokenizer, which is SentencePiece itself, always agrees."""
    (folder / "spiece.model").write_bytes(spiece)
    _, ours = written(folder)
    slow = T5Tokenizer.from_pretrained(folder, legacy=True)
    generator = random.Random(1)
    for _ in range(1500):
        parts = generator.choices(
            [*WORDS, " ", "  ", "\t", "\xa0", "\u3000"], k=generator.randrange(12)
        )
        text = "".join(parts)
        ids = slow(text).input_ids
        assert ours.encode(text) == ids, ascii(text)
        assert ours.decode(ids) == slow.decode(ids, skip_special_tokens=True), ascii(text)


def test_sentinels_of_a_spiece_model(folder: Path, spiece: bytes) -> None:
    """They are the last ids, counted backwards; the SentencePiece model does not hold them."""
    (folder / "spiece.model").write_bytes(spiece)
    _, ours = written(folder)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=spiece).get_piece_size()
    sentinels = [f"<extra_id_{number}>" for number in range(100)]
    ids = [ours.encode(sentinel) for sentinel in sentinels]
    assert ids == [[pieces + 99 - number, 1] for number in range(100)]
    assert ours.encode("<extra_id_100>")[0] < pieces
    fox = ours.encode("fox")[:-1]
    assert ours.decode([*fox, *(i for pair in ids for i in pair), *fox]) == "fox fox"
    assert ours.decode(ours.encode("the<extra_id_0> fox <extra_id_99>")) == "the fox"


# Bytes


def save_bytes(**settings: Any) -> Change:
    return lambda folder: ByT5Tokenizer(**settings).save_pretrained(folder)


def name_bytes(file: str) -> Change:
    """Name the class only, without a file of a tokenizer."""
    content = {"model_type": "t5", "tokenizer_class": "ByT5Tokenizer"}
    return lambda folder: write_json(folder / file, content)


@pytest.mark.parametrize(
    ("change", "sentinels", "clean_up"),
    [
        (save_bytes(), 125, False),
        (save_bytes(extra_ids=7, clean_up_tokenization_spaces=True), 7, True),
        (save_bytes(extra_ids=0), 0, False),
        (name_bytes("config.json"), 125, False),
        (name_bytes("tokenizer_config.json"), 125, False),
    ],
)
def test_tokenizers_of_bytes(change: Change, sentinels: int, clean_up: bool, folder: Path) -> None:
    change(folder)
    form, ours = written(folder)
    assert form == TokenizerFormat(
        file=None,
        sentinels=sentinels,
        special_tokens_strip=True,
        clean_up_tokenization_spaces=clean_up,
        model_max_length=None,
        truncation_side="right",
    )
    theirs = ByT5Tokenizer.from_pretrained(folder)
    for text in varied_texts(50):
        ids = ours.encode(text)
        assert ids == theirs(text).input_ids, ascii(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), ascii(text)


def test_special_tokens_of_bytes_that_leave_whitespace_alone(folder: Path) -> None:
    """Settings in the form before Transformers 4.34 may say so."""
    flags = {"__type": "AddedToken", "lstrip": False, "rstrip": False, "normalized": True}
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokens = {name: {"content": content, **flags} for name, content in names.items()}
    write_json(folder / CONFIG, {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125, **tokens})
    theirs = ByT5Tokenizer.from_pretrained(folder)
    assert theirs("a </s> b").input_ids == [100, 35, 1, 35, 101, 1]
    _, ours = written(folder)
    for text in ("a </s> b", " <pad> ", "a\t<unk>\nb </s>"):
        assert ours.encode(text) == theirs(text).input_ids


# What is refused


def write(name: str, content: bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def add(**tokens: Any) -> Change:
    def change(folder: Path) -> None:
        tokenizer = ByT5Tokenizer()  # type: ignore[no-untyped-call]
        tokenizer.add_tokens(tokens.pop("plain", []))
        tokenizer.add_special_tokens(tokens)
        tokenizer.save_pretrained(folder)

    return change


REFUSED: dict[str, tuple[Change, str]] = {
    "no tokenizer": (lambda folder: None, r"add tokenizer\.json, or spiece\.model"),
    "damaged spiece.model": (write("spiece.model", b"not a model"), r"spiece\.model"),
    "empty spiece.model": (write("spiece.model", b""), r"spiece\.model"),
    "damaged settings": (write(CONFIG, b'{"tokenizer_class"'), r"tokenizer_config\.json.*JSON"),
    "settings are a list": (write(CONFIG, b"[1]"), r"tokenizer_config\.json.*JSON object"),
    "settings are not text": (write(CONFIG, b"\xff\xfe{}"), r"tokenizer_config\.json.*JSON"),
    "damaged settings of a spiece.model": (
        lambda folder: [write(name, b"{")(folder) for name in ("spiece.model", CONFIG)],
        "tokenizer",
    ),
    "settings of another class": (
        write(CONFIG, b'{"tokenizer_class": "T5Tokenizer"}'),
        "has no tokenizer",
    ),
    "bytes and a word": (add(plain=["hello"]), r"ByT5.*'hello'.*384"),
    "bytes and a beginning": (add(bos_token="<s>"), r"ByT5.*'<s>'"),
    "bytes with another end": (save_bytes(eos_token="<end>"), r"ByT5.*'<end>'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name: str, folder: Path, tmp_path: Path) -> None:
    change, pattern = REFUSED[name]
    change(folder)
    refusal(
        CheckpointError,
        lambda: export_checkpoint(folder, tmp_path / "bundles" / "t5"),
        match=pattern,
    )
    assert_nothing_written(tmp_path / "bundles" / "t5")


# Whole exports


def save_model(folder: Path, vocabulary: int, **settings: Any) -> None:
    """Save a small T5 whose texts vary."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=vocabulary,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
        tie_word_embeddings=False,
        initializer_factor=3.0,
        **settings,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)


@pytest.fixture(scope="module", params=["spiece.model", "saved bytes", "named bytes"])
def exported(
    request: pytest.FixtureRequest, spiece: bytes, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A whole checkpoint and its bundle."""
    checkpoint = tmp_path_factory.mktemp("checkpoint")
    if request.param == "spiece.model":
        save_model(checkpoint, 300)
        (checkpoint / "spiece.model").write_bytes(spiece)
    elif request.param == "saved bytes":
        save_model(checkpoint, 384)
        ByT5Tokenizer().save_pretrained(checkpoint)  # type: ignore[no-untyped-call]
    else:
        save_model(checkpoint, 384, tokenizer_class="ByT5Tokenizer")
    out = tmp_path_factory.mktemp("bundles") / "t5"
    return checkpoint, export_checkpoint(checkpoint, out).folder


def test_exported_model_reads_and_writes_text(exported: tuple[Path, Path]) -> None:
    checkpoint, folder = exported
    model = load(folder, threads=1, verify=True)
    is_bytes = not (checkpoint / "spiece.model").exists()
    form = model.bundle.manifest.tokenizer
    assert (form.file, form.sentinels) == ((None, 125) if is_bytes else ("tokenizer.json", 0))
    assert (folder / "tokenizer.json").exists() is not is_bytes
    reference = ByT5Tokenizer if is_bytes else T5TokenizerFast
    theirs = reference.from_pretrained(checkpoint)
    for text in ("the clever fox", "na\u00efve \U0001f389 <extra_id_3> ", "\u4f60 \u05e9\x00"):
        (result,) = model.generate(text, max_new_tokens=40, do_sample=True, seed=3, top_k=0)
        assert result.prompt_tokens == len(theirs(text).input_ids)
        assert result.generated_tokens > 3
        assert result.text == theirs.decode(result.token_ids, skip_special_tokens=True)
        streamed = model.stream(text, max_new_tokens=40, do_sample=True, seed=3, top_k=0)
        assert "".join(streamed) == result.text


def test_exported_model_runs_without_the_packages_that_made_it(
    exported: tuple[Path, Path],
) -> None:
    code = """if True:
        import json, sys
        from edgeseq.runtime import load
        model = load(sys.argv[1], threads=1)
        (result,) = model.generate("the fox <extra_id_0>", max_new_tokens=5)
        assert "".join(model.stream("the fox <extra_id_0>", max_new_tokens=5)) == result.text
        assert len(result.token_ids) > 0
        print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
    """
    loaded = set(json.loads(python(code, exported[1])))
    assert {"onnxruntime", "numpy"} <= loaded
    heavy = {"torch", "transformers", "onnx", "optimum", "sentencepiece", "huggingface_hub"}
    assert loaded & heavy == set()
