"""Which engines tell the time of single operators. Farm, agent and runner ask here; nobody else knows it.

Imported beside the engines, so it imports nothing but the standard library.
"""

from collections.abc import Iterable
from typing import Final

PROFILING_ENGINES: Final = frozenset({"onnxruntime", "openvino", "mnn"})
"""Without a profiler there is neither a profile nor a time in situ."""


def has_profiler(engine: str) -> bool:
    """Whether an engine of this name tells the time of single operators."""
    return engine in PROFILING_ENGINES


def who_has_one(engines: Iterable[str]) -> str:
    """Which of a farm's engines have a profiler, as the end of a refusal that says what to do."""
    found = sorted(PROFILING_ENGINES.intersection(engines))
    if not found:
        return "no engine of this farm's boards does"
    return f"of this farm's engines {', '.join(found)} {'do' if len(found) > 1 else 'does'}: name such platforms"
