"""What a job needs measured: known and fresh is reused, pending is joined, the rest is new."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from pydantic import Field

from benchfarm_core.jobs import ItemSource
from benchfarm_core.measurements import MeasurementState, Timing
from benchfarm_core.platforms import CLOCK_PROOF_ORDER, ClockProof
from benchfarm_core.protocols import Protocol, purpose_of
from benchfarm_core.summaries import Grade, is_reusable, meets
from benchfarm_core.values import Value
from benchfarm_core.workloads import Cost

ASSUMED_FLOPS_PER_S: Final = 40e9
"""Used only to estimate board time of what was never measured; an estimate, never an answer."""
VISIT_OVERHEAD_S: Final = 0.02
OWN_PROCESS_S: Final = 0.6
"""Starting an interpreter and an engine for one workload alone, and the model's cold load."""
LAUNCH_OVERHEAD_S: Final = 0.005
"""A launch's start, shared by the batch, as a share of one measurement."""


IN_SITU_RUNS: Final = 40
"""Of one kernel's cost in a launch: its runs, warm-up included, and as much for the adapters around it."""
IN_SITU_OVERHEAD_S: Final = 0.005
"""A kernel's share of opening its carrier and reading the profile."""
DIFFERENCE_CARRIER: Final = 4
"""A carrier with two copies of a kernel and their neighbours takes about so many times the kernel."""
DIFFERENCE_BLOCKS: Final = 96
"""By difference, blocks of both sides in a launch; fewer where they are long, but a third."""
DIFFERENCE_RUN_S: Final = 0.001
"""Around each run by difference: what pushes the weights out of the caches."""
DIFFERENCE_OVERHEAD_S: Final = 0.08
"""Opening both carriers anew in every round, and warming them up."""


class Known(Value):
    """A measurement of the wanted workload x platform x protocol x timing that exists already.

    `is_single_use`: of boards whose results answer nobody else (`boards.is_single_use`).
    """

    measurement_id: int
    repeat_no: int = Field(ge=0)
    state: MeasurementState
    measured_at: datetime | None
    grade: Grade | None
    clock_proof: ClockProof | None
    fresh_generation: bool
    is_single_use: bool


class Decision(Value):
    """Where one repeat of an item comes from; NEW ones carry the repeat number to insert."""

    repeat_no: int
    source: ItemSource
    measurement_id: int | None


def decide(
    known: Sequence[Known],
    *,
    repeats: int,
    max_age_s: int,
    min_grade: Grade,
    clock_proof: ClockProof,
    now: datetime,
) -> list[Decision]:
    """One decision per repeat. With `max_age_s` 0 only what still waits counts, nothing measured or running. What is of
    single use is joined until it is measured and never reused."""
    oldest = now - timedelta(seconds=max_age_s)
    done = [k for k in known if max_age_s > 0 and _reusable(k, oldest, min_grade, clock_proof)]
    done.sort(key=lambda k: k.measured_at or oldest, reverse=True)
    joinable = {MeasurementState.WANTED} | ({MeasurementState.LEASED} if max_age_s > 0 else set())
    pending = sorted((k for k in known if k.state in joinable), key=lambda k: k.repeat_no)
    decisions = [_existing(k, ItemSource.KNOWN) for k in done[:repeats]]
    decisions += [_existing(k, ItemSource.JOINED) for k in pending[: repeats - len(decisions)]]
    free = max((k.repeat_no for k in known), default=-1) + 1
    while len(decisions) < repeats:
        decisions.append(Decision(repeat_no=free, source=ItemSource.NEW, measurement_id=None))
        free += 1
    return decisions


def expected_s(
    protocol: Protocol,
    cost: Cost | None,
    known_median_ms: float | None,
    timing: Timing = Timing.ALONE,
    *,
    by_difference: bool = False,
) -> float:
    """Board seconds that one measurement is likely to take; used for batches, budgets and waits.

    by_difference: how its engine times in situ.
    """
    if known_median_ms is not None:
        run_s = known_median_ms / 1000
    else:
        run_s = cost.flops / ASSUMED_FLOPS_PER_S + 20e-6 if cost else 0.02
    if timing == Timing.IN_SITU and by_difference:
        return protocol.launches_min * _difference_s(protocol, run_s)
    if timing == Timing.IN_SITU:
        return protocol.launches_min * (IN_SITU_RUNS * run_s + IN_SITU_OVERHEAD_S)
    if purpose_of(protocol) == "memory":  # what is known of it is a cold start, not a run
        return protocol.launches_min * (OWN_PROCESS_S + (10 * run_s if known_median_ms is None else run_s))
    block_s = max(run_s, protocol.block_min_us / 1e6)
    timed_s = max(protocol.visit_ms / 1000, protocol.blocks_min * block_s)
    warm_s = max(protocol.warmup_min_ms / 1000, protocol.warmup_min_runs * run_s) + 2 * run_s
    return protocol.launches_min * (timed_s * 1.25 + warm_s + VISIT_OVERHEAD_S + LAUNCH_OVERHEAD_S)


def _difference_s(protocol: Protocol, run_s: float) -> float:
    """One launch of a kernel by difference."""
    carrier_s = DIFFERENCE_CARRIER * run_s + 20e-6
    runs = max(1, round(protocol.block_min_us / 1e6 / carrier_s))
    wanted = DIFFERENCE_CARRIER * protocol.visit_ms / 1000 / (runs * carrier_s)
    blocks = min(max(wanted, DIFFERENCE_BLOCKS / 3), DIFFERENCE_BLOCKS)
    return blocks * runs * (carrier_s + DIFFERENCE_RUN_S) + DIFFERENCE_OVERHEAD_S


def _reusable(known: Known, oldest: datetime, min_grade: Grade, clock_proof: ClockProof) -> bool:
    return (
        known.state == MeasurementState.DONE
        and not known.is_single_use
        and known.fresh_generation
        and known.measured_at is not None
        and known.measured_at >= oldest
        and known.grade is not None
        and is_reusable(known.grade)
        and meets(known.grade, min_grade)
        and known.clock_proof is not None
        and CLOCK_PROOF_ORDER[known.clock_proof] >= CLOCK_PROOF_ORDER[clock_proof]
    )


def _existing(known: Known, source: ItemSource) -> Decision:
    return Decision(repeat_no=known.repeat_no, source=source, measurement_id=known.measurement_id)
