"""The inputs of an uploaded model: types, bound dimensions, and what fills them."""

from collections.abc import Mapping
from typing import Final

import onnx

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import Dtype, Fill, InputSpec
from benchfarm_workloads.input_fills import MAX_INPUTS, fill_of, refuse_large, refuse_leftovers
from benchfarm_workloads.verdicts import MAX_DIM, MAX_NAME, MAX_RANK, shown

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


def bind_inputs(
    model: onnx.ModelProto, dims: Mapping[str, int], fills: Mapping[str, Fill], *, max_bytes: int
) -> tuple[InputSpec, ...]:
    """The inputs with every dimension a number, which is also written into the model.

    ``dims`` maps a dimension's name, or ``input[axis]`` for one without a name, to its size; ``fills`` maps an
    input's name to what fills it, by default seeded normal numbers or small integers.

    Raises:
        InvalidRequest: ``unbound_dims``, ``unsupported_dtype``, ``invalid_workload`` for a dimension of no possible
            size, ``model_too_large_for_inspection``, or ``invalid_request`` for a dimension or a fill that fits no
            input.
    """
    infos = _free_inputs(model)
    used: set[str] = set()
    specs = tuple(_bound(info, index, dims, fills, used) for index, info in enumerate(infos))
    refuse_leftovers("dims", "dimension", set(dims) - used, _open_dims(infos))
    refuse_leftovers("fills", "input", set(fills) - {spec.name for spec in specs}, [s.name for s in specs])
    refuse_large(specs, max_bytes)
    for info, spec in zip(infos, specs, strict=True):
        for dimension, size in zip(info.type.tensor_type.shape.dim, spec.shape, strict=True):
            dimension.dim_value = size
    return specs


def refuse_outputs(model: onnx.ModelProto) -> None:
    """Raises InvalidRequest ``unsupported_dtype`` for an output that is no tensor of numbers, ``invalid_workload``
    where there is none."""
    if not model.graph.output:
        raise InvalidRequest("the model has no output, so nothing says whether it is right", code="invalid_workload")
    for value in model.graph.output:
        if not value.type.HasField("tensor_type") or value.type.tensor_type.elem_type not in DTYPES:
            raise _unsupported("output", value)


def _free_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that a caller must feed: old files list their weights among the inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    infos = [value for value in model.graph.input if value.name not in weights]
    if not infos:
        raise InvalidRequest("the model has no input, so its result is a constant", code="invalid_workload")
    if len(infos) > MAX_INPUTS:
        raise InvalidRequest(f"{len(infos)} inputs, the limit is {MAX_INPUTS}", code="inspection_failed")
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
    fill = fill_of(info.name, dtype, index, fills)
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
                f"input {shown(name)}, axis {axis}: size {dimension.dim_value} is impossible; export it with another",
                code="invalid_workload",
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


def _open_dims(infos: list[onnx.ValueInfoProto]) -> list[str]:
    return [
        dimension.dim_param or f"{info.name}[{axis}]"
        for info in infos
        for axis, dimension in enumerate(info.type.tensor_type.shape.dim)
        if not dimension.HasField("dim_value")
    ]


def _unsupported(role: str, info: onnx.ValueInfoProto) -> InvalidRequest:
    kind = info.type.WhichOneof("value") or "no type"
    if kind == "tensor_type":
        kind = onnx.TensorProto.DataType.Name(info.type.tensor_type.elem_type).lower()
    supported = ", ".join(DTYPES.values())
    return InvalidRequest(
        f"{role} {shown(info.name)} is {shown(kind)}; supported are tensors of {supported}", code="unsupported_dtype"
    )
