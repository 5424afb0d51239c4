"""The support matrix: what came of every attempt to measure a workload family in an engine at a precision."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal

from benchfarm_core.failures import FailureCode, Fault, fault_of
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.platforms import EffectivePrecision, Precision
from benchfarm_core.values import Answer

_FAILURES: Final = frozenset(map(str, FailureCode))
OK: Final = "ok"
"""The code of an attempt that gave a result."""


class SupportRow(Answer):
    """Attempts that came to the same: `count` of them.

    `code`: `ok` or a failure code; `fault` says whose it was: what is the farm's or passing says nothing of the
    engine. `subject`: the operator that a failure is about. `options`: the engine's, as in platform keys.
    `effective_precision`: what the engine computed these ok's in; another than `precision` where it has no such form of
    what they need, null where nobody told. `max_relative_l2`: the largest error of the correctness gate. `mean_s`:
    board time of one, null where unknown.
    """

    family: str
    engine: str
    version: str
    options: str
    precision: Precision
    board_model: str
    outcome: Literal["ok", "failed"]
    code: str
    fault: Fault | None
    subject: str
    count: int
    max_relative_l2: float | None
    last_relative_l2: float | None
    mean_s: float | None
    first_at: datetime
    last_at: datetime
    measurement_id: int | None
    effective_precision: EffectivePrecision | None = None


def fault_of_outcome(code: str) -> Fault | None:
    """Whose fault an outcome's code is; None of `ok`, and of a code that this version does not know."""
    return fault_of(FailureCode(code)) if code in _FAILURES else None


def visit_s(launches: Iterable[LaunchSamples]) -> float:
    """Seconds of board time that launches spent on one workload: opening, first run, timing, canaries."""
    return sum(one.open_ms + one.first_ms + one.timed_ms + one.canary_ms for one in launches) / 1000


def largest_relative_l2(launches: Iterable[LaunchSamples]) -> float | None:
    """The largest error that the correctness gate saw; None where nothing was compared."""
    return max((one.gate_relative_l2 for one in launches if one.gate_relative_l2 is not None), default=None)


def support_text(rows: Iterable[SupportRow]) -> str:
    """What one family comes to in one engine at one precision: `ok`, the failure, or `mixed` with both.

    A fault of the farm or a passing one counts only where there is nothing else. Behind `ok` stands how many were
    computed in another precision: `ok (3 of 5 in fp32)`.
    """
    found = list(rows)
    telling = [row for row in found if row.fault in (None, "user")] or found
    failures = sorted({failure_text(row.code, row.subject) for row in telling if row.outcome != "ok"})
    good = [row for row in telling if row.outcome == "ok"]
    if not failures:
        return _ok_text(good) if good else "-"
    return f"mixed: {_ok_text(good)}, {', '.join(failures)}" if good else ", ".join(failures)


def computed_otherwise(rows: Iterable[SupportRow]) -> dict[str, int]:
    """How many ok's were not told to be in the platform's precision, by what they were computed in.

    What nobody told is `an unknown precision`: it is not taken for the platform's.
    """
    counts: Counter[str] = Counter()
    for row in rows:
        if row.outcome == "ok" and row.effective_precision != row.precision:
            counts[precision_text(row.effective_precision)] += row.count
    return dict(counts.most_common())


def precision_text(found: EffectivePrecision | None) -> str:
    """What something was computed in, for people."""
    if found is None:
        return "an unknown precision"
    return "another precision" if found == "other" else str(found)


def _ok_text(good: list[SupportRow]) -> str:
    total = sum(row.count for row in good)
    parts = [f"{count} of {total} in {name}" for name, count in computed_otherwise(good).items()]
    return f"ok ({', '.join(parts)})" if parts else OK


def failure_text(code: str, subject: str) -> str:
    """`unsupported_operator: HardSwish`, `out_of_memory`."""
    return f"{code}: {subject}" if subject else code
