"""Convert a checkpoint with CTranslate2's own converter.

    python convert.py CHECKPOINT MODEL FORMAT

CTranslate2 takes and gives tokens as text. Here every token is its id written as text, so that no
tokenizer runs in a measurement and a checkpoint may have any tokenizer, or none. All else is as
the converter makes it.
"""

from __future__ import annotations

import sys
from typing import Any

from ctranslate2.converters import TransformersConverter
from ctranslate2.converters.transformers import (
    BartLoader,
    GPT2Loader,
    MarianMTLoader,
    T5Loader,
    register_loader,
)

QUANTIZATION = {"fp32": "float32", "int8": "int8"}


class IdTokens:
    """Mixed into a loader: its vocabulary is "0", "1", ... as far as the embeddings go."""

    def get_vocabulary(self, model: Any, tokenizer: Any) -> list[str]:
        """The names of all tokens."""
        return [str(i) for i in range(model.config.vocab_size)]

    def set_config(self, config: Any, model: Any, tokenizer: Any) -> None:
        """The names of the special tokens."""
        ids = model.config
        start = getattr(ids, "decoder_start_token_id", None)
        config.bos_token = str(ids.bos_token_id if start is None else ids.pad_token_id)
        config.eos_token = config.unk_token = str(ids.eos_token_id)
        if start is not None:
            config.decoder_start_token = str(start)


@register_loader("GPT2Config")
class GPT2(IdTokens, GPT2Loader):
    """GPT-2."""


@register_loader("T5Config")
class T5(IdTokens, T5Loader):
    """T5."""


@register_loader("BartConfig")
class Bart(IdTokens, BartLoader):
    """BART."""


@register_loader("MarianConfig")
class Marian(IdTokens, MarianMTLoader):
    """Marian, whose loader drops the last token: it only starts texts, as a zero embedding."""

    def get_vocabulary(self, model: Any, tokenizer: Any) -> list[str]:
        """The names of all tokens but the last."""
        return super().get_vocabulary(model, tokenizer)[:-1]

    def set_config(self, config: Any, model: Any, tokenizer: Any) -> None:
        """The names of the special tokens."""
        super().set_config(config, model, tokenizer)
        config.decoder_start_token = config.bos_token = config.eos_token


class Converter(TransformersConverter):
    """The converter without a tokenizer."""

    def load_tokenizer(self, *_: Any, **__: Any) -> None:
        """Nothing: ``IdTokens`` needs none."""


def main() -> None:
    """Convert what the command line names."""
    checkpoint, model, name = sys.argv[1:]
    Converter(checkpoint).convert(model, quantization=QUANTIZATION[name])


if __name__ == "__main__":
    main()
