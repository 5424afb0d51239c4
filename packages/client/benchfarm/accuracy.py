"""How near a platform's active predictor comes to architectures that it has not seen, measured on the farm for that.

Architectures are drawn by a seed, and the predictor is asked before any of them is measured. Then each is measured
twice, by two jobs one after the other: the second measurement says how near a measurement itself comes, the noise
floor, which no predictor can beat. Predictors promise `normalised_ms`, so that is what they are held against.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Self

from benchfarm.client import Client
from benchfarm_core.architectures import genes_text
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import ItemView, JobRequest, JobView
from benchfarm_core.latency import LatencyAnswer
from benchfarm_core.measurements import Purpose
from benchfarm_core.predictors import PredictorView
from benchfarm_core.protocols import purpose_of
from benchfarm_core.shares import Share, inclusive
from benchfarm_core.spaces import MAX_DRAWN, DrawnArchitecture
from benchfarm_core.summaries import Grade, Summary, is_reusable
from benchfarm_core.values import Value
from benchfarm_core.views import ResultView

Wait = Callable[[str], JobView]
"""Waits for a job, given by its id."""

LEAST: Final = 5
"""Of fewer architectures no figures are told."""
NOW_S: Final = 1
"""The least age that a question takes: so that a predictor answers, whatever was measured before."""


class LeftOut(StrEnum):
    """Why an architecture judges nothing.

    `taught`: the predictor, or a donor of it, may have learnt from it; `judged`: a hold-out, by which it was chosen;
    `unpredicted`: no predictor answers; `failed`: not measured twice; `rough`: graded D, or without a normalised time.
    """

    TAUGHT = "taught"
    JUDGED = "judged"
    UNPREDICTED = "unpredicted"
    FAILED = "failed"
    ROUGH = "rough"


class LeftOutArchitecture(Value):
    """One that judges nothing. `number`: its place in the draw, from 1."""

    number: int
    workload_id: str
    genes: str
    why: LeftOut
    detail: str


class ComparedArchitecture(Value):
    """What was predicted of one and what was measured, in ms of `normalised_ms`; `median_ms` is the first one's raw
    median. `number`: its place in the draw, from 1. `coverage`: what its interval promises, 0 for nothing."""

    number: int
    workload_id: str
    genes: str
    predicted_ms: float
    low_ms: float
    high_ms: float
    coverage: float
    measured_ms: float
    again_ms: float
    median_ms: float
    grade: Grade
    again_grade: Grade


class Nearness(Value):
    """How near some latencies come to the first measurements; `mape`: the mean absolute relative error, of 1."""

    within_5: Share
    within_10: Share
    mape: float

    @classmethod
    def of(cls, said_ms: Iterable[float], measured_ms: Sequence[float]) -> Self:
        """Of float[n] against float[n], both above 0; at least one of each."""
        errors = [abs(said / measured - 1) for said, measured in zip(said_ms, measured_ms, strict=True)]
        within = (Share.of(sum(error <= inclusive(bound) for error in errors), len(errors)) for bound in (0.05, 0.10))
        return cls(within_5=next(within), within_10=next(within), mape=sum(errors) / len(errors))


class Figures(Value):
    """What the compared architectures say together.

    `predictor` and `floor`: predictions, and second measurements, against first ones; `of_medians`: predictions against
    raw medians. `inside`: how many first measurements lie in their prediction's interval, of those intervals that
    promise anything: at least the share `promised`. None where none does.
    """

    predictor: Nearness
    floor: Nearness
    of_medians: Nearness
    inside: Share | None
    promised: float | None


class Accuracy(Value):
    """How near a predictor came. `figures` is None where fewer than `LEAST` architectures could be compared.

    `board_s`: of boards' time that both jobs were charged with.
    """

    platform: str
    space: str
    seed: str
    drawn: int
    predictor_id: str | None
    predictor_version: int | None
    figures: Figures | None
    board_s: float
    architectures: tuple[ComparedArchitecture, ...]
    left_out: tuple[LeftOutArchitecture, ...]

    def count(self, *why: LeftOut) -> int:
        """How many were left out for one of these reasons."""
        return sum(one.why in why for one in self.left_out)

    @property
    def comparable(self) -> int:
        """How many would be compared if all of them could be measured well enough."""
        return self.drawn - self.count(LeftOut.TAUGHT, LeftOut.JUDGED)


class _Asked(NamedTuple):
    """One architecture with what the predictor said of it before it was measured."""

    number: int
    drawn: DrawnArchitecture
    answer: LatencyAnswer

    def left_out(self, why: LeftOut, detail: str) -> LeftOutArchitecture:
        return LeftOutArchitecture(
            number=self.number,
            workload_id=self.drawn.workload_id,
            genes=genes_text(self.drawn.workload.genes),
            why=why,
            detail=detail,
        )


def measure_accuracy(
    client: Client,
    platform: str,
    space: str,
    *,
    archs: int = 50,
    seed: str = "0",
    wait: Wait | None = None,
    expires_in_s: int | None = None,
) -> Accuracy:
    """Ask, measure twice, compare. What it measures may teach later versions of the predictor.

    Args:
        client: of any role that may submit jobs.
        platform: id, key or alias.
        space: a search space.
        archs: how many architectures are drawn; those that cannot judge are not replaced.
        seed: the same one draws the same.
        wait: how to wait for a job.
        expires_in_s: each of the two jobs ends after this, with what was measured until then.

    Raises:
        NotFound, InvalidRequest: no such space or platform, or a number of architectures out of range.
    """
    if not LEAST <= archs <= MAX_DRAWN:
        raise InvalidRequest(f"archs is {archs}; it must be from {LEAST} to {MAX_DRAWN}", field="archs")
    asked = _ask(client, platform, client.spaces.drawn(space, seed=seed, count=archs))
    said = [one for one in asked if one.answer.source == "predicted"]
    seen = _seen_before(client, said)
    fresh = [one for one in said if one.number not in seen]
    jobs = _Jobs(client, asked[0].answer.platform, f"accuracy: {space}, seed {seed}", wait or client.wait, expires_in_s)
    compared, lost = _compared(jobs, fresh) if len(fresh) >= LEAST else ([], [])
    left_out = [*_unpredicted(asked), *seen.values(), *lost]
    return Accuracy(
        platform=jobs.platform,
        space=space,
        seed=seed,
        drawn=archs,
        predictor_id=said[0].answer.predictor_id if said else None,
        predictor_version=said[0].answer.predictor_version if said else None,
        figures=_figures(compared) if len(compared) >= LEAST else None,
        board_s=jobs.board_s,
        architectures=tuple(compared),
        left_out=tuple(sorted(left_out, key=lambda one: one.number)),
    )


def _ask(client: Client, platform: str, drawn: Sequence[DrawnArchitecture]) -> list[_Asked]:
    """What a predictor says of each; again a moment later where something was measured this very moment."""
    wanted = [one.request for one in drawn]
    answers = client.latency(wanted, [platform], max_age_s=NOW_S, min_grade=Grade.A)
    if any(answer.source == "measured" for answer in answers):
        time.sleep(2 * NOW_S)
        answers = client.latency(wanted, [platform], max_age_s=NOW_S, min_grade=Grade.A)
    return [_Asked(number, *each) for number, each in enumerate(zip(drawn, answers, strict=True), start=1)]


def _unpredicted(asked: Sequence[_Asked]) -> Iterator[LeftOutArchitecture]:
    for one in asked:
        if one.answer.source != "predicted":
            detail = one.answer.detail or one.answer.error or "somebody measures it just now"
            yield one.left_out(LeftOut.UNPREDICTED, detail)


def _seen_before(client: Client, said: Sequence[_Asked]) -> dict[int, LeftOutArchitecture]:
    """By number, those with a result that was there when the predictor was made and could teach or judge it."""
    if not said:
        return {}
    predictor = client.predictors.get(said[0].answer.predictor_id or "")
    found = {}
    for one in said:
        results = [each for each in client.stored_results(workload_id=one.drawn.workload_id) if _told(each, predictor)]
        if results:
            has_judged = any(each.purpose == Purpose.HOLDOUT for each in results)
            where = f"measured on {results[-1].platform} at {results[-1].measured_at:%Y-%m-%d %H:%M:%SZ}"
            found[one.number] = one.left_out(LeftOut.JUDGED if has_judged else LeftOut.TAUGHT, where)
    return found


def _told(result: ResultView, predictor: PredictorView) -> bool:
    """Whether a result may have told a predictor anything: of its platform or a donor's, from before it was made."""
    platforms = {predictor.platform, *predictor.lineage.donors, *predictor.evidence.donors}
    is_before = result.platform in platforms and result.measured_at < predictor.created_at
    return is_before and purpose_of(result.protocol) == "latency" and _is_usable(result)


def _is_usable(result: ResultView | ItemView) -> bool:
    """Whether predictors could learn from it."""
    summary = result.summary
    return summary is not None and summary.normalised_ms is not None and is_reusable(summary.grade)


class _Jobs:
    """Measures architectures anew, as any client would; counts what boards were used for it."""

    def __init__(self, client: Client, platform: str, name: str, wait: Wait, expires_in_s: int | None) -> None:
        self.platform = platform
        self.board_s = 0.0
        self._client = client
        self._name = name[:200]
        self._wait = wait
        self._expires_in_s = expires_in_s

    def measure(self, wanted: Sequence[_Asked]) -> Mapping[int, ItemView]:
        """One job over all of them; its items by the architecture's number."""
        request = JobRequest(
            name=self._name,
            workloads=tuple(one.drawn.request for one in wanted),
            platforms=(self.platform,),
            max_age_s=0,
            expires_in_s=self._expires_in_s,
        )
        job = self._wait(self._client.submit(request).id)
        self.board_s += job.device_s_spent
        return {wanted[item.item_no].number: item for item in self._client.items(job.id)}


def _compared(jobs: _Jobs, fresh: Sequence[_Asked]) -> tuple[list[ComparedArchitecture], list[LeftOutArchitecture]]:
    """Measure them twice; those with two usable results, and the others."""
    first, second = jobs.measure(fresh), jobs.measure(fresh)
    compared: list[ComparedArchitecture] = []
    lost: list[LeftOutArchitecture] = []
    for one in fresh:
        items = [items.get(one.number) for items in (first, second)]
        why = next(_why_not(items), None)
        if why is None:
            compared.append(_pair(one, [item.summary for item in items if item is not None and item.summary]))
        else:
            lost.append(one.left_out(*why))
    return compared, lost


def _why_not(items: Sequence[ItemView | None]) -> Iterator[tuple[LeftOut, str]]:
    """Why two measurements are no pair; failures first."""
    for item in items:
        if item is None:
            yield LeftOut.FAILED, "the job ended before it was planned"
        elif item.summary is None:
            yield LeftOut.FAILED, ": ".join(filter(None, (item.failure, item.reason))) or str(item.state)
    for item in items:
        if item is not None and item.summary is not None and not _is_usable(item):
            is_graded = is_reusable(item.summary.grade)
            yield LeftOut.ROUGH, "no normalised time" if is_graded else f"grade {item.summary.grade}"


def _pair(one: _Asked, summaries: Sequence[Summary]) -> ComparedArchitecture:
    """Of an answer and two usable measurements, whose times are there."""
    first, second = summaries
    return ComparedArchitecture(
        number=one.number,
        workload_id=one.drawn.workload_id,
        genes=genes_text(one.drawn.workload.genes),
        predicted_ms=one.answer.normalised_ms or 0.0,
        low_ms=one.answer.low_ms or 0.0,
        high_ms=one.answer.high_ms or 0.0,
        coverage=one.answer.coverage or 0.0,
        measured_ms=first.normalised_ms or 0.0,
        again_ms=second.normalised_ms or 0.0,
        median_ms=first.median_ms,
        grade=first.grade,
        again_grade=second.grade,
    )


def _figures(compared: Sequence[ComparedArchitecture]) -> Figures:
    measured = [one.measured_ms for one in compared]
    predicted = [one.predicted_ms for one in compared]
    promising = [one for one in compared if one.coverage > 0]
    held = sum(one.low_ms <= one.measured_ms <= one.high_ms for one in promising)
    return Figures(
        predictor=Nearness.of(predicted, measured),
        floor=Nearness.of((one.again_ms for one in compared), measured),
        of_medians=Nearness.of(predicted, [one.median_ms for one in compared]),
        inside=Share.of(held, len(promising)) if promising else None,
        promised=min((one.coverage for one in promising), default=None),
    )
