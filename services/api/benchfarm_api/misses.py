"""What a question has measured because nobody says it exactly enough: found, queued, and told in the answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple

from benchfarm_core.errors import BenchfarmError
from benchfarm_core.latency import LatencyAnswer, LatencyRequest, Measuring, half_width, is_within
from benchfarm_core.workloads import KernelListRequest, workload_id
from benchfarm_store import asked_jobs
from benchfarm_store.database import Database
from benchfarm_store.latency import REFUSED, Asked
from benchfarm_store.tokens import Caller

CANNOT_BE: Final = frozenset({"format_not_opened", "timing_impossible", "platform_single_use"})
"""Why an answer has no number, where no measurement that a question asked for gives one either."""

_LISTS: Final = "a kernel list is not measured: ask for its kernels"

Answers = Callable[[int, int, int], LatencyAnswer]
"""By item, number and place of platform: what is said where nothing is measured."""


@dataclass(frozen=True, eq=False)
class Misses:
    """What is to be measured. `job_ids`: by number of the workload and place of the platform."""

    job_ids: Mapping[tuple[int, int], str] = field(default_factory=dict)
    measuring: Measuring | None = None


class _Miss(NamedTuple):
    """A workload on one platform; `need`: how far it is from what was asked, the greatest first."""

    need: float
    number: int
    wanted: asked_jobs.Wanted


def queue(
    database: Database, asked: Asked, request: LatencyRequest, by: Caller, answers: Answers, budget_s: float
) -> Misses:
    """Have measured what is predicted less exactly than the tolerance, or not at all: a job for each platform, the
    worst first, each in a transaction of its own. That one cannot be made costs the question no answer.

    Each platform gets its share of the budget, those that want the least first: what they leave is for the others.
    """
    wishes = [(place, *_of_platform(asked, request, place, answers)) for place in range(len(asked.platforms))]
    lists = sum(refused for _, _, refused in wishes)
    wanting = sorted(((place, found) for place, found, _ in wishes if found), key=lambda wish: len(wish[1]))
    job_ids: dict[tuple[int, int], str] = {}
    done = [asked_jobs.Queued({}, refused=lists, why=_LISTS if lists else None)]
    for turn, (place, found) in enumerate(wanting):
        items, key = [miss.wanted for miss in found], asked.platforms[place].key
        try:
            with database.transaction() as tx:
                share = len(wanting) - turn
                queued = asked_jobs.queue(tx, request, key, items, by=by, budget_s=budget_s, share=share)
        except BenchfarmError as error:
            queued = asked_jobs.Queued({}, refused=len(found), why=error.detail)
        job_ids |= {(found[at].number, place): job_id for at, job_id in queued.job_ids.items()}
        done.append(queued)
    return Misses(job_ids, _told(done, lists + sum(len(found) for _, found in wanting)))


def _of_platform(asked: Asked, request: LatencyRequest, place: int, answers: Answers) -> tuple[list[_Miss], int]:
    """The misses on one platform, and how many kernel lists there are among what would be."""
    first: dict[int, int] = {}
    for item_no, number in enumerate(asked.numbers):
        first.setdefault(number, item_no)
    first.pop(REFUSED, None)
    found, lists = [], 0
    assert request.tolerance is not None  # the request is refused without it
    for number in asked.platforms[place].gaps:
        if number not in first:
            continue
        said = answers(first[number], number, place)
        if said.error in CANNOT_BE or is_within(request.tolerance, vars(said)):
            continue
        item, workload = request.items[first[number]], asked.workloads[number]
        if isinstance(item, KernelListRequest) or isinstance(workload, KernelListRequest):
            lists += 1
        else:
            found.append(_Miss(_need(said), number, asked_jobs.Wanted(item, workload_id(workload))))
    return sorted(found, key=lambda miss: -miss.need), lists


def _need(said: LatencyAnswer) -> float:
    if said.median_ms is None or said.low_ms is None or said.high_ms is None:
        return inf
    return half_width(said.median_ms, said.low_ms, said.high_ms)


def _told(done: list[asked_jobs.Queued], wanted: int) -> Measuring:
    budgets = [one for one in done if one.until is not None]
    whys = dict.fromkeys(one.why for one in done if one.why is not None)
    return Measuring(
        wanted=wanted,
        queued=sum(one.queued for one in done),
        waiting=sum(one.waiting for one in done),
        measured=sum(one.measured for one in done),
        left_out=sum(one.left_out for one in done),
        refused=sum(one.refused for one in done),
        device_s=sum(one.device_s for one in done),
        budget_left_s=budgets[-1].left_s if budgets else None,
        budget_until=budgets[-1].until if budgets else None,
        jobs=sorted({job_id for one in done for job_id in one.job_ids.values()}),
        detail="; ".join(whys) or None,
    )
