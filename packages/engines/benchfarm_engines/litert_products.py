"""Rules of the operators that multiply matrices, and the weights of everything that has some."""

import math
from typing import Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from benchfarm_engines.litert_fusion import LINEAR
from benchfarm_engines.litert_layout import IMAGE, Axes, extended, plain
from benchfarm_engines.litert_translation import Code, Rule, Site, Value
from benchfarm_engines.litert_writer import Quant


def weights_of(site: Site, place: int, perm: tuple[int, ...], *, channels: int) -> Value:
    """Constant weights with their axes in another order; in 8 bits with the steps of their output channels.

    channels: the axis of the output channels, as the graph has it.
    """
    name = site.node.input(place)
    if site.quant is None:
        return site.translation.constant(site.array(place).transpose(perm).astype(np.float32))
    quant = site.graph.quants[name]
    axis = perm.index(channels)
    steps = Quant(quant.scales, quant.zero_point, axis if len(quant.scales) > 1 else 0)
    return site.translation.constant(site.graph.constants[name].transpose(perm), steps)


def bias_of(site: Site, place: int, x: Value, weights: Value, size: int) -> Value:
    """The bias, or zeros; in 8 bits as int32 in the steps of input times weights."""
    values = site.array(place).ravel() if site.node.input(place) else np.zeros(size)
    if site.quant is None:
        return site.translation.constant(np.broadcast_to(values, (size,)).astype(np.float32))
    assert x.quant is not None
    assert weights.quant is not None
    scales = x.quant.scale * np.array(weights.quant.scales)
    limits = np.iinfo(np.int32)
    whole = np.clip(np.rint(np.broadcast_to(values, (size,)) / scales), limits.min, limits.max).astype(np.int32)
    return site.translation.constant(whole, Quant(tuple(float(each) for each in scales)))


def _turned(site: Site, weights: Value, shape: tuple[int, ...]) -> Value:
    """Weights of features in the order c x h x w, for features in the order h x w x c."""
    numbers, quant = site.translation.writer.values_of(weights.tensor), weights.quant
    turned = numbers.reshape(-1, *shape).transpose(IMAGE).reshape(numbers.shape)
    return site.translation.constant(turned, quant)


def weights_have_steps(site: Site) -> bool:
    """Whether a node with constant weights can compute in 8 bits: symmetric int8 weights."""
    if not site.is_constant(1):
        return site.node.input(1) in site.graph.quants
    quant = site.graph.quants.get(site.node.input(1))
    return quant is not None and quant.zero_point == 0 and site.graph.constants[site.node.input(1)].dtype == np.int8


def multiplies_in_steps(site: Site) -> bool:
    """Whether a MatMul can compute in 8 bits: two tensors with steps, or one and a single constant matrix."""
    if site.is_constant(0) or (site.is_constant(1) and len(site.graph.shapes[site.node.input(1)]) != 2):
        return False
    return weights_have_steps(site)


def gemm(site: Site) -> Value:
    """Gemm; constant weights make it a fully connected layer."""
    if site.attribute("transA", 0) or site.attribute("alpha", 1.0) != 1 or site.attribute("beta", 1.0) != 1:
        raise site.unsupported("factors and a transposed first matrix are not written")
    transposed = bool(site.attribute("transB", 0))
    if not site.is_constant(1) or (site.node.input(2) and not site.is_constant(2)):
        raise site.unsupported("weights and bias that depend on the data are not written")
    if site.node.input(2) and site.array(2).size not in (1, site.shape[-1]):
        raise site.unsupported("a bias for each row is not written")
    return _connected(site, (0, 1) if transposed else (1, 0), channels=0 if transposed else 1)


def linear(site: Site) -> Value:
    """MatMul with constant weights, and a bias."""
    return _connected(site, (1, 0), channels=1)


def _connected(site: Site, perm: tuple[int, int], *, channels: int) -> Value:
    value = site.input()
    image = _flattened(site)
    x = site.translation.ordered(value, plain(len(value.shape))) if image is None else _as_it_lies(site, image)
    weights = weights_of(site, 1, perm, channels=channels)
    if image is not None:
        weights = _turned(site, weights, image.shape[1:])
    bias = bias_of(site, 2, x, weights, weights.shape[0])
    options = schema.FullyConnectedOptionsT(fusedActivationFunction=site.activation(), keepNumDims=len(x.shape) > 2)
    return site.emit(Code.FULLY_CONNECTED, [x, weights, bias], plain(len(value.shape)), options)


def _flattened(site: Site) -> Value | None:
    """The image whose features the first input is: it stays as it lies where the weights are turned instead."""
    maker = site.graph.makers().get(site.node.input(0))
    if maker is None or maker.op not in ("Flatten", "Reshape") or maker.inputs[0] in site.graph.constants:
        return None
    image, features = site.translation.value(maker.inputs[0]), site.graph.shapes[site.node.input(0)]
    if image.axes != IMAGE or features != (image.shape[0], math.prod(image.shape[1:])):
        return None
    if site.quant is None:
        return site.translation.real(image)
    return image if image.quant is not None else None


def _as_it_lies(site: Site, image: Value) -> Value:
    features = (image.shape[0], math.prod(image.shape[1:]))
    return site.translation.reread(image, features, plain(2))


def matmul(site: Site) -> Value:
    """MatMul: a fully connected layer where the second matrix is a constant, else a batch of products."""
    if site.is_constant(1) and len(site.graph.shapes[site.node.input(1)]) == 2 and not site.is_constant(0):
        return linear(site)
    left, right = site.input(0), site.input(1)
    if min(len(left.shape), len(right.shape)) < 2:
        raise site.unsupported("vectors are not written")
    left = site.translation.ordered(left, plain(len(left.shape)))
    flipped = right.axes.index(len(right.shape) - 1) < right.axes.index(len(right.shape) - 2)
    right = site.translation.ordered(right, _matrices(len(right.shape), flipped=flipped))
    axes = extended(left.axes, len(site.shape))
    options = schema.BatchMatMulOptionsT(adjY=flipped)
    return site.ended(site.emit(Code.BATCH_MATMUL, [left, right], axes, options))


def _matrices(rank: int, *, flipped: bool) -> Axes:
    return (*range(rank - 2), rank - 1, rank - 2) if flipped else plain(rank)


PRODUCT_RULES: Final[dict[str, Rule]] = {"Gemm": gemm, LINEAR: linear, "MatMul": matmul}
"""By ONNX operator."""
