"""Put a checkpoint's whole generation into ONNX graphs with ONNX Runtime's convert_generation.

    python convert.py CHECKPOINT MODEL FORMAT

The folder ``MODEL`` gets ``beam.onnx`` and, for GPT-2, ``greedy.onnx`` over the same weights: the
tool has no greedy search for T5, where one beam does it. ``FORMAT`` is ``fp32`` or ``int8``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import convert_generation as tool
from onnxruntime.transformers.models.gpt2.gpt2_helper import Gpt2Helper, MyGPT2LMHeadModel

NEWEST_IR = 13  # of ONNX Runtime 1.31; the tool takes the onnx package's, which may be newer


def convert(checkpoint: Path, model: Path, precision: str) -> None:
    """Fill the folder ``model``, working in the current folder."""
    config = json.loads((checkpoint / "config.json").read_text())
    arguments = ["--model_name_or_path", str(checkpoint), "--model_type", config["model_type"]]
    arguments += ["--eos_token_id", str(config["vocab_size"])]  # an id that no text has
    int8 = precision == "int8"
    if config["model_type"] == "gpt2":
        greedy, beam = convert_gpt2(checkpoint, arguments, int8)
        if list(beam.graph.initializer) != list(greedy.graph.initializer):
            raise ValueError("the two searches should have the same weights")
        save(greedy, model / "greedy.onnx")
        del beam.graph.initializer[:]
        beam.graph.initializer.extend(greedy.graph.initializer)  # they refer to the file by now
        beam.ir_version = NEWEST_IR
        onnx.save_model(beam, model / "beam.onnx")
    else:
        save(convert_t5(arguments, int8), model / "beam.onnx")


def convert_gpt2(
    checkpoint: Path, arguments: list[str], int8: bool
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Greedy search and beam search."""
    # As `tool.gpt2_to_onnx`, which has no way to ask for the attention that its fusions know.
    module = MyGPT2LMHeadModel.from_pretrained(checkpoint, attn_implementation="eager").eval()
    heads, hidden_size = module.config.num_attention_heads, module.config.hidden_size
    Gpt2Helper.export_onnx(module, module.device, "raw.onnx")
    Gpt2Helper.optimize_onnx("raw.onnx", "exported.onnx", False, heads, hidden_size)

    decoder = onnx.load_model("exported.onnx")
    # To make a first step that has logits for the last position only, the tool looks for the
    # skipped input of the last normalization in front; its own fusion of biases puts it behind.
    last = [node for node in decoder.graph.node if node.op_type == "SkipLayerNormalization"][-1]
    last.input[0], last.input[1] = last.input[1], last.input[0]
    onnx.save_model(decoder, "exported.onnx")
    if int8:
        # The tool reads the decoders' patterns in fp32 and infers shapes as the last thing.
        infer_shapes = tool.shape_inference
        tool.shape_inference = lambda path, external: (infer_shapes(path, external), quantize(path))
    greedy = tool_options(arguments, "greedy", "--decoder_onnx", "greedy_decoder.onnx")
    greedy.num_beams = 1
    beam = tool_options(arguments, "beam", "--decoder_onnx", "beam_decoder.onnx")
    return (
        convert_search(greedy, tool.GenerationType.GREEDYSEARCH),
        convert_search(beam, tool.GenerationType.BEAMSEARCH),
    )


def convert_search(options: Namespace, search: tool.GenerationType) -> onnx.ModelProto:
    """One GPT-2 graph; the tool overwrites the decoder that it starts from."""
    shutil.copy("exported.onnx", options.decoder_onnx)
    tool.convert_generation_model(options, search)
    graph = onnx.load_model(options.output)
    if "init_decoder" not in [attribute.name for attribute in graph.graph.node[0].attribute]:
        raise ValueError("the tool made no first step, so nothing was quantized either")
    return graph


def convert_t5(arguments: list[str], int8: bool) -> onnx.ModelProto:
    """Beam search."""
    from onnx_model_t5 import FusionRelativePositionBiasBlock  # found once the tool is imported

    # This fusion makes an operator that ONNX Runtime does not have for CPUs.
    FusionRelativePositionBiasBlock.fuse = lambda *_: None
    options = tool_options(arguments, "beam")
    tool.t5_to_onnx(options)
    if int8:
        quantize(options.encoder_decoder_init_onnx)
        quantize(options.decoder_onnx)
    tool.convert_generation_model(options)
    return onnx.load_model(options.output)


def tool_options(arguments: list[str], name: str, *more: str) -> Namespace:
    """The tool's options for a graph named ``name``."""
    return tool.parse_arguments([*arguments, "--output", f"./{name}.onnx", *more])


def quantize(path: str) -> None:
    """Quantize the graph in the file ``path`` as the tool's ``quantize_helper`` would.

    Except that each column gets a scale of its own, which costs no time.
    """
    done = Path(f"{path}.int8")
    quantize_dynamic(
        path,
        done,
        per_channel=True,
        reduce_range=False,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    done.replace(path)


def save(graph: onnx.ModelProto, path: Path) -> None:
    """Save with the weights in a file beside it, which the runtime maps and does not copy."""
    graph.ir_version = NEWEST_IR
    onnx.save_model(
        graph, path, save_as_external_data=True, location="weights.data", size_threshold=1024
    )


def main() -> None:
    """Convert what the command line names."""
    checkpoint, model = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    work = model.with_name("work")  # deleted with what lies beside the model
    work.mkdir()
    model.mkdir()
    os.chdir(work)  # where the tool leaves its files
    convert(checkpoint, model, sys.argv[3])


if __name__ == "__main__":
    main()
