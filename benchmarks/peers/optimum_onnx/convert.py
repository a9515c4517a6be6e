"""Make Optimum ONNX's model folder from a Hugging Face checkpoint folder.

    python convert.py CHECKPOINT MODEL FORMAT

``fp32`` is Optimum's own export. ``int8`` is the dynamic quantization that its documentation shows
for processors with AVX512-VNNI. ``accelerate`` has to be there: without it, weights that the model
uses twice are stored twice.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import accelerate  # noqa: F401
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig

# The merged decoder holds both of these, and it is what Optimum loads.
UNMERGED = ("decoder_model.onnx", "decoder_with_past_model.onnx")


def export(checkpoint: Path, folder: Path) -> None:
    """Write graphs with a cache, the first step and the others in one, to ``folder``."""
    config = json.loads((checkpoint / "config.json").read_text())
    task = "text2text-generation" if config.get("is_encoder_decoder") else "text-generation"
    main_export(str(checkpoint), folder, task=f"{task}-with-past", do_validation=False)
    for name in UNMERGED:
        (folder / name).unlink(missing_ok=True)


def quantize(folder: Path) -> None:
    """Replace the graphs in ``folder`` by their 8-bit forms."""
    precision = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    for graph in sorted(folder.glob("*.onnx")):
        quantizer = ORTQuantizer.from_pretrained(folder, file_name=graph.name)
        quantizer.quantize(precision, save_dir=folder, file_suffix="part")
        graph.with_stem(f"{graph.stem}_part").replace(graph)


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("format", choices=["fp32", "int8"])
    arguments = parser.parse_args()
    export(arguments.checkpoint, arguments.model)
    if arguments.format == "int8":
        quantize(arguments.model)


if __name__ == "__main__":
    main()
