"""Static int8: a graph with QuantizeLinear and DequantizeLinear around everything that is computed in 8 bits.

One QDQ graph per workload serves every engine: those that read ONNX open it, converters fold it into their own
int8. It runs on the agent's host. What is quantised says ``quantise_rules``; weights are symmetric per output
channel, activations affine per tensor, ranges the extremes seen on seeded inputs.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import onnx
from google.protobuf.message import DecodeError

from benchfarm_core.failures import FailureCode
from benchfarm_engines.conversion import Activations
from benchfarm_engines.edges import Edge, Edges
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.engine_options import OptionValue
from benchfarm_engines.launch_request import InputSpec
from benchfarm_engines.products import (
    EIGHT_BITS,
    OTHER_FLOATS,
    multiplies_in_8_bits,
    refuse_other_products,
    refuse_without_8_bits,
)
from benchfarm_engines.quantise_graph import QuantisedGraph
from benchfarm_engines.quantise_ranges import learn_ranges
from benchfarm_engines.quantise_rules import left_out, plan
from benchfarm_engines.quantise_steps import NotFinite, Steps, steps_of

OPENED_AS_IT_IS: Final[Activations] = "uint8"
"""What ONNX Runtime and OpenVINO multiply with int8 weights on x86: with int8 activations the first takes several
times as long, and the second computes in fp32 behind a graph's input. Both change it by themselves where a graph
quantises inside, and cannot at its edges."""

_OLDEST_OPSET: Final = 13
"""The first one with steps per channel."""

_QUANTISED: Final = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


def quantise(
    onnx_bytes: bytes,
    inputs: Sequence[InputSpec],
    options: Mapping[str, OptionValue],
    activations: Activations = "int8",
) -> tuple[bytes, Edges | None]:
    """The QDQ graph, and its edges where they are int8 (option ``edges``); the same bytes for the same request.

    inputs: the workload's, every dimension bound. options: ``edges`` and ``calibration_seed``, see
    ``engine_options.INT8_OPTIONS``. activations: how their 8 bits are stored, the same numbers with another zero
    point: int8 for converters, ``OPENED_AS_IT_IS`` for engines that open the graph itself. Inputs and outputs keep
    their names and order; those that are not fp32 stay as they are. A graph that is quantised already stays as it is,
    where its edges are those of the option. Raises EngineFailure: ``conversion_failed``, ``precision_not_obeyed`` for
    products that are not in 8 bits, ``unsupported_operator`` for operators with bodies.
    """
    model = _read(onnx_bytes)
    refuse_other_products(onnx_bytes, "int8", keeps_types=True)
    if any(node.op_type in _QUANTISED for node in model.graph.node) or multiplies_in_8_bits(onnx_bytes):
        refuse_without_8_bits(onnx_bytes)
        _refuse_other_edges(model.graph, str(options["edges"]))
        return onnx_bytes, None
    _make_ready(model)
    try:
        steps = _learn_steps(model, inputs, int(options["calibration_seed"]), activations)
    except NotFinite as error:
        raise _failed(str(error)) from error
    except Exception as error:  # boundary: ONNX Runtime's exceptions share no class but this one
        raise _failed(f"the graph does not run for calibration: {error}") from error
    product = left_out(model.graph, steps)
    if product is not None:
        detail = f"no product of the graph can be made in 8 bits, {product.op_type} the first of them"
        raise EngineFailure(FailureCode.PRECISION_NOT_OBEYED, detail, subject=product.op_type)
    outside = options["edges"] == "int8"
    content = QuantisedGraph(model, steps, int8_edges=outside).to_bytes()
    return content, _edges(model, steps) if outside else None


def _read(onnx_bytes: bytes) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(onnx_bytes)
    except DecodeError as error:
        raise _failed("the file is not an ONNX model") from error
    return model


def _make_ready(model: onnx.ModelProto) -> None:
    """Refuses what is not quantised here, and brings constants to one form."""
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0)
    if opset < _OLDEST_OPSET:
        raise _failed(f"int8 is made of graphs with opset {_OLDEST_OPSET} or later, this one has {opset}")
    _refuse_bodies(model.graph)
    _hoist_constants(model.graph)


def _refuse_bodies(graph: onnx.GraphProto) -> None:
    """What a body reads of the graph around it is not among its operator's inputs, so its steps would be lost."""
    for node in graph.node:
        if any(each.HasField("g") or each.graphs for each in node.attribute):
            detail = f"int8 is not made of graphs with {node.op_type}: it holds graphs of its own"
            raise EngineFailure(FailureCode.UNSUPPORTED_OPERATOR, detail, subject=node.op_type)


def _refuse_other_edges(graph: onnx.GraphProto, wanted: str) -> None:
    stored = {each.name for each in graph.initializer}  # old files list their weights among the inputs
    values = [each for each in (*graph.input, *graph.output) if each.name not in stored]
    taken = {each.type.tensor_type.elem_type for each in values}
    is_float = onnx.TensorProto.FLOAT in taken or (taken & OTHER_FLOATS and not taken & EIGHT_BITS)
    own = "fp32" if is_float else "int8"
    if own != wanted:
        raise _failed(f"the graph is quantised already, with {own} edges: int8 with edges={own} measures it as it is")


def _hoist_constants(graph: onnx.GraphProto) -> None:
    """Constant nodes as initializers, so that a weight is found wherever it was written."""
    for node in [each for each in graph.node if each.op_type == "Constant"]:
        values = [each.t for each in node.attribute if each.name == "value"]
        if values:
            tensor = graph.initializer.add()
            tensor.CopyFrom(values[0])
            tensor.name = node.output[0]
            graph.node.remove(node)


def _learn_steps(model: onnx.ModelProto, inputs: Sequence[InputSpec], seed: int, dtype: str) -> dict[str, Steps]:
    ranges = learn_ranges(model, inputs, seed)
    planned = plan(model.graph, frozenset(ranges))
    return steps_of(model.graph, planned, ranges, dtype)


def _edges(model: onnx.ModelProto, steps: Mapping[str, Steps]) -> Edges:
    constants = {each.name for each in model.graph.initializer}
    taken = [each for each in model.graph.input if each.name not in constants]
    return Edges(*(tuple(_edge(each, steps) for each in side) for side in (taken, model.graph.output)))


def _edge(value: onnx.ValueInfoProto, steps: Mapping[str, Steps]) -> Edge:
    found = steps.get(value.name)
    if found is None:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        return Edge(value.name, dtype.name)
    return Edge(value.name, found.dtype, scale=found.scale, zero_point=found.zero_point)


def _failed(detail: str) -> EngineFailure:
    return EngineFailure(FailureCode.CONVERSION_FAILED, detail)
