"""The health of boards: when the golden suite is due, on what it runs, and what its times say.

A board is compared with itself: with its own earlier runs, of the same generation, since a person last said that it is
good. Two looks at it tell different troubles. A workload whose normalised floor and headline both moved says that
something about the board changed that the canaries do not feel; canaries that both moved say that all of it did.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from statistics import median
from typing import Final, NamedTuple

from benchfarm_core.correctness import is_ungated
from benchfarm_core.platforms import ClockProof, Platform, Precision
from benchfarm_core.values import Answer
from benchfarm_core.workloads import GeneratedModelRequest, KernelRequest

GOLDEN_SUITE: Final[Mapping[str, KernelRequest | GeneratedModelRequest]] = {
    "conv": KernelRequest(
        type="conv-bn-act", config={"hw": 28, "cin": 64, "cout": 64, "k": 3, "s": 1, "act": "relu", "batch": 1}
    ),
    "dwconv": KernelRequest(
        type="dwconv-bn-act", config={"hw": 56, "cin": 64, "k": 3, "s": 1, "act": "relu", "batch": 1}
    ),
    "fc": KernelRequest(type="fc", config={"cin": 512, "cout": 512, "act": "none", "batch": 1}),
    "squeezenet": GeneratedModelRequest(name="squeezenet", config={"hw": 64, "batch": 1, "classes": 10, "seed": 0}),
}
"""By the name that its times are kept under. What a name means never changes: another workload gets another name."""
CANARIES: Final = ("canary-sgemm", "canary-mobilenet")
"""The names of the canaries' floors beside the suite, which are not normalised."""

PLATFORMS_MAX: Final = 3
"""Of one board that a run measures on: one of each engine."""
FIRST_ENGINE: Final = "onnxruntime"
"""The one that most boards have, then by name."""
DAY_S: Final = 86_400.0
BUDGET_S: Final = 60.0
"""Of a board's time that the suite takes in a day; a slow board gives more for one platform, and every board for the
run that looks again at what drifted."""
PLATFORM_S: Final = 12.0
"""What a platform's part of a run takes, where none was measured lately."""
LATELY_S: Final = 7 * DAY_S
"""What a platform took is known for so long: one that was slow in a bad hour is tried again."""
CONFIRM_S: Final = 600.0
"""A run that drifted, or that found no moment, is repeated after this; one that failed waits for its day."""
LAPSE_S: Final = 6 * 3600.0
"""A run that has not ended after this is given up: the board went away, or never had a moment."""

HISTORY_MIN: Final = 3
"""Earlier runs without which nothing is said about a time."""
HISTORY_MAX: Final = 8
MOVED_MIN: Final = 2
"""Times that must have moved before a run has drifted: one alone is a workload's own mood."""
NOISE: Final = 3.0
"""How often its own noise a time must have moved; the noise is the median distance of its history from its middle."""
_NORMAL: Final = 1.4826
"""From the median distance to the deviation of a normal law."""
LIMITS: Final[Mapping[ClockProof, float]] = {
    ClockProof.VERIFIED: 0.05,
    ClockProof.BOUNDED: 0.10,
    ClockProof.UNPINNED: 0.15,
}
"""How far a time may move in any case."""
DRIFTS_MAX: Final = 2
"""So many runs in a row that drifted take a board out of use."""


class GoldenReason(StrEnum):
    """Why the golden suite was run."""

    ENROLLED = "enrolled"
    GENERATION = "generation"
    REBOOTED = "rebooted"
    RELEASED = "released"
    AGAIN = "again"
    DAY = "day"


class GoldenOutcome(StrEnum):
    """What came of a run: too little history to compare with, as before, moved, nothing measured, given up."""

    BEGUN = "begun"
    STEADY = "steady"
    DRIFTED = "drifted"
    FAILED = "failed"
    LAPSED = "lapsed"


KEPT: Final = frozenset({GoldenOutcome.BEGUN, GoldenOutcome.STEADY})
"""Runs that later ones are compared with."""


class LastGolden(NamedTuple):
    """A board's latest run; `ended_at` of one that has an outcome."""

    wanted_at: datetime
    ended_at: datetime
    generation_id: int
    boot_id: str
    outcome: GoldenOutcome | None


def why_due(
    last: LastGolden | None,
    *,
    generation_id: int,
    boot_id: str,
    released_at: datetime | None,
    now: datetime,
    every_s: float,
) -> GoldenReason | None:
    """Why a board's suite is due now; None when it is not. `boot_id` is empty where the board tells none.

    A run that drifted is repeated so long after its end, however long it waited for its board, which may be rebooted
    meanwhile.
    """
    if last is None:
        return GoldenReason.ENROLLED
    if last.generation_id != generation_id:
        return GoldenReason.GENERATION
    if boot_id and last.boot_id and boot_id != last.boot_id:
        return GoldenReason.REBOOTED
    if released_at is not None and released_at > last.wanted_at:
        return GoldenReason.RELEASED
    confirm_s = min(CONFIRM_S, every_s)
    if last.outcome == GoldenOutcome.DRIFTED:
        return GoldenReason.AGAIN if now - last.ended_at >= timedelta(seconds=confirm_s) else None
    if last.outcome == GoldenOutcome.LAPSED and now - last.wanted_at >= timedelta(seconds=confirm_s):
        return GoldenReason.AGAIN
    return GoldenReason.DAY if now - last.wanted_at >= timedelta(seconds=every_s) else None


class GoldenChoice(NamedTuple):
    """The platforms of a run, and those that the board has no time for."""

    chosen: list[int]
    too_slow: list[int]


def golden_platforms(offered: Mapping[int, Platform], took_s: Mapping[int, float], left_s: float) -> GoldenChoice:
    """On which of a board's platforms the suite runs, by their keys in `offered`: at most one of each engine.

    Those with default options in the plainest precision, pinned as high as the board offers, with the fewest threads;
    as many as fit into `left_s` by what they took before (`took_s`). The cheapest goes in any case while nothing of the
    day's budget is spent. Ungated engines are left out: nothing tells their drift from a neighbour.
    """
    best: dict[str, int] = {}
    for id_ in sorted(offered, key=lambda one: _plainness(offered[one])):
        if not offered[id_].engine.options and not is_ungated(offered[id_].engine.name):
            best.setdefault(offered[id_].engine.name, id_)
    order = [best[engine] for engine in sorted(best, key=lambda one: (one != FIRST_ENGINE, one))]
    expected_s = {id_: took_s.get(id_, PLATFORM_S) for id_ in order}
    if order and left_s >= BUDGET_S:
        left_s = max(left_s, min(expected_s.values()))
    chosen: list[int] = []
    too_slow: list[int] = []
    for id_ in order:
        if expected_s[id_] > left_s:
            too_slow.append(id_)
        elif len(chosen) < PLATFORMS_MAX:
            chosen.append(id_)
            left_s -= expected_s[id_]
    return GoldenChoice(chosen, too_slow if len(chosen) < PLATFORMS_MAX else [])


def left_out_text(engines: Iterable[tuple[str, float]]) -> str:
    """`left out: too slow for what the day has left (ncnn 48 s)`, or nothing; `engines`: names and expected seconds."""
    named = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in engines)
    return f"left out: too slow for what the day has left ({named})" if named else ""


_MODES: Final = ("pinned", "fixed_performance", "free")


def _plainness(platform: Platform) -> tuple[bool, int, int, int, str]:
    point = platform.operating_point
    clock_khz = max(point.freq_khz, default=0)
    return (platform.precision != Precision.FP32, _MODES.index(point.mode), -clock_khz, point.threads, platform.key)


class GoldenTime(NamedTuple):
    """One time of a run: the normalised floor and the headline in ms, and the spread between launches as a share.

    Of a canary both are its floor.
    """

    floor_ms: float
    median_ms: float
    spread: float = 0.0


class Moved(NamedTuple):
    """A time that is not what it was: by which share of the middle of its history."""

    name: str
    share: float


class Judgement(NamedTuple):
    """What a run on one platform says. `share`: the largest move seen, None where nothing could be compared."""

    outcome: GoldenOutcome
    share: float | None
    detail: str


def judge(
    now: Mapping[str, GoldenTime], history: Sequence[Mapping[str, GoldenTime]], clock_proof: ClockProof
) -> Judgement:
    """Compare one platform's times with those of earlier runs, by name.

    A time has moved when it is farther from the middle of its history than the limit of the clock's proof, than
    `NOISE` times the history's own noise, and all that by more than its launches differ among themselves. A workload
    needs that of floor and headline, to the same side. A run has drifted when `MOVED_MIN` workloads moved, or all
    canaries.
    """
    if not now:
        return Judgement(GoldenOutcome.FAILED, None, "nothing of the suite could be measured")
    known = {name: [one[name] for one in history if name in one] for name in now}
    comparable = {name: times for name, times in known.items() if len(times) >= HISTORY_MIN}
    if len(comparable) < MOVED_MIN:
        return Judgement(GoldenOutcome.BEGUN, None, "too few earlier runs to compare with")
    limit = LIMITS[clock_proof]
    moves = {name: _move(now[name], times, limit) for name, times in comparable.items()}
    moved = [Moved(name, share) for name, (share, is_far) in moves.items() if is_far]
    farthest = max((share for share, _ in moves.values()), key=abs)
    canaries = [one for one in moved if one.name in CANARIES]
    if len(moved) - len(canaries) >= MOVED_MIN or len(canaries) == len(CANARIES):
        return Judgement(GoldenOutcome.DRIFTED, farthest, moved_text(moved))
    return Judgement(GoldenOutcome.STEADY, farthest, "")


def moved_text(moved: Iterable[Moved]) -> str:
    """`conv +12 %, fc +9 %`, the farthest first."""
    ordered = sorted(moved, key=lambda one: -abs(one.share))
    return ", ".join(f"{one.name} {one.share:+.0%}".replace("%", " %") for one in ordered)


def _move(now: GoldenTime, times: Sequence[GoldenTime], limit: float) -> tuple[float, bool]:
    """By which share the floor moved, and whether that counts."""
    floor, floor_noise = _share(now.floor_ms, [one.floor_ms for one in times])
    headline, headline_noise = _share(now.median_ms, [one.median_ms for one in times])
    is_far = all(
        abs(share) > max(limit, NOISE * noise) + now.spread
        for share, noise in ((floor, floor_noise), (headline, headline_noise))
    )
    return floor, is_far and (floor > 0) == (headline > 0)


def _share(now_ms: float, history_ms: Sequence[float]) -> tuple[float, float]:
    middle_ms = median(history_ms)
    noise = _NORMAL * median(abs(one - middle_ms) for one in history_ms) / middle_ms
    return now_ms / middle_ms - 1, noise


def is_out(outcomes: Sequence[GoldenOutcome]) -> bool:
    """Whether a board goes out of use; `outcomes`: of its runs since it was last judged, the newest first."""
    compared = [one for one in outcomes if one in (GoldenOutcome.STEADY, GoldenOutcome.DRIFTED)]
    return compared[:DRIFTS_MAX] == [GoldenOutcome.DRIFTED] * DRIFTS_MAX


class GoldenTimeView(Answer):
    """One time of a golden run, in ms; all null where it was not measured."""

    platform: str
    name: str
    normalised_ms: float | None
    median_ms: float | None
    spread: float | None


class GoldenRunView(Answer):
    """One run of the golden suite on a board. `drift`: the largest move from its history, as a share."""

    reason: GoldenReason
    wanted_at: datetime
    ended_at: datetime | None
    outcome: GoldenOutcome | None
    drift: float | None
    detail: str
    generation: str
    board_s: float | None
    times: list[GoldenTimeView]


class BoardTimeView(Answer):
    """A board's typical normalised time in its latest golden runs, in ms, and its distance from the boards' median."""

    board_id: str
    normalised_ms: float
    runs: int
    off: float


class SpreadRow(Answer):
    """One time of the golden suite on every board of a model; `spread`: slowest against fastest, as a share."""

    platform: str
    name: str
    median_ms: float
    spread: float
    boards: list[BoardTimeView]


def spread_row(platform: str, name: str, times: Sequence[tuple[str, float, int]]) -> SpreadRow:
    """How units of one model differ in one time; `times`: board, ms, runs, at least one."""
    middle_ms = median(ms for _, ms, _ in times)
    boards = [
        BoardTimeView(board_id=board, normalised_ms=ms, runs=runs, off=ms / middle_ms - 1) for board, ms, runs in times
    ]
    fastest, slowest = min(ms for _, ms, _ in times), max(ms for _, ms, _ in times)
    return SpreadRow(platform=platform, name=name, median_ms=middle_ms, spread=slowest / fastest - 1, boards=boards)
