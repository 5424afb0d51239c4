"""The ONNX graph that a converter starts from: read, held against the workload, and bound to its shapes."""

from typing import Final

import onnx
from google.protobuf.message import DecodeError

from benchfarm_core.failures import FailureCode
from benchfarm_engines.conversion import ConversionRequest
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.launch_request import InputSpec

_STANDARD_DOMAINS: Final = ("", "ai.onnx")


def read_source(request: ConversionRequest) -> onnx.ModelProto:
    """The request's graph with every input dimension a number; its free inputs are the workload's.

    Raises EngineFailure: ``invalid_workload`` for bytes that are no ONNX and for other inputs,
    ``unsupported_operator`` for operators beyond the standard's.
    """
    model = _parsed(request.onnx_bytes)
    for node in model.graph.node:
        if node.domain not in _STANDARD_DOMAINS:
            raise unsupported(node.op_type, f"the operator {node.domain}.{node.op_type} is not of the ONNX standard")
    _bind(model.graph, {spec.name: spec for spec in request.inputs})
    return model


def unsupported(operator: str, detail: str) -> EngineFailure:
    """The failure for an operator that an engine lacks."""
    return EngineFailure(FailureCode.UNSUPPORTED_OPERATOR, detail, subject=operator)


def _parsed(content: bytes) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise _invalid("the file is no ONNX model, or is cut") from error
    if not model.graph.node:
        raise _invalid("the file is no ONNX model: it has no operators")
    return model


def _bind(graph: onnx.GraphProto, specs: dict[str, InputSpec]) -> None:
    weights = {tensor.name for tensor in graph.initializer}
    free = [info for info in graph.input if info.name not in weights]
    if {info.name for info in free} != set(specs):
        names = sorted(info.name for info in free)
        raise _invalid(f"the model's inputs are {names}, the workload names {sorted(specs)}")
    for info in free:
        _bind_input(info, specs[info.name])


def _bind_input(info: onnx.ValueInfoProto, spec: InputSpec) -> None:
    tensor, dimensions = info.type.tensor_type, info.type.tensor_type.shape.dim
    fixed = [each.dim_value if each.HasField("dim_value") else None for each in dimensions]
    given = list(spec.shape)
    fits = len(fixed) == len(given) and all(have in (None, want) for have, want in zip(fixed, given, strict=True))
    if dtype_name(tensor.elem_type) != spec.dtype or not fits:
        raise _invalid(f"input {spec.name} is {dtype_name(tensor.elem_type)} {fixed} in the model")
    for dimension, size in zip(dimensions, given, strict=True):
        dimension.dim_value = size


def dtype_name(element_type: int) -> str:
    """numpy's name of an ONNX element type; a text that no numpy type has for any other."""
    if element_type not in onnx.TensorProto.DataType.values():
        return "of an unknown type"
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(element_type).name)
    except KeyError:
        return str(onnx.TensorProto.DataType.Name(element_type)).lower()


def _invalid(detail: str) -> EngineFailure:
    return EngineFailure(FailureCode.INVALID_WORKLOAD, detail)
