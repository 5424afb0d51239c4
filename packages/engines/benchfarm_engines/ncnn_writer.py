"""Writes ncnn's two files: the text of the layers (`param`) and the weights, both deterministic."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Parameter = int | float | Sequence[int] | Sequence[float]
Weights = list[bytes | memoryview]
"""Pieces of a file, each copied once, when the file is put together."""

_MAGIC: Final = "7767517"
_ARRAY_KEY: Final = -23300
"""ncnn marks the key k of an array parameter as -23300 - k."""
_FP32_TAG: Final = bytes(4)
_INT8_TAG: Final = (0x000D4B38).to_bytes(4, "little")


@dataclass
class _Layer:
    kind: str
    bottoms: list[int]
    tops: list[int]
    parameters: Mapping[int, Parameter]
    weights: Weights


def tagged(values: Array) -> Weights:
    """A weight as ncnn finds its type by itself: fp32, or int8 padded to whole words."""
    if values.dtype == np.int8:
        return [_INT8_TAG, np.ascontiguousarray(values).data, b"\0" * (-values.size % 4)]
    return [_FP32_TAG, *plain(values)]


def plain(values: Array) -> Weights:
    """fp32 numbers without a tag: biases, scales."""
    return [np.ascontiguousarray(values, dtype="<f4").data]


class NcnnWriter:
    """Layers in the order of execution; blobs are numbers. A blob that several read is split when all is written."""

    def __init__(self) -> None:
        self._layers: list[_Layer] = []
        self._blobs = 0
        self._inputs: list[int] = []

    def input(self) -> int:
        """An input of the network."""
        [blob] = self.layer("Input", [])
        self._inputs.append(blob)
        return blob

    def layer(
        self,
        kind: str,
        bottoms: Sequence[int],
        parameters: Mapping[int, Parameter] | None = None,
        weights: Weights | None = None,
        *,
        tops: int = 1,
    ) -> list[int]:
        """Adds a layer and returns its outputs."""
        made = list(range(self._blobs, self._blobs + tops))
        self._blobs += tops
        self._layers.append(_Layer(kind, list(bottoms), made, parameters or {}, weights or []))
        return made

    def finish(self, outputs: Sequence[int]) -> tuple[str, bytes, list[str], list[str]]:
        """The text, the weights, and the names of inputs and outputs in their order."""
        ends = [self.layer("Noop", [blob])[0] if blob in self._inputs else blob for blob in outputs]
        ends = self._split(ends)
        names = {blob: f"b{blob}" for blob in range(self._blobs)}
        names |= {blob: f"in{number}" for number, blob in enumerate(self._inputs)}
        names |= {blob: f"out{number}" for number, blob in enumerate(ends)}
        lines = [_line(number, layer, names) for number, layer in enumerate(self._layers)]
        text = "\n".join([_MAGIC, f"{len(self._layers)} {self._blobs}", *lines, ""])
        weights = b"".join(piece for layer in self._layers for piece in layer.weights)
        return text, weights, [names[blob] for blob in self._inputs], [names[blob] for blob in ends]

    def _split(self, outputs: Sequence[int]) -> list[int]:
        """Gives every reader a blob of its own; returns the outputs' blobs."""
        uses = Counter(blob for layer in self._layers for blob in layer.bottoms) + Counter(outputs)
        copies: dict[int, list[int]] = {}
        for layer in list(self._layers):
            layer.bottoms = [copies[blob].pop(0) if blob in copies else blob for blob in layer.bottoms]
            for blob in layer.tops:
                if uses[blob] > 1:
                    copies[blob] = self._copies(layer, blob, uses[blob])
        return [copies[blob].pop(0) if blob in copies else blob for blob in outputs]

    def _copies(self, producer: _Layer, blob: int, count: int) -> list[int]:
        made = list(range(self._blobs, self._blobs + count))
        self._blobs += count
        place = next(number for number, layer in enumerate(self._layers) if layer is producer)
        self._layers.insert(place + 1, _Layer("Split", [blob], list(made), {}, []))
        return made


def _line(number: int, layer: _Layer, names: Mapping[int, str]) -> str:
    blobs = [names[blob] for blob in (*layer.bottoms, *layer.tops)]
    parameters = [_parameter(key, value) for key, value in layer.parameters.items()]
    words = [layer.kind, f"l{number}", str(len(layer.bottoms)), str(len(layer.tops)), *blobs, *parameters]
    return " ".join(words)


def _parameter(key: int, value: Parameter) -> str:
    if isinstance(value, Sequence):
        return f"{_ARRAY_KEY - key}=" + ",".join([str(len(value)), *map(_number, value)])
    return f"{key}={_number(value)}"


def _number(value: float) -> str:
    """ncnn tells a float by its point or exponent."""
    return str(value) if isinstance(value, int) else f"{value:.9e}"
