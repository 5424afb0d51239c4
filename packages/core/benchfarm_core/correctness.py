"""The correctness gate: how far an output may lie from the stored reference, by precision and engine.

Distances are relative L2 over a whole output, of several outputs the largest. Loosening a row needs a decision record.
"""

from typing import Final

from benchfarm_core.platforms import Platform, Precision
from benchfarm_core.summaries import Grade, Summary

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

BENCHMARK_MODEL: Final = "litert_benchmark_model"
"""LiteRT's own program, as the operator of a lab supplies it; its version is the beginning of its hash."""
UNGATED_ENGINES: Final = frozenset({BENCHMARK_MODEL})
"""Engines that tell times and nothing else (docs/decisions/0027): no output is held against a reference, no canary runs
beside them and no witness sees neighbours. Nothing of theirs is trained on unless somebody asks for it by name."""


def gate_limit(platform: Platform) -> float:
    """The largest relative L2 distance from the reference that a platform's output may have."""
    named = NAMED_LIMITS.get((platform.engine.name, platform.precision))
    return GATE_LIMITS[platform.precision] if named is None else named


def is_ungated(engine: str) -> bool:
    """Whether nothing but times is known of what an engine of this name computes."""
    return engine in UNGATED_ENGINES


def without_gate(summary: Summary) -> Summary:
    """What a summary may say of an ungated engine: grade C at best, no normalised time, no block seen to be clean."""
    changes = {"normalised_ms": None, "canary": None, "grade": max(summary.grade, Grade.C), "clean_share": 0.0}
    return summary.model_copy(update=changes)
