"""Tokenizers of ``tokenizer.json``, compared with Transformers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GPT2TokenizerFast, PreTrainedTokenizerFast, T5TokenizerFast

from edgeseq.runtime.errors import BundleError, PromptError
from edgeseq.runtime.text.tokenizer import Tokenizer
from tests.support.errors import refusal
from tests.support.texts import streamed
from tests.support.tiny_tokenizers import unigram

TEXTS = [
    "",
    " ",
    "  leading and   inner\t whitespace \n\n runs  ",
    "Hello, world! It 's a test . Do n't we 've , I 'm ' quoted ' ?",
    "na\u00efve caf\u00e9 \u2014 \u4f60\u597d \U0001f469\u200d\U0001f4bb",
    "\u05e9\u05dc\u05d5\u05dd \u202eabc\u202c",
    "control \x00\x01\x7f \ufffd characters",
    "special <|endoftext|> in </s> the <pad> middle",
]

FRAGMENTS = [
    *(
        "Hello",
        "test",
        " .",
        " ?",
        " !",
        " ,",
        " ' ",
        " n't",
        " 'm",
        " 's",
        " 've",
        " re",
        "'",
        "n",
    ),
    *(
        " ",
        "   ",
        "\t",
        "\n\n",
        "\r\n",
        "\x0b",
        "\x1c",
        "\x85",
        "\xa0",
        "\u2003",
        "\u2028",
        "\u3000",
    ),
    *(
        "\u200b",
        "\ufeff",
        "\x00",
        "\x01",
        "\x1b[0m",
        "\x7f",
        "\x9f",
        "\ufffd",
        "\u2581",
        "\xc3\xa9",
    ),
    *(
        "na\u00efve",
        "e\u0301",
        "\ufb01",
        "\u00bd",
        "\u4f60\u597d",
        "\U0001f1e9\U0001f1ea",
        "\ufe0f",
    ),
    *(
        "\U0001f469\u200d\U0001f4bb",
        "\u05e9\u05dc",
        "\u0645\u0631",
        "\u202eabc\u202c",
        "\u0915\u094d",
    ),
    *(
        "<|endoftext|>",
        "<pad>",
        "</s>",
        "<unk>",
        "<extra_id_0>",
        "<extra_id_2>",
        "<extra_id_3>",
        "<",
    ),
]
PLANES = [
    range(0x20, 0x800),
    range(0x800, 0xD800),
    range(0xE000, 0x10000),
    range(0x10000, 0x110000),
]


def varied_texts(count: int) -> Iterator[str]:
    """Yield texts of fragments, and some characters of any plane."""
    generator = random.Random(count)
    for _ in range(count):
        yield "".join(
            generator.choice(FRAGMENTS)
            if generator.random() < 0.8
            else chr(generator.choice(generator.choice(PLANES)))
            for _ in range(generator.randrange(14))
        )


def gpt2_backend() -> tokenizers.Tokenizer:
    """Return a byte-level BPE like GPT-2's, trained on a few words."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    return backend


def t5_backend() -> tokenizers.Tokenizer:
    """Return a Unigram tokenizer like T5's: Metaspace, and </s> at the end."""
    special = ["<pad>", "</s>", "<unk>"]
    words = ["\u2581", "\u2581test", "\u2581.", "\u2581'", "\u2581'm", "\u2581\u2581", *" .,!?'"]
    vocab = [*((name, 0.0) for name in special), *((word, -2.0) for word in words)]
    vocab += [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyzHIWD"]
    backend = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=2))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(special)
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return backend


def reference(name: str, clean_up: bool) -> PreTrainedTokenizerFast:
    if name == "gpt2":
        return GPT2TokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=gpt2_backend(), clean_up_tokenization_spaces=clean_up
        )
    return T5TokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=t5_backend(), extra_ids=3, clean_up_tokenization_spaces=clean_up
    )


@pytest.fixture(params=["gpt2", "t5"], scope="module")
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["as it is", "cleaned up"], scope="module")
def both(
    request: pytest.FixtureRequest, family: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    theirs = reference(family, request.param)
    folder = tmp_path_factory.mktemp(family)
    theirs.save_pretrained(folder)
    return Tokenizer(folder / "tokenizer.json", request.param), theirs


Pair = tuple[Tokenizer, PreTrainedTokenizerFast]


@pytest.mark.parametrize("text", TEXTS)
def test_encodes_and_decodes_as_transformers(both: Pair, text: str) -> None:
    ours, theirs = both
    ids = ours.encode(text)
    assert ids == theirs(text).input_ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_varied_texts_are_as_in_transformers(both: Pair) -> None:
    ours, theirs = both
    for text in varied_texts(2500):
        ids = ours.encode(text)
        assert ids == theirs(text).input_ids, ascii(text)
        decoded = theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids) == decoded, ascii(text)
        assert streamed(ours, ids) == decoded, ascii(text)


def test_decodes_any_ids_as_transformers(both: Pair) -> None:
    ours, theirs = both
    generator = random.Random(0)
    for _ in range(2500):
        ids = generator.choices(range(len(theirs) + 2), k=generator.randrange(12))
        decoded = theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids) == decoded, ids
        assert streamed(ours, ids) == decoded, ids


def test_clean_up_is_the_checkpoints_choice(tmp_path: Path) -> None:
    path = save(gpt2_backend(), tmp_path)
    text = "We 've n't , ' a ' it 's I 'm you 're  . ? !"
    ids = Tokenizer(path, False).encode(text)
    assert Tokenizer(path, False).decode(ids) == text
    assert Tokenizer(path, True).decode(ids) == "We'ven't,'a'it's I'm you're .?!"


def test_t5_ends_a_text_and_gpt2_does_not(tmp_path: Path) -> None:
    t5 = Tokenizer(save(t5_backend(), tmp_path), False)
    assert t5.encode("") == [1]
    gpt2 = Tokenizer(save(gpt2_backend(), tmp_path), False)
    assert gpt2.encode("") == []


def test_truncation_and_padding_in_the_file_are_off(tmp_path: Path) -> None:
    backend = gpt2_backend()
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    ids = Tokenizer(save(backend, tmp_path), False).encode("a longer text")
    assert ids == gpt2_backend().encode("a longer text").ids
    assert len(ids) > 2


def test_token_is_none_where_decode_leaves_it_out(tmp_path: Path) -> None:
    tokenizer = Tokenizer(save(gpt2_backend(), tmp_path), False)
    assert tokenizer.token(0) is None
    assert tokenizer.token(10**6) is None
    assert tokenizer.token(tokenizer.encode("a")[0]) == "a"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"model": {}}', b"text", b"\xff\xfe"])
def test_file_that_is_not_a_tokenizer(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(
        BundleError, match=r"tokenizer\.json cannot be read as a tokenizer .*export"
    ):
        Tokenizer(path, False)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="No such file"):
        Tokenizer(tmp_path / "tokenizer.json", False)


def test_text_with_half_a_character(tmp_path: Path) -> None:
    tokenizer = Tokenizer(save(gpt2_backend(), tmp_path), False)
    with pytest.raises(PromptError, match="lone surrogates"):
        tokenizer.encode("\ud800")


def save(backend: tokenizers.Tokenizer, folder: Path) -> Path:
    path = folder / "tokenizer.json"
    backend.save(str(path))
    return path


def test_a_file_whose_unknown_token_is_missing_is_refused_by_encode(tmp_path: Path) -> None:
    content = json.loads(unigram().to_str())
    content["model"]["unk_id"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", False)
    message = refusal(BundleError, lambda: tokenizer.encode("\u4f60"))
    assert "unk_id" in message


def test_an_error_of_the_package_that_quotes_the_file_is_cut(tmp_path: Path) -> None:
    content = {**json.loads(unigram().to_str()), "added_tokens": "x" * 10**5}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    refusal(BundleError, lambda: Tokenizer(path, False), longest=1000)
