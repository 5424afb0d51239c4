"""Edges: how the inputs and outputs of a converted artifact differ from the workload's.

A workload's tensors are what its ONNX file says (fp32, channels first). An engine's own file may order the axes
differently, drop the batch axis, or take 8-bit steps. The runner translates outside the timed part
(``translation``), so that an engine's session sees only what its file asks for and every result is held against
the same reference.
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Edge:
    """One input or output of an artifact.

    name: as the artifact calls it. dtype: numpy's name. axes: axis i of the artifact's tensor is the workload's axis
    axes[i]; empty for the same order. shape: the artifact's shape after that, empty for the same sizes. scale,
    zero_point: a real number r is stored as round(r / scale) + zero_point; scale 0 where nothing is quantised.
    """

    name: str
    dtype: str = "float32"
    axes: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    scale: float = 0.0
    zero_point: int = 0

    def document(self) -> dict[str, Any]:
        """The edge as JSON carries it."""
        return asdict(self)


@dataclass(frozen=True)
class Edges:
    """All edges of an artifact: inputs in the order of the workload's inputs, outputs in graph order."""

    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]

    def document(self) -> dict[str, Any]:
        """The edges as JSON carries them."""
        return {
            "inputs": [edge.document() for edge in self.inputs],
            "outputs": [edge.document() for edge in self.outputs],
        }
