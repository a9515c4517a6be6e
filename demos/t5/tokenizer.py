"""A Unigram tokenizer for the demo T5: one token per letter and one per phoneme.

    python -m demos.t5.tokenizer FOLDER

The folder ``checkpoint`` has the same files, which the training reads.
"""

from __future__ import annotations

import argparse
import string
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import T5TokenizerFast

from demos.t5.dictionary import PRONOUNCE, SPELL

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
SPACE = "▁"
# fmt: off
VOWELS = (
    "AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW",
)
CONSONANTS = (
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH",
    "T", "TH", "V", "W", "Y", "Z", "ZH",
)
# fmt: on


def build_tokenizer() -> Tokenizer:
    """Return the tokenizer; all tokens have the same score, so it uses the fewest tokens."""
    phonemes = [vowel + stress for vowel in VOWELS for stress in ("0", "1", "2", "")]
    pieces = [SPACE, *string.ascii_lowercase, "'", *string.ascii_uppercase]
    pieces += [SPACE + word for word in (PRONOUNCE, SPELL, *phonemes, *CONSONANTS)]
    vocabulary = [(PAD, 0.0), (END, 0.0), (UNKNOWN, 0.0), *((piece, -1.0) for piece in pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Replace("’", "'"),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Replace(Regex(rf"(?i)^{PRONOUNCE}"), PRONOUNCE),
            normalizers.Replace(Regex(rf"(?i)^{SPELL}"), SPELL),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(SPACE, prepend_scheme="always")
    tokenizer.add_special_tokens([PAD, END, UNKNOWN])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", END], special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files that ``AutoTokenizer.from_pretrained(folder)`` reads."""
    T5TokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        unk_token=UNKNOWN,
        pad_token=PAD,
        extra_ids=0,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the demo T5's tokenizer.")
    parser.add_argument("out", type=Path, help="folder to write")
    save_tokenizer(build_tokenizer(), parser.parse_args().out)


if __name__ == "__main__":
    main()
