"""How raw data becomes a summary: which blocks are clean, the headline, the canary, the grade.

Validity of a block or a launch never looks at the value, only at the contention witness; of a measurement in a crowd it
also asks whether launches confirm each other. What the witness cannot see (another guest on the same physical core)
only ever adds time. So the normalised time and the grade stand on blocks between quiet canaries (`quiet_blocks`) or,
where none ran between them, on *floors*, what all but the fastest twentieth of the clean blocks of a launch stay above
(after J. Chen and J. Revels, Robust benchmarking in noisy environments, 2016), and the headline on medians.

A kernel in situ by difference has two sides in each launch (`LaunchSamples.beside`, of protocols that compare nothing):
there a launch's median and floor are those of the difference (`differences`), and so are spread and grade. They may be
zero or less, which only all launches together can tell from a time.

Where neighbours belong to what a board is (`boards.is_witness_enforced`) the witness is recorded and not enforced: a
launch with too few clean blocks speaks by all of them, a crowd is no failure, and `clean_share` tells what was seen.

Memory is another matter: nobody's processor time changes how much a model takes. So of the protocol ``memory`` every
launch counts, whatever its witness saw, and the spread between launches is that of ``peak_pss_bytes``; the cold starts
that it brings along are medians over all launches and carry no grade of their own.

What a profiler tells (the protocol ``profile``) is known to a step of its clock and no better: the interval is wider by
one on either side, and launches lie no less apart.

Every change of a rule here is a new `RULE_VERSION`; stored raw data are then derived anew.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import fsum, inf, sqrt
from statistics import median
from typing import Any, Final, Literal

from pydantic import Field

from benchfarm_core.clock_proof import ClockEvidence, unthrottled
from benchfarm_core.differences import Difference, are_clear, difference_of, error_within_ns
from benchfarm_core.failures import FailureCode
from benchfarm_core.intervals import half_width, median_interval
from benchfarm_core.measurements import LaunchSamples, SideSamples
from benchfarm_core.platforms import ClockProof
from benchfarm_core.profilers import PROFILER_STEP_MS
from benchfarm_core.protocols import Protocol, purpose_of
from benchfarm_core.quiet_blocks import QuietTime, has_clock_points, quiet_time
from benchfarm_core.summaries import GRADE_LIMITS, Grade, Summary
from benchfarm_core.values import Value

RULE_VERSION: Final = 11

DELAY_SHARE: Final = 0.02
"""A block is contaminated when its threads waited in the run queue for more than this share of it."""
DELAY_FLOOR_NS: Final = 20_000
"""Waits below this are the witness' own noise (wake-ups of pool threads)."""
FLOOR_SHARE: Final = 0.05
"""A floor leaves this share of the times below it: of many blocks the very fastest may be a lucky one that no other
launch sees again (docs/measurement.md, "The estimator")."""
FLOORS_CONFIRMED: Final = 2
"""A measurement's floor is the mean of this many quiet launches' lowest floors: one alone may have been lucky."""
CLEAN_MIN_BLOCKS: Final = 5
CLEAN_MIN_SHARE: Final = 0.25
HISTORY_LIMITS: Final[dict[ClockProof, float]] = {
    ClockProof.VERIFIED: 0.03,
    ClockProof.BOUNDED: 0.15,
    ClockProof.UNPINNED: 0.15,
}
BATCH_LIMITS: Final[dict[ClockProof, float | None]] = {
    ClockProof.VERIFIED: 0.03,
    ClockProof.BOUNDED: 0.15,
    ClockProof.UNPINNED: None,
}
"""How far the canary may move from the first to the last launch. Where no clock is proven it moves by itself within
seconds: there drift is normalised, and what is left shows in the grade (docs/decisions/0006)."""
CLOCK_CANARY: Final[Literal["sgemm"]] = "sgemm"
"""The canary that stands for the clock: its floor hardly feels the neighbours (docs/decisions/0008)."""
CONFIRMED_SPREAD: Final = 0.05
"""Launches are added while the quiet floors are farther apart than this: grade B is confirmed, C and D are not."""
CROWDED_SHARE: Final = 0.75
"""Below this share of clean blocks neighbours held the processor for much of the time: then floors that do not confirm
each other are no grade D but no answer (docs/measurement.md, "Beside a busy loop")."""
QUIET_LIMIT: Final = 1.08
"""A launch was quiet when the MobileNet canary beside it came this near to the canary's floor in its lease: it feels
neighbours about as much as a kernel does, so this is a look at them and not at the value."""
QUIET_LAUNCHES: Final = 2
NOISY_LIMIT: Final = 1.15
"""A measurement none of whose launches saw MobileNet come this near to its quiet floor, by the clock of the lease, met
another machine than the one that it is divided by: its launches may agree, and all be slow (docs/decisions/0040)."""

FASTEST_RUNS: Final = 600
"""Runs of the clock canary of which the fastest is trusted to hand an old reference over for good: 200 moments of three
(between blocks one at a time, and so within less time). A mode for 3 % of it is missed by one lease in 400."""

CanaryName = Literal["sgemm", "mobilenet"]


class CanaryGolden(Value):
    """The canaries' reference times on one board generation and platform, in ns."""

    sgemm_ns: int | None = Field(default=None, gt=0)
    mobilenet_ns: int | None = Field(default=None, gt=0)

    def of(self, canary: CanaryName) -> int | None:
        """The reference time of one canary."""
        return self.sgemm_ns if canary == "sgemm" else self.mobilenet_ns


def accepted_launches(
    launches: Sequence[LaunchSamples], clocks: Mapping[int, ClockEvidence], protocol: Protocol
) -> list[LaunchSamples] | FailureCode:
    """The launches that a result is made of: throttled ones are rejected. `clocks` by launch number.

    `THROTTLED` when fewer are left than the protocol asks for.
    """
    kept = unthrottled(launches, clocks)
    return FailureCode.THROTTLED if len(kept) < min(len(launches), protocol.launches_min) else kept


def clean_blocks(launch: LaunchSamples) -> list[bool]:
    """Which blocks ran undisturbed, by the witness alone; by difference, which pairs did on both sides.

    The block after a disturbed one is not: what ran in between has taken caches and predictors along. By difference
    every run begins without them.
    """
    if launch.beside is not None:
        return [once and twice for once, twice in zip(_undisturbed(launch), _undisturbed(launch.beside), strict=True)]
    if _is_undisturbed(launch):
        return [True] * len(launch.blocks_ns)
    quiet = _undisturbed(launch)
    return [now and before for before, now in zip([True, *quiet], quiet, strict=False)]


def _is_undisturbed(side: LaunchSamples | SideSamples) -> bool:
    """Whether all blocks are so, by a short look: most launches are, and each is looked at several times."""
    return not any(side.switches) and max(side.delays_ns, default=0) <= DELAY_FLOOR_NS


def _undisturbed(side: LaunchSamples | SideSamples) -> list[bool]:
    if _is_undisturbed(side):
        return [True] * len(side.blocks_ns)
    return [
        switches == 0 and delay <= max(DELAY_FLOOR_NS, DELAY_SHARE * block)
        for block, delay, switches in zip(side.blocks_ns, side.delays_ns, side.switches, strict=True)
    ]


def _floor(times: Iterable[int]) -> int:
    ordered = sorted(times)
    return ordered[int(FLOOR_SHARE * len(ordered))]


def _enough_clean(launch: LaunchSamples) -> Sequence[int]:
    """The clean blocks of a launch in ns; none at all when they are too few to speak for it."""
    if launch.beside is None and _is_undisturbed(launch):
        return launch.blocks_ns
    clean = [ns for ns, ok in zip(launch.blocks_ns, clean_blocks(launch), strict=True) if ok]
    count = len(launch.blocks_ns)
    return clean if len(clean) >= max(min(CLEAN_MIN_BLOCKS, count), CLEAN_MIN_SHARE * count) else []


def unenforced(launches: Iterable[LaunchSamples]) -> list[LaunchSamples]:
    """Launches as they count where the witness is not enforced: of one with too few clean blocks every block does."""
    return [launch if launch_median_ns(launch) is not None else as_clean(launch) for launch in launches]


def as_clean(launch: LaunchSamples) -> LaunchSamples:
    """A launch as if its witness had seen nobody."""
    nobody = {"delays_ns": (0,) * len(launch.blocks_ns), "switches": (0,) * len(launch.blocks_ns)}
    beside = None if launch.beside is None else launch.beside.model_copy(update=nobody)
    return launch.model_copy(update={**nobody, "beside": beside})


def _difference(launch: LaunchSamples) -> Difference | None:
    """By difference, what a launch says; None when too few of its pairs are clean, and of one without a second side."""
    if launch.beside is None:
        return None
    return difference_of(launch, clean_blocks(launch)) if _enough_clean(launch) else None


def _differences(launches: Iterable[LaunchSamples]) -> list[Difference]:
    """What launches say by difference; none of other launches."""
    return [found for launch in launches if (found := _difference(launch)) is not None]


def launch_median_ns(launch: LaunchSamples) -> float | None:
    """Median time of one iteration over the clean blocks; None when too few are clean. By difference whatever it is."""
    if launch.beside is not None:
        found = _difference(launch)
        return None if found is None else found.median_ns
    clean = _enough_clean(launch)
    return median(clean) / launch.iterations if clean else None


def launch_floor_ns(launch: LaunchSamples) -> float | None:
    """Time of one iteration in the fastest clean blocks; None as `launch_median_ns`."""
    if launch.beside is not None:
        found = _difference(launch)
        return None if found is None else found.floor_ns
    clean = _enough_clean(launch)
    return _floor(clean) / launch.iterations if clean else None


def canary_floors(launches: Sequence[LaunchSamples]) -> dict[CanaryName, int]:
    """Each canary's fastest run in some launches, in ns.

    A canary is the same work in every lease, so however many runs there are, the fastest tells the same clock. What a
    share of them stays above does not: where a processor is in its fast mode for a twentieth of the time, that share
    lies in it or beside it by luck (docs/measurement.md, "Which clock a lease had").
    """
    names: tuple[CanaryName, CanaryName] = ("sgemm", "mobilenet")
    runs = {name: [ns for launch in launches for _, ns in launch.canaries.get(name, ())] for name in names}
    return {name: min(times) for name, times in runs.items() if times}


def clock_by_share(launches: Sequence[LaunchSamples]) -> int | None:
    """What rule versions 1 to 7 took for the clock of a lease, in ns: what a twentieth of its SGEMM runs stay below. It
    hands old references over to `canary_floors`, and is still the clock of results without a lease's canaries."""
    runs = [ns for launch in launches for _, ns in launch.canaries.get(CLOCK_CANARY, ())]
    return _floor(runs) if runs else None


def tells_fastest(launches: Iterable[LaunchSamples]) -> bool:
    """Whether the clock canary ran so often in some launches that its fastest run is hardly one that was lucky."""
    return sum(len(launch.canaries.get(CLOCK_CANARY, ())) for launch in launches) >= FASTEST_RUNS


def drifted(observed: Mapping[CanaryName, int], golden: CanaryGolden, proof: ClockProof) -> bool:
    """Whether the clock canary's floor is farther from the board's history than drift explains: a broken board."""
    seen, known = observed.get(CLOCK_CANARY), golden.of(CLOCK_CANARY)
    return seen is not None and known is not None and abs(seen / known - 1) > HISTORY_LIMITS[proof]


def wants_more_launches(
    launches: Sequence[LaunchSamples], protocol: Protocol, *, lease: CanaryGolden | None = None
) -> bool:
    """Whether launches are left and wanted: too few were clean or quiet, they do not confirm each other, their
    differences are unclear, or the interval is wider than the protocol's target. lease: the canaries' floors in all of
    the lease; of one with uploads without the clock, since these are held to their own."""
    if len(launches) >= protocol.launches_max:
        return False
    if purpose_of(protocol) == "memory":
        peaks = _peaks(launches)
        return len(peaks) < protocol.launches_min or _spread(peaks) > CONFIRMED_SPREAD
    clean = [launch for launch in launches if launch_floor_ns(launch) is not None]
    if len(clean) < protocol.launches_min:
        return True
    quiet_ns = lease.mobilenet_ns if lease is not None else None
    is_loud = quiet_ns is not None and _quiet(launches, quiet_ns) < min(QUIET_LAUNCHES, protocol.launches_min)
    if has_clock_points(launches, protocol):
        found = _quiet_time(clean, protocol, lease)
        if found is None or not found.enough or len(found.launches_ns) < protocol.launches_min:
            return True
        # the farm would call it noisy, and one launch more is cheaper than another try; uploads are held to their own
        if _spread(found.launches_ns) > CONFIRMED_SPREAD or (is_loud and lease is not None and lease.sgemm_ns):
            return True
    elif is_loud or spread_of(clean, protocol, quiet_ns) > CONFIRMED_SPREAD or _is_unclear(clean, protocol, quiet_ns):
        return True
    medians = [value for launch in launches if (value := launch_median_ns(launch)) is not None]
    return protocol.half_width_target is not None and half_width(medians) > protocol.half_width_target


def _quiet_time(launches: Sequence[LaunchSamples], protocol: Protocol, lease: CanaryGolden | None) -> QuietTime | None:
    """By quiet blocks of clean launches; None where there are none. Without the lease's clock their own has to do."""
    clean = [launch for launch in launches if _enough_clean(launch)]
    clock_ns = (lease.sgemm_ns if lease is not None else None) or clock_by_share(clean)
    if clock_ns is None or not has_clock_points(clean, protocol):
        return None
    return quiet_time([(launch, clean_blocks(launch)) for launch in clean], protocol, clock_ns)


def lease_canaries(launches: Iterable[LaunchSamples]) -> CanaryGolden:
    """The canaries' floors in all launches of a lease so far."""
    floors = canary_floors(list(launches))
    return CanaryGolden(sgemm_ns=floors.get("sgemm"), mobilenet_ns=floors.get("mobilenet"))


def _quiet(launches: Sequence[LaunchSamples], quiet_ns: int) -> int:
    """Launches whose canary came near; one whose canary never ran undisturbed was anything but quiet."""
    near = (canary_floors([launch]).get("mobilenet") for launch in launches)
    return sum(ns is not None and ns <= QUIET_LIMIT * quiet_ns for ns in near)


def is_noisy(
    launches: Sequence[LaunchSamples], protocol: Protocol, quiet: CanaryGolden, lease: CanaryGolden | None = None
) -> bool:
    """Whether neighbours whom no witness sees were there throughout, so that a quiet moment was never measured: in too
    few launches MobileNet is near what it takes in the board's quiet leases (docs/measurement.md, "A noisy minute").

    quiet: floors of the quietest of the latest leases. Each launch is held to the clock that its own SGEMM tells. False
    where nothing is known, of launches without canaries, and where the witness saw a crowd: then there is somebody, and
    `summarise` asks whether launches confirm each other. lease: the canaries' floors in the lease; whoever the witness
    saw, it is noisy where no launch came near them or, by their clock, near those of quiet leases. Where canaries ran
    between the blocks, it is noisy too when too few blocks lay between quiet ones.
    """
    if lease is not None and _met_nothing_quiet(launches, quiet, lease):
        return True
    blocks = [ok for launch in launches for ok in clean_blocks(launch)]
    if sum(blocks) < CROWDED_SHARE * len(blocks):
        return False
    if has_clock_points(launches, protocol):
        told = _quiet_time(launches, protocol, lease)
        if told is None or not told.enough:
            return True
    floors = [found for launch in launches if (found := canary_floors([launch]))]
    if quiet.mobilenet_ns is None or quiet.sgemm_ns is None or not floors:
        return False
    limit = QUIET_LIMIT * quiet.mobilenet_ns / quiet.sgemm_ns
    near = sum(found.get("mobilenet", inf) <= limit * found.get("sgemm", 0) for found in floors)
    return near < min(QUIET_LAUNCHES, protocol.launches_min)


def _met_nothing_quiet(launches: Sequence[LaunchSamples], quiet: CanaryGolden, lease: CanaryGolden) -> bool:
    own_ns = canary_floors(launches).get("mobilenet")
    if own_ns is None or lease.mobilenet_ns is None:
        return False
    known_ns: float = lease.mobilenet_ns
    if lease.sgemm_ns and quiet.sgemm_ns and quiet.mobilenet_ns:
        known_ns = min(known_ns, quiet.mobilenet_ns * lease.sgemm_ns / quiet.sgemm_ns)
    return own_ns > NOISY_LIMIT * known_ns


def judged_floors(launches: Sequence[LaunchSamples], protocol: Protocol, quiet_ns: int | None = None) -> list[float]:
    """The floors that make the normalised time and the grade, lowest first: those of the quiet launches.

    A launch that was not quiet says nothing of the workload. One that was and took longer does: where its buffers lay
    is worth tens of percent to some workloads. For want of `launches_min` quiet ones, the launches that were quietest.
    """
    canaries = ((canary_floors([launch]).get("mobilenet", inf), launch_floor_ns(launch)) for launch in launches)
    seen = sorted((near_ns, floor_ns) for near_ns, floor_ns in canaries if floor_ns is not None)
    if not seen:
        return []
    quiet = [floor_ns for near_ns, floor_ns in seen if near_ns <= QUIET_LIMIT * (quiet_ns or seen[0][0])]
    needed = max(2, protocol.launches_min)
    return sorted(quiet if len(quiet) >= needed else [floor_ns for _, floor_ns in seen[:needed]])


def spread_of(launches: Sequence[LaunchSamples], protocol: Protocol, quiet_ns: int | None = None) -> float:
    """How far apart the judged floors are: their standard deviation over their median."""
    return _spread(judged_floors(launches, protocol, quiet_ns))


def _spread(values: Sequence[float]) -> float:
    return _deviation(values) / max(1e-9, median(values)) if len(values) > 1 else 0.0


def _deviation(values: Sequence[float]) -> float:
    """The standard deviation. That of `statistics` counts in fractions: a tenth of what judging a result takes."""
    middle = fsum(values) / len(values)
    return sqrt(fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def grade_of(spread: float, launches: int) -> Grade:
    """Grade of a spread between launches; fewer than three launches: at best C."""
    grade = next((grade for grade, limit in GRADE_LIMITS if spread <= limit), Grade.D)
    return max(grade, Grade.C) if launches < 3 else grade


def summarise(
    launches: Sequence[LaunchSamples],
    *,
    protocol: Protocol,
    golden: CanaryGolden,
    clock_proof: ClockProof,
    beside: CanaryGolden | None = None,
    is_enforced: bool = True,
) -> Summary | FailureCode:
    """Headline, interval, normalised time, grade.

    `beside`: the canaries' floors in the lease, as its first results told them, which know the clock better than the
    few runs beside one workload; without them those have to do. `is_enforced`: whether the witness is.
    `CONTENDED` when fewer launches than the protocol asks for were clean enough, or the witness saw a crowd and the
    floors do not confirm each other. `CANARY_DRIFT` when the clock canary moved between the first and the last launch
    by more than a proven clock explains. Of the protocol ``memory``: `CONTENDED` for too few launches alone.
    `DIFFERENCE_UNCLEAR` when the launches together see nothing of a second copy but noise.
    """
    if purpose_of(protocol) == "memory":
        return _summary_of_memory(launches, protocol, clock_proof)
    counted = launches if is_enforced else unenforced(launches)
    clean = [launch for launch in counted if launch_median_ns(launch) is not None]
    if len(clean) < protocol.launches_min:
        return FailureCode.CONTENDED
    if _moved(clean, BATCH_LIMITS[clock_proof]):
        return FailureCode.CANARY_DRIFT
    medians = [value / 1e6 for launch in clean if (value := launch_median_ns(launch)) is not None]
    canaries = beside or _canaries(clean)
    if _is_unclear(clean, protocol, canaries.mobilenet_ns):
        return FailureCode.DIFFERENCE_UNCLEAR
    judged = _judged(clean, protocol, canaries)
    spread = _spread(judged.launches_ns)
    blocks = [ok for launch in launches for ok in clean_blocks(launch)]
    if is_enforced and sum(blocks) < CROWDED_SHARE * len(blocks) and spread > CONFIRMED_SPREAD:
        return FailureCode.CONTENDED
    step_ms = PROFILER_STEP_MS if purpose_of(protocol) == "profile" else 0.0
    spread = max(spread, _spread_within(clean, judged.launches_ns), step_ms and step_ms / median(medians))
    interval = median_interval(medians)
    return Summary(
        rule_version=RULE_VERSION,
        median_ms=median(medians),
        normalised_ms=_normalised_ms(judged.time_ns, canaries, golden),
        canary=CLOCK_CANARY,
        low_ms=max(0.0, interval.low - step_ms),
        high_ms=interval.high + step_ms,
        interval_coverage=interval.coverage,
        spread=spread,
        grade=grade_of(spread, len(judged.launches_ns)),
        clock_proof=clock_proof,
        launches=len(clean),
        blocks=len(blocks),
        clean_share=sum(blocks) / len(blocks),
    )


def _judged(clean: Sequence[LaunchSamples], protocol: Protocol, canaries: CanaryGolden) -> QuietTime:
    """What makes the normalised time and the grade: quiet blocks, or floors where they do not tell."""
    found = _quiet_time(clean, protocol, canaries)
    if found is not None and found.enough:
        return found
    floors_ns = judged_floors(clean, protocol, canaries.mobilenet_ns)
    return QuietTime(_floor_of_all(floors_ns, clean), tuple(floors_ns), enough=False)


def _is_unclear(clean: Sequence[LaunchSamples], protocol: Protocol, quiet_ns: int | None) -> bool:
    """By difference: whether the judged floors are no larger than how far they are uncertain. Others never are."""
    found = _differences(clean)
    return bool(found) and not are_clear(found, judged_floors(clean, protocol, quiet_ns))


def _spread_within(clean: Sequence[LaunchSamples], floors_ns: Sequence[float]) -> float:
    """By difference what the rounds of a launch are apart is told too: launches may agree by luck. 0 of others."""
    found = _differences(clean)
    return error_within_ns(found) / median(floors_ns) if found else 0.0


def _summary_of_memory(
    launches: Sequence[LaunchSamples], protocol: Protocol, clock_proof: ClockProof
) -> Summary | FailureCode:
    """Sizes and cold starts over all launches; graded by how far apart their peaks are."""
    seen = [launch for launch in launches if launch.memory is not None]
    if len(seen) < protocol.launches_min:
        return FailureCode.CONTENDED
    starts_ms = [median(launch.blocks_ns) / launch.iterations / 1e6 for launch in seen]
    blocks = [ok for launch in seen for ok in clean_blocks(launch)]
    interval, spread = median_interval(starts_ms), _spread(_peaks(seen))
    return Summary(
        rule_version=RULE_VERSION,
        median_ms=median(starts_ms),
        normalised_ms=None,
        canary=CLOCK_CANARY,
        low_ms=interval.low,
        high_ms=interval.high,
        interval_coverage=interval.coverage,
        spread=spread,
        grade=grade_of(spread, len(seen)),
        clock_proof=clock_proof,
        launches=len(seen),
        blocks=len(blocks),
        clean_share=sum(blocks) / len(blocks),
        **_sizes(seen),
    )


def _peaks(launches: Sequence[LaunchSamples]) -> list[float]:
    return [float(launch.memory.peak_pss_bytes) for launch in launches if launch.memory is not None]


def _sizes(launches: Sequence[LaunchSamples]) -> dict[str, Any]:
    """The medians over launches of what the protocol ``memory`` saw."""
    seen = [(launch, launch.memory) for launch in launches if launch.memory is not None]
    return {
        "load_ms": median(launch.open_ms for launch, _ in seen),
        "first_ms": median(launch.first_ms for launch, _ in seen),
        "peak_pss_bytes": round(median(memory.peak_pss_bytes for _, memory in seen)),
        "model_pss_bytes": round(median(max(0, m.peak_pss_bytes - m.base_pss_bytes) for _, m in seen)),
        "mapped_weights_bytes": round(median(memory.mapped_weights_bytes for _, memory in seen)),
    }


def _moved(launches: Sequence[LaunchSamples], limit: float | None) -> bool:
    """Whether the clock canary's floor changed from the first to the last launch by more than `limit`."""
    if limit is None or len(launches) < 2:
        return False
    in_order = sorted(launches, key=lambda launch: launch.launch_no)
    first, last = (canary_floors([launch]).get(CLOCK_CANARY) for launch in (in_order[0], in_order[-1]))
    return first is not None and last is not None and abs(last / first - 1) > limit


def _canaries(launches: Sequence[LaunchSamples]) -> CanaryGolden:
    """A measurement's own, where its lease has none: its clock by the scale of `CanaryGolden`'s oldest references."""
    return CanaryGolden(sgemm_ns=clock_by_share(launches), mobilenet_ns=canary_floors(launches).get("mobilenet"))


def _normalised_ms(floor_ns: float, beside: CanaryGolden, golden: CanaryGolden) -> float | None:
    reference_ns, near_ns = golden.of(CLOCK_CANARY), beside.of(CLOCK_CANARY)
    return floor_ns / 1e6 * reference_ns / near_ns if reference_ns and near_ns else None


def _floor_of_all(floors_ns: Sequence[float], launches: Sequence[LaunchSamples]) -> float:
    """The mean of the two lowest. By difference their median: what disturbs the carrier that is taken off makes a
    difference smaller, so the lowest are no nearer to the truth than the highest."""
    if any(launch.beside is not None for launch in launches):
        return median(floors_ns)
    lowest_ns = floors_ns[:FLOORS_CONFIRMED]
    return fsum(lowest_ns) / len(lowest_ns)
