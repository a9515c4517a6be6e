"""Convert a GPT-2 or T5 checkpoint with CTranslate2's own converter.

    python convert.py CHECKPOINT MODEL FORMAT

CTranslate2 takes and gives tokens as text. Here every token is its id written as text, so that no
tokenizer runs in a measurement and a checkpoint may have any tokenizer, or none. All else is as
the converter makes it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from ctranslate2.converters import TransformersConverter
from ctranslate2.converters.transformers import GPT2Loader, T5Loader, register_loader

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


class Converter(TransformersConverter):
    """The converter without a tokenizer."""

    def load_tokenizer(self, *_: Any, **__: Any) -> None:
        """Nothing: ``IdTokens`` needs none."""


def main() -> None:
    """Convert what the command line names."""
    checkpoint, model, name = sys.argv[1:]
    part = Path(f"{model}.part")
    Converter(checkpoint).convert(str(part), quantization=QUANTIZATION[name], force=True)
    shutil.rmtree(model, ignore_errors=True)
    part.rename(model)


if __name__ == "__main__":
    main()
