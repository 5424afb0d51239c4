"""Layers that move numbers and compute nothing: other shapes and orders, parts, joins, larger images, look-ups."""

from collections.abc import Sequence
from typing import Final

from benchfarm_engines.ncnn_graph import Operator, unsupported
from benchfarm_engines.ncnn_site import NcnnSite
from benchfarm_engines.ncnn_writer import Parameter, tagged

_PERMUTE_3: Final = ("whc", "hwc", "wch", "cwh", "hcw", "chw")
_PERMUTE_4: Final = tuple(
    "whdc hwdc wdhc dwhc hdwc dhwc whcd hwcd wchd cwhd hcwd chwd wdch dwch wcdh cwdh dcwh cdwh".split()
    + "hdcw dhcw hcdw chdw dchw cdhw".split()
)
"""ncnn's numbers of axis orders, innermost axis first."""
_NEAREST, _BILINEAR = 1, 2
_PADDINGS: Final = {"constant": 0, "edge": 1, "reflect": 2}
_DEPTH_FIRST, _COLUMNS_FIRST = 0, 1
"""Which part of a channel's number says the channel afterwards."""


def same(site: NcnnSite, operator: Operator) -> None:
    """What changes nothing at inference."""
    site.put(operator.output, site.blob(operator.inputs[0]), flat=operator.inputs[0] in site.flat)


def reshape(site: NcnnSite, operator: Operator) -> None:
    """Another shape for the same numbers; the batch axis stays in front."""
    source, shape = operator.inputs[0], site.shape(operator.output)
    if site.blob_shape(source) == shape:
        site.put(operator.output, site.blob(source))
    else:
        site.put(operator.output, site.reshaped(site.blob(source), shape))


def transpose(site: NcnnSite, operator: Operator) -> None:
    """Axes in another order, the batch axis in front."""
    rank = len(site.shape(operator.inputs[0]))
    perm = list(operator.attributes.get("perm", range(rank, -1, -1)))
    if perm[0] != 0:
        raise unsupported(operator, "the batch axis moves", subject="batch")
    names = {1: "w", 2: "hw", 3: "chw", 4: "cdhw"}[rank]
    order = "".join(names[axis - 1] for axis in perm[1:])[::-1]
    orders = {1: ("w",), 2: ("wh", "hw"), 3: _PERMUTE_3, 4: _PERMUTE_4}[rank]
    [made] = site.writer.layer("Permute", [site.full(operator.inputs[0])], {0: orders.index(order)})
    site.put(operator.output, made)


def axis_of(site: NcnnSite, operator: Operator, axis: int) -> int:
    """An axis of ONNX as ncnn counts it, without the batch axis."""
    source = next(name for name in operator.inputs if name not in site.graph.constants)
    rank = len(site.shape(source)) + 1
    if axis % rank == 0:
        raise unsupported(operator, "works along the batch axis", subject="batch")
    return axis % rank - 1


def concat(site: NcnnSite, operator: Operator) -> None:
    """Joined along an axis; pooled channels stay flat together."""
    axis = axis_of(site, operator, int(operator.attributes["axis"]))
    flat = axis == 0 and all(each in site.flat for each in operator.inputs)
    bottoms = [site.blob(each) if flat else site.full(each) for each in operator.inputs]
    site.put(operator.output, site.writer.layer("Concat", bottoms, {0: axis})[0], flat=flat)


def split(site: NcnnSite, operator: Operator) -> None:
    """Cut along an axis."""
    axis = axis_of(site, operator, int(operator.attributes.get("axis", 0)))
    sizes = [site.shape(each)[axis] for each in operator.outputs]
    made = site.writer.layer("Slice", [site.full(operator.inputs[0])], {0: sizes, 1: axis}, tops=len(sizes))
    for name, blob in zip(operator.outputs, made, strict=True):
        site.put(name, blob)


def crop(site: NcnnSite, operator: Operator) -> None:
    """A part of each axis, every number of it."""
    starts, ends = (site.constant(operator, number).tolist() for number in (1, 2))
    axes = site.constant(operator, 3).tolist() if len(operator.inputs) > 3 else list(range(len(starts)))
    if len(operator.inputs) > 4 and any(step != 1 for step in site.constant(operator, 4).tolist()):
        raise unsupported(operator, "steps")
    shape = site.shape(operator.inputs[0])
    places = [axis_of(site, operator, axis) for axis in axes]
    bounds = [slice(*each).indices(shape[place])[:2] for *each, place in zip(starts, ends, places, strict=True)]
    parameters: dict[int, Parameter] = {
        9: [low for low, _ in bounds],
        10: [high for _, high in bounds],
        11: places,
    }
    site.put(operator.output, site.writer.layer("Crop", [site.full(operator.inputs[0])], parameters)[0])


def channel_shuffle(site: NcnnSite, operator: Operator) -> None:
    """Channels dealt out anew."""
    parameters: dict[int, Parameter] = {0: int(operator.attributes["groups"])}
    site.put(operator.output, site.writer.layer("ShuffleChannel", [site.full(operator.inputs[0])], parameters)[0])


def resize(site: NcnnSite, operator: Operator) -> None:
    """Images made larger: nearest by whole factors, or bilinear."""
    (_, before_h, before_w), (_, height, width) = site.shape(operator.inputs[0]), site.shape(operator.output)
    parameters: dict[int, Parameter] = {0: _resize_kind(operator, (before_h, before_w), (height, width))}
    parameters |= {3: height, 4: width}
    if operator.attributes.get("coordinate_transformation_mode") == "align_corners":
        parameters[6] = 1
    site.put(operator.output, site.writer.layer("Interp", [site.full(operator.inputs[0])], parameters)[0])


def _resize_kind(operator: Operator, before: Sequence[int], after: Sequence[int]) -> int:
    mode, centre = (
        operator.attributes.get(*each)
        for each in (("mode", "nearest"), ("coordinate_transformation_mode", "half_pixel"))
    )
    if mode == "linear" and centre in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        if 1 not in before:
            return _BILINEAR
        if before[0] != before[1]:
            raise unsupported(operator, "interpolation of a single row: ncnn reads the next one")
        return _NEAREST  # of one pixel, where there is nothing to interpolate
    rounding = operator.attributes.get("nearest_mode", "round_prefer_floor")
    whole = all(large % small == 0 for small, large in zip(before, after, strict=True))
    if (
        mode == "nearest"
        and whole
        and (centre, rounding)
        in (
            ("asymmetric", "floor"),
            ("half_pixel", "round_prefer_floor"),
        )
    ):
        return _NEAREST
    raise unsupported(operator, f"{mode} with {centre}")


def pad(site: NcnnSite, operator: Operator) -> None:
    """More numbers on the sides of any axis."""
    mode = str(operator.attributes.get("mode", "constant"))
    amounts = operator.attributes.get("pads") or site.constant(operator, 1).tolist()
    rank = len(site.shape(operator.inputs[0]))
    if len(operator.inputs) > 3 and operator.inputs[3]:
        raise unsupported(operator, "given axes")
    sides = list(zip(amounts[: rank + 1], amounts[rank + 1 :], strict=True))
    if mode not in _PADDINGS or sides[0] != (0, 0) or rank > 3 or min(amounts) < 0:
        raise unsupported(operator, f"{mode} with {amounts}")
    if rank == 3 and sides[1] != (0, 0) and mode != "constant":
        raise unsupported(operator, f"{mode} along channels")
    value = site.constant(operator, 2).item() if len(operator.inputs) > 2 and operator.inputs[2] else 0.0
    sizes = [0, *(side for axis in reversed(sides[1:]) for side in axis)]
    names = {1: (2, 3), 2: (2, 3, 0, 1), 3: (2, 3, 0, 1, 7, 8)}[rank]
    parameters: dict[int, Parameter] = dict(zip(names, sizes[1:], strict=True))
    parameters |= {4: _PADDINGS[mode], 5: float(value)}
    site.put(operator.output, site.writer.layer("Padding", [site.full(operator.inputs[0])], parameters)[0])


def depth_to_space(site: NcnnSite, operator: Operator) -> None:
    """Channels dealt out as pixels of a larger image."""
    order = _DEPTH_FIRST if operator.attributes.get("mode", "DCR") == "CRD" else _COLUMNS_FIRST
    parameters: dict[int, Parameter] = {0: int(operator.attributes["blocksize"]), 1: order}
    site.put(operator.output, site.writer.layer("PixelShuffle", [site.full(operator.inputs[0])], parameters)[0])


def gather(site: NcnnSite, operator: Operator) -> None:
    """Rows of a table by number, or one place of an axis."""
    source, numbers = operator.inputs
    if source in site.graph.constants and numbers in site.graph.inputs:
        _look_up(site, operator)
        return
    place = site.graph.constants.get(numbers)
    if place is None or place.size != 1:
        raise unsupported(operator, "several places")
    axis = axis_of(site, operator, int(operator.attributes.get("axis", 0)))
    start = int(place.item()) % site.shape(source)[axis]
    parameters: dict[int, Parameter] = {9: [start], 10: [start + 1], 11: [axis]}
    [part] = site.writer.layer("Crop", [site.full(source)], parameters)
    site.put(operator.output, site.reshaped(part, site.shape(operator.output)))


def _look_up(site: NcnnSite, operator: Operator) -> None:
    table = site.graph.constants[operator.inputs[0]]
    if table.ndim != 2 or operator.attributes.get("axis", 0) != 0 or len(site.shape(operator.inputs[1])) != 1:
        raise unsupported(operator, "anything but rows of a table")
    parameters: dict[int, Parameter] = {0: table.shape[1], 1: table.shape[0], 3: table.size}
    site.put(operator.output, site.writer.layer("Embed", [site.blob(operator.inputs[1])], parameters, tagged(table))[0])
