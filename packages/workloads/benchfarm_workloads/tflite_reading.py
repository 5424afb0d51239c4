"""From a checked .tflite file to bound inputs, our own operator graph and its estimated cost."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import Dtype, Fill, InputSpec
from benchfarm_workloads.input_fills import MAX_INPUTS, fill_of, refuse_large, refuse_leftovers
from benchfarm_workloads.tflite_file import FileGraph, FileOperator, FileTensor
from benchfarm_workloads.verdicts import (
    MAX_DIM,
    MAX_NAME,
    MAX_RANK,
    Graph,
    GraphNode,
    GraphValue,
    Role,
    graph_name,
    shown,
    whole_flops,
)

DTYPES: Final[dict[int, Dtype]] = {
    0: "float32",
    1: "float16",
    2: "int32",
    3: "uint8",
    4: "int64",
    6: "bool",
    9: "int8",
    10: "float64",
}
"""By the schema's TensorType."""

_RANDOM_OPERATORS: Final = frozenset(
    {"MULTINOMIAL", "RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM", "STABLEHLO_RNG_BIT_GENERATOR"}
)
_UNCOUNTED: Final = frozenset(
    {
        *("BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN", "CALL", "CONV_3D", "CONV_3D_TRANSPOSE"),
        *("CUSTOM", "IF", "LSTM", "RFFT2D", "RNN", "STABLEHLO_CONVOLUTION", "STABLEHLO_DOT_GENERAL", "SVDF"),
        *("UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "WHILE"),
    }
)
"""Operators that do real arithmetic beyond the counted five."""

Shapes = Mapping[int, tuple[int, ...]]
"""The shape of every tensor of the main graph that has one, by its number."""


@dataclass(frozen=True, slots=True)
class Reading:
    """``flops`` counts convolutions and products; None when one of them has no known shape."""

    graph: Graph
    flops: int | None
    parameters: int
    reasons: tuple[str, ...]


def bind_inputs(
    graph: FileGraph, dims: Mapping[str, int], fills: Mapping[str, Fill], *, max_bytes: int
) -> tuple[InputSpec, ...]:
    """The inputs with every dimension a number. ``dims`` maps ``input[axis]`` of an open dimension to its size.

    Raises:
        InvalidRequest: ``unbound_dims``, ``unsupported_dtype``, ``invalid_workload``,
            ``model_too_large_for_inspection``, or ``invalid_request`` for a dimension or a fill that fits no input.
    """
    tensors = [graph.tensors[number] for number in graph.inputs]
    _refuse_names(tensors)
    specs = tuple(_bound(tensor, index, dims, fills) for index, tensor in enumerate(tensors))
    open_dims = [f"{one.name}[{axis}]" for one in tensors for axis, size in enumerate(one.shape) if size == -1]
    refuse_leftovers("dims", "dimension", set(dims) - {*open_dims}, open_dims)
    refuse_leftovers("fills", "input", set(fills) - {one.name for one in tensors}, [one.name for one in tensors])
    refuse_large(specs, max_bytes)
    return specs


def refuse_outputs(graph: FileGraph) -> None:
    """Raises InvalidRequest ``unsupported_dtype`` for an output that is no tensor of numbers."""
    for number in graph.outputs:
        _dtype_of("output", graph.tensors[number])
    if not graph.outputs:
        raise InvalidRequest("the model has no output, so nothing can be checked", code="invalid_workload")


def refuse_random(graphs: Sequence[FileGraph], names: Mapping[int, str]) -> None:
    """Raises InvalidRequest ``random_operator``. names: of the schema's operators by their codes."""
    for graph in graphs:
        for operator in graph.operators:
            if names.get(operator.code) in _RANDOM_OPERATORS:
                raise InvalidRequest(
                    f"operator {names[operator.code]} draws random numbers, so its result cannot be checked; "
                    "replace it by a constant or an input",
                    code="random_operator",
                )


def read(graphs: Sequence[FileGraph], names: Mapping[int, str], shapes: Shapes) -> Reading:
    """Our own graph of the main graph. names: as ``refuse_random`` has it; shapes: with the inputs bound."""
    main = graphs[0]
    values = _value_names(main)
    nodes = tuple(_node(operator, names, values) for operator in main.operators)
    flops, why = whole_flops(
        _FLOPS[node.op](operator, shapes)
        for node, operator in zip(nodes, main.operators, strict=True)
        if node.op in _FLOPS
    )
    return Reading(
        Graph(nodes=nodes, values=_values(main, values, shapes), numbers=_numbers(main, values)),
        flops,
        sum(_parameters(each) for each in main.tensors),
        (*why, *_reasons(nodes, len(graphs) - 1)),
    )


def _refuse_names(tensors: Sequence[FileTensor]) -> None:
    if not tensors:
        raise InvalidRequest("the model has no input, so its result is a constant", code="invalid_workload")
    if len(tensors) > MAX_INPUTS:
        raise InvalidRequest(f"{len(tensors)} inputs, the limit is {MAX_INPUTS}", code="inspection_failed")
    seen: set[str] = set()
    for tensor in tensors:
        if not tensor.name.isprintable() or not 0 < len(tensor.name) <= MAX_NAME or tensor.name in seen:
            raise InvalidRequest(
                f"input {shown(tensor.name)} needs a printable name of its own of at most {MAX_NAME} letters",
                code="inspection_failed",
            )
        seen.add(tensor.name)


def _bound(tensor: FileTensor, index: int, dims: Mapping[str, int], fills: Mapping[str, Fill]) -> InputSpec:
    dtype = _dtype_of("input", tensor)
    if len(tensor.shape) > MAX_RANK:
        raise InvalidRequest(
            f"input {shown(tensor.name)} has {len(tensor.shape)} dimensions, the limit is {MAX_RANK}",
            code="unsupported_dtype",
        )
    shape = tuple(_size(tensor.name, axis, size, dims) for axis, size in enumerate(tensor.shape))
    return InputSpec(name=tensor.name, dtype=dtype, shape=shape, fill=fill_of(tensor.name, dtype, index, fills))


def _size(name: str, axis: int, size: int, dims: Mapping[str, int]) -> int:
    label = f"{name}[{axis}]"
    if size == -1 and label not in dims:
        raise InvalidRequest(
            f"input {shown(name)}, axis {axis}: the dimension has no number; bind it, for example "
            f"dims={{{shown(label)}: 1}}",
            code="unbound_dims",
            field="dims",
        )
    bound = dims[label] if size == -1 else size
    if not 1 <= bound <= MAX_DIM * MAX_DIM:
        raise InvalidRequest(
            f"input {shown(name)}, axis {axis}: size {bound} is impossible; export it with another",
            code="invalid_workload",
        )
    return bound


def _dtype_of(role: str, tensor: FileTensor) -> Dtype:
    if tensor.type not in DTYPES:
        supported = ", ".join(DTYPES.values())
        raise InvalidRequest(
            f"{role} {shown(tensor.name)} has type {tensor.type} of the schema; supported are tensors of {supported}",
            code="unsupported_dtype",
        )
    return DTYPES[tensor.type]


def _value_names(graph: FileGraph) -> list[str]:
    """A name for every tensor: its own where no other has it, else with its number."""
    count = Counter(tensor.name for tensor in graph.tensors)
    return [
        graph_name(tensor.name if tensor.name and count[tensor.name] == 1 else f"{tensor.name[:100]}#{number}")
        for number, tensor in enumerate(graph.tensors)
    ]


def _node(operator: FileOperator, names: Mapping[int, str], values: Sequence[str]) -> GraphNode:
    return GraphNode(
        op=graph_name(operator.custom or names.get(operator.code, f"code {operator.code}")),
        name="",
        inputs=tuple(values[number] if number >= 0 else "" for number in operator.inputs),
        outputs=tuple(values[number] if number >= 0 else "" for number in operator.outputs),
        attributes=dict(operator.options),
    )


def _values(graph: FileGraph, values: Sequence[str], shapes: Shapes) -> dict[str, GraphValue]:
    return {
        values[number]: GraphValue(
            role=_role(graph, number),
            dtype=DTYPES.get(tensor.type, f"type {tensor.type}"),
            shape=shapes.get(number, tensor.shape),
        )
        for number, tensor in enumerate(graph.tensors)
    }


def _numbers(graph: FileGraph, values: Sequence[str]) -> dict[str, tuple[float, ...]]:
    told = zip(values, graph.tensors, strict=True)
    return {name: tensor.numbers for name, tensor in told if tensor.numbers is not None}


def _role(graph: FileGraph, number: int) -> Role:
    if number in graph.inputs:
        return "input"
    if number in graph.outputs:
        return "output"
    return "weight" if graph.tensors[number].is_weight else "inner"


def _parameters(tensor: FileTensor) -> int:
    """Elements of a weight with at least one dimension; of integers those of 8 bits alone."""
    counted = tensor.is_weight and tensor.shape and DTYPES.get(tensor.type) in _COUNTED_DTYPES
    return math.prod(tensor.shape) if counted and min(tensor.shape) >= 0 else 0


_COUNTED_DTYPES: Final = ("float32", "float16", "float64", "int8", "uint8")


def _shapes_of(numbers: Sequence[int], shapes: Shapes) -> list[tuple[int, ...]] | None:
    found = [shapes.get(number, ()) for number in numbers]
    return found if all(found) else None


def _conv_flops(operator: FileOperator, shapes: Shapes) -> int | None:
    """Each output element is a dot product over one filter, out x h x w x in."""
    found = _shapes_of((operator.inputs[1], operator.outputs[0]), shapes)
    return None if found is None else 2 * math.prod(found[1]) * math.prod(found[0][1:])


def _depthwise_flops(operator: FileOperator, shapes: Shapes) -> int | None:
    """Each output element is a dot product over one window, 1 x h x w x out."""
    found = _shapes_of((operator.inputs[1], operator.outputs[0]), shapes)
    return None if found is None else 2 * math.prod(found[1]) * math.prod(found[0][1:3])


def _transpose_flops(operator: FileOperator, shapes: Shapes) -> int | None:
    """Each input element is spread over one filter, out x h x w x in."""
    found = _shapes_of(operator.inputs[1:3], shapes)
    return None if found is None else 2 * math.prod(found[1]) * math.prod(found[0][:3])


def _dense_flops(operator: FileOperator, shapes: Shapes) -> int | None:
    """Each output element is a dot product over the weight's last axis."""
    found = _shapes_of((operator.inputs[1], operator.outputs[0]), shapes)
    return None if found is None else 2 * math.prod(found[1]) * found[0][-1]


def _product_flops(operator: FileOperator, shapes: Shapes) -> int | None:
    """Each output element is a dot product; the shared axis is the one of the first input that is not the output's."""
    found = _shapes_of((operator.inputs[0], operator.outputs[0]), shapes)
    if found is None or min(map(len, found)) < 2 or not found[1][-2]:
        return None
    return 2 * math.prod(found[1]) * (math.prod(found[0][-2:]) // found[1][-2])


_FLOPS: Final[dict[str, Callable[[FileOperator, Shapes], int | None]]] = {
    "CONV_2D": _conv_flops,
    "DEPTHWISE_CONV_2D": _depthwise_flops,
    "TRANSPOSE_CONV": _transpose_flops,
    "FULLY_CONNECTED": _dense_flops,
    "BATCH_MATMUL": _product_flops,
}


def _reasons(nodes: Sequence[GraphNode], bodies: int) -> list[str]:
    reasons = []
    uncounted = Counter(node.op for node in nodes if node.op in _UNCOUNTED)
    if uncounted:
        reasons.append("flops leave out: " + ", ".join(f"{count} {op}" for op, count in sorted(uncounted.items())))
    if bodies:
        reasons.append(f"{bodies} further graphs of the file are not in the picture")
    return reasons
