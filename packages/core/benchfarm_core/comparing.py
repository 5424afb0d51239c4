"""How paired blocks become a verdict: does b take longer than a, less long, or as long within a tolerance?

Neighbouring blocks of both sides share the machine's speed, so what counts is the logarithm of their ratio. Pairs in
which the witness saw a block disturbed are dropped (of long blocks of one thread, the time that it waited for its
processor is taken off instead); the value of a pair is never looked at. Within a round the median
is taken, apart for pairs that a began and pairs that b began, because the first block of a pair may find warmer caches.
Between rounds both models lie elsewhere in memory, which is worth up to two percent and does not average out within
one: so the *round* is the unit. Over rounds the Hodges-Lehmann estimate and Wilcoxon's signed-rank interval are taken
(Hodges and Lehmann, Estimates of location based on rank tests, 1963), which a few wild rounds do not move.

Launches are added until the interval answers. Every look at it may err, so its coverage is high and a difference must
exclude zero by a margin. Every change of a rule here is a new `COMPARISON_RULE_VERSION`; kept samples derive it anew.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import accumulate, pairwise
from math import exp, log
from statistics import median
from typing import Final, NamedTuple

from pydantic import Field

from benchfarm_core.failures import FailureCode
from benchfarm_core.intervals import middle_of
from benchfarm_core.measurements import LaunchSamples, SideSamples
from benchfarm_core.protocols import COMPARED_ROUNDS_MIN, Protocol
from benchfarm_core.quality import DELAY_FLOOR_NS, DELAY_SHARE, as_clean
from benchfarm_core.values import Value

COMPARISON_RULE_VERSION: Final = 3

COVERAGE: Final = 0.99
"""Of the interval at one look. There are up to `launches_max` looks, and what is added between them is not much."""
MARGIN: Final = 0.003
"""A difference is told when the interval keeps this far from zero: less is within what luck with memory may leave."""
SHARP_SHARE: Final = 0.25
"""No difference is told at once when half the interval is at most this share of the tolerance; a wider one waits for
more launches, since a difference below the tolerance is worth finding too."""
BRIEF_SHARE: Final = 0.003
"""A block that lost its processor for no longer than this share of it is clean all the same: what runs for 30 ms meets
a thread of the kernel in every other block."""
LONG_BLOCK_NS: Final = 2_000_000
"""From here on what neighbours left in the caches is small beside a block."""
ROUNDS_MIN: Final = COMPARED_ROUNDS_MIN
"""Rounds that say something, without which there is no interval of `COVERAGE` at all."""
SILENT_MAX: Final = 6
"""So many launches without one clean round are enough: the pair is left to a quieter time."""
CHANGES_MAX: Final = 640
"""Rounds that an estimate looks at, the first ones: those of 40 launches. Its work grows with their square."""
RATIO_MAX: Final = 1e6
"""Sides that are farther apart than this are told as so far apart: a change of -100 % would be none."""


class ComparisonVerdict(StrEnum):
    """What a comparison says: which side is faster, that none is, or that it cannot tell."""

    A_FASTER = "a_faster"
    B_FASTER = "b_faster"
    NO_DIFFERENCE = "no_difference"
    INCONCLUSIVE = "inconclusive"


class Comparison(Value):
    """The answer of one pair. Changes are of b's time against a's: +3 means that b takes 3 % longer."""

    rule_version: int = Field(ge=1)
    verdict: ComparisonVerdict
    change_percent: float = Field(gt=-100)
    low_percent: float = Field(gt=-100)
    high_percent: float = Field(gt=-100)
    coverage: float = Field(ge=0, le=1, description="of the interval from `low_percent` to `high_percent`")
    tolerance_percent: float = Field(gt=0, description="`no_difference` means: less than this either way")
    a_ms: float = Field(gt=0, description="median over clean blocks")
    b_ms: float = Field(gt=0)
    pairs: int = Field(ge=1, description="clean pairs of blocks")
    rounds: int = Field(ge=1, description="times that both were opened anew")
    launches: int = Field(ge=1)
    clean_share: float = Field(ge=0, le=1)


class Estimate(NamedTuple):
    """A logarithm of b over a, with its interval."""

    change: float
    low: float
    high: float
    coverage: float


def clean_pairs(launch: LaunchSamples) -> list[bool]:
    """Which pairs ran undisturbed on both sides, by the witness alone; of no pair at all none.

    Where `counts_processor_time`, to have waited is no disturbance.
    """
    if launch.beside is None:
        return []
    if counts_processor_time(launch):
        return [True] * len(launch.blocks_ns)
    sides = zip(_clean(launch), _clean(launch.beside), strict=True)
    return [a and b for a, b in sides]


def counts_processor_time(launch: LaunchSamples) -> bool:
    """Whether the blocks of a pair are taken without the time in which their thread waited for its processor.

    Of one thread that wait is known to the nanosecond. What the others leave in the caches is not, and is small only
    beside long blocks; how long they are is asked of the whole launch, so that no block is judged by its own value.
    """
    beside = launch.beside
    if beside is None or beside.threads > 1:
        return False
    return min(median(_worked_ns(launch)), median(_worked_ns(beside))) >= LONG_BLOCK_NS


def _worked_ns(side: LaunchSamples | SideSamples) -> list[int]:
    """Each block without its wait; a wait that is longer than its block says nothing."""
    return [
        block - delay if delay < block else block for block, delay in zip(side.blocks_ns, side.delays_ns, strict=True)
    ]


def _times_ns(launch: LaunchSamples) -> tuple[Sequence[int], Sequence[int]]:
    """What counts of each block of a and b."""
    assert launch.beside is not None
    if counts_processor_time(launch):
        return _worked_ns(launch), _worked_ns(launch.beside)
    return launch.blocks_ns, launch.beside.blocks_ns


def _clean(side: LaunchSamples | SideSamples) -> list[bool]:
    return [
        delay <= max(DELAY_FLOOR_NS, DELAY_SHARE * block) and (switches == 0 or delay <= BRIEF_SHARE * block)
        for block, delay, switches in zip(side.blocks_ns, side.delays_ns, side.switches, strict=True)
    ]


def round_changes(launch: LaunchSamples) -> list[float]:
    """The logarithm of b over a in every round of a launch that has clean pairs of both orders."""
    beside = launch.beside
    if beside is None:
        return []
    clean = clean_pairs(launch)
    scale = log(launch.iterations / beside.iterations)
    ratios = [scale + log(b / a) for a, b in zip(*_times_ns(launch), strict=True)]
    found: list[float] = []
    for begin, end in _rounds_of(beside):
        orders = [[ratios[i] for i in range(begin, end) if clean[i] and i % 2 == first] for first in (0, 1)]
        if all(orders):
            found.append(sum(map(median, orders)) / 2)
    return found


def _rounds_of(beside: SideSamples) -> list[tuple[int, int]]:
    """Where each round of a launch begins and ends, in pairs."""
    return list(pairwise([0, *accumulate(beside.rounds)]))


def speaks(launch: LaunchSamples) -> bool:
    """Whether a launch has any round that says something."""
    return bool(round_changes(launch))


def unenforced_pairs(launches: Iterable[LaunchSamples]) -> list[LaunchSamples]:
    """Launches as they count where the witness is recorded and not enforced (`boards.is_witness_enforced`): of a round
    without clean pairs of both orders every pair does, of the others the clean ones."""
    return [_with_all_rounds(launch) for launch in launches]


def _with_all_rounds(launch: LaunchSamples) -> LaunchSamples:
    """A launch as if the witness had seen nobody in the rounds that say nothing.

    Where these waits alone make its blocks short (`counts_processor_time`) it is so in all rounds: the waits of the
    others would be taken off.
    """
    if launch.beside is None or counts_processor_time(launch):
        return launch
    clean, silent = clean_pairs(launch), set[int]()
    for begin, end in _rounds_of(launch.beside):
        if not all(any(clean[i] for i in range(begin, end) if i % 2 == first) for first in (0, 1)):
            silent.update(range(begin, end))
    if not silent:
        return launch
    beside = launch.beside.model_copy(update=_nobody_in(launch.beside, silent))
    found = launch.model_copy(update={**_nobody_in(launch, silent), "beside": beside})
    return as_clean(launch) if counts_processor_time(found) else found


def _nobody_in(side: LaunchSamples | SideSamples, pairs: Collection[int]) -> dict[str, tuple[int, ...]]:
    seen = {"delays_ns": side.delays_ns, "switches": side.switches}
    return {name: tuple(0 if i in pairs else one for i, one in enumerate(values)) for name, values in seen.items()}


def estimate(changes: Sequence[float]) -> Estimate:
    """Hodges-Lehmann over rounds, with Wilcoxon's interval."""
    change, interval = middle_of(changes[:CHANGES_MAX], COVERAGE)
    return Estimate(change, interval.low, interval.high, interval.coverage)


def verdict_of(found: Estimate, tolerance: float) -> ComparisonVerdict:
    """What an interval says: a difference first, since one may lie within the tolerance."""
    if found.low > MARGIN:
        return ComparisonVerdict.A_FASTER
    if found.high < -MARGIN:
        return ComparisonVerdict.B_FASTER
    within = log(1 - tolerance) < found.low and found.high < log(1 + tolerance)
    return ComparisonVerdict.NO_DIFFERENCE if within else ComparisonVerdict.INCONCLUSIVE


def wants_more_pairs(launches: Sequence[LaunchSamples], protocol: Protocol) -> bool:
    """Whether launches are left and wanted: too few spoke, or the interval does not answer yet."""
    if len(launches) >= protocol.launches_max:
        return False
    changes = list(_changes(launches))
    if not changes:
        return len(launches) < max(protocol.launches_min, SILENT_MAX)
    if sum(map(speaks, launches)) < protocol.launches_min or len(changes) < ROUNDS_MIN:
        return True
    found, tolerance = estimate(changes), tolerance_of(protocol)
    verdict = verdict_of(found, tolerance)
    is_blunt = (found.high - found.low) / 2 > SHARP_SHARE * tolerance
    return verdict == ComparisonVerdict.INCONCLUSIVE or (verdict == ComparisonVerdict.NO_DIFFERENCE and is_blunt)


def tolerance_of(protocol: Protocol) -> float:
    """The share of a's time that counts as no difference."""
    return protocol.half_width_target or 0.02


def compare(
    launches: Sequence[LaunchSamples], protocol: Protocol, *, is_enforced: bool = True
) -> Comparison | FailureCode:
    """The answer of all launches; `CONTENDED` when too few of them had clean pairs to say anything. `is_enforced`:
    whether the witness is; where not, `pairs` are those that count, and `clean_share` tells what was seen."""
    counted = launches if is_enforced else unenforced_pairs(launches)
    speaking = [launch for launch in counted if speaks(launch)]
    changes = list(_changes(speaking))
    if len(speaking) < protocol.launches_min or len(changes) < ROUNDS_MIN:
        return FailureCode.CONTENDED
    found, tolerance = estimate(changes), tolerance_of(protocol)
    clean = [ok for launch in launches for ok in clean_pairs(launch)]
    a_ms, b_ms = zip(*(_medians_ms(launch) for launch in speaking), strict=True)
    return Comparison(
        rule_version=COMPARISON_RULE_VERSION,
        verdict=verdict_of(found, tolerance),
        change_percent=_percent(found.change),
        low_percent=_percent(found.low),
        high_percent=_percent(found.high),
        coverage=found.coverage,
        tolerance_percent=100 * tolerance,
        a_ms=median(a_ms),
        b_ms=median(b_ms),
        pairs=sum(ok for launch in counted for ok in clean_pairs(launch)),
        rounds=min(len(changes), CHANGES_MAX),
        launches=len(speaking),
        clean_share=sum(clean) / len(clean),
    )


def _changes(launches: Sequence[LaunchSamples]) -> Iterator[float]:
    return (change for launch in launches for change in round_changes(launch))


def _medians_ms(launch: LaunchSamples) -> tuple[float, float]:
    """Of one iteration of a and of b."""
    assert launch.beside is not None
    clean, (of_a, of_b) = clean_pairs(launch), _times_ns(launch)
    a, b = (median(ns for ns, ok in zip(times, clean, strict=True) if ok) / 1e6 for times in (of_a, of_b))
    return a / launch.iterations, b / launch.beside.iterations


def _percent(change: float) -> float:
    return 100 * (exp(min(max(change, -log(RATIO_MAX)), log(RATIO_MAX))) - 1)
