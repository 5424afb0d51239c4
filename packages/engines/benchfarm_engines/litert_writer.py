"""Writes .tflite files with the schema that ships with LiteRT; no TensorFlow.

The same calls make the same bytes. Operators whose results nobody reads are left out.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

Array = np.ndarray[Any, Any]

ABSENT: Final = -1
"""The tensor number of an input that an operator goes without."""

_TYPES: Final = {"float32": 0, "int32": 2, "int64": 4, "bool": 6, "int8": 9}
"""Numbers of schema.TensorType by numpy's names."""
_VERSIONS: Final = {schema.BuiltinOperator.BROADCAST_TO: 2}
"""Of operators whose first version LiteRT has no more."""
_IDENTIFIER: Final = b"TFL3"
_SCHEMA_VERSION: Final = 3
_LAST_OLD_CODE: Final = 127
"""Operators above this are told by the newer field alone."""
_BUFFER_ALIGNMENT_BYTES: Final = 16
_OVERHEAD_BYTES: Final = 1024


@dataclass(frozen=True)
class Quant:
    """8-bit steps: real = (stored - zero_point) * scale; several scales lie along ``axis`` of the stored tensor."""

    scales: tuple[float, ...]
    zero_point: int = 0
    axis: int = 0

    @property
    def scale(self) -> float:
        """The only scale."""
        [scale] = self.scales
        return scale


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    dtype: str
    buffer: int
    name: str
    quant: Quant | None


@dataclass(frozen=True)
class _Operator:
    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


@dataclass
class TfliteWriter:
    """Collects tensors and operators in the order of execution; ``to_bytes`` writes the file."""

    _tensors: list[_Tensor] = field(default_factory=list)
    _operators: list[_Operator] = field(default_factory=list)
    _buffers: list[Array] = field(default_factory=list)

    def tensor(self, shape: Sequence[int], dtype: str, name: str = "", quant: Quant | None = None) -> int:
        """A tensor that an operator or the caller fills; its number. dtype: numpy's name."""
        self._tensors.append(_Tensor(tuple(shape), dtype, 0, name, quant))
        return len(self._tensors) - 1

    def constant(self, values: Array, quant: Quant | None = None) -> int:
        """A tensor with these values; its number."""
        self._buffers.append(np.ascontiguousarray(values))
        self._tensors.append(_Tensor(values.shape, values.dtype.name, len(self._buffers), "", quant))
        return len(self._tensors) - 1

    def operator(self, code: int, inputs: Sequence[int], outputs: Sequence[int], options: Any = None) -> None:
        """An operator. code: of schema.BuiltinOperator; options: an options object of the schema."""
        self._operators.append(_Operator(code, tuple(inputs), tuple(outputs), options))

    def name_of(self, number: int) -> str:
        """A tensor's name, "" for none."""
        return self._tensors[number].name

    def values_of(self, number: int) -> Array:
        """What a constant holds."""
        return self._buffers[self._tensors[number].buffer - 1]

    def is_constant(self, number: int) -> bool:
        """Whether a tensor has its values from the file."""
        return self._tensors[number].buffer > 0

    def rename(self, number: int, name: str) -> None:
        """Names a tensor."""
        self._tensors[number] = replace(self._tensors[number], name=name)

    def to_bytes(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The file, for these tensors as the model's inputs and outputs."""
        operators = self._needed(set(outputs))
        renumbered = self._kept(operators, [*inputs, *outputs])
        kept = [self._tensors[number] for number in renumbered if number != ABSENT]
        buffers = [self._buffers[each.buffer - 1] for each in kept if each.buffer]
        sides = [[renumbered[number] for number in side] for side in (inputs, outputs)]
        return _Packer(sum(each.nbytes for each in buffers)).model(kept, buffers, operators, renumbered, sides)

    def _needed(self, wanted: set[int]) -> list[_Operator]:
        needed: list[_Operator] = []
        for operator in reversed(self._operators):
            if wanted.intersection(operator.outputs):
                needed.append(operator)
                wanted.update(operator.inputs)
        return needed[::-1]

    def _kept(self, operators: Sequence[_Operator], edges: Sequence[int]) -> dict[int, int]:
        """New numbers of the tensors that anything names."""
        named = {number for each in operators for number in (*each.inputs, *each.outputs)} | set(edges)
        kept = {number: place for place, number in enumerate(sorted(named - {ABSENT}))}
        return kept | {ABSENT: ABSENT}


class _Packer:
    """One flatbuffer; what is referred to is written before what refers to it."""

    def __init__(self, buffer_bytes: int) -> None:
        # grown by doubling, a large file would lie in memory three times
        self._builder = flatbuffers.Builder(buffer_bytes + buffer_bytes // 64 + _OVERHEAD_BYTES)

    def model(
        self,
        tensors: Sequence[_Tensor],
        buffers: Sequence[Array],
        operators: Sequence[_Operator],
        numbers: dict[int, int],
        sides: Sequence[list[int]],
    ) -> bytes:
        """The file. buffers: in the order of the constants among the tensors; numbers: new ones by the operators'."""
        data = self._vector([self._buffer(None), *(self._buffer(each) for each in buffers)])
        places = itertools.count(1)
        codes = {code: place for place, code in enumerate(sorted({each.code for each in operators}))}
        graph = self._graph(
            self._vector([self._tensor(each, next(places) if each.buffer else 0) for each in tensors]),
            self._vector([self._operator(each, codes[each.code], numbers) for each in operators]),
            *sides,
        )
        return self._finish(self._vector([graph]), self._vector([self._code(code) for code in codes]), data)

    def _finish(self, graphs: int, codes: int, buffers: int) -> bytes:
        schema.ModelStart(self._builder)
        schema.ModelAddVersion(self._builder, _SCHEMA_VERSION)
        schema.ModelAddOperatorCodes(self._builder, codes)
        schema.ModelAddSubgraphs(self._builder, graphs)
        schema.ModelAddBuffers(self._builder, buffers)
        self._builder.Finish(schema.ModelEnd(self._builder), _IDENTIFIER)
        return bytes(self._builder.Output())

    def _graph(self, tensors: int, operators: int, inputs: list[int], outputs: list[int]) -> int:
        ins, outs = self._integers(inputs), self._integers(outputs)
        schema.SubGraphStart(self._builder)
        schema.SubGraphAddTensors(self._builder, tensors)
        schema.SubGraphAddInputs(self._builder, ins)
        schema.SubGraphAddOutputs(self._builder, outs)
        schema.SubGraphAddOperators(self._builder, operators)
        return int(schema.SubGraphEnd(self._builder))

    def _tensor(self, tensor: _Tensor, buffer: int) -> int:
        shape, name = self._integers(tensor.shape), self._builder.CreateString(tensor.name)
        quant = self._quant(tensor.quant) if tensor.quant is not None else None
        schema.TensorStart(self._builder)
        schema.TensorAddShape(self._builder, shape)
        schema.TensorAddType(self._builder, _TYPES[tensor.dtype])
        schema.TensorAddBuffer(self._builder, buffer)
        schema.TensorAddName(self._builder, name)
        if quant is not None:
            schema.TensorAddQuantization(self._builder, quant)
        schema.TensorAddHasRank(self._builder, True)
        return int(schema.TensorEnd(self._builder))

    def _quant(self, quant: Quant) -> int:
        scales = self._builder.CreateNumpyVector(np.array(quant.scales, dtype=np.float32))
        zeros = self._builder.CreateNumpyVector(np.full(len(quant.scales), quant.zero_point, dtype=np.int64))
        schema.QuantizationParametersStart(self._builder)
        schema.QuantizationParametersAddScale(self._builder, scales)
        schema.QuantizationParametersAddZeroPoint(self._builder, zeros)
        schema.QuantizationParametersAddQuantizedDimension(self._builder, quant.axis)
        return int(schema.QuantizationParametersEnd(self._builder))

    def _operator(self, operator: _Operator, code: int, tensors: dict[int, int]) -> int:
        options = operator.options.Pack(self._builder) if operator.options is not None else None
        ins = self._integers([tensors[number] for number in operator.inputs])
        outs = self._integers([tensors[number] for number in operator.outputs])
        schema.OperatorStart(self._builder)
        schema.OperatorAddOpcodeIndex(self._builder, code)
        schema.OperatorAddInputs(self._builder, ins)
        schema.OperatorAddOutputs(self._builder, outs)
        if options is not None:
            kind = getattr(schema.BuiltinOptions, type(operator.options).__name__.removesuffix("T"))
            schema.OperatorAddBuiltinOptionsType(self._builder, kind)
            schema.OperatorAddBuiltinOptions(self._builder, options)
        return int(schema.OperatorEnd(self._builder))

    def _code(self, code: int) -> int:
        schema.OperatorCodeStart(self._builder)
        schema.OperatorCodeAddDeprecatedBuiltinCode(self._builder, min(code, _LAST_OLD_CODE))
        schema.OperatorCodeAddVersion(self._builder, _VERSIONS.get(code, 1))
        schema.OperatorCodeAddBuiltinCode(self._builder, code)
        return int(schema.OperatorCodeEnd(self._builder))

    def _buffer(self, values: Array | None) -> int:
        data = self._aligned(values) if values is not None else None
        schema.BufferStart(self._builder)
        if data is not None:
            schema.BufferAddData(self._builder, data)
        return int(schema.BufferEnd(self._builder))

    def _aligned(self, values: Array) -> int:
        """The bytes as a vector on the bounds that kernels read by."""
        self._builder.StartVector(1, values.nbytes, _BUFFER_ALIGNMENT_BYTES)
        head = self._builder.head - values.nbytes
        self._builder.head = head
        self._builder.Bytes[head : head + values.nbytes] = values.reshape(-1).view(np.uint8).data
        return int(self._builder.EndVector())

    def _integers(self, numbers: Sequence[int]) -> int:
        return int(self._builder.CreateNumpyVector(np.array(numbers, dtype=np.int32)))

    def _vector(self, offsets: Sequence[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())
