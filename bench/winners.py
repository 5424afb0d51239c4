"""Do winners of searches meet their limits? Predicted with a probability, then measured on this host.

python -m bench.winners [--platforms onnxruntime:fp32 openvino:fp32 mnn:fp32] [--winners 60] [--minutes 25] [--print]

On a farm of its own each platform is adapted with a small budget first. Then `examples.nas_ofa` searches on each of
them by itself, below several limits, and the best that are predicted to meet theirs with 90 % probability are the
winners: few of each search, since winners of one search are alike and err together. What was measured before is none.
Last all of them are measured anew, whatever their grade. The share that meets its limit is to be 90 % or more, less one
standard error, which is that of so many winners of whom 90 % meet it. A winner that was lost, as its measurement failed
or did not come in time, neither meets its limit nor misses it: both shares are printed, of those that were measured and
of all, as if the lost had missed theirs, and both must reach the goal.

Beside the winners of a platform, in the same job, as many architectures are measured that were drawn at random, each
held to the upper end of its interval, of which 95 % are to stay below: where these are off too it is the predictor or
the clock of the hour, and where winners alone are, a search found what the predictor takes for faster than it is.

The accuracy by which the search ranks is made up; latencies are the farm's.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil, sqrt
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Final, NamedTuple

from bench.corpus_measure import chosen_platforms
from bench.platforms import platform_keys
from bench.report import options, tell
from benchfarm import Client, LatencyConstraint, Search
from benchfarm_core.adapting import AdaptationRequest, AdaptationState
from benchfarm_core.errors import Conflict
from benchfarm_core.jobs import ItemView
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_core.shares import Share
from benchfarm_core.summaries import Grade
from benchfarm_standalone.farm_process import FarmProcess
from examples.nas_ofa import RANDOM, SPACE, Genome, Options, by_latency, evolve

Row = dict[str, object]
PLATFORMS: Final = ("onnxruntime:fp32", "openvino:fp32", "mnn:fp32")
LEAST_PLATFORMS: Final = 3
LEAST_WINNERS: Final = 60
PROBABILITY: Final = 0.9
HIGH_END: Final = 0.95
"""Below the upper end of an interval of 90 % that leaves out as much on both sides."""
HOLDOUTS: Final = 10
ADAPTED_SHARE: Final = 0.6
"""Of the minutes, at most, for adaptations."""
WINNER_S: Final = 2.0
"""Of the minutes, kept for each winner's measurement."""
DRAWN: Final = ", drawn at random"
REPORT: Final = "Winners of searches, measured"


class Given(NamedTuple):
    """What was asked for. `winners`: of all platforms; `limits`: of each, one search each, as long as `search` says."""

    budget_s: float
    winners: int
    limits: int
    search: Options


@dataclass(frozen=True, slots=True)
class Winner:
    """An architecture that is said to meet a limit on a platform, and what was measured of it, if that came."""

    platform: str
    genome: Genome
    limit_ms: float
    probability: float
    predicted_ms: float
    measured_ms: float | None = None
    grade: Grade | None = None
    failure: str = ""

    @property
    def is_met(self) -> bool:
        """Whether it was measured within its limit."""
        return self.measured_ms is not None and self.measured_ms <= self.limit_ms


class Minutes:
    """How much of the time is left."""

    def __init__(self, minutes: float) -> None:
        self._until_s = time.monotonic() + 60 * minutes

    @property
    def left_s(self) -> float:
        """At least a second, so that whoever waits looks once."""
        return max(self._until_s - time.monotonic(), 1.0)


def adapted(farm: Client, key: str, budget_s: float, timeout_s: float) -> str:
    """Make a predictor of the platform; why there is none, or nothing."""
    wish = AdaptationRequest(budget_s=budget_s, spaces=(SPACE.name,), holdouts=HOLDOUTS, seed="winners")
    made = farm.adaptations.start(key, wish)
    try:
        done = farm.adaptations.wait(made.id, timeout_s=timeout_s)
    except TimeoutError:
        with suppress(Conflict):  # it has ended after all
            farm.adaptations.cancel(made.id)
        return f"not adapted within {timeout_s:.0f} s"
    if done.state != AdaptationState.SUCCEEDED:
        return f"not adapted: {done.reason or done.state}"
    answers = any(one.subject == WHOLE_MODEL and one.is_active for one in done.predictors)
    return "" if answers else "adapted without a predictor of whole models"


def all_adapted(farm: Client, keys: Sequence[str], budget_s: float, minutes: Minutes) -> dict[str, str]:
    """One platform after the other, each in its part of what is left; by key why it has no predictor, or nothing."""
    end_s = (1 - ADAPTED_SHARE) * minutes.left_s
    why: dict[str, str] = {}
    for at, key in enumerate(keys):
        part_s = (minutes.left_s - end_s) / (len(keys) - at)
        why[key] = adapted(farm, key, budget_s, max(part_s, 1.0))
        print(f"{key}: {why[key] or 'adapted'}", file=sys.stderr, flush=True)
    return why


def limits_ms(farm: Client, key: str, count: int) -> list[float]:
    """Limits between which as many random architectures lie, by what is predicted of them."""
    rng = random.Random(f"limits/{key}")
    drawn = [Genome.drawn(rng).architecture for _ in range(RANDOM)]
    return quantiles(farm.latency(drawn, [key]).numbers(), n=count + 1)


def winners_of(farm: Client, key: str, limit_ms: float, count: int, search_options: Options) -> list[Winner]:
    """The best that one search finds below a limit, of those that are predicted; each architecture once."""
    constraint = LatencyConstraint(key, limit_ms, PROBABILITY)
    search = Search(farm, [constraint])
    found = evolve(by_latency(search), search_options, random.Random(f"winners/{key}/{limit_ms}"))
    # genes of blocks that are not there tell genomes apart that are one architecture
    best = list({tuple(one.architecture.genes.values()): one for one in found.best(8 * count)}.values())
    if not best:
        return []
    said = farm.latency([one.architecture for one in best], [key], pin=search.pin)
    pairs = [(one, answer) for one, answer in zip(best, said, strict=True) if answer.source == "predicted"]
    return [
        Winner(key, one, limit_ms, constraint.probability_of(answer), answer.median_ms)
        for one, answer in pairs
        if constraint.is_met(answer) and answer.median_ms is not None
    ][:count]


def searched(
    farm: Client, key: str, wanted: int, limits: int, search_options: Options, minutes: Minutes
) -> list[Winner]:
    """Winners of a platform, each architecture once: as many as are wanted, by as many limits as there is time for."""
    found: dict[tuple[object, ...], Winner] = {}
    each = ceil(wanted / limits)
    for limit_ms in limits_ms(farm, key, limits):
        if minutes.left_s < WINNER_S * wanted:
            print(f"{key}: no time for a search below {limit_ms:.3g} ms", file=sys.stderr)
            break
        for one in winners_of(farm, key, limit_ms, each, search_options):
            found.setdefault(tuple(one.genome.architecture.genes.values()), one)
    return list(found.values())[:wanted]


def drawn(farm: Client, key: str, count: int) -> list[Winner]:
    """As many architectures that nobody searched for, each below the upper end of its interval with 95 %."""
    rng = random.Random(f"drawn/{key}")
    genomes = [Genome.drawn(rng) for _ in range(count)]
    said = farm.latency([one.architecture for one in genomes], [key])
    return [
        Winner(key, one, answer.high_ms, HIGH_END, answer.median_ms)
        for one, answer in zip(genomes, said, strict=True)
        if answer.source == "predicted" and answer.high_ms is not None and answer.median_ms is not None
    ]


def measured(farm: Client, winners: Sequence[Winner], wait: Callable[[str], object]) -> list[Winner]:
    """All winners of one platform measured anew; without a time where that failed or did not come in time.

    wait: until a job has ended; raises TimeoutError where it takes too long.
    """
    if not winners:
        return []
    items = [one.genome.architecture for one in winners]
    workloads = [{"kind": "architecture", "space": one.space, "genes": one.genes} for one in items]
    job = farm.submit(name=REPORT, workloads=workloads, platforms=[winners[0].platform], max_age_s=0)
    try:
        wait(job.id)
    except TimeoutError:
        with suppress(Conflict):  # it has ended after all
            farm.cancel(job.id)
    by_number = {item.item_no: item for item in farm.items(job.id)}
    return [_with(one, by_number.get(number)) for number, one in enumerate(winners)]


def _with(winner: Winner, item: ItemView | None) -> Winner:
    """As limits are held against answers: the time without neighbours, where there is one."""
    summary = None if item is None else item.summary
    if summary is None:
        return replace(winner, failure=str(item.failure or item.state) if item is not None else "not planned")
    ms = summary.normalised_ms if summary.normalised_ms is not None else summary.median_ms
    return replace(winner, measured_ms=ms, grade=summary.grade)


def rows_of(winners: Sequence[Winner], failed: Mapping[str, str], drawn_too: Sequence[Winner] = ()) -> list[Row]:
    """A row for each platform, those without a predictor among them, one for all winners, which has the goal, and the
    same of those that were drawn at random, which have none."""
    rows = [*_rows_by_platform(winners, "")]
    rows += [{"platform": key.partition("/")[2], "not measured": why} for key, why in failed.items()]
    rows.append(all_row(winners))
    if drawn_too:
        rows += [*_rows_by_platform(drawn_too, DRAWN), row_of("all" + DRAWN, drawn_too)]
    return rows


def _rows_by_platform(found: Sequence[Winner], kind: str) -> Iterator[Row]:
    for key in dict.fromkeys(one.platform for one in found):
        yield row_of(key.partition("/")[2] + kind, [one for one in found if one.platform == key])


def row_of(name: str, winners: Sequence[Winner]) -> Row:
    """How many meet their limits, and how near the predictions were."""
    known = [one for one in winners if one.measured_ms is not None]
    ratios = [one.predicted_ms / one.measured_ms for one in known if one.measured_ms is not None]
    lost = [one.failure for one in winners if one.measured_ms is None]
    return {
        "platform": name,
        "limits": len({(one.platform, one.limit_ms) for one in winners}),
        "winners": len(winners),
        "said to meet, mean probability": f"{fmean(one.probability for one in winners):.1%}" if winners else "",
        "measured": len(known),
        "of these grade D": sum(one.grade == Grade.D for one in known),
        "meet": sum(one.is_met for one in known),
        "share (95 % interval)": _share_text(sum(one.is_met for one in known), len(known)),
        "lost": len(lost),
        "share, the lost as missing": _share_text(sum(one.is_met for one in winners), len(winners)),
        "predicted / measured, median": median(ratios) if ratios else "",
        "not measured": ", ".join(f"{lost.count(why)} {why}" for why in dict.fromkeys(lost)),
    }


def all_row(winners: Sequence[Winner]) -> Row:
    """All of them, held to the goal."""
    known = [one for one in winners if one.measured_ms is not None]
    platforms, met = len({one.platform for one in known}), sum(one.is_met for one in known)
    reaches = all(met >= (PROBABILITY - _error(count)) * count for count in (len(known), len(winners)))
    return row_of("all", winners) | {
        "standard error": f"{_error(len(known)):.1%}, of all {_error(len(winners)):.1%}",
        "goal": (
            f">= {PROBABILITY:.0%} less one standard error, of the measured and of all, >= {LEAST_WINNERS} measured"
            f" winners, >= {LEAST_PLATFORMS} platforms"
        ),
        "met": reaches and len(known) >= LEAST_WINNERS and platforms >= LEAST_PLATFORMS,
    }


def _error(count: int) -> float:
    """The standard error of a share of so many winners, at least one, of whom as many meet their limits as is said."""
    return sqrt(PROBABILITY * (1 - PROBABILITY) / max(count, 1))


def _share_text(found: int, count: int) -> str:
    return Share.of(found, count).text if count else ""


def measure_all(farm: Client, keys: Sequence[str], minutes: Minutes, given: Given) -> list[Row]:
    """Adapt, search, measure; the table."""
    why = all_adapted(farm, keys, given.budget_s, minutes)
    good = [key for key in keys if not why[key]]
    winners: list[Winner] = []
    drawn_too: list[Winner] = []
    for key in good:
        wanted = ceil(given.winners / len(good))
        found = searched(farm, key, wanted, given.limits, given.search, minutes)
        both = [*found, *drawn(farm, key, len(found))]
        done = measured(farm, both, lambda job_id: farm.wait(job_id, timeout_s=minutes.left_s))
        winners += done[: len(found)]
        drawn_too += done[len(found) :]
    return rows_of(winners, {key: text for key, text in why.items() if text}, drawn_too)


def main() -> int:
    """Measure, write the section; 1 where the goal is missed."""
    parser = options(__doc__)
    parser.add_argument("--platforms", nargs="+", default=PLATFORMS, metavar="ENGINE:PRECISION")
    parser.add_argument("--minutes", type=float, default=25, help="of the whole run")
    parser.add_argument("--winners", type=int, default=72, help="of all platforms together, as a few are lost")
    parser.add_argument("--limits", type=int, default=8, help="of each platform, one search each")
    parser.add_argument("--budget", type=float, default=60, help="of an adaptation, in seconds of the board")
    parser.add_argument("--population", type=int, default=100)
    parser.add_argument("--generations", type=int, default=50)
    given = parser.parse_args()
    minutes = Minutes(given.minutes)
    search_options = Options(population=given.population, generations=given.generations)
    with (
        tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as folder,
        FarmProcess(Path(folder)) as farm,
        Client(farm.url, farm.admin_token) as client,
    ):
        keys = chosen_platforms(platform_keys(client), given.platforms)
        wish = Given(given.budget, given.winners, given.limits, search_options)
        rows = measure_all(client, keys, minutes, wish)
    return tell(REPORT, rows, printed=given.print)


if __name__ == "__main__":
    sys.exit(main())
