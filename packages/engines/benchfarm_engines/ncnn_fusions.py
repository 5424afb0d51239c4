"""Operators that ncnn has as one layer where ONNX writes several: found in the graph and put in their place."""

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from benchfarm_engines.ncnn_graph import Operator, SourceGraph

_DEALT: Final = [0, 2, 1, 3, 4]
_ROOT: Final = math.sqrt(2)


def fuse(graph: SourceGraph) -> None:
    """Rewrites the graph; a pattern that does not match whole stays as it is."""
    for anchor, fusion in _FUSIONS:
        for operator in [each for each in graph.operators if each.kind == anchor]:
            if operator in graph.operators:
                fusion(graph, operator)


def _replace(graph: SourceGraph, parts: list[Operator], fused: Operator) -> None:
    """Puts one operator where the last of the parts stood."""
    place = max(graph.operators.index(part) for part in parts)
    graph.operators[place] = fused
    for part in parts:
        if part in graph.operators:
            graph.operators.remove(part)


def _other(operator: Operator, tensor: str) -> str | None:
    """The other input of an operator with two."""
    if len(operator.inputs) != 2 or tensor not in operator.inputs:
        return None
    return operator.inputs[1] if operator.inputs[0] == tensor else operator.inputs[0]


def _is_number(graph: SourceGraph, tensor: str | None, value: float) -> bool:
    found = graph.scalar(tensor) if tensor is not None else None
    return found is not None and math.isclose(found, value, rel_tol=1e-4)


def _swish(graph: SourceGraph, sigmoid: Operator) -> None:
    """x * sigmoid(x)."""
    source, product = sigmoid.inputs[0], graph.only_consumer(sigmoid.output)
    if product is None or product.kind != "Mul" or _other(product, sigmoid.output) != source:
        return
    _replace(graph, [sigmoid, product], Operator("Swish", [source], [product.output]))


def _gelu(graph: SourceGraph, erf: Operator) -> None:
    """x * (1 + erf(x / sqrt(2))) * 0.5, with the factors in any order."""
    scaled = graph.producer(erf.inputs[0])
    shifted = graph.only_consumer(erf.output)
    if scaled is None or shifted is None or shifted.kind != "Add" or graph.only_consumer(scaled.output) is not erf:
        return
    divides = scaled.kind == "Div" and _is_number(graph, scaled.inputs[1], _ROOT)
    if not divides and not (scaled.kind == "Mul" and _is_number(graph, scaled.inputs[1], 1 / _ROOT)):
        return
    product = graph.only_consumer(shifted.output)
    if not _is_number(graph, _other(shifted, erf.output), 1) or product is None or product.kind != "Mul":
        return
    source, factor = scaled.inputs[0], _other(product, shifted.output)
    parts = [scaled, erf, shifted, product]
    if factor == source:
        half = graph.only_consumer(product.output)
        if half is None or half.kind != "Mul" or not _is_number(graph, _other(half, product.output), 0.5):
            return
        _replace(graph, [*parts, half], Operator("Gelu", [source], [half.output]))
        return
    before = graph.producer(factor) if factor is not None else None
    if before is None or before.kind != "Mul" or graph.only_consumer(before.output) is not product:
        return
    if _is_number(graph, _other(before, source), 0.5):
        _replace(graph, [*parts, before], Operator("Gelu", [source], [product.output]))


def _channel_shuffle(graph: SourceGraph, transpose: Operator) -> None:
    """Reshape to groups, transpose, reshape back."""
    before, after = graph.producer(transpose.inputs[0]), graph.only_consumer(transpose.output)
    if list(transpose.attributes.get("perm", ())) != _DEALT or before is None or before.kind != "Reshape":
        return
    if after is None or after.kind != "Reshape" or graph.only_consumer(before.output) is not transpose:
        return
    whole, groups = (graph.shapes.get(name, ()) for name in (before.inputs[0], before.output))
    if (
        len(groups) != len(_DEALT)
        or graph.shapes.get(after.output) != whole
        or groups[3:] != whole[2:]
        or groups[1] * groups[2] != whole[1]
    ):
        return
    fused = Operator("ChannelShuffle", [before.inputs[0]], [after.output], {"groups": groups[1]})
    _replace(graph, [before, transpose, after], fused)


def _linear(graph: SourceGraph, product: Operator) -> None:
    """A product with a constant matrix, with the bias that may follow."""
    source, weight = product.inputs
    values = graph.constants.get(weight)
    if values is None or values.ndim != 2 or source in graph.constants:
        return
    added = graph.only_consumer(product.output)
    bias = _other(added, product.output) if added is not None and added.kind == "Add" else None
    if added is None or bias not in graph.constants or graph.constants[bias].shape != values.shape[1:]:
        _replace(graph, [product], Operator("Linear", [source, weight], [product.output]))
        return
    _replace(graph, [product, added], Operator("Linear", [source, weight, bias], [added.output]))


def _attention(graph: SourceGraph, softmax: Operator) -> None:
    """softmax(q k' * scale) v over batch x heads x tokens x size, where k' is a transposed tensor."""
    scaled, attended = graph.producer(softmax.inputs[0]), graph.only_consumer(softmax.output)
    if scaled is None or attended is None or attended.kind != "MatMul" or attended.inputs[0] != softmax.output:
        return
    if len(graph.shapes.get(softmax.output, ())) != 4 or softmax.attributes.get("axis", -1) not in (-1, 3):
        return
    number = graph.scalar(scaled.inputs[1]) if scaled.kind in ("Mul", "Div") else None
    products = graph.producer(scaled.inputs[0])
    if not number or products is None or products.kind != "MatMul":
        return
    key = graph.producer(products.inputs[1])
    chain = (products, scaled, softmax)
    if key is None or key.kind != "Transpose":
        return
    if any(graph.only_consumer(each.output) is None for each in (key, *chain)):
        return
    _untranspose(graph, key)
    scale = number if scaled.kind == "Mul" else 1 / number
    inputs = [products.inputs[0], key.output, attended.inputs[1]]
    _replace(graph, [*chain, attended], Operator("Attention", inputs, [attended.output], {"scale": scale}))


def _untranspose(graph: SourceGraph, key: Operator) -> None:
    """Keys as tokens x size, as ncnn's attention takes them."""
    perm = list(key.attributes["perm"])
    key.attributes["perm"] = [*perm[:-2], perm[-1], perm[-2]]
    shape = graph.shapes[key.output]
    graph.shapes[key.output] = (*shape[:-2], shape[-1], shape[-2])


def _normalised(graph: SourceGraph, norm: Operator) -> None:
    """A convolution with stored statistics behind it is another convolution, as ncnn's own optimiser writes it."""
    conv = graph.producer(norm.inputs[0])
    known = all(name in graph.constants for name in norm.inputs[1:])
    if conv is None or conv.kind != "Conv" or not known or graph.only_consumer(conv.output) is not norm:
        return
    if any(name not in graph.constants for name in conv.inputs[1:] if name):
        return
    scale, shift, mean, variance = (graph.constants[name].astype(np.float64) for name in norm.inputs[1:5])
    factor = scale / np.sqrt(variance + float(norm.attributes.get("epsilon", 1e-5)))
    weight = graph.constants[conv.inputs[1]]
    bias = graph.constants[conv.inputs[2]] if len(conv.inputs) > 2 and conv.inputs[2] else np.zeros(1)
    names = [f"{norm.output}/{part}" for part in ("weight", "bias")]
    along = (-1, *(1,) * (weight.ndim - 1))
    graph.constants[names[0]] = (weight * factor.reshape(along)).astype(np.float32)
    graph.constants[names[1]] = ((bias - mean) * factor + shift).astype(np.float32)
    _replace(graph, [conv, norm], Operator("Conv", [conv.inputs[0], *names], norm.outputs[:1], conv.attributes))


_FUSIONS: Final[tuple[tuple[str, Callable[[SourceGraph, Operator], None]], ...]] = (
    ("BatchNormalization", _normalised),
    ("Sigmoid", _swish),
    ("Erf", _gelu),
    ("Transpose", _channel_shuffle),
    ("Softmax", _attention),
    ("MatMul", _linear),
)
"""By the operator that each pattern is recognised by."""
