"""Where layers are written: the graph on one side, ncnn's blobs on the other, and the questions that both answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.ncnn_graph import Array, Operator, Shape, SourceGraph, unsupported
from benchfarm_engines.ncnn_writer import NcnnWriter, Parameter, Weights, plain

MAX_RANK = 4
"""Axes of a blob, the batch apart."""

_RELU, _LEAKY, _CLIP, _SIGMOID, _HARD_SWISH = 1, 2, 3, 4, 6
HARD_SWISH_SLOPE = 1 / 6


@dataclass(frozen=True)
class Activation:
    """What a layer does with its result: ncnn's number for it (0 none), its numbers, and the tensor it makes."""

    kind: int
    numbers: tuple[float, ...]
    output: str

    def parameters(self) -> dict[int, Parameter]:
        """As convolutions and dense layers take it."""
        return {9: self.kind, **({10: self.numbers} if self.numbers else {})} if self.kind else {}


@dataclass
class NcnnSite:
    """A graph that is being written.

    batch: the first axis of every tensor; blobs do not have it. blobs: by tensor. flat: tensors batch x c x 1 x 1 whose
    blob has one axis, as ncnn's global pools leave it. fused: operators that an earlier layer computes already.
    int8_outputs: graph outputs that shall leave as int8; int8_made: those that do.
    """

    graph: SourceGraph
    writer: NcnnWriter
    batch: int
    int8_outputs: frozenset[str] = frozenset()
    blobs: dict[str, int] = field(default_factory=dict)
    flat: set[str] = field(default_factory=set)
    fused: set[int] = field(default_factory=set)
    int8_made: set[str] = field(default_factory=set)

    def shape(self, tensor: str) -> Shape:
        """A tensor's sizes without the batch axis. Raises EngineFailure where it has none, or too many axes."""
        known = self.graph.shapes.get(tensor)
        if known is None:
            raise EngineFailure(FailureCode.CONVERSION_FAILED, f"the shape of {tensor[:60]} is not known beforehand")
        if len(known) < 2 or known[0] != self.batch:
            raise unsupported("batch", f"a tensor of {list(known)} has no batch axis of {self.batch} in front")
        if len(known) > MAX_RANK + 1 or 0 in known:
            raise unsupported("rank", f"a tensor of {list(known)} does not fit into a blob")
        return known[1:]

    def blob_shape(self, tensor: str) -> Shape:
        """The sizes that the blob really has."""
        return self.shape(tensor)[:1] if tensor in self.flat else self.shape(tensor)

    def blob(self, tensor: str, *, rank: int | None = None) -> int:
        """The blob of a tensor as it is; a constant is written as data, with `rank` axes behind the batch axis."""
        if tensor in self.blobs:
            return self.blobs[tensor]
        if tensor not in self.graph.constants:
            raise EngineFailure(FailureCode.CONVERSION_FAILED, f"nothing makes the tensor {tensor[:60]}")
        values = self.graph.constants[tensor]
        full = values.reshape((1,) * ((rank or values.ndim - 1) + 1 - values.ndim) + values.shape)
        same_for_all = full.shape[0] in (1, self.batch) and (full == full[:1]).all()
        if not same_for_all or not 1 < full.ndim <= MAX_RANK + 1:
            raise unsupported("batch", f"a constant of {list(values.shape)} differs within a batch")
        return self.data(full[0])

    def data(self, values: Array) -> int:
        """A constant as a blob of its own."""
        keys = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 11, 1, 0)}[values.ndim]
        sizes = dict(zip(keys, values.shape, strict=True))
        return self.writer.layer("MemoryData", [], sizes, plain(values))[0]

    def full(self, tensor: str) -> int:
        """The blob of a tensor with all of its axes."""
        if tensor not in self.flat:
            return self.blob(tensor)
        return self.reshaped(self.blobs[tensor], self.shape(tensor))

    def reshaped(self, blob: int, shape: Sequence[int]) -> int:
        """The same numbers in another shape."""
        keys = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 11, 1, 0)}[len(shape)]
        return self.writer.layer("Reshape", [blob], dict(zip(keys, shape, strict=True)))[0]

    def put(self, tensor: str, blob: int, *, flat: bool = False) -> None:
        """Says which blob holds a tensor."""
        self.shape(tensor)
        self.blobs[tensor] = blob
        if flat and len(self.graph.shapes[tensor]) > 2:
            self.flat.add(tensor)

    def constant(self, operator: Operator, number: int) -> Array:
        """An input that must be known beforehand. Raises EngineFailure."""
        if number >= len(operator.inputs) or operator.inputs[number] not in self.graph.constants:
            raise unsupported(operator, f"input {number} is no constant")
        return self.graph.constants[operator.inputs[number]]

    def check_features(self, operator: Operator, given: int, wanted: int) -> None:
        """Holds an input against its weight: ncnn reads as far as the weight says. Raises EngineFailure."""
        if given != wanted:
            detail = f"{operator.kind}: the input has {given} features, the weight takes {wanted}"
            raise EngineFailure(FailureCode.INVALID_WORKLOAD, detail)

    def bias(self, operator: Operator, number: int, size: int) -> Weights:
        """The bias as a weight, none where it is absent."""
        if number >= len(operator.inputs) or not operator.inputs[number]:
            return []
        values = self.constant(operator, number)
        if values.size not in (1, size):
            raise unsupported(operator, f"a bias of {list(values.shape)}")
        return plain(np.broadcast_to(values.reshape(-1), (size,)))

    def activation(self, operator: Operator) -> Activation:
        """The activation that follows an operator and nothing else reads before; it counts as written."""
        following = self.graph.only_consumer(operator.output)
        found = _activation(self.graph, following) if following is not None else None
        if found is None or following is None:
            return Activation(0, (), operator.output)
        self.fused.add(id(following))
        return Activation(found[0], found[1], following.output)

    def int8_input(self, operator: Operator) -> float | None:
        """The step of an operator's input where it can compute in int8: range and weight are known in 8 bits."""
        if operator.inputs[1] not in self.graph.int8_weights:
            return None
        if loses_fp32_results(self.graph, operator) and self._result(operator) not in self.graph.scales:
            return None
        return self.graph.scales.get(operator.inputs[0])

    def _result(self, operator: Operator) -> str:
        """The tensor that an operator makes together with its activation."""
        following = self.graph.only_consumer(operator.output)
        fused = following is not None and _activation(self.graph, following) is not None
        return following.output if following is not None and fused else operator.output

    def leaves_as_int8(self, tensor: str) -> bool:
        """Whether a tensor is wanted in int8 by everyone who reads it."""
        readers = self.graph.consumers(tensor)
        wanted = all(_takes_int8(self, reader, tensor) for reader in readers)
        outside = tensor not in self.graph.outputs or tensor in self.int8_outputs
        return tensor in self.graph.scales and wanted and outside and bool(readers or tensor in self.int8_outputs)


Emitter = Callable[[NcnnSite, Operator], None]
"""Writes one operator."""


def takes_int8_input(site: NcnnSite, tensor: str) -> bool:
    """Whether everyone who reads an input of the graph computes in int8."""
    readers = site.graph.consumers(tensor)
    return bool(readers) and all(_takes_int8(site, reader, tensor) for reader in readers)


def _takes_int8(site: NcnnSite, reader: Operator, tensor: str) -> bool:
    computes = reader.kind in ("Conv", "Gemm") and reader.inputs[0] == tensor
    return computes and tensor not in reader.inputs[1:] and site.int8_input(reader) is not None


def loses_fp32_results(graph: SourceGraph, operator: Operator) -> bool:
    """Whether ncnn's int8 kernel is wrong unless its output is int8 too.

    With groups, an fp32 output is expected in fours of channels and comes in eights where a group has a multiple of
    eight (1.0.20261020): it never arrives. Depthwise convolutions have a kernel of their own.
    """
    if operator.kind != "Conv" or operator.inputs[1] not in graph.constants:
        return False
    groups, outputs = int(operator.attributes.get("group", 1)), graph.constants[operator.inputs[1]].shape[0]
    return groups > 1 and outputs // groups % 8 == 0


def clip_bounds(graph: SourceGraph, operator: Operator) -> tuple[float, float]:
    """Lower and upper bound of a Clip. Raises EngineFailure where they are not known."""
    bounds = [-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max)]
    for number, name in enumerate(operator.inputs[1:3]):
        if name:
            value = graph.scalar(name)
            if value is None:
                raise unsupported(operator, "bounds that are no constants")
            bounds[number] = value
    for number, name in enumerate(("min", "max")):
        bounds[number] = float(operator.attributes.get(name, bounds[number]))
    return bounds[0], bounds[1]


def _activation(graph: SourceGraph, operator: Operator) -> tuple[int, tuple[float, ...]] | None:
    match operator.kind:
        case "Relu":
            return _RELU, ()
        case "LeakyRelu":
            return _LEAKY, (float(operator.attributes.get("alpha", 0.01)),)
        case "Clip":
            return _CLIP, clip_bounds(graph, operator)
        case "Sigmoid":
            return _SIGMOID, ()
        case "HardSwish":
            return _HARD_SWISH, (HARD_SWISH_SLOPE, 0.5)
    return None
