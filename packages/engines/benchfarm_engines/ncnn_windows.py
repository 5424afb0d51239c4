"""Layers with windows or weights: convolutions, dense layers, pools; int8 where the graph is quantised.

An int8 layer holds its weights in int8, one scale per output (`steps = real * scale`, so ncnn's scale is one over
ONNX's), the scale of its input and, where everyone behind it computes in int8 too, the scale of its output.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchfarm_engines.ncnn_graph import INT8_STEPS, Array, Operator, unsupported
from benchfarm_engines.ncnn_site import Activation, NcnnSite, loses_fp32_results
from benchfarm_engines.ncnn_writer import Parameter, Weights, plain, tagged

_PER_GROUP, _PER_OUTPUT = 1, 2
"""ncnn's numbers for where a layer has weight scales."""
_REQUANTISED = 100
"""Added where the output is int8 as well."""
_MEAN = 1
_FP32, _INT8 = 1, 3
_PRODUCT = 2
_FLOOR, _CEIL = 1, 0


@dataclass(frozen=True)
class _Window:
    """Sizes of a window in two dimensions, height first; pads top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]

    def parameters(self, *, dilated: bool = True) -> dict[int, Parameter]:
        """As convolutions take them; pools (not dilated) have other keys."""
        (kernel_h, kernel_w), (stride_h, stride_w), (dilation_h, dilation_w) = self.kernel, self.strides, self.dilations
        top, left, bottom, right = self.pads
        if not dilated:
            return {1: kernel_w, 2: stride_w, 3: left, 11: kernel_h, 12: stride_h, 13: top, 14: right, 15: bottom}
        sides: dict[int, Parameter] = {4: left, 14: top, 15: right, 16: bottom}
        sizes: dict[int, Parameter] = {1: kernel_w, 2: dilation_w, 3: stride_w, 11: kernel_h, 12: dilation_h}
        return {**sizes, 13: stride_h, **sides}

    @property
    def sides(self) -> tuple[Sequence[int], ...]:
        """Kernel, stride, padding before and behind, each height first."""
        return self.kernel, self.strides, self.pads[:2], self.pads[2:]

    @property
    def is_point(self) -> bool:
        """Whether it sees one pixel at a time and every one."""
        return self.kernel == self.strides == (1, 1) and not any(self.pads)


def _window(site: NcnnSite, operator: Operator, kernel: Sequence[int]) -> _Window:
    attributes = operator.attributes
    if len(kernel) != 2 or len(site.shape(operator.inputs[0])) != 3:
        raise unsupported(operator, "windows in other than two dimensions")
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise unsupported(operator, "automatic padding")
    strides, dilations = (tuple(attributes.get(name, (1, 1))) for name in ("strides", "dilations"))
    pads = tuple(attributes.get("pads", (0, 0, 0, 0)))
    return _Window((kernel[0], kernel[1]), strides, dilations, pads)


def conv(site: NcnnSite, operator: Operator) -> None:
    """Convolution, with groups or without; on one pixel it is a dense layer, as ncnn wants it."""
    weight = site.constant(operator, 1)
    groups, outputs = int(operator.attributes.get("group", 1)), weight.shape[0]
    window = _window(site, operator, weight.shape[2:])
    site.check_features(operator, site.shape(operator.inputs[0])[0], weight.shape[1] * groups)
    bias = site.bias(operator, 2, outputs)
    if operator.inputs[0] in site.flat and window.is_point and groups == 1:
        _dense(site, operator, weight.reshape(outputs, -1), bias, flat=True)
        return
    bottom, activation = site.full(operator.inputs[0]), site.activation(operator)
    kind, keys, weights = _conv_weights(site, operator, weight, bias, activation)
    parameters = {0: outputs, **window.parameters(), 5: int(bool(bias)), 6: weight.size, **keys}
    [made] = site.writer.layer(kind, [bottom], {**parameters, **activation.parameters()}, weights)
    if keys.get(8, 0) == _PER_GROUP + _REQUANTISED and activation.output not in site.int8_made:
        made = _widened(site, made, site.graph.scales[activation.output])
    site.put(activation.output, made)


def _widened(site: NcnnSite, blob: int, step: float) -> int:
    """int8 as fp32; ncnn's Dequantize takes sums of 32 bits alone."""
    [numbers] = site.writer.layer("Cast", [blob], {0: _INT8, 1: _FP32})
    return site.writer.layer("BinaryOp", [numbers], {0: _PRODUCT, 1: 1, 2: step})[0]


def _conv_weights(
    site: NcnnSite, operator: Operator, weight: Array, bias: Weights, activation: Activation
) -> tuple[str, dict[int, Parameter], Weights]:
    """The layer's kind, its keys about groups and int8, and its weights."""
    groups = int(operator.attributes.get("group", 1))
    kind = "Convolution" if groups == 1 else "ConvolutionDepthWise"
    keys: dict[int, Parameter] = {} if groups == 1 else {7: groups}
    scale = site.int8_input(operator)
    if scale is None:
        return kind, keys, [*tagged(weight), *bias]
    steps, weight_scales = _int8_steps(site, operator, weight, weight.shape[0] if groups == 1 else groups)
    weights = [*tagged(steps), *bias, *plain(1 / weight_scales), *plain(np.array([_inverse(scale)]))]
    term, as_int8 = _PER_OUTPUT if groups == 1 else _PER_GROUP, site.leaves_as_int8(activation.output)
    if as_int8:
        site.int8_made.add(activation.output)
    if as_int8 or loses_fp32_results(site.graph, operator):
        term += _REQUANTISED
        weights += plain(np.array([_inverse(site.graph.scales[activation.output])]))
    return kind, {**keys, 8: term}, weights


def _int8_steps(site: NcnnSite, operator: Operator, weight: Array, count: int) -> tuple[Array, Array]:
    """int8 weights and `count` scales along axis 0: the graph's own where it has as many, else made anew."""
    stored = site.graph.int8_weights[operator.inputs[1]]
    if stored.axis == 0 and stored.scale.size == count and operator.kind != "Gemm":
        return np.maximum(stored.steps, -INT8_STEPS), np.where(stored.scale > 0, stored.scale, 1)
    return int8_steps(weight, count)


def int8_steps(weight: Array, count: int) -> tuple[Array, Array]:
    """A weight in int8 with `count` scales along axis 0; shape as given."""
    rows = weight.reshape(count, -1)
    reach = np.abs(rows).max(axis=1)
    scales = np.where(reach > 0, reach / INT8_STEPS, 1).astype(np.float32)
    return np.rint(rows / scales[:, None]).astype(np.int8).reshape(weight.shape), scales


def quantised(site: NcnnSite, tensor: str, blob: int) -> int:
    """A tensor's blob in int8."""
    site.int8_made.add(tensor)
    step = np.array([_inverse(site.graph.scales[tensor])])
    return site.writer.layer("Quantize", [blob], {0: 1}, plain(step))[0]


def _inverse(scale: float) -> float:
    return 1 / scale if scale > 0 else 1.0


def gemm(site: NcnnSite, operator: Operator) -> None:
    """A dense layer of one row per input; alpha, beta and transposes other than the usual are refused."""
    attributes = operator.attributes
    if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1:
        raise unsupported(operator, "alpha, beta or a transposed left side")
    weight = site.constant(operator, 1)
    if not attributes.get("transB", 0):
        weight = weight.T
    site.check_features(operator, int(np.prod(site.shape(operator.inputs[0]))), weight.shape[1])
    _dense(site, operator, weight, site.bias(operator, 2, weight.shape[0]), flat=False)


def _dense(site: NcnnSite, operator: Operator, weight: Array, bias: Weights, *, flat: bool) -> None:
    outputs, bottom, activation = weight.shape[0], site.blob(operator.inputs[0]), site.activation(operator)
    parameters: dict[int, Parameter] = {0: outputs, 1: int(bool(bias)), 2: weight.size, **activation.parameters()}
    weights = [*tagged(weight), *bias]
    scale = site.int8_input(operator)
    if scale is not None:
        steps, scales = int8_steps(weight, outputs)
        parameters[8] = _PER_OUTPUT
        weights = [*tagged(steps), *bias, *plain(1 / scales), *plain(np.array([_inverse(scale)]))]
    [made] = site.writer.layer("InnerProduct", [bottom], parameters, weights)
    if scale is not None and site.leaves_as_int8(activation.output):
        made = quantised(site, activation.output, made)
    site.put(activation.output, made, flat=flat)


def deconv(site: NcnnSite, operator: Operator) -> None:
    """Transposed convolution; ncnn has it in fp32 only."""
    weight = site.constant(operator, 1)
    groups = int(operator.attributes.get("group", 1))
    outputs = weight.shape[1] * groups
    window = _window(site, operator, weight.shape[2:])
    if "output_shape" in operator.attributes:
        raise unsupported(operator, "a given output shape")
    site.check_features(operator, site.shape(operator.inputs[0])[0], weight.shape[0])
    rim = tuple(operator.attributes.get("output_padding", (0, 0)))
    bias = site.bias(operator, 2, outputs)
    activation = site.activation(operator)
    parameters = {0: outputs, **window.parameters(), 5: int(bool(bias)), 6: weight.size, **activation.parameters()}
    parameters |= {18: rim[1], 19: rim[0]} | ({7: groups} if groups > 1 else {})
    turned = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).swapaxes(1, 2)
    weights = [*tagged(turned), *bias]
    kind = "DeconvolutionDepthWise" if groups > 1 else "Deconvolution"
    site.put(activation.output, site.writer.layer(kind, [site.full(operator.inputs[0])], parameters, weights)[0])


def pool(site: NcnnSite, operator: Operator) -> None:
    """Largest value or mean of a window."""
    window = _window(site, operator, operator.attributes["kernel_shape"])
    if window.dilations != (1, 1) or operator.attributes.get("storage_order", 0) or len(operator.outputs) > 1:
        raise unsupported(operator, "dilations or indices")
    mean = operator.kind == "AveragePool"
    rounding = _CEIL if operator.attributes.get("ceil_mode", 0) else _FLOOR
    sizes = site.shape(operator.inputs[0])[1:]
    if any(
        size + before + behind < kernel for size, kernel, _, before, behind in zip(sizes, *window.sides, strict=True)
    ):
        raise unsupported(operator, "a window larger than the image")
    if rounding == _CEIL and any(map(_begins_outside, sizes, *window.sides)):
        raise unsupported(operator, "a last window that begins behind the image: runtimes differ in whether it counts")
    parameters = {0: _MEAN if mean else 0, **window.parameters(dilated=False), 5: rounding}
    if mean:
        parameters[6] = int(operator.attributes.get("count_include_pad", 0))
    site.put(operator.output, site.writer.layer("Pooling", [site.full(operator.inputs[0])], parameters)[0])


def _begins_outside(size: int, kernel: int, stride: int, before: int, behind: int) -> bool:
    """Whether the last window of a size rounded up has nothing of the image."""
    return -((kernel - size - before - behind) // stride) * stride >= size + before


def global_pool(site: NcnnSite, operator: Operator) -> None:
    """One number for each map."""
    if len(site.shape(operator.inputs[0])) != 3:
        raise unsupported(operator, "maps in other than two dimensions")
    mean = int(operator.kind == "GlobalAveragePool")
    [made] = site.writer.layer("Pooling", [site.full(operator.inputs[0])], {0: mean, 4: 1})
    site.put(operator.output, made, flat=True)


def batch_norm(site: NcnnSite, operator: Operator) -> None:
    """Normalisation with stored statistics."""
    scale, bias, mean, variance = (site.constant(operator, number) for number in range(1, 5))
    weights = [*plain(scale), *plain(mean), *plain(variance), *plain(bias)]
    parameters: dict[int, Parameter] = {0: scale.size, 1: float(operator.attributes.get("epsilon", 1e-5))}
    [made] = site.writer.layer("BatchNorm", [site.blob(operator.inputs[0])], parameters, weights)
    site.put(operator.output, made, flat=operator.inputs[0] in site.flat)
