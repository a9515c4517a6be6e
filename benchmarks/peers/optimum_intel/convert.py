"""A T5 checkpoint as a folder of Optimum Intel: python convert.py CHECKPOINT MODEL FORMAT.

Optimum Intel exports encoder and decoder in float32; NNCF then compresses their weights.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import nncf
import openvino as ov
from optimum.exporters.openvino import main_export

# What NNCF does to the weights, by format. Embeddings and lm_head are compressed like every other
# layer. Groups of 128 are NNCF's own choice for 4 bits; the small table of T5's position biases,
# whose rows are shorter than a group, is left alone.
COMPRESSIONS: dict[str, dict[str, Any] | None] = {
    "fp32": None,
    "int8": {"mode": nncf.CompressWeightsMode.INT8_SYM},
    "int4": {
        "mode": nncf.CompressWeightsMode.INT4_SYM,
        "group_size": 128,
        "all_layers": True,
        "advanced_parameters": nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.IGNORE
        ),
    },
}


def convert(checkpoint: Path, model: Path, name: str) -> None:
    """Write the folder ``model``."""
    compression = COMPRESSIONS[name]
    main_export(str(checkpoint), model, task="text2text-generation-with-past", stateful=True)
    if compression is not None:
        compress(model, compression)


def compress(folder: Path, compression: dict[str, Any]) -> None:
    """Replace the graphs in ``folder`` by ones with compressed weights."""
    float_graphs = folder / "float"
    float_graphs.mkdir()
    for file in folder.glob("openvino_*coder_model.*"):
        file.rename(float_graphs / file.name)
    for graph in float_graphs.glob("*.xml"):
        compressed = nncf.compress_weights(ov.Core().read_model(graph), **compression)
        ov.save_model(compressed, folder / graph.name, compress_to_fp16=False)
    shutil.rmtree(float_graphs)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
