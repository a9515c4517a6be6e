"""Make the graphs of linguonnx from a Hugging Face checkpoint folder.

    python convert.py CHECKPOINT MODEL FORMAT

Three graphs of Optimum's export: the encoder, the decoder's first step and its further steps.
``int8`` quantizes them as optimum_onnx's are. ``accelerate`` has to be there: without it, weights
that the model uses twice are stored twice.
"""

from __future__ import annotations

import sys
from pathlib import Path

import accelerate  # noqa: F401
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig


def convert(checkpoint: str, folder: Path, name: str) -> None:
    """Fill the folder ``folder``."""
    task = "text2text-generation-with-past"
    main_export(checkpoint, folder, task=task, do_validation=False, no_post_process=True)
    (folder / "decoder_model_merged.onnx").unlink(missing_ok=True)
    if name == "int8":
        precision = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
        for graph in sorted(folder.glob("*.onnx")):
            quantizer = ORTQuantizer.from_pretrained(folder, file_name=graph.name)
            quantizer.quantize(precision, save_dir=folder, file_suffix="part")
            graph.with_stem(f"{graph.stem}_part").replace(graph)


if __name__ == "__main__":
    convert(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
