"""Make Transformers.js' model folder from a Hugging Face checkpoint folder.

    python convert.py CHECKPOINT MODEL FORMAT

FORMAT is a ``dtype`` of the library. As in its own conversion script, ``fp32`` is Optimum's export,
``q8`` ONNX Runtime's dynamic quantization, and ``q4`` its 4-bit weights in symmetric blocks of 32,
here with that script's option for 8-bit arithmetic, which is quicker. So that both reach every
linear layer, a last layer that shares the embedding first gets weights of its own, and for ``q4``
GPT-2's layers are written as plain products.
``accelerate`` has to be there: without it, weights that the model uses twice are stored twice.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import accelerate  # noqa: F401
import onnx
from onnx import GraphProto, TensorProto, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.onnx_model import ONNXModel
from optimum.exporters.onnx import main_export

SUFFIXES = {"fp32": "", "q8": "_quantized", "q4": "_q4"}
# The merged decoder holds both of these, and it is what Transformers.js loads.
UNMERGED = ("decoder_model.onnx", "decoder_with_past_model.onnx")


def export(checkpoint: Path, folder: Path) -> None:
    """Write the graphs, those of the first step and of the others in one, to ``folder/onnx``."""
    config = json.loads((checkpoint / "config.json").read_text())
    task = "text2text-generation" if config.get("is_encoder_decoder") else "text-generation"
    main_export(str(checkpoint), folder, task=f"{task}-with-past", do_validation=False)
    (folder / "onnx").mkdir()
    for graph in folder.glob("*.onnx"):
        if graph.name in UNMERGED:
            graph.unlink()
        else:
            graph.rename(folder / "onnx" / graph.name)


def quantize(graph: Path, precision: str) -> None:
    """Replace ``graph`` by its quantized form, whose name says so."""
    quantized = graph.with_stem(graph.stem + SUFFIXES[precision])
    model = onnx.load(graph)
    untie(model.graph)
    if precision == "q8":
        options = {"EnableSubgraph": True, "MatMulConstBOnly": True}
        quantize_dynamic(model, quantized, weight_type=QuantType.QInt8, extra_options=options)
    else:
        ONNXModel(model).replace_gemm_with_matmul()
        quantizer = MatMulNBitsQuantizer(model, block_size=32, is_symmetric=True, accuracy_level=4)
        quantizer.process()
        quantizer.model.save_model_to_file(str(quantized))
    graph.unlink()


def untie(graph: GraphProto) -> None:
    """Store turned weights instead of turning them while the model runs."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    turned: dict[str, TensorProto] = {}

    def walk(part: GraphProto) -> None:
        for node in list(part.node):
            if node.op_type == "Transpose" and node.input[0] in weights:
                values = numpy_helper.to_array(weights[node.input[0]]).T.copy()
                turned[node.output[0]] = numpy_helper.from_array(values, node.output[0])
                part.node.remove(node)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    walk(attribute.g)

    walk(graph)
    graph.initializer.extend(turned.values())


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("format", choices=list(SUFFIXES))
    arguments = parser.parse_args()
    export(arguments.checkpoint, arguments.model)
    if arguments.format != "fp32":
        for graph in sorted((arguments.model / "onnx").glob("*.onnx")):
            quantize(graph, arguments.format)


if __name__ == "__main__":
    main()
