"""Rewrite a graph: replace each node that reads a quantized weight by its storage's nodes."""

from __future__ import annotations

from ...runtime.bundle.weights_file import WeightsFile
from ..weight_storages import RoundedWeights
from .network import Network
from .writer import GraphWriter


def rewrite(network: Network, rounded: RoundedWeights, weights_file: WeightsFile) -> GraphWriter:
    """Return a copy of the graph of ``network`` that reads the ``rounded`` weights."""
    graph = GraphWriter(network, weights_file)
    for i, node in enumerate(network.graph.node):
        layer, table = network.layers.get(i), network.tables.get(i)
        if layer is not None and layer.weight in rounded:
            storage, codes = rounded[layer.weight]
            storage.multiply(graph, layer, codes, node)
        elif table is not None and table in rounded:
            storage, codes = rounded[table]
            storage.look_up(graph, table, codes, node.input[1], node.output[0])
        else:
            graph.keep(node)
    return graph
