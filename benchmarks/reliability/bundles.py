"""Small bundles to be damaged: several families, tokenizers and storages of weights.

They are made once in a folder. The checkpoints have random weights.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from edgeseq.runtime.bundle.demo_bundles import demo_bundle

QUANTIZED = {"int8": "int8", "int4": "int4", "w8": "int8-weights"}  # end of a name -> recipe


def make_bundles(folder: Path, only_demos: bool = False) -> list[Path]:
    """Return the folders of all bundles in ``folder``, made unless they are there."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    demos = {
        "demo-gpt2": lambda out: _copy_demo("gpt2", out),
        "demo-t5": lambda out: _copy_demo("t5", out),
    }
    if only_demos:
        return [_made(folder / name, make) for name, make in demos.items()]
    made = {
        **demos,
        "gpt2": _make_gpt2,
        "t5": _make_t5,
        "byt5": _make_byt5,
        "bart": _make_bart,
        "marian": _make_marian,
        "nllb": _make_nllb,
    }
    found = [_made(folder / name, make) for name, make in made.items()]
    for family, ends in {"gpt2": ("int8", "int4"), "t5": ("int8", "w8"), "bart": ("int4",)}.items():
        for end in ends:
            source = folder / family
            found.append(_made(folder / f"{family}-{end}", lambda out: _quantize(source, out, end)))  # noqa: B023
    return found


def _made(out: Path, make: Callable[[Path], None]) -> Path:
    if not out.is_dir():
        out.parent.mkdir(parents=True, exist_ok=True)
        make(out)
    return out


def _copy_demo(name: str, out: Path) -> None:
    shutil.copytree(demo_bundle(name), out)


def _export(checkpoint: Path, out: Path) -> None:
    from edgeseq.export import export_checkpoint

    export_checkpoint(checkpoint, out)
    shutil.rmtree(checkpoint)


def _quantize(source: Path, out: Path, end: str) -> None:
    from edgeseq.quantize import quantize_bundle

    quantize_bundle(source, out, recipe=QUANTIZED[end], allow_loss=True)


def _checkpoint(out: Path) -> Path:
    return out.with_name(f"{out.name}.checkpoint")


def _make_gpt2(out: Path) -> None:
    from tests.support.checkpoints import byte_level_tokenizer, seeded_gpt2

    seeded_gpt2().save_pretrained(_checkpoint(out))
    byte_level_tokenizer().save_pretrained(_checkpoint(out))
    _export(_checkpoint(out), out)


def _make_t5(out: Path) -> None:
    from tests.support.checkpoints import seeded_t5, unigram_tokenizer

    seeded_t5().save_pretrained(_checkpoint(out))
    unigram_tokenizer().save_pretrained(_checkpoint(out))
    _export(_checkpoint(out), out)


def _make_byt5(out: Path) -> None:
    from transformers import ByT5Tokenizer

    from tests.support.checkpoints import seeded_t5

    seeded_t5(vocab_size=384).save_pretrained(_checkpoint(out))
    ByT5Tokenizer().save_pretrained(_checkpoint(out))
    _export(_checkpoint(out), out)


def _make_bart(out: Path) -> None:
    from tests.support.checkpoints import byte_level_tokenizer
    from tests.support.family_checkpoints import seeded_model

    seeded_model("bart-0").save_pretrained(_checkpoint(out))
    byte_level_tokenizer().save_pretrained(_checkpoint(out))
    _export(_checkpoint(out), out)


def _make_marian(out: Path) -> None:
    from tests.support.sentencepieces import write_marian
    from tests.support.translators import save_network

    _checkpoint(out).mkdir()
    write_marian(_checkpoint(out))
    save_network(_checkpoint(out), "marian-0")
    _export(_checkpoint(out), out)


def _make_nllb(out: Path) -> None:
    from tests.support.translators import save_nllb

    _checkpoint(out).mkdir()
    save_nllb(_checkpoint(out), exponential_decay_length_penalty=(4, 2.0))
    _export(_checkpoint(out), out)
