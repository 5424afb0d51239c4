"""What a graph computes from constants alone, done beforehand: exporters write shapes as sums of their parts."""

import math
from typing import Final

import numpy as np
from onnx import ValueInfoProto, helper

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.ncnn_graph import Array, Operator, SourceGraph

MAX_FOLDED_ELEMENTS: Final = 2**24
"""Longer results stay operators: a file of a few bytes must not fill the memory."""

_DRAWN: Final = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"})


def fold(graph: SourceGraph) -> None:
    """Replaces operators by their results where these are known. Raises EngineFailure (conversion_failed)."""
    kept: list[Operator] = []
    for operator in graph.operators:
        results = _results(graph, operator)
        if results is None:
            kept.append(operator)
        else:
            graph.constants.update(zip(operator.outputs, results, strict=True))
            graph.shapes.update((name, array.shape) for name, array in zip(operator.outputs, results, strict=True))
    graph.operators = kept


def _results(graph: SourceGraph, operator: Operator) -> list[Array] | None:
    """Known outputs, None where they depend on an input."""
    if operator.kind == "Shape" and operator.inputs[0] in graph.shapes:
        bounds = slice(operator.attributes.get("start", 0), operator.attributes.get("end"))
        return [np.array(graph.shapes[operator.inputs[0]][bounds], np.int64)]
    sources = [name for name in operator.inputs if name]
    if operator.kind in _DRAWN or any(name not in graph.constants for name in sources):
        return None
    sizes = [math.prod(graph.shapes[name]) if name in graph.shapes else math.inf for name in operator.outputs]
    if max(sizes) > MAX_FOLDED_ELEMENTS:
        return None
    if operator.kind == "Transpose":
        return [np.transpose(graph.constants[sources[0]], operator.attributes.get("perm"))]
    return _evaluated(operator, {name: graph.constants[name] for name in sources})


def _evaluated(operator: Operator, values: dict[str, Array]) -> list[Array]:
    from onnx.reference import ReferenceEvaluator  # half a second to import, and few graphs need it

    node = helper.make_node(operator.kind, operator.inputs, operator.outputs, **operator.attributes)
    graph = helper.make_graph(
        [node],
        "constants",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in values.items()
        ],
        [ValueInfoProto(name=name) for name in operator.outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", operator.opset)])
    try:
        return [np.asarray(result) for result in ReferenceEvaluator(model).run(None, values)]
    except Exception as error:  # boundary: the evaluator's operators raise whatever numpy does
        detail = f"{operator.kind} of constants cannot be computed: {error}"
        raise EngineFailure(FailureCode.CONVERSION_FAILED, detail) from error
