"""GPT-2's real vocabulary and merges, compared with Transformers on thousands of texts.

``python -m tests.support.fetch_data`` fetches them; without them these tests are skipped.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import GPT2Tokenizer

from edgeseq.export import export_checkpoint
from edgeseq.runtime import load
from edgeseq.runtime.text.tokenizer import Tokenizer
from tests.support.checkpoints import seeded_gpt2
from tests.support.fetch_data import FILES, GPT2
from tests.support.texts import streamed

CALIBRATION = Path(__file__).parents[2] / "quantize" / "calibration.txt"
VOCABULARY = 50257

pytestmark = pytest.mark.skipif(
    not all((GPT2 / name).is_file() for name in FILES.values()),
    reason="GPT-2's vocabulary is not here: python -m tests.support.fetch_data",
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, GPT2Tokenizer]:
    """The tokenizer of an exported checkpoint, and Transformers' tokenizer in Python."""
    folder = tmp_path_factory.mktemp("gpt2")
    seeded_gpt2(vocab_size=VOCABULARY, n_embd=8, n_head=1, n_layer=1).save_pretrained(folder / "ck")
    slow = GPT2Tokenizer(str(GPT2 / "vocab.json"), str(GPT2 / "merges.txt"))
    slow.save_pretrained(folder / "ck")
    tokenizer = load(export_checkpoint(folder / "ck", folder / "bundle").folder).tokenizer
    assert isinstance(tokenizer, Tokenizer)
    return tokenizer, slow


def varied_texts(count: int) -> list[str]:
    """Return pieces of real English, mixed with random characters of Unicode."""
    generator, english = random.Random(0), CALIBRATION.read_text(encoding="utf-8")
    texts = []
    for _ in range(count):
        begin, length = generator.randrange(len(english)), generator.randrange(1, 80)
        noise = "".join(
            chr(
                generator.choice(
                    (generator.randrange(32, 0x250), generator.randrange(0x1F300, 0x1F650))
                )
            )
            for _ in range(generator.randrange(4))
        )
        texts.append(english[begin : begin + length] + noise + english[:: len(english) - 1])
    return texts


def test_thousands_of_texts_are_as_in_transformers(pair: tuple[Tokenizer, GPT2Tokenizer]) -> None:
    ours, reference = pair
    for text in varied_texts(3000):
        ids = reference.encode(text)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == reference.decode(ids)


def test_streams_give_the_same_text(pair: tuple[Tokenizer, GPT2Tokenizer]) -> None:
    ours, reference = pair
    for text in varied_texts(300):
        ids = reference.encode(text)
        assert streamed(ours, ids) == ours.decode(ids)


def test_random_ids_decode_as_in_transformers(pair: tuple[Tokenizer, GPT2Tokenizer]) -> None:
    ours, reference = pair
    generator = random.Random(1)
    for _ in range(2000):
        ids = [generator.randrange(VOCABULARY - 1) for _ in range(generator.randrange(1, 12))]
        assert ours.decode(ids) == reference.decode(ids)
