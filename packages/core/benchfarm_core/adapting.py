"""Adaptations: how predictors are made for a platform from donors and few measurements.

    queued -> probing -> training <-> measuring
                         training -> judging -> succeeded | failed | cancelled

Architectures that will judge are declared first. The probe set is measured, then rounds of what tells most; after each
of them cross-validation says how good the predictor would be, and by that, the budget and the gain so far it is decided
whether another round follows. Board time is the sum of the leases' durations; hold-outs are counted apart. What waits
is sized by what leases really took, and what would not fit any more is given up while a round is measured.

Where architectures are given, the winners of a search, they are measured instead of probes and draws, in a round of the
whole budget: some of them judge, the others teach.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.platforms import Platform
from benchfarm_core.predictors import WHOLE_MODEL, HoldoutScore, Subject
from benchfarm_core.profilers import InSituBy
from benchfarm_core.publishing import UNFIT
from benchfarm_core.values import Answer, Value
from benchfarm_core.workloads import ArchitectureRequest

BUDGET_S: Final = 180.0
BUDGET_MIN_S: Final = 2.0
BUDGET_MAX_S: Final = 7200.0
MAX_SPACES: Final = 10
MAX_HOLDOUTS: Final = 200
"""Architectures of one space that judge."""
MAX_HOLDOUTS_IN_ALL: Final = 500
"""Of all spaces together: they are measured beside the budget."""
MAX_GIVEN: Final = 100
"""Architectures that are given."""
ROUND_SHARES: Final = (0.1, 0.15, 0.2, 0.25, 0.3)
"""Of the budget, one round after the other: the first are short, because some targets are reached at once."""
PROBE_SHARE: Final = 0.4
"""Of the budget, at most, for the probe set."""
FIRST_SHARE: Final = 0.25
"""Of the probes' seconds, where nobody knows what a lease of the platform takes: the first ones tell."""
PACE_UNKNOWN: Final = 1.5
"""Board seconds of an expected second where no lease was ever seen."""
PACE_MIN: Final = 0.25
PACE_MAX: Final = 40.0
"""Lease times of a busy host are far above what is expected of short leases."""
PAST_MIN: Final = 3
"""Leases without which a kind of them says nothing of the pace."""
LEAST_ROUND_S: Final = 0.5
"""With less than this left another round is not worth its canaries."""
MAX_ROUNDS: Final = 12
FRUITLESS_ROUNDS: Final = 2
GAIN_MIN: Final = 0.05
"""A round whose error is not less than the best before by this share of it brought no gain."""
ROWS_TELL_MAX: Final = 60
"""Rows that suffice to call a target reached, however high it is."""
NOTHING_PUBLISHED: Final = "nothing was published"
REACHED: Final = "reached by cross-validation"
REASON_CHARS: Final = 300
"""Of why an adaptation was broken off, where more is to be said."""
NAMED: Final = 4
"""Subjects that are named then."""
LAPSE_S: Final = 6 * 3600.0
"""While the farm runs and no board measures anything of a round for so long, an adaptation ends; hold-outs that no
board measures for so long are given up."""


class AdaptationState(StrEnum):
    """Where an adaptation stands; `measuring` and `training` take turns."""

    QUEUED = "queued"
    PROBING = "probing"
    MEASURING = "measuring"
    TRAINING = "training"
    JUDGING = "judging"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


_S = AdaptationState
_ENDS: Final = frozenset({_S.FAILED, _S.CANCELLED})
ADAPTATION_TRANSITIONS: Final[dict[AdaptationState, frozenset[AdaptationState]]] = {
    _S.QUEUED: frozenset({_S.PROBING}) | _ENDS,
    _S.PROBING: frozenset({_S.TRAINING}) | _ENDS,
    _S.MEASURING: frozenset({_S.TRAINING}) | _ENDS,
    _S.TRAINING: frozenset({_S.MEASURING, _S.JUDGING}) | _ENDS,
    _S.JUDGING: frozenset({_S.SUCCEEDED}) | _ENDS,
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}
WAITS_FOR_BOARDS: Final = (_S.PROBING, _S.MEASURING, _S.JUDGING)
"""States that are left only when the measurements of theirs have ended."""


class Target(Value):
    """How good is good enough: a share of predictions within so many percent of the measured latency."""

    share: float = Field(default=0.95, gt=0, le=1)
    percent: Literal[5, 10] = 10

    @property
    def text(self) -> str:
        """``0.95@10%``."""
        return f"{self.share:g}@{self.percent}%"

    def reached(self, score: HoldoutScore) -> float:
        """The share that a score has."""
        return score.within_5 if self.percent == 5 else score.within_10


_TARGET: Final = re.compile(r"(0?\.\d{1,4}|1(?:\.0{1,4})?)@(5|10)%?", re.ASCII)


def parse_target(text: str) -> Target:
    """From ``0.95@10%``. Raises InvalidRequest that names the form."""
    found = _TARGET.fullmatch(text.strip())
    if found is None or float(found[1]) <= 0:
        detail = f"{text[:40]!r} is no target; write SHARE@5% or SHARE@10%, as 0.95@10%"
        raise InvalidRequest(detail, field="target")
    return Target(share=float(found[1]), percent=10 if found[2] == "10" else 5)


class DonorChoice(StrEnum):
    """From which platforms an adaptation may start.

    `other_families`: from none that shares board model and engine with the target; `none`: from its own rows alone.
    """

    ANY = "any"
    OTHER_FAMILIES = "other_families"
    NONE = "none"


class AdaptationRequest(Value):
    """The body of POST /v1/platforms/{platform}/adaptations.

    `spaces`: search spaces whose architectures may be measured. Without any, kernels alone and in situ are, as all have
    them, and hold-outs are of all. `unseen_spaces`: judged too, and no architecture of them teaches, a donor's neither.
    `holdouts`: architectures of each space that judge, beside the budget, at most 500 in all. `seed`: all draws follow.

    `architectures`: measured instead of what would be drawn, each of one of `spaces`, the best first. Of these every
    second one judges, at most `holdouts` of them in all, beside what was declared on the platform before; the others
    teach the predictor of whole models, and no other is made. A new one has to be better on all that judge together,
    and no worse on those that were not given. With them no space is unseen.
    """

    budget_s: float = Field(default=BUDGET_S, ge=BUDGET_MIN_S, le=BUDGET_MAX_S, description="of boards' time")
    target: Target = Target()
    spaces: tuple[Annotated[str, Field(max_length=40)], ...] = Field(default=(), max_length=MAX_SPACES)
    unseen_spaces: tuple[Annotated[str, Field(max_length=40)], ...] = Field(default=(), max_length=MAX_SPACES)
    holdouts: int = Field(default=20, ge=5, le=MAX_HOLDOUTS)
    donors: DonorChoice = DonorChoice.ANY
    seed: str = Field(default="0", max_length=40, pattern=r"^[\x21-\x7e]*$")
    architectures: tuple[ArchitectureRequest, ...] = Field(default=(), max_length=MAX_GIVEN)

    @property
    def judged_by(self) -> int:
        """Architectures that are declared for it to judge, of all spaces together."""
        if self.architectures:
            return len(self.architectures[self.judging])
        return self.holdouts * max(1, len(self.spaces + self.unseen_spaces))

    @property
    def judging(self) -> slice:
        """Which of the given architectures judge: as far apart as may be, so that they are of all that is taught."""
        return slice(1, None, max(2, -(-len(self.architectures) // self.holdouts)))

    @field_validator("holdouts")
    @classmethod
    def _bounded(cls, holdouts: int, info: ValidationInfo) -> int:
        spaces = info.data.get("spaces", ()) + info.data.get("unseen_spaces", ())
        if holdouts * max(1, len(spaces)) > MAX_HOLDOUTS_IN_ALL:
            raise ValueError(f"{holdouts} of each space are more than {MAX_HOLDOUTS_IN_ALL} in all")
        return holdouts


class CurvePoint(Answer):
    """What was known after a round: what it had cost, and how good the predictor would be.

    `board_s`: of boards' time without hold-outs. `rows`: what could be learnt from, by kind. `unseen`: by
    cross-validation, of whole models; None where there were too few. `chosen`: the candidates that it was made of.
    `train_s`: of the worker's processor.
    """

    round: int
    at: datetime
    board_s: float
    rows: dict[str, int]
    unseen: HoldoutScore | None
    chosen: list[str]
    train_s: float


class AdaptedPredictor(Answer):
    """What became of one subject. `before`: what the active one, if any, scored on the same rows.

    `is_active`: whether it answers now; `detail` says why not. `holdout` is None where nothing was declared for it.
    """

    subject: Subject
    predictor_id: str | None
    version: int | None
    is_active: bool
    detail: str
    holdout: HoldoutScore | None
    unseen: HoldoutScore | None
    before: HoldoutScore | None


class AdaptationMeasured(Answer):
    """Counts of an adaptation's measurements.

    `known` were there before and cost nothing; `rough` are done and too rough to learn from: graded D, or without a
    normalised time. `given_up` would not have fitted into the budget, or no board took them; they are none of the
    others.
    """

    wanted: int
    done: int
    failed: int
    known: int
    rough: int = 0
    given_up: int = 0
    holdouts: int
    holdouts_done: int


class AdaptationView(Answer):
    """An adaptation as it stands. `expected`: of the predictor that could be made now, by cross-validation.

    `author`: the account that asked. `board_s`: what its measurements took of boards, without hold-outs and without
    what was known before, which took `known_board_s` when it was measured. `train_s`: of the worker's processor.
    """

    id: str
    platform_id: str
    platform: str
    state: AdaptationState
    reason: str
    request: AdaptationRequest
    author: str
    round: int
    board_s: float
    holdout_board_s: float
    known_board_s: float = 0.0
    train_s: float = 0.0
    measured: AdaptationMeasured
    expected: HoldoutScore | None
    donors: list[str]
    curve: list[CurvePoint]
    predictors: list[AdaptedPredictor]
    created_at: datetime
    changed_at: datetime
    finished_at: datetime | None


def as_told(view: AdaptationView, *, is_own: bool) -> AdaptationView:
    """An adaptation as others than its author and who sees all accounts are told it: which architectures somebody gave
    is nobody else's business, for they are what a search of theirs found."""
    if is_own or not view.request.architectures:
        return view
    return view.model_copy(update={"request": view.request.model_copy(update={"architectures": ()})})


class AdaptationsWanted(Value):
    """Which adaptations are listed: every given field must match. `platform` is an id, key or alias."""

    platform: str | None = Field(default=None, max_length=300)
    state: AdaptationState | None = None


class Standing(NamedTuple):
    """What decides whether another round follows."""

    target: Target
    budget_s: float
    spent_s: float
    round: int
    scores: Sequence[HoldoutScore | None]
    """Of the rounds so far, the latest last."""
    of_spaces: Sequence[HoldoutScore | None]
    """The latest, apart for each search space that it is for."""
    is_more: bool
    """Whether there is anything left to ask."""
    is_hopeless: bool = False
    """Whether a whole round was measured and nothing ever succeeded."""
    is_given: bool = False
    """Whether somebody said what is to be measured."""


class Stop(NamedTuple):
    """Why no further round follows."""

    reached: bool
    reason: str


def why_stop(now: Standing) -> Stop | None:
    """Whether to stop, and why: target, budget, no further gain, nothing left. None: another round follows.

    What was given is measured once however good the predictor is already: it is where somebody found it to be wrong.
    """
    if now.is_given and now.round == 0 and now.is_more:
        return None
    latest = now.scores[-1] if now.scores else None
    expected = "" if latest is None else f": {now.target.reached(latest):.0%} expected".replace("%", " %")
    if is_reached(now.target, now.of_spaces):
        return Stop(True, f"the target {now.target.text} is {REACHED}")
    if now.is_hopeless:
        return Stop(False, "not one measurement succeeded")
    missed = f"{expected}, {now.target.text} was asked for" + " in each search space" * (len(now.of_spaces) > 1)
    if now.budget_s - now.spent_s < LEAST_ROUND_S:
        return Stop(False, "the budget is spent" + missed)
    if not now.is_more:
        return Stop(False, "there is nothing left to measure within the budget" + missed)
    if now.round >= MAX_ROUNDS:
        return Stop(False, f"after {now.round} rounds" + missed)
    if is_fruitless(now.scores):
        return Stop(False, f"the last {FRUITLESS_ROUNDS} rounds brought no gain" + missed)
    return None


def is_reached(target: Target, scores: Sequence[HoldoutScore | None]) -> bool:
    """Whether scores, one of each search space, all say that a target is reached, by rows that could tell one miss."""
    needed = min(ROWS_TELL_MAX, 1 / max(1 - target.share, 1e-9)) - 1e-6
    told = [one for one in scores if one is not None and one.count >= needed and target.reached(one) >= target.share]
    return len(told) == len(scores) > 0


def is_fruitless(scores: Sequence[HoldoutScore | None]) -> bool:
    """Whether the last rounds all brought less than `GAIN_MIN` beside the best one before them."""
    errors = [score.mape for score in scores if score is not None]
    if len(errors) <= FRUITLESS_ROUNDS:
        return False
    return min(errors[-FRUITLESS_ROUNDS:]) > (1 - GAIN_MIN) * min(errors[:-FRUITLESS_ROUNDS])


def round_s(budget_s: float, spent_s: float, number: int, *, is_given: bool = False) -> float:
    """Board seconds that round `number`, from 1, may take; all that are left where somebody said what is measured."""
    share = 1.0 if is_given else ROUND_SHARES[min(number, len(ROUND_SHARES)) - 1]
    return max(0.0, min(share * budget_s, budget_s - spent_s))


def limit_s(budget_s: float, number: int, before_s: float, *, is_given: bool = False) -> float:
    """Board seconds that are spent when round `number` ends; 0: the probes. `before_s`: when it began. `is_given`: see
    `round_s`."""
    if number == 0:
        return PROBE_SHARE * budget_s
    return before_s + round_s(budget_s, before_s, number, is_given=is_given)


class PastLease(NamedTuple):
    """A lease of before: how near its platform is (0: the same one), how long it was, and what was expected of it."""

    nearness: int
    took_s: float
    expected_s: float


def pace_before(past: Sequence[PastLease]) -> float:
    """Board seconds that one expected second will take, by the nearest leases of before that are enough to tell."""
    for far in sorted({one.nearness for one in past}):
        near = [one for one in past if one.nearness <= far]
        if len(near) >= PAST_MIN:
            return pace(sum(one.took_s for one in near), sum(one.expected_s for one in near), PACE_UNKNOWN)
    return PACE_UNKNOWN


def pace(took_s: float, expected_s: float, before: float) -> float:
    """Board seconds that one expected second took so far, canaries and conversion included; `before` while nothing is
    known. Bounded: a first lease that waited for its files says little about the others."""
    return min(max(took_s / expected_s, PACE_MIN), PACE_MAX) if expected_s > 0 and took_s > 0 else before


class Running(NamedTuple):
    """How a round that is measured stands: seconds of boards, and what a waiting second will take of them."""

    limit_s: float
    spent_s: float
    due_s: float
    """What the leases that go on now will take yet."""
    pace: float
    has_begun: bool
    """Whether any lease of the round began."""


def beyond_limit(waiting: Sequence[tuple[int, float]], now: Running) -> list[int]:
    """Which of some measurements, in the order in which they wait with their expected seconds, are given up: those
    that do not fit any more. The first of a round stays in any case: what fits into no round would never be measured.
    """
    used_s = now.spent_s + now.due_s
    given_up: list[int] = []
    for place, (id_, expected_s) in enumerate(waiting):
        used_s += now.pace * expected_s
        if (place or now.has_begun) and used_s > 1.01 * now.limit_s:  # the store keeps expected seconds in few digits
            given_up.append(id_)
    return given_up


class Mix(NamedTuple):
    """Shares of a round's seconds: architectures of the spaces, kernels in situ, kernels alone."""

    architectures: float
    in_situ: float
    alone: float


def mix_of(*, round_no: int, has_spaces: bool, in_situ_by: InSituBy | None, whole_models: int) -> Mix:
    """What a round measures.

    Inside a space that may be drawn from, whole models teach most for their time from some forty on; before that
    kernels in situ help where a profiler tells many of them at once. By difference one costs as much as some networks.
    Without a space, kernels are all that there is.

    in_situ_by: how the platform's engine times in situ.
    """
    if not has_spaces:
        return Mix(0.0, 0.6, 0.4) if in_situ_by else Mix(0.0, 0.0, 1.0)
    if in_situ_by == "profiler" and round_no == 1 and whole_models < 40:
        return Mix(0.75, 0.25, 0.0)
    return Mix(1.0, 0.0, 0.0)


def may_be_donor(donor: Platform, own: Platform, choice: DonorChoice) -> bool:
    """Whether an adaptation of `own` may start from `donor`; that it may lend at all is another question."""
    if choice == DonorChoice.NONE or donor.key == own.key:
        return False
    is_kin = donor.board_model == own.board_model and donor.engine.name == own.engine.name
    return choice == DonorChoice.ANY or not is_kin


def outcome(view: AdaptationView) -> tuple[AdaptationState, str]:
    """How an adaptation that has been judged ends, whatever its target: it succeeded where something of it answers, or
    where what answered before is no worse and stays; else it failed. The reason says what was refused, and why."""
    made = [one for one in view.predictors if one.predictor_id is not None]
    if not made:
        seen = view.measured
        rough = f", {seen.rough} of them too rough," if seen.rough else ""
        why = next((f": {one.detail}" for one in view.predictors if one.subject == WHOLE_MODEL and one.detail), "")
        return _S.FAILED, f"{seen.done} measurements succeeded{rough} and {seen.failed} failed{why}"
    parts = [view.reason] if view.reason else []
    for one in made:
        if one.subject == WHOLE_MODEL and one.holdout is not None:
            share = view.request.target.reached(one.holdout)
            missed = "not by the hold-outs: " if share < view.request.target.share and REACHED in view.reason else ""
            told = f"{missed}{share:.0%} of {one.holdout.count} hold-outs are within {view.request.target.percent}%"
            parts.append(told.replace("%", " %"))
    unfit = [f"{one.subject} is {one.detail}" for one in made if one.detail.startswith(UNFIT)]
    kept = [one for one in made if not one.is_active and not one.detail.startswith(UNFIT)]
    stays = [f"what answered before stays for {', '.join(one.subject for one in kept)}"] if kept else []
    if published_by(view.predictors):
        return _S.SUCCEEDED, "; ".join([*parts, *unfit, *stays])
    refused = [NOTHING_PUBLISHED, *unfit, *stays, *(f"{one.subject}: {one.detail}" for one in kept[:1])]
    return _S.SUCCEEDED if kept else _S.FAILED, "; ".join([*refused, *parts])


def published_by(predictors: Sequence[AdaptedPredictor]) -> list[Subject]:
    """Subjects for which a predictor of an adaptation was published, in the order in which they were made."""
    return [one.subject for one in predictors if one.is_active]


def broken_off(reason: str, predictors: Sequence[AdaptedPredictor]) -> str:
    """The reason of an adaptation that ends before it is through, with what of it was published by then: that stays."""
    if not (published := published_by(predictors)):
        return reason
    more = f" and {len(published) - NAMED} more" if len(published) > NAMED else ""
    return f"{reason[:REASON_CHARS]}; published before that: {', '.join(published[:NAMED])}{more}"
