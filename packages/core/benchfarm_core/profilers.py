"""Which engines tell the time of single operators, and how others time a kernel in situ. Nobody else knows it.

Imported beside the engines, so it imports nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

PROFILING_ENGINES: Final = frozenset({"onnxruntime", "openvino", "mnn"})
"""Without a profiler there is no profile."""

PROFILER_STEP_MS: Final = 0.001
"""All of them count whole microseconds."""

DIFFERENCE_ENGINES: Final = frozenset({"litert", "ncnn", "torch"})
"""Without a profiler, on processors alone: in situ, a kernel takes what a carrier takes longer that holds it twice."""

InSituBy = Literal["profiler", "difference"]
"""How a time in situ came about; it is evidence of a result and no part of a measurement's identity."""


def has_profiler(engine: str) -> bool:
    """Whether an engine of this name tells the time of single operators."""
    return engine in PROFILING_ENGINES


def in_situ_by(engine: str, precision: str) -> InSituBy | None:
    """How an engine times kernels in situ at a precision; None where it cannot."""
    if has_profiler(engine):
        return "profiler"
    # in 8 bits two neighbours share their steps or convert between them: what a second copy adds was never looked at
    return "difference" if engine in DIFFERENCE_ENGINES and precision == "fp32" else None


def who_has_one(engines: Iterable[str]) -> str:
    """Which of a farm's engines have a profiler, as the end of a refusal that says what to do."""
    found = sorted(PROFILING_ENGINES.intersection(engines))
    if not found:
        return "no engine of this farm's boards does"
    return f"of this farm's engines {', '.join(found)} {'do' if len(found) > 1 else 'does'}: name such platforms"
