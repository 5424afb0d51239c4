"""What of an ONNX graph is known before a run: every tensor's shape, and all that follows from shapes and weights."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

_SMALL: Final = 256
"""Constants of at most this many elements may be shapes, and take part in shape inference with their values."""
_LARGEST: Final = 2**24
"""Nothing larger is worked out: it would only swell the file."""
_KEPT: Final = frozenset(("QuantizeLinear", "DequantizeLinear", "RandomNormal", "RandomUniform", "Dropout"))


class Settled(NamedTuple):
    """nodes: what depends on inputs, in the order of execution. shapes: by name, -1 for sizes that are not known."""

    nodes: list[onnx.NodeProto]
    shapes: dict[str, Shape]
    constants: dict[str, Array]


def settle(model: onnx.ModelProto) -> Settled:
    """Infers shapes and computes what needs no input. Raises EngineFailure (conversion_failed)."""
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    nodes = list(model.graph.node)
    while True:
        shapes = _inferred(model, nodes, constants)
        left = [node for node in nodes if not _is_computed(model, node, shapes, constants)]
        if len(left) == len(nodes):
            return Settled(nodes, shapes | {name: each.shape for name, each in constants.items()}, constants)
        nodes = left


def _inferred(model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: Mapping[str, Array]) -> dict[str, Shape]:
    """Shapes by name, inferred on a copy without the weights."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.node.extend(nodes)
    bare.graph.input.extend(each for each in model.graph.input if each.name not in constants)
    for name, values in constants.items():
        if values.size <= _SMALL:
            bare.graph.initializer.append(numpy_helper.from_array(values, name))
        else:
            kind = helper.np_dtype_to_tensor_dtype(values.dtype)
            bare.graph.input.append(helper.make_tensor_value_info(name, kind, values.shape))
    bare.graph.output.extend(onnx.ValueInfoProto(name=each.name) for each in model.graph.output)
    try:
        known = shape_inference.infer_shapes(bare, data_prop=True).graph
    except (RuntimeError, ValueError, TypeError) as error:  # its own errors derive from RuntimeError
        raise EngineFailure(FailureCode.CONVERSION_FAILED, f"shapes cannot be inferred: {error}") from error
    found = (*known.input, *known.value_info, *known.output)
    return {each.name: _shape(each) for each in found if each.type.tensor_type.HasField("shape")}


def _shape(value: onnx.ValueInfoProto) -> Shape:
    dims = value.type.tensor_type.shape.dim
    return tuple(each.dim_value if each.HasField("dim_value") else -1 for each in dims)


def _is_computed(
    model: onnx.ModelProto, node: onnx.NodeProto, shapes: Mapping[str, Shape], constants: dict[str, Array]
) -> bool:
    """Whether the node's outputs are constants, which they then are among."""
    if node.op_type == "Constant" and node.attribute[0].name == "value":
        constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        return True
    shape = shapes.get(node.input[0]) if node.op_type == "Shape" else None
    if shape is not None and -1 not in shape:
        bounds = {each.name: each.i for each in node.attribute}
        constants[node.output[0]] = np.array(shape[bounds.get("start", 0) : bounds.get("end")], dtype=np.int64)
        return True
    if node.op_type in _KEPT or any(name and name not in constants for name in node.input):
        return False
    values = _computed(model, node, constants)
    constants.update(values)
    return bool(values)


def _computed(model: onnx.ModelProto, node: onnx.NodeProto, constants: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs by name; nothing where they are not arrays of a sensible size."""
    from onnx.reference import ReferenceEvaluator  # takes a third of a second, and few graphs need it

    inputs = {name: constants[name] for name in node.input if name}
    wanted = [name for name in node.output if name]
    ins, outs = ([onnx.ValueInfoProto(name=name) for name in names] for names in (inputs, wanted))
    graph = helper.make_graph([node], "constants", ins, outs)
    try:
        alone = helper.make_model(graph, opset_imports=model.opset_import)
        values = ReferenceEvaluator(alone).run(None, inputs)
    except Exception:  # boundary: a stranger's graph may trip the evaluator anywhere; its rule then speaks
        return {}
    fit = all(isinstance(each, np.ndarray | np.generic) and each.size <= _LARGEST for each in values)
    return {name: np.asarray(each) for name, each in zip(wanted, values, strict=True)} if fit else {}
