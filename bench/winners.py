"""Do winners of searches meet their limits? Predicted with a probability, then measured on this host.

python -m bench.winners [--platforms onnxruntime:fp32 openvino:fp32 mnn:fp32] [--winners 72] [--lessons 2]
    [--minutes 25] [--print]

On a farm of its own each platform is adapted with a small budget first. Then `examples.nas_ofa` searches on each of
them by itself, below several limits, as a user is told to. First its predictor learns from winners, in rounds with
limits of their own (`Search.taught`). What answers then is pinned: winners of first searches by it are measured in
rounds (`Search.checked`), and searches of the same length by the same predictors, which know by how much these were
off, find the winners: the best that are said to meet their limit with 90 % probability, few of each search, since
winners of one search are alike and err together. What was measured before the pin is none.

Last all of them are measured anew, whatever their grade. The share that meets its limit is to be 90 % or more, less one
standard error, which is that of so many winners of whom 90 % meet it. A winner that was lost, as its measurement failed
or did not come in time, neither meets its limit nor misses it: both shares are printed, of those that were measured and
of all, as if the lost had missed theirs, and both must reach the goal.

Two controls stand beside them, without a goal. The winners of the first searches, held to what was said of them before
any was measured; they, too, are of predictors that were taught. And, in the same job as the winners, as many
architectures that were drawn at random, each held to the upper end of its interval, of which 95 % are to stay below:
where these are off too it is the predictor or the clock of the hour, and where winners of first searches alone are, a
search found what the predictor takes for faster than it is.

Adaptations, lessons among them, take the time that they need: their budgets are of the board's seconds, and in a loud
hour these take long. `--minutes` are of what searches and measures.

The accuracy by which the search ranks is made up; latencies are the farm's.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import ceil, sqrt
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Final, NamedTuple

from bench.corpus_measure import chosen_platforms
from bench.platforms import platform_keys
from bench.report import options, tell
from benchfarm import Client, InvalidRequest, LatencyAnswer, LatencyConstraint, OnMiss, Search, WinnerErrors
from benchfarm.latency_constraint import ComparableMs
from benchfarm_core.adapting import AdaptationRequest, AdaptationState, AdaptationView
from benchfarm_core.errors import Conflict
from benchfarm_core.jobs import ItemView
from benchfarm_core.latency import Pin
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_core.shares import Share
from benchfarm_core.summaries import Grade
from benchfarm_standalone.farm_process import FarmProcess
from examples.nas_ofa import CHECKED, RANDOM, ROUNDS, SPACE, Genome, Options, by_latency, distinct, evolve

Row = dict[str, object]
Genes = tuple[object, ...]
PLATFORMS: Final = ("onnxruntime:fp32", "openvino:fp32", "mnn:fp32")
LEAST_PLATFORMS: Final = 3
LEAST_WINNERS: Final = 60
PROBABILITY: Final = 0.9
HIGH_END: Final = 0.95
"""Below the upper end of an interval of 90 % that leaves out as much on both sides."""
HOLDOUTS: Final = 10
STILL_S: Final = 600.0
"""An adaptation of which nothing changes for so long does not go on: trainers wait half of it for a quiet host."""
LESSONS: Final = 2
"""Rounds that teach."""
TAUGHT: Final = 24
"""Winners that such a round is given."""
LESSON_S: Final = 30.0
"""Of the board, in such a round, for those that teach."""
WINNER_S: Final = 2.0
"""Of the minutes, kept for each winner's measurement."""
DRAWN: Final = ", drawn at random"
FIRST: Final = ", of first searches"
REPORT: Final = "Winners of searches, measured"


class Given(NamedTuple):
    """What was asked for. `winners`: of all platforms; `limits`: of each, one search each, as long as `search` says."""

    budget_s: float
    winners: int
    limits: int
    search: Options
    lessons: int = LESSONS


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
    """How much of the time is left, by a clock in seconds."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until_s = clock() + 60 * minutes

    @property
    def left_s(self) -> float:
        """At least a second, so that whoever waits looks once."""
        return max(self._until_s - self._clock(), 1.0)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """What happens meanwhile takes none of it."""
        began_s = self._clock()
        try:
            yield
        finally:
            self._until_s += self._clock() - began_s


def followed(farm: Client, adaptation_id: str) -> AdaptationView:
    """An adaptation that has ended, however long it went on.

    Raises TimeoutError where nothing of it changes for `STILL_S`; then it is cancelled.
    """
    seen = farm.adaptations.get(adaptation_id)
    while True:
        try:
            return farm.adaptations.wait(adaptation_id, timeout_s=STILL_S)
        except TimeoutError:
            before, seen = seen, farm.adaptations.get(adaptation_id)
            if seen == before:
                with suppress(Conflict):  # it has ended after all
                    farm.adaptations.cancel(adaptation_id)
                raise


def adapted(farm: Client, key: str, budget_s: float) -> str:
    """Make a predictor of the platform; why there is none, or nothing."""
    wish = AdaptationRequest(budget_s=budget_s, spaces=(SPACE.name,), holdouts=HOLDOUTS, seed="winners")
    try:
        done = followed(farm, farm.adaptations.start(key, wish).id)
    except TimeoutError as error:
        return f"not adapted: {error}"
    if done.state != AdaptationState.SUCCEEDED:
        return f"not adapted: {done.reason or done.state}"
    answers = any(one.subject == WHOLE_MODEL and one.is_active for one in done.predictors)
    return "" if answers else "adapted without a predictor of whole models"


def all_adapted(farm: Client, keys: Sequence[str], budget_s: float) -> dict[str, str]:
    """One platform after the other; by key why it has no predictor, or nothing."""
    why: dict[str, str] = {}
    for key in keys:
        why[key] = adapted(farm, key, budget_s)
        print(f"{key}: {why[key] or 'adapted'}", file=sys.stderr, flush=True)
    return why


def limits_ms(farm: Client, key: str, count: int) -> tuple[list[float], Pin | None]:
    """Limits between which as many random architectures lie, by what is predicted of them, and what predicted it."""
    rng = random.Random(f"limits/{key}")
    drawn = [Genome.drawn(rng).architecture for _ in range(RANDOM)]
    found = farm.latency(drawn, [key])
    return quantiles(found.numbers(), n=count + 1), found.pin


class Known(NamedTuple):
    """Of a platform: by what its searches ask, by how much winners are off, and the genes of whoever was measured for
    that: a pinned search goes on to predict him. `begun`: what the searches are for; others begin elsewhere."""

    pin: Pin | None
    errors: WinnerErrors | None = None
    measured: frozenset[Genes] = frozenset()
    begun: str = "first"


def winners_of(
    farm: Client, key: str, limit_ms: float, count: int, known: Known, search_options: Options
) -> list[Winner]:
    """The best that one search finds below a limit, of those that are predicted; each architecture once."""
    constraint = LatencyConstraint(key, limit_ms, PROBABILITY, known.errors)
    search = Search(farm, [constraint], pin=known.pin)
    found = evolve(by_latency(search), search_options, random.Random(f"{known.begun}/{key}/{limit_ms}"))
    # more than are wanted, as some were measured before, by this run, its lessons among it, or another
    best = distinct(found.best(len(found.seen)), 2 * count + len(known.measured) + LESSONS * TAUGHT)
    best = [one for one in best if genes_of(one) not in known.measured]
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
    farm: Client, key: str, wanted: int, limits: Sequence[float], known: Known, given: Given, minutes: Minutes
) -> list[Winner]:
    """Winners of a platform, each architecture once: as many as are wanted, by as many limits as there is time for."""
    found: dict[Genes, Winner] = {}
    each = ceil(wanted / len(limits))
    for limit_ms in limits:
        if minutes.left_s < WINNER_S * wanted:
            print(f"{key}: no time for a search below {limit_ms:.3g} ms", file=sys.stderr)
            break
        for one in winners_of(farm, key, limit_ms, each, known, given.search):
            found.setdefault(genes_of(one.genome), one)
    return list(found.values())[:wanted]


def teach(farm: Client, key: str, given: Given, minutes: Minutes) -> None:
    """Have a platform's predictor learn from winners, round after round, each below limits of its own. Where a round
    comes to nothing, what answers stays."""
    limits, _ = limits_ms(farm, key, given.limits)
    for number in range(given.lessons):
        known = Known(None, begun=f"lesson {number}")
        found = searched(farm, key, TAUGHT, limits[number :: given.lessons], known, given, minutes)
        if not found:
            continue
        search = Search(farm, [LatencyConstraint(key, found[0].limit_ms, PROBABILITY)])
        items = [one.genome.architecture for one in found]
        with minutes.standing_still(), suppress(TimeoutError):
            done = search.taught(items, budget_s=LESSON_S, wait=lambda adaptation_id: followed(farm, adaptation_id))
            told = "; ".join(one.detail for one in done.lessons[0].predictors)
            print(f"{key}: lesson {number}: {told or done.lessons[0].reason}", file=sys.stderr, flush=True)


def checked(
    farm: Client, first: Sequence[Winner], pin: Pin | None, wait: Callable[[str], object]
) -> tuple[Known, list[Winner]]:
    """By how much the winners of a platform's first searches are off, and they as they were measured. A round has
    limits of its own, as many above one another as below.

    Raises InvalidRequest where too few were measured.
    """
    key = first[0].platform
    limits = list(dict.fromkeys(one.limit_ms for one in first))
    rounds = [[one for one in first if one.limit_ms in limits[number::ROUNDS]] for number in range(ROUNDS)]
    search = Search(farm, [LatencyConstraint(key, limits[0], PROBABILITY)], pin=pin)
    asked = [[one.genome.architecture for one in of_round] for of_round in rounds]
    errors = search.checked(asked, wait=wait).constraints[0].errors
    found = farm.latency([one.genome.architecture for one in first], [key], on_miss=OnMiss.ERROR)
    done = [_answered(one, answer) for one, answer in zip(first, found, strict=True)]
    return Known(pin, errors, frozenset(genes_of(one.genome) for one in first), "winners"), done


def _answered(winner: Winner, answer: LatencyAnswer) -> Winner:
    measured = ComparableMs.of(answer)
    if measured is None:
        return replace(winner, failure=answer.error or "not measured")
    return replace(winner, measured_ms=measured.median_ms, grade=answer.grade)


def genes_of(genome: Genome) -> Genes:
    """What tells architectures apart."""
    return tuple(genome.architecture.genes.values())


def drawn(farm: Client, key: str, count: int, pin: Pin | None = None) -> list[Winner]:
    """As many architectures that nobody searched for, each below the upper end of its interval with 95 %."""
    rng = random.Random(f"drawn/{key}")
    genomes = [Genome.drawn(rng) for _ in range(count)]
    said = farm.latency([one.architecture for one in genomes], [key], pin=pin)
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


def rows_of(
    winners: Sequence[Winner],
    failed: Mapping[str, str],
    drawn_too: Sequence[Winner] = (),
    first: Sequence[Winner] = (),
) -> list[Row]:
    """A row for each platform, those without a predictor among them, one for all winners, which has the goal, and the
    same of those that were drawn at random and of first searches' winners, which have none."""
    rows = [*_rows_by_platform(winners, "")]
    rows += [{"platform": key.partition("/")[2], "not measured": why} for key, why in failed.items()]
    rows.append(all_row(winners))
    for kind, found in ((DRAWN, drawn_too), (FIRST, first)):
        if found:
            rows += [*_rows_by_platform(found, kind), row_of(f"all{kind}", found)]
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


class Measured(NamedTuple):
    """What was measured: winners, as many drawn at random, and winners of first searches."""

    winners: list[Winner]
    drawn: list[Winner]
    first: list[Winner]


def measure_all(farm: Client, keys: Sequence[str], minutes: Minutes, given: Given) -> list[Row]:
    """Adapt, teach, search, check, search, measure; the table."""
    with minutes.standing_still():
        why = all_adapted(farm, keys, given.budget_s)
    good = [key for key in keys if not why[key]]
    all_done = Measured([], [], [])
    for key in good:
        try:
            done = measured_on(farm, key, ceil(given.winners / len(good)), minutes, given)
        except (InvalidRequest, TimeoutError) as error:
            why[key] = f"winners of first searches are not known: {error}"
            print(f"{key}: {why[key]}", file=sys.stderr, flush=True)
            continue
        for every, own in zip(all_done, done, strict=True):
            every.extend(own)
    failed = {key: text for key, text in why.items() if text}
    return rows_of(all_done.winners, failed, all_done.drawn, all_done.first)


def measured_on(farm: Client, key: str, wanted: int, minutes: Minutes, given: Given) -> Measured:
    """Search on a platform as a user does: rounds that teach its predictor, first searches, some of their winners
    measured, searches that know them."""

    def wait(job_id: str) -> object:
        return farm.wait(job_id, timeout_s=minutes.left_s)

    teach(farm, key, given, minutes)
    limits, pin = limits_ms(farm, key, given.limits)
    first = searched(farm, key, ROUNDS * CHECKED, limits, Known(pin), given, minutes)
    if not first:
        raise InvalidRequest("nobody won", field="rounds")
    known, first = checked(farm, first, pin, wait)
    print(f"{key}: winners are off by {known.errors}", file=sys.stderr, flush=True)
    found = searched(farm, key, wanted, limits, known, given, minutes)
    done = measured(farm, [*found, *drawn(farm, key, len(found), pin)], wait)
    return Measured(done[: len(found)], done[len(found) :], first)


def main() -> int:
    """Measure, write the section; 1 where the goal is missed."""
    parser = options(__doc__)
    parser.add_argument("--platforms", nargs="+", default=PLATFORMS, metavar="ENGINE:PRECISION")
    parser.add_argument("--minutes", type=float, default=25, help="of searches and measurements")
    parser.add_argument("--lessons", type=int, default=LESSONS, help="rounds that teach, on each platform")
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
        wish = Given(given.budget, given.winners, given.limits, search_options, given.lessons)
        rows = measure_all(client, keys, minutes, wish)
    return tell(REPORT, rows, printed=given.print)


if __name__ == "__main__":
    sys.exit(main())
