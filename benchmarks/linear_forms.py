"""Measure the storage forms of quantized linear layers, each in the same whole graph.

    python benchmarks/linear_forms.py FP32_BUNDLE

The forms take turns, each with ONNX Runtime's stock operators and with edgeseq's native kernels.
For batch 1 each has three figures in milliseconds: a decode step after 32 tokens of context, the
prefill of 512 tokens in chunks, as the runtime does it, and the prefill of 512 tokens at once.

`dynamic` is the form of ONNX Runtime's own dynamic quantization: one scale for a whole activation
tensor, so that a row's result depends on the other rows. Embeddings and lm_head are 8-bit blocks in
all forms except float32. The KV cache is float32. Weights are rounded to the nearest code, because
their values do not change the speed. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import onnx

from edgeseq.quantize.graph.functions import MICROSOFT
from edgeseq.quantize.graph.network import Layer, Network
from edgeseq.quantize.graph.rewriting import rewrite
from edgeseq.quantize.graph.writer import GraphWriter
from edgeseq.quantize.rounding import Codes
from edgeseq.quantize.weight_storages import Blockwise, DynamicInt8, Rounded, Storage
from edgeseq.runtime import EdgeseqError
from edgeseq.runtime.bundle.manifest import WEIGHTS_FILE_NAME
from edgeseq.runtime.bundle.reading import Bundle, open_bundle
from edgeseq.runtime.bundle.weights_file import WeightsFile
from edgeseq.runtime.decoder import NewDecoder
from edgeseq.runtime.native.library import Kernels
from edgeseq.runtime.ort import onnx_decoder
from edgeseq.runtime.ort.engine import Engine
from edgeseq.runtime.ort.graph_session import open_session

KERNELS: tuple[Kernels, ...] = ("stock", "native")
CONTEXT, PROMPT = 32, 512
DECODED = 64


class Dynamic(DynamicInt8):
    """One scale for all activations of a tensor: the product is one `DynamicQuantizeMatMul`."""

    def multiply(self, graph: GraphWriter, layer: Layer, codes: Codes | None, node: Any) -> None:
        assert codes is not None
        output = node.output[0]
        graph.external(f"{layer.weight}.int8", codes.codes)
        graph.external(f"{layer.weight}.scales", codes.scales[0])
        inputs = [layer.input, f"{layer.weight}.int8", f"{layer.weight}.scales"]
        if layer.bias:
            inputs += ["", layer.bias]
        graph.node("DynamicQuantizeMatMul", inputs, output, domain=MICROSOFT)


FORMS: dict[str, tuple[Storage, Kernels]] = {
    "dynamic, stock": (Dynamic(), "stock"),
    **{
        f"{name}, {kernels}": (storage, kernels)
        for name, storage in {
            "int8 rows": DynamicInt8(),
            "int8 blocks of 64": Blockwise(8, 64),
            "int8 blocks of 128": Blockwise(8, 128),
            "int4 blocks of 32": Blockwise(4, 32),
            "int4 blocks of 64": Blockwise(4, 64),
            "int4 blocks of 128": Blockwise(4, 128),
        }.items()
        for kernels in KERNELS
    },
}


def rounded(network: Network, storage: Storage) -> dict[str, Rounded]:
    """Return every weight, rounded to the nearest code."""
    found: dict[str, Rounded] = {}
    tables = set(network.tables.values())
    tables |= {layer.weight for layer in network.layers.values() if layer.is_table}
    for name in [layer.weight for layer in network.layers.values()] + sorted(tables):
        weight = np.asarray(network.weights[name])
        kind = Blockwise(8, 64) if name in tables else storage
        codes = kind.round(weight.T if name in tables else weight, None)
        found[name] = Rounded(kind, codes)
    return found


def decoders(bundle: Bundle, folder: Path, threads: int | None) -> dict[str, NewDecoder]:
    """Return, by form, the function that makes decoders."""
    network = Network(bundle, "decoder")
    graph = bundle.file(bundle.manifest.graphs["decoder"])
    made: dict[str, NewDecoder] = {
        "float32": Engine(
            bundle.manifest, {"decoder": open_session(graph, threads=threads)}
        ).decoder
    }
    for name, (storage, kernels) in FORMS.items():
        place = folder / name
        place.mkdir()
        with WeightsFile(place / WEIGHTS_FILE_NAME) as weights_file:
            model = rewrite(network, rounded(network, storage), weights_file).model()
        onnx.save(model, place / graph.name)
        session = open_session(place / graph.name, threads=threads, kernels=kernels)
        made[name] = Engine(bundle.manifest, {"decoder": session}).decoder
    return made


def measure(new_decoder: NewDecoder, prompt: list[int]) -> dict[str, float]:
    """Return the ms of a decode step, of a prefill in chunks, and of a prefill at once."""
    decoder = new_decoder([prompt], CONTEXT + DECODED + 1)
    logits = decoder.prefill([prompt[:CONTEXT]])
    steps = []
    for _ in range(DECODED):
        started = time.perf_counter()
        logits = decoder.decode([int(logits[0].argmax())])
        steps.append(time.perf_counter() - started)
    found = {"token_ms": 1e3 * median(steps)}
    chunks = onnx_decoder.CHUNKS["float32"]
    for name, size in (("prompt_in_chunks_ms", chunks), ("prompt_at_once_ms", PROMPT)):
        onnx_decoder.CHUNKS["float32"] = size
        decoder = new_decoder([prompt], PROMPT)
        started = time.perf_counter()
        decoder.prefill([prompt])
        found[name] = 1e3 * (time.perf_counter() - started)
    onnx_decoder.CHUNKS["float32"] = chunks
    return found


def statistics_of(values: list[float]) -> dict[str, float]:
    """Return the median and the quartiles."""
    low, middle, high = (round(value, 3) for value in quantiles(values, n=4, method="inclusive"))
    return {"median": middle, "quartile_1": low, "quartile_3": high}


def main() -> None:
    """Measure and print a table; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description="Forms of a quantized linear layer.")
    parser.add_argument("bundle", type=Path, help="a float32 GPT-2")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.bundle)
    vocabulary = bundle.manifest.dimensions.vocabulary
    prompt = np.random.default_rng(0).integers(vocabulary, size=PROMPT).tolist()
    figures: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = decoders(bundle, Path(folder), arguments.threads)
        for number in range(arguments.rounds + 1):  # the first round is a warm-up
            print(f"round {number} of {arguments.rounds}", file=sys.stderr, flush=True)
            for name in list(made)[:: -1 if number % 2 else 1]:
                for figure, value in measure(made[name], prompt).items():
                    if number:
                        figures.setdefault(name, {}).setdefault(figure, []).append(value)
    report(figures)


def report(figures: dict[str, dict[str, list[float]]]) -> None:
    """Print the table and the JSON line."""
    names = list(next(iter(figures.values())))
    print(f"{'median (quartiles)':26}" + "".join(f"{name:>26}" for name in names))
    found: dict[str, Any] = {}
    for form in ("float32", *FORMS):
        values = figures[form]
        found[form] = {name: statistics_of(values[name]) for name in names}
        cells = (
            f"{item['median']:.2f} ({item['quartile_1']:.2f}-{item['quartile_3']:.2f})"
            for item in found[form].values()
        )
        print(f"{form:26}" + "".join(f"{cell:>26}" for cell in cells))
    print(json.dumps(found))


if __name__ == "__main__":
    try:
        main()
    except EdgeseqError as error:
        sys.exit(str(error))
