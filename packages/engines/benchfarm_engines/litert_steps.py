"""Folds QuantizeLinear and DequantizeLinear into 8-bit steps of the tensors between them."""

from typing import Final

import numpy as np

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.litert_graph import Graph, Node
from benchfarm_engines.litert_writer import Quant

QUANTISE: Final = "QuantizeLinear"
DEQUANTISE: Final = "DequantizeLinear"


def fold_steps(graph: Graph) -> None:
    """Afterwards a tensor with steps stands for what was quantised and for what was dequantised from it.

    A conversion stays a node where its fp32 side is an edge of the graph, or is read by others too. Raises
    EngineFailure (conversion_failed) for steps that LiteRT does not have.
    """
    readers, makers = graph.readers(), graph.makers()
    same: dict[str, str] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        node.inputs = [same.get(name, name) for name in node.inputs]
        if node.op == DEQUANTISE and _dequantised(graph, node, same):
            continue
        if node.op == QUANTISE:
            source, result = node.inputs[0], node.outputs[0]
            graph.quants[result] = _quant(graph, node, result)
            if source in makers and source not in graph.quants and readers[source] == 1:
                maker = makers[result] = makers[source]
                maker.outputs = [result if name == source else name for name in maker.outputs]
                continue
        kept.append(node)
    graph.nodes = kept


def _dequantised(graph: Graph, node: Node, same: dict[str, str]) -> bool:
    """Whether the node is not needed any more."""
    source, result = node.inputs[0], node.outputs[0]
    if source in graph.constants:
        graph.constants[result] = graph.constants[source]
        graph.quants[result] = _quant(graph, node, result)
        return True
    graph.quants[source] = _quant(graph, node, source)
    if result in graph.outputs:
        return False
    same[result] = source
    return True


def _quant(graph: Graph, node: Node, name: str) -> Quant:
    scales = np.atleast_1d(graph.constants[node.inputs[1]])
    zeros = np.atleast_1d(graph.constants[node.input(2)]) if node.input(2) else np.zeros(1, dtype=np.uint8)
    rank = len(graph.shapes[name])
    if zeros.dtype not in (np.int8, np.int32) or scales.ndim != 1 or np.any(zeros != zeros[0]):
        raise EngineFailure(
            FailureCode.CONVERSION_FAILED, f"{name[:60]!r} is quantised to {zeros.dtype}, or in blocks; LiteRT has int8"
        )
    axis = int(node.attributes.get("axis", 1)) % max(rank, 1)
    return Quant(tuple(float(each) for each in scales), int(zeros[0]), axis if scales.size > 1 else 0)
