"""The correctness gate: how far an output may lie from the stored reference, by precision and engine.

Distances are relative L2 over the whole output. Loosening a row needs a decision record.
"""

from typing import Final

from benchfarm_core.platforms import Platform, Precision

GATE_LIMITS: Final[dict[Precision, float]] = {
    Precision.FP32: 1e-3,
    Precision.FP16: 1e-2,
    Precision.BF16: 3e-2,
    Precision.INT8: 5e-2,
    Precision.AS_GIVEN: 5e-2,
}
NAMED_LIMITS: Final[dict[tuple[str, Precision], float]] = {("mnn", Precision.FP32): 1e-2}
"""Engines with a row of their own: MNN's Winograd convolutions."""

INT8_TWIN_LIMIT: Final = 2e-2
"""What an engine's int8 may differ from the same quantised graph in ONNX Runtime: the rounding of 8 bits is in both,
so what is left is the engine's own."""


def gate_limit(platform: Platform) -> float:
    """The largest relative L2 distance from the reference that a platform's output may have."""
    named = NAMED_LIMITS.get((platform.engine.name, platform.precision))
    return GATE_LIMITS[platform.precision] if named is None else named
