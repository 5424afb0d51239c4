"""Rules of the operators that move a window over images: convolutions, pooling, resizing."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from benchfarm_engines.litert_fusion import FUSED
from benchfarm_engines.litert_layout import IMAGE
from benchfarm_engines.litert_products import bias_of, weights_of
from benchfarm_engines.litert_translation import Array, Code, Rule, Site, Value

_SAME: Final = schema.Padding.SAME
_VALID: Final = schema.Padding.VALID
_LOWEST: Final = float(np.finfo(np.float32).min)
_LOWEST_STEP: Final = -128
_LINEAR_STEPS: Final = 1024
_COARSER_STEPS: Final = 1.4
"""LiteRT pools 8 bits in the steps of its input; an output with finer steps by more than this loses too much."""


class Window(NamedTuple):
    """Height first. pads: before and after, as far as any output reaches."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]


def convolution(site: Site) -> Value:
    """Conv on images, whole, grouped or depthwise."""
    x, weight_shape = site.image(), site.graph.shapes[site.node.input(1)]
    groups = int(site.attribute("group", 1))
    window = _window(site, x, (weight_shape[2], weight_shape[3]))
    depthwise = groups > 1 and weight_shape[1] == 1 and groups == x.shape[1]
    weights = weights_of(site, 1, (1, 2, 3, 0) if depthwise else (0, 2, 3, 1), channels=0)
    bias = bias_of(site, 2, x, weights, weight_shape[0])
    x, padding = _padded(site, x, window)
    options = _depthwise_options(weight_shape[0] // groups) if depthwise else schema.Conv2DOptionsT()
    code = Code.DEPTHWISE_CONV_2D if depthwise else Code.CONV_2D
    return site.emit(code, [x, weights, bias], IMAGE, _with_window(options, site, window, padding))


def _depthwise_options(multiplier: int) -> Any:
    return schema.DepthwiseConv2DOptionsT(depthMultiplier=multiplier)


def _with_window(options: Any, site: Site, window: Window, padding: int) -> Any:
    options.padding = padding
    options.strideH, options.strideW = window.strides
    options.fusedActivationFunction = site.activation()
    if hasattr(options, "dilationHFactor"):
        options.dilationHFactor, options.dilationWFactor = window.dilations
    if hasattr(options, "filterHeight"):
        options.filterHeight, options.filterWidth = window.kernel
    return options


def _window(site: Site, x: Value, kernel: tuple[int, int]) -> Window:
    strides = tuple(int(each) for each in site.attribute("strides", (1, 1)))
    dilations = tuple(int(each) for each in site.attribute("dilations", (1, 1)))
    if len(strides) != 2 or len(dilations) != 2 or len(site.shape) != len(IMAGE):
        raise site.unsupported("only windows on images are written")
    pads = [_reach(site, x, kernel, (strides[0], strides[1]), (dilations[0], dilations[1]), side) for side in (0, 1)]
    return Window(kernel, (strides[0], strides[1]), (dilations[0], dilations[1]), (pads[0], pads[1]))


def _reach(
    site: Site, x: Value, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int], side: int
) -> tuple[int, int]:
    """What must be added before and after one side so that every output finds its window."""
    size, out = x.shape[2 + side], site.shape[2 + side]
    span = (out - 1) * strides[side] + (kernel[side] - 1) * dilations[side] + 1
    match site.attribute("auto_pad", "NOTSET"):
        case "VALID":
            before = 0
        case "SAME_UPPER":
            before = max(0, span - size) // 2
        case "SAME_LOWER":
            before = (max(0, span - size) + 1) // 2
        case _:
            before = int(site.attribute("pads", (0, 0, 0, 0))[side])
    return before, max(0, span - size - before)


def _padded(site: Site, x: Value, window: Window, fill: float = 0.0) -> tuple[Value, int]:
    """The input and a padding scheme that together pad as the window says."""
    if not any(map(any, window.pads)):
        return x, _VALID
    if all(_is_same(site, x, window, side) for side in (0, 1)):
        return x, _SAME
    (top, bottom), (left, right) = window.pads
    return pad(site, x, [(0, 0), (0, 0), (top, bottom), (left, right)], fill), _VALID


def _is_same(site: Site, x: Value, window: Window, side: int) -> bool:
    """Whether LiteRT's SAME means these pads: half of what is missing before, the larger half after."""
    size, out = x.shape[2 + side], site.shape[2 + side]
    missing = sum(window.pads[side])
    return out == -(-size // window.strides[side]) and window.pads[side] == (missing // 2, missing - missing // 2)


def pad(site: Site, x: Value, pads: list[tuple[int, int]], fill: float = 0.0) -> Value:
    """A constant border. pads: before and after, by the workload's axes."""
    shape = tuple(before + size + after for size, (before, after) in zip(x.shape, pads, strict=True))
    widths = site.translation.writer.constant(np.array([pads[axis] for axis in x.axes], dtype=np.int32))
    if fill == 0:
        return site.emit(Code.PAD, [x, widths], x.axes, schema.PadOptionsT(), shape=shape, quant=x.quant)
    value = site.spread(np.array([fill], dtype=np.float32), x.quant)
    return site.emit(Code.PADV2, [x, widths, value], x.axes, schema.PadV2OptionsT(), shape=shape, quant=x.quant)


def max_pool(site: Site) -> Value:
    """MaxPool; padding never wins."""
    x = site.image()
    window = _window(site, x, _kernel(site))
    if max(window.dilations) > 1 or len(site.node.outputs) > 1:
        raise site.unsupported("dilated windows and indices are not written")
    x, padding = _padded(site, x, window, 0.0 if _is_never_negative(site, site.node.input(0)) else _lowest(x))
    options = _with_window(schema.Pool2DOptionsT(), site, window, padding)
    return site.emit(Code.MAX_POOL_2D, [x], IMAGE, options, quant=x.quant)


def _lowest(x: Value) -> float:
    return _LOWEST if x.quant is None else x.quant.scale * (_LOWEST_STEP - x.quant.zero_point)


def _is_never_negative(site: Site, name: str) -> bool:
    """Whether a border of zeros cannot win; XNNPACK pads with nothing else."""
    quant, maker = site.graph.quants.get(name), site.graph.makers().get(name)
    if maker is None:
        return False
    if maker.op in ("Relu", "Sigmoid") or FUSED in maker.attributes:
        return True
    if quant is not None:
        return quant.zero_point == _LOWEST_STEP
    return maker.op == "Concat" and all(_is_never_negative(site, each) for each in maker.inputs)


def average_pool(site: Site) -> Value:
    """AveragePool, padding counted or not."""
    x = site.image()
    window = _window(site, x, _kernel(site))
    counted = bool(site.attribute("count_include_pad", 0))
    if max(window.dilations) > 1 or (counted and site.attribute("ceil_mode", 0)):
        raise site.unsupported("dilated or rounded-up windows are not written")
    plain_pads = not any(map(any, window.pads)) or (not counted and _same_everywhere(site, x, window))
    inner, padding = (x, _SAME if any(map(any, window.pads)) else _VALID) if plain_pads else _bordered(site, x, window)
    options = _with_window(schema.Pool2DOptionsT(), site, window, padding)
    pooled = site.emit(Code.AVERAGE_POOL_2D, [inner], IMAGE, options, quant=x.quant)
    if plain_pads or counted:
        return pooled
    shares = site.translation.constant(_shares(site, x, window))
    return site.emit(Code.MUL, [pooled, shares], IMAGE, schema.MulOptionsT())


def _same_everywhere(site: Site, x: Value, window: Window) -> bool:
    """Also that XNNPACK does it right: it loses a row where a striding window hangs over both ends of an image."""
    hangs = any(window.kernel[side] > x.shape[2 + side] and window.strides[side] > 1 for side in (0, 1))
    return not hangs and all(_is_same(site, x, window, side) for side in (0, 1))


def _bordered(site: Site, x: Value, window: Window) -> tuple[Value, int]:
    (top, bottom), (left, right) = window.pads
    return pad(site, x, [(0, 0), (0, 0), (top, bottom), (left, right)]), _VALID


def _shares(site: Site, x: Value, window: Window) -> Array:
    """1 x h x w x 1: by how much a mean over zeros too is too small."""
    counts = [_counts(site.shape[2 + side], x.shape[2 + side], window, side) for side in (0, 1)]
    area = window.kernel[0] * window.kernel[1]
    shares: Array = (area / np.outer(*counts)).astype(np.float32)[None, :, :, None]
    return shares


def _counts(out: int, size: int, window: Window, side: int) -> Array:
    starts = np.arange(out) * window.strides[side] - window.pads[side][0]
    counts: Array = np.minimum(starts + window.kernel[side], size) - np.maximum(starts, 0)
    return counts


def pools_in_steps(site: Site) -> bool:
    """Whether AveragePool keeps its accuracy in 8 bits."""
    x = site.translation.value(site.node.input(0))
    assert x.quant is not None
    assert site.quant is not None
    window = _window(site, x, _kernel(site))
    corrected = any(map(any, window.pads)) and not site.attribute("count_include_pad", 0)
    if corrected and not _same_everywhere(site, x, window):
        return False
    return x.quant.scale <= _COARSER_STEPS * site.quant.scale


def _kernel(site: Site) -> tuple[int, int]:
    kernel = site.attribute("kernel_shape", ())
    if len(kernel) != 2:
        raise site.unsupported("only windows on images are written")
    return int(kernel[0]), int(kernel[1])


def deconvolution(site: Site) -> Value:
    """ConvTranspose; what LiteRT's padding cannot say is cut off afterwards."""
    x, weight_shape = site.image(), site.graph.shapes[site.node.input(1)]
    kernel, strides = (weight_shape[2], weight_shape[3]), tuple(site.attribute("strides", (1, 1)))
    if site.attribute("group", 1) != 1 or max(site.attribute("dilations", (1, 1))) > 1:
        raise site.unsupported("groups and dilations are not written")
    before, rest = _cuts(site, x, kernel, strides)
    weights = weights_of(site, 1, (1, 2, 3, 0), channels=1)
    bias = bias_of(site, 2, x, weights, weight_shape[1])
    same = all(0 <= rest[side] - before[side] <= 1 and _is_ceiling(site, x, strides, side) for side in (0, 1))
    whole = tuple((x.shape[2 + side] - 1) * strides[side] + kernel[side] for side in (0, 1))
    shape = site.shape if same else (*site.shape[:2], *whole)
    padding = _SAME if same and any((*before, *rest)) else _VALID
    options = schema.TransposeConvOptionsT(padding=padding, strideH=int(strides[0]), strideW=int(strides[1]))
    sizes = site.translation.integers([shape[axis] for axis in IMAGE])
    made = site.emit(Code.TRANSPOSE_CONV, [sizes, weights, x, bias], IMAGE, options, shape=shape)
    return made if same else _cut(site, made, [0, *before, 0])


def _cuts(
    site: Site, x: Value, kernel: tuple[int, int], strides: tuple[int, ...]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """What is cut off the whole result, before and after, by side."""
    if site.attribute("auto_pad", "NOTSET") != "NOTSET" or site.attribute("output_shape", None) is not None:
        raise site.unsupported("automatic padding is not written, nor an output of a size of its own")
    pads = site.attribute("pads", (0, 0, 0, 0))
    whole = [(x.shape[2 + side] - 1) * strides[side] + kernel[side] for side in (0, 1)]
    rest = [whole[side] - int(pads[side]) - site.shape[2 + side] for side in (0, 1)]
    if min(rest) < 0:
        raise site.unsupported("the output is larger than what the windows reach")
    return (int(pads[0]), int(pads[1])), (rest[0], rest[1])


def _is_ceiling(site: Site, x: Value, strides: tuple[int, ...], side: int) -> bool:
    return x.shape[2 + side] == -(-site.shape[2 + side] // strides[side])


def _cut(site: Site, value: Value, begin: list[int]) -> Value:
    starts = site.translation.integers(begin)
    sizes = site.translation.integers([site.shape[axis] for axis in IMAGE])
    return site.emit(Code.SLICE, [value, starts, sizes], IMAGE, schema.SliceOptionsT(), quant=value.quant)


def resize(site: Site) -> Value:
    """Resize of height and width, in the forms of sampling that LiteRT has."""
    x = site.image()
    if x.shape[:2] != site.shape[:2]:
        raise site.unsupported("only height and width are resized")
    sizes = site.translation.integers(site.shape[2:])
    if site.attribute("mode", "nearest") == "nearest":
        options, code = _nearest(site, x), Code.RESIZE_NEAREST_NEIGHBOR
    else:
        options, code = _bilinear(site, x), Code.RESIZE_BILINEAR
    return site.emit(code, [x, sizes], IMAGE, options, quant=x.quant)


def samples_in_steps(site: Site) -> bool:
    """Whether Resize keeps its accuracy in 8 bits.

    The built-in linear kernel counts in 1/1024 of a pixel, and what it rounds off adds up along an image.
    """
    if site.attribute("mode", "nearest") == "nearest" or site.translation.delegate != "none":
        return True
    x = site.translation.value(site.node.input(0))
    return all(x.shape[axis] * _LINEAR_STEPS % site.shape[axis] == 0 for axis in (2, 3))


def _bilinear(site: Site, x: Value) -> Any:
    form = site.attribute("coordinate_transformation_mode", "half_pixel")
    if site.attribute("mode", "") != "linear" or site.attribute("antialias", 0):
        raise site.unsupported("only nearest and linear sampling are written")
    if form == "pytorch_half_pixel" and min(site.shape[2:]) > 1:
        form = "half_pixel"
    if form not in ("half_pixel", "align_corners", "asymmetric") or not _is_whole(site, x):
        raise site.unsupported(f"linear sampling by {form} is not written")
    return schema.ResizeBilinearOptionsT(alignCorners=form == "align_corners", halfPixelCenters=form == "half_pixel")


def _is_whole(site: Site, x: Value) -> bool:
    """LiteRT takes the ratio of the sizes for the scale."""
    if not site.node.input(2) or not site.array(2).size:
        return True
    ratios = [site.shape[axis] / x.shape[axis] for axis in (2, 3)]
    return np.allclose(site.array(2).ravel()[2:], ratios, rtol=1e-6)


def _nearest(site: Site, x: Value) -> Any:
    """The form that picks the same pixels."""
    wanted = [_picked(site, x.shape[2 + side], site.shape[2 + side]) for side in (0, 1)]
    for centred in (False, True):
        found = [_picks(x.shape[2 + side], site.shape[2 + side], centred=centred) for side in (0, 1)]
        if all(np.array_equal(*pair) for pair in zip(wanted, found, strict=True)):
            return schema.ResizeNearestNeighborOptionsT(halfPixelCenters=centred)
    raise site.unsupported("LiteRT picks other pixels")


def _picks(size: int, out: int, *, centred: bool) -> Array:
    places = np.arange(out, dtype=np.float32) + np.float32(0.5 if centred else 0)
    picked: Array = np.minimum(np.floor(places * np.float32(size / out)), size - 1).astype(np.int64)
    return picked


def _picked(site: Site, size: int, out: int) -> Array:
    form = site.attribute("coordinate_transformation_mode", "half_pixel")
    places = np.arange(out, dtype=np.float64)
    if form == "asymmetric":
        places *= size / out
    elif form == "align_corners":
        places *= (size - 1) / max(out - 1, 1)
    elif form in ("half_pixel", "pytorch_half_pixel"):
        places = (places + 0.5) * size / out - 0.5
    else:
        raise site.unsupported(f"sampling by {form} is not written")
    roundings: dict[str, Callable[[Array], Array]] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
    }
    rounded = roundings[site.attribute("nearest_mode", "round_prefer_floor")](places)
    picked: Array = np.clip(rounded, 0, size - 1).astype(np.int64)
    return picked


def global_pool(site: Site) -> Value:
    """GlobalAveragePool and GlobalMaxPool, all sizes kept."""
    x = site.image()
    mean = site.node.op == "GlobalAveragePool"
    options = schema.ReducerOptionsT(keepDims=True)
    axes = site.translation.integers([1, 2])
    quant = None if mean else x.quant
    return site.emit(Code.MEAN if mean else Code.REDUCE_MAX, [x, axes], IMAGE, options, quant=quant)


WINDOW_RULES: Final[dict[str, Rule]] = {
    "Conv": convolution,
    "ConvTranspose": deconvolution,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool,
    "Resize": resize,
}
"""By ONNX operator."""
