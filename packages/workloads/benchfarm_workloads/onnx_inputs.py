"""The inputs of an uploaded model: types, bound dimensions, and what fills them."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import onnx

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import Dtype, Fill, InputSpec, IntsFill, NormalFill
from benchfarm_workloads.onnx_checks import shown
from benchfarm_workloads.verdicts import MAX_DIM, MAX_NAME, MAX_RANK

DTYPES: Final[dict[int, Dtype]] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.INT8: "int8",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.BOOL: "bool",
}

_DEFAULT_BELOW: Final[dict[Dtype, int]] = {"int8": 128, "uint8": 256, "int32": 2, "int64": 2, "bool": 2}
"""Bytes are likely pixels; wider integers are likely indices, and 0 and 1 are inside almost any table."""

_ITEM_BYTES: Final[dict[Dtype, int]] = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2}

_MAX_INPUTS: Final = 64


def bind_inputs(
    model: onnx.ModelProto, dims: Mapping[str, int], fills: Mapping[str, Fill], *, max_bytes: int
) -> tuple[InputSpec, ...]:
    """The inputs with every dimension a number, which is also written into the model.

    ``dims`` maps a dimension's name, or ``input[axis]`` for one without a name, to its size; ``fills`` maps an
    input's name to what fills it, by default seeded normal numbers or small integers.

    Raises:
        InvalidRequest: ``unbound_dims``, ``unsupported_dtype``, ``model_too_large_for_inspection``, or
            ``invalid_request`` for a dimension or a fill that fits no input.
    """
    infos = _free_inputs(model)
    used: set[str] = set()
    specs = tuple(_bound(info, index, dims, fills, used) for index, info in enumerate(infos))
    _refuse_leftovers("dims", "dimension", set(dims) - used, _open_dims(infos))
    _refuse_leftovers("fills", "input", set(fills) - {spec.name for spec in specs}, [s.name for s in specs])
    size_bytes = sum(math.prod(spec.shape) * _ITEM_BYTES.get(spec.dtype, 1) for spec in specs)
    if size_bytes > max_bytes:
        raise InvalidRequest(
            f"the inputs take {size_bytes} bytes, the limit is {max_bytes}; bind smaller dimensions",
            code="model_too_large_for_inspection",
        )
    for info, spec in zip(infos, specs, strict=True):
        for dimension, size in zip(info.type.tensor_type.shape.dim, spec.shape, strict=True):
            dimension.dim_value = size
    return specs


def refuse_outputs(model: onnx.ModelProto) -> None:
    """Raises InvalidRequest ``unsupported_dtype`` for an output that is no tensor of numbers."""
    for value in model.graph.output:
        if not value.type.HasField("tensor_type") or value.type.tensor_type.elem_type not in DTYPES:
            raise _unsupported("output", value)


def default_fill_reasons(specs: Sequence[InputSpec], fills: Mapping[str, Fill]) -> tuple[str, ...]:
    """A note for each integer input whose fill was chosen here, because the choice may not be typical."""
    return tuple(
        f"input {shown(spec.name)} is filled with integers below {spec.fill.below}; give its fill if the model "
        "sees others"
        for spec in specs
        if isinstance(spec.fill, IntsFill) and spec.name not in fills
    )


def _free_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must feed: old files list their weights among the inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    infos = [value for value in model.graph.input if value.name not in weights]
    if not infos:
        raise InvalidRequest("the model has no input, so its result is a constant", code="invalid_workload")
    if len(infos) > _MAX_INPUTS:
        raise InvalidRequest(f"{len(infos)} inputs, the limit is {_MAX_INPUTS}", code="inspection_failed")
    return infos


def _bound(
    info: onnx.ValueInfoProto, index: int, dims: Mapping[str, int], fills: Mapping[str, Fill], used: set[str]
) -> InputSpec:
    if not info.name.isprintable() or not 0 < len(info.name) <= MAX_NAME:
        raise InvalidRequest(
            f"input {shown(info.name)} needs a printable name of at most {MAX_NAME} letters", code="inspection_failed"
        )
    tensor_type = info.type.tensor_type
    dtype = DTYPES.get(tensor_type.elem_type) if info.type.HasField("tensor_type") else None
    if dtype is None:
        raise _unsupported("input", info)
    shape = tuple(_size(info.name, axis, dimension, dims, used) for axis, dimension in enumerate(_dimensions(info)))
    fill = fills.get(info.name) or _default_fill(dtype, index)
    _refuse_fill(info.name, dtype, fill)
    return InputSpec(name=info.name, dtype=dtype, shape=shape, fill=fill)


def _dimensions(info: onnx.ValueInfoProto) -> list[onnx.TensorShapeProto.Dimension]:
    if not info.type.tensor_type.HasField("shape"):
        raise InvalidRequest(
            f"input {shown(info.name)} has no shape, not even its number of dimensions; export it with one",
            code="unbound_dims",
        )
    dimensions = list(info.type.tensor_type.shape.dim)
    if len(dimensions) > MAX_RANK:
        raise InvalidRequest(
            f"input {shown(info.name)} has {len(dimensions)} dimensions, the limit is {MAX_RANK}",
            code="unsupported_dtype",
        )
    return dimensions


def _size(
    name: str, axis: int, dimension: onnx.TensorShapeProto.Dimension, dims: Mapping[str, int], used: set[str]
) -> int:
    if dimension.HasField("dim_value"):
        if not 1 <= dimension.dim_value <= MAX_DIM * MAX_DIM:
            raise InvalidRequest(
                f"input {shown(name)}, axis {axis}: size {dimension.dim_value} is impossible",
                code="unbound_dims",
            )
        return int(dimension.dim_value)
    label = dimension.dim_param or f"{name}[{axis}]"
    if label not in dims:
        raise InvalidRequest(
            f"input {shown(name)}, axis {axis}: dimension {shown(label)} has no number; "
            f"bind it, for example dims={{{shown(label)}: 1}}",
            code="unbound_dims",
            field="dims",
        )
    used.add(label)
    return dims[label]


def _default_fill(dtype: Dtype, seed: int) -> Fill:
    below = _DEFAULT_BELOW.get(dtype)
    return NormalFill(seed=seed) if below is None else IntsFill(below=below, seed=seed)


def _refuse_fill(name: str, dtype: Dtype, fill: Fill) -> None:
    if isinstance(fill, NormalFill) and dtype in _DEFAULT_BELOW:
        raise InvalidRequest(f"input {shown(name)} is {dtype}: fill it with ints, not normal", field="fills")
    highest = {"int8": 128, "uint8": 256, "bool": 2}.get(dtype)
    if isinstance(fill, IntsFill) and highest is not None and fill.below > highest:
        raise InvalidRequest(f"input {shown(name)} is {dtype}: below={fill.below} is above {highest}", field="fills")


def _open_dims(infos: list[onnx.ValueInfoProto]) -> list[str]:
    return [
        dimension.dim_param or f"{info.name}[{axis}]"
        for info in infos
        for axis, dimension in enumerate(info.type.tensor_type.shape.dim)
        if not dimension.HasField("dim_value")
    ]


def _refuse_leftovers(field: str, noun: str, unknown: set[str], known: list[str]) -> None:
    if unknown:
        names = ", ".join(shown(name) for name in dict.fromkeys(known[:10])) or "none"
        raise InvalidRequest(f"no {noun} {shown(min(unknown))} to bind; the model has {names}", field=field)


def _unsupported(role: str, info: onnx.ValueInfoProto) -> InvalidRequest:
    kind = info.type.WhichOneof("value") or "no type"
    if kind == "tensor_type":
        kind = onnx.TensorProto.DataType.Name(info.type.tensor_type.elem_type).lower()
    supported = ", ".join(DTYPES.values())
    return InvalidRequest(
        f"{role} {shown(info.name)} is {shown(kind)}; supported are tensors of {supported}", code="unsupported_dtype"
    )
