"""A GPT-2 checkpoint as a folder of OpenVINO GenAI: python convert.py CHECKPOINT MODEL FORMAT.

Optimum Intel exports in float32, stateful, with the tokenizer; NNCF then compresses the weights.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import nncf
import openvino as ov
from optimum.exporters.openvino import main_export

GRAPH = "openvino_model.xml"

# What NNCF does to the weights, by format. The embedding, which is the lm_head too, is compressed
# like every other layer. Groups of 128 are NNCF's own choice for 4 bits.
COMPRESSIONS: dict[str, dict[str, Any] | None] = {
    "fp32": None,
    "int8": {"mode": nncf.CompressWeightsMode.INT8_SYM},
    "int4": {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": 128, "all_layers": True},
}


def convert(checkpoint: Path, model: Path, name: str) -> None:
    """Write the folder ``model``."""
    compression = COMPRESSIONS[name]
    main_export(
        str(checkpoint),
        model,
        task="text-generation-with-past",
        convert_tokenizer=True,
        stateful=True,
    )
    if compression is not None:
        compress(model, compression)


def compress(folder: Path, compression: dict[str, Any]) -> None:
    """Replace the graph in ``folder`` by one with compressed weights."""
    float_graph = folder / "float"
    float_graph.mkdir()
    for file in folder.glob(f"{Path(GRAPH).stem}.*"):
        file.rename(float_graph / file.name)
    compressed = nncf.compress_weights(ov.Core().read_model(float_graph / GRAPH), **compression)
    ov.save_model(compressed, folder / GRAPH, compress_to_fp16=False)
    del compressed  # it maps the files that go now
    shutil.rmtree(float_graph)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
