"""Convert a GPT-2 or T5 checkpoint with llama.cpp's own converter and quantizer.

    python convert.py CHECKPOINT MODEL FORMAT COMPILED

The converter is no package: it lies in the source distribution of llama-cpp-python, which is in
the folder ``COMPILED`` and is unpacked once, in this Python's environment.

The converter knows a GPT-2 tokenizer by a hash and T5's by its SentencePiece file, and refuses
others. Such a checkpoint gets a vocabulary of the size of its embeddings in which only the special
tokens are in use. Newer GPT-2 configurations lack ``n_ctx``: it is ``n_positions``. All else, and
every weight, is as the converter and the quantizer make it.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llama_cpp

VERSION = version("llama_cpp_python")
SOURCE = Path(sys.prefix) / "share" / f"llama_cpp_python-{VERSION}"
QUANTIZED = {
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
}


def unpack_converter(compiled: Path) -> None:
    """Unpack llama.cpp's sources into ``SOURCE``."""
    SOURCE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SOURCE.parent) as folder:
        (archive,) = compiled.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        (sources,) = Path(folder).glob("*/vendor/llama.cpp")
        sources.rename(SOURCE)


def convert(checkpoint: str, to: Path) -> None:
    """Write ``to``, a GGUF file with 32-bit weights."""
    sys.path.insert(0, str(SOURCE))
    import convert_hf_to_gguf
    from conversion.gpt2 import GPT2Model
    from conversion.t5 import T5Model

    for family, kind in ((GPT2Model, "gpt2"), (T5Model, "t5")):
        family.set_vocab = with_any_tokenizer(family.set_vocab, kind)
    set_parameters = GPT2Model.set_gguf_parameters

    def set_gpt2_parameters(model: Any) -> None:
        model.hparams.setdefault("n_ctx", model.hparams["n_positions"])
        set_parameters(model)

    GPT2Model.set_gguf_parameters = set_gpt2_parameters
    sys.argv[1:] = [checkpoint, "--outfile", str(to), "--outtype", "f32"]
    convert_hf_to_gguf.main()


def with_any_tokenizer(set_vocab: Callable[[Any], None], kind: str) -> Callable[[Any], None]:
    """The converter's method ``set_vocab``, but with a vocabulary where it raises an error."""

    def set_some_vocab(model: Any) -> None:
        try:
            set_vocab(model)
        except (NotImplementedError, FileNotFoundError):
            set_unused_vocab(model, kind)

    return set_some_vocab


def set_unused_vocab(model: Any, kind: str) -> None:
    """Write a vocabulary for a tokenizer of llama.cpp's type ``kind``, "gpt2" or "t5"."""
    from conversion.base import SentencePieceTokenTypes as Type

    size, eos = model.hparams["vocab_size"], model.hparams["eos_token_id"]
    types = [Type.UNUSED] * size
    types[eos] = Type.CONTROL
    writer = model.gguf_writer
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre({"gpt2": "gpt-2", "t5": "default"}[kind])
    writer.add_token_list([f"[PAD{i}]".encode() for i in range(size)])
    writer.add_token_types(types)
    writer.add_eos_token_id(eos)
    if kind == "gpt2":
        writer.add_token_merges(["! !"])  # llama.cpp does not load a file with none
    else:
        writer.add_token_scores([0.0] * size)


def quantize(exact: Path, to: Path, name: str) -> None:
    """Write ``to``, whose weights are of the type ``name``."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = QUANTIZED[name]
    if llama_cpp.llama_model_quantize(bytes(exact), bytes(to), params):
        raise RuntimeError(f"llama.cpp could not quantize {exact} to {name}")


def main() -> None:
    """Convert what the command line names."""
    checkpoint, folder, name, compiled = sys.argv[1:]
    if not SOURCE.exists():
        unpack_converter(Path(compiled))
    model = Path(folder)
    model.mkdir()
    convert(checkpoint, model / "model.gguf")
    if name != "f32":
        exact = (model / "model.gguf").rename(model / "exact.gguf")
        quantize(exact, model / "model.gguf", name)
        exact.unlink()


if __name__ == "__main__":
    main()
