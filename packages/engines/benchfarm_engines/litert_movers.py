"""Rules of the operators that move data and compute nothing."""

import math
from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from benchfarm_engines.litert_layout import IMAGE, extended, regrouping, stored, transposed
from benchfarm_engines.litert_translation import Code, Rule, Site, Value
from benchfarm_engines.litert_windows import pad as padded

_MIRRORS: Final = {"reflect": schema.MirrorPadMode.REFLECT}


def reshape(site: Site) -> Value:
    """Reshape, Flatten, Squeeze, Unsqueeze: the same elements under another shape."""
    return _regrouped(site, site.input(), site.shape)


def _regrouped(site: Site, value: Value, shape: tuple[int, ...]) -> Value:
    plan = regrouping(value.shape, value.axes, shape)
    return site.translation.reread(site.translation.ordered(value, plan.before), shape, plan.after)


def transpose(site: Site) -> Value:
    """Transpose: other names for the same axes; data move where somebody needs them in another order."""
    x = site.input()
    perm = site.attribute("perm", tuple(reversed(range(len(x.shape)))))
    return Value(x.tensor, site.shape, transposed(x.axes, perm), x.quant)


def concat(site: Site) -> Value:
    """Concat, in 8 bits with the steps of its output."""
    values = [site.input(place) for place in range(len(site.node.inputs))]
    axes = max(values, key=lambda value: math.prod(value.shape)).axes
    values = [site.translation.ordered(value, axes) for value in values]
    if site.quant is not None:
        values = [site.translation.in_steps(value, site.quant) for value in values]
    options = schema.ConcatenationOptionsT(axis=axes.index(site.axis(0)))
    return site.emit(Code.CONCATENATION, values, axes, options)


def split(site: Site) -> list[Value]:
    """Split into parts of equal or of given sizes."""
    x, axis = site.input(), site.axis(0)
    shapes = [site.graph.shapes[name] for name in site.node.outputs]
    sizes = [shape[axis] for shape in shapes]
    place = site.translation.integers([x.axes.index(axis)])
    if len(set(sizes)) == 1:
        options = schema.SplitOptionsT(numSplits=len(sizes))
        return site.translation.emit_many(Code.SPLIT, [place, x], shapes, x.axes, options, x.quant)
    options = schema.SplitVOptionsT(numSplits=len(sizes))
    lengths = site.translation.integers(sizes)
    return site.translation.emit_many(Code.SPLIT_V, [x, lengths, place], shapes, x.axes, options, x.quant)


def slice_(site: Site) -> Value:
    """Slice with constant bounds and positive steps."""
    x = site.input()
    starts, ends = site.integers(1, "starts"), site.integers(2, "ends")
    named = site.integers(3, "axes", tuple(range(len(starts))))
    steps = site.integers(4, "steps", (1,) * len(starts))
    bounds = {axis: (0, size, 1) for axis, size in enumerate(x.shape)}
    for axis, start, end, step in zip(named, starts, ends, steps, strict=True):
        if step < 1:
            raise site.unsupported("negative steps are not written")
        size = x.shape[axis % len(x.shape)]
        bounds[axis % len(x.shape)] = (*slice(start, end).indices(size)[:2], step)
    return _sliced(site, x, [bounds[axis] for axis in x.axes])


def _sliced(site: Site, x: Value, bounds: list[tuple[int, int, int]]) -> Value:
    begin = site.translation.integers([low for low, _, _ in bounds])
    if all(step == 1 for _, _, step in bounds):
        sizes = site.translation.integers([high - low for low, high, _ in bounds])
        return site.emit(Code.SLICE, [x, begin, sizes], x.axes, schema.SliceOptionsT(), quant=x.quant)
    ends = site.translation.integers([high for _, high, _ in bounds])
    steps = site.translation.integers([step for _, _, step in bounds])
    options = schema.StridedSliceOptionsT()
    return site.emit(Code.STRIDED_SLICE, [x, begin, ends, steps], x.axes, options, quant=x.quant)


def gather(site: Site) -> Value:
    """Gather of one constant index, which is a slice without its axis, or of a row of them."""
    x, axis = site.input(), site.axis(0)
    indices = site.array(1)
    if indices.ndim > 1:
        raise site.unsupported("only a row of indices is written")
    wanted = [int(each) % x.shape[axis] for each in np.atleast_1d(indices)]
    shape = (*x.shape[:axis], len(wanted), *x.shape[axis + 1 :])
    options = schema.GatherOptionsT(axis=x.axes.index(axis))
    chosen = site.translation.integers(wanted)
    made = site.emit(Code.GATHER, [x, chosen], x.axes, options, shape=shape, quant=x.quant)
    return made if indices.ndim else _regrouped(site, made, site.shape)


def pad(site: Site) -> Value:
    """Pad with a constant or with mirrored borders."""
    x = site.input()
    widths = site.integers(1, "pads")
    if site.node.input(3) or min(widths) < 0:
        raise site.unsupported("chosen axes and negative widths are not written")
    rank = len(x.shape)
    pads = [(widths[axis], widths[rank + axis]) for axis in range(rank)]
    mode = site.attribute("mode", "constant")
    if mode == "constant":
        fill = float(site.array(2)) if site.node.input(2) else float(site.attribute("value", 0.0))
        return padded(site, x, pads, fill)
    if mode not in _MIRRORS:
        raise site.unsupported(f"mode {mode} is not written")
    ordered = site.translation.writer.constant(np.array([pads[axis] for axis in x.axes], dtype=np.int32))
    options = schema.MirrorPadOptionsT(mode=_MIRRORS[mode])
    return site.emit(Code.MIRROR_PAD, [x, ordered], x.axes, options, quant=x.quant)


def depth_to_space(site: Site) -> Value:
    """DepthToSpace in the order that LiteRT has."""
    if site.attribute("mode", "DCR") != "DCR":
        raise site.unsupported("only mode DCR is written")
    return _blocks(site, Code.DEPTH_TO_SPACE, schema.DepthToSpaceOptionsT)


def space_to_depth(site: Site) -> Value:
    """SpaceToDepth."""
    return _blocks(site, Code.SPACE_TO_DEPTH, schema.SpaceToDepthOptionsT)


def _blocks(site: Site, code: int, options: Any) -> Value:
    x = site.image()
    return site.emit(code, [x], IMAGE, options(blockSize=int(site.attribute("blocksize", 1))), quant=x.quant)


def expand(site: Site) -> Value:
    """Expand, by repeating axes of size 1."""
    x, rank = site.input(), len(site.shape)
    widened = (1,) * (rank - len(x.shape)) + x.shape
    wide = site.translation.reread(x, widened, extended(x.axes, rank))
    sizes = site.translation.integers(stored(site.shape, wide.axes))
    return site.emit(Code.BROADCAST_TO, [wide, sizes], wide.axes, quant=x.quant)


def identity(site: Site) -> Value:
    """What only hands a tensor on."""
    return site.input()


MOVER_RULES: Final[dict[str, Rule]] = {
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "Pad": pad,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Expand": expand,
    "Identity": identity,
    "Dropout": identity,
}
"""By ONNX operator."""
