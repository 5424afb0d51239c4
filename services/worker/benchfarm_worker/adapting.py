"""One step of an adaptation: look at its state in Postgres, do the one next thing, leave.

Whatever takes seconds is computed between transactions, and the claim is kept meanwhile (`claims.py`). The last of them
holds the adaptation's row and writes only if it still stands as the step found it, so a step may be taken twice, or by
two processes at once. What fails for the adaptation's own reasons ends it; anything else is tried again when the claim
has run out.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any, Final, NamedTuple

from benchfarm_core.adapting import (
    FIRST_SHARE,
    LAPSE_S,
    WAITS_FOR_BOARDS,
    AdaptationMeasured,
    AdaptationState,
    CurvePoint,
    Standing,
    limit_s,
    mix_of,
    outcome,
    round_s,
    why_stop,
)
from benchfarm_core.boards import refuse_single_use
from benchfarm_core.errors import BenchfarmError, Unavailable
from benchfarm_core.measurements import Purpose
from benchfarm_core.predictors import WHOLE_MODEL, HoldoutScore
from benchfarm_core.profilers import in_situ_by
from benchfarm_core.publishing import ROWS_MIN
from benchfarm_core.workloads import workload_id
from benchfarm_predictor.training.platform_fit import PlatformFit
from benchfarm_store import adaptation_budgets, adaptation_items, adaptations, fusions, host_leases, training_rows
from benchfarm_store.adaptation_donors import find_donors
from benchfarm_store.adaptation_items import Ask, AskedWorkload, Costed, Whose
from benchfarm_store.adaptations import Adaptation
from benchfarm_store.database import Database, Transaction
from benchfarm_worker import asking, claims, pool, publishing
from benchfarm_worker.fitting import Known, kernel_types, most_informative, whole_model
from benchfarm_worker.lending import lent
from benchfarm_workloads.fusing import FusionRules

MAX_DONORS: Final = 4
"""Platforms that one adaptation may start from: each costs seconds, and the nearest teach most."""

logger = logging.getLogger(__name__)


class Context(NamedTuple):
    """What a step works with."""

    database: Database
    adaptation: Adaptation
    boot_id: str
    wait_s: float
    began_s: float
    """Of this process' processor."""

    @property
    def worked_s(self) -> float:
        """Seconds of the processor that the step took so far."""
        return time.process_time() - self.began_s

    @property
    def whose(self) -> Whose:
        """For the store's functions on measurements."""
        one = self.adaptation
        return Whose(one.id, one.account_id, one.platform_id, one.platform)


def step(database: Database, adaptation_id: str, boot_id: str, wait_s: float) -> None:
    """Take the next step, if there is one to take.

    Args:
        boot_id: this host's run of its kernel; training waits while one of its boards has a lease.
        wait_s: how long training waits for that.

    Raises:
        NotFound: there is no such adaptation.
        Unavailable: Postgres is away; the step is taken again.
    """
    began_s = time.process_time()
    with database.transaction() as tx:
        found = adaptations.claim(tx, adaptation_id)
    if found is None:
        return
    context = Context(database, found, boot_id, wait_s, began_s)
    if found.waited_s > LAPSE_S and not _is_judged_all_the_same(context):
        _fail(context, f"no board measured anything of it for {LAPSE_S / 3600:g} h while it was {found.state}")
        return
    if found.attempts > adaptations.MAX_ATTEMPTS:
        _fail(
            context, f"{found.attempts - 1} tries came to no end while it was {found.state}; the worker's log says why"
        )
        return
    try:
        refuse_single_use(found.platform.key)  # one that was begun before results there were of single use
        with suppress(_Passed):
            _STEPS[found.state](context)
    except Unavailable:
        raise
    except BenchfarmError as error:
        logger.warning("an adaptation failed", extra={"adaptation": found.id, "error": error.detail})
        _fail(context, error.detail)


def _fail(context: Context, reason: str) -> None:
    with context.database.transaction() as tx:
        if adaptations.hold(tx, context.adaptation):
            adaptations.move(tx, context.adaptation, AdaptationState.FAILED, reason)


def _is_judged_all_the_same(context: Context) -> bool:
    """Whether only hold-outs are missing: they are given up, and what was learnt is judged by what there is."""
    one = context.adaptation
    if one.state != AdaptationState.JUDGING:
        return False
    with context.database.transaction() as tx:
        if adaptations.hold(tx, one):
            adaptation_budgets.give_up_holdouts(tx, one.id)
    return True


def _begin(context: Context) -> None:
    """Declare what judges, then want the probes. Each part is a transaction of its own, so that no other planner waits
    for long; who dies between two declares the same again."""
    with claims.kept(context.database, context.adaptation):
        probes = _declare(context)
    with _held(context) as tx:
        _want_probes(tx, context, probes)
        adaptations.worked(tx, context.adaptation, context.worked_s)
        adaptations.move(tx, context.adaptation, AdaptationState.PROBING)


def _declare(context: Context) -> list[Costed]:
    """What judges is declared; the probes that are to be wanted then."""
    request, platform = context.adaptation.request, context.adaptation.platform
    drawn: list[tuple[Sequence[AskedWorkload], int]] = [
        *asking.holdout_architectures(request),
        *asking.holdout_kernels(request),
    ]
    judging = [(adaptation_items.costed(map(Ask, workloads), platform), count) for workloads, count in drawn]
    probes = adaptation_items.costed(asking.probes(platform, request), platform)
    with context.database.transaction() as tx:
        adaptation_items.prepare(tx, context.whose, [*chain.from_iterable(asks for asks, _ in judging), *probes])
    for asks, count in judging:
        with _held(context) as tx:
            adaptation_items.declare_holdouts(tx, context.whose, asks, count)
    return probes


class _Passed(Exception):
    """The adaptation does not stand any more as the step found it: nothing of the step is written."""


@contextmanager
def _held(context: Context) -> Iterator[Transaction]:
    """A transaction that holds the adaptation. Raises _Passed."""
    with context.database.transaction() as tx:
        if not adaptations.hold(tx, context.adaptation):
            raise _Passed
        yield tx


def _want_probes(tx: Transaction, context: Context, probes: Sequence[Costed]) -> bool:
    """Want what is left of the probe set and fits into its seconds; whether there is anything to wait for.

    Where nobody knows yet what a lease of the platform takes, a few of them first.
    """
    one = context.adaptation
    pace = adaptation_budgets.pace_of(tx, one.id, one.platform_id, one.platform)
    one_s = one.request.budget_s if one.state == AdaptationState.QUEUED else 0.0
    left_s = limit_s(one.request.budget_s, 0, 0.0) - adaptation_budgets.spent(tx, one.id).board_s
    seconds = left_s if pace.is_known else FIRST_SHARE * left_s
    found = adaptation_items.want(
        tx, context.whose, probes, purpose=Purpose.PROBE, round_no=0, limit_s=seconds, one_s=one_s
    )
    return found.new + found.joined > 0


def _look(context: Context) -> None:
    """Go on to training when the round's measurements have ended, and the probes that still fit."""
    one = context.adaptation
    with context.database.transaction() as tx:
        if _waits(tx, context):
            adaptations.release(tx, one)
            return
    is_probing = one.state == AdaptationState.PROBING
    probes = asking.probes(one.platform, one.request) if is_probing else []
    costed = adaptation_items.costed(probes, one.platform)
    with _held(context) as tx:
        if costed and _want_probes(tx, context, costed):
            adaptations.release(tx, one)
            return
        adaptations.move(tx, one, AdaptationState.TRAINING)


def _waits(tx: Transaction, context: Context) -> bool:
    """Whether boards have yet to answer."""
    one = context.adaptation
    is_judging = one.state == AdaptationState.JUDGING
    return one.state in WAITS_FOR_BOARDS and adaptation_items.open_items(tx, one.id, holdouts=is_judging) > 0


def _rests(context: Context) -> bool:
    """Whether a board of this very host measures now, and has not for too long since there is something to train; then
    the claim is given back."""
    one = context.adaptation
    with context.database.transaction() as tx:
        is_measuring = host_leases.is_measuring(tx, context.boot_id)
        if adaptations.rests(tx, one, context.wait_s, is_measuring=is_measuring):
            adaptations.release(tx, one)
            return True
    return False


class Seen(NamedTuple):
    """What a step that computes found in Postgres."""

    known: Known
    rules: FusionRules
    board_s: float
    curve: Sequence[CurvePoint]
    measured: AdaptationMeasured
    held: frozenset[str]
    """Workloads that judge it."""


def _see(context: Context) -> Seen:
    """What can be learnt from now."""
    one = context.adaptation
    with context.database.transaction() as tx:
        found = training_rows.find_rows(tx, one.platform_id)
        held = adaptation_items.holdout_workloads(tx, one.id)
        donors = find_donors(tx, one.platform_id, one.platform, one.request.donors, MAX_DONORS)
        rules = fusions.engine_rules(tx, one.platform)
        board_s, curve = adaptation_budgets.spent(tx, one.id).board_s, adaptations.curve(tx, one.id)
        measured = adaptation_items.measured(tx, one.id)
    own, others = training_rows.told(found), lent(context.database, donors)
    known = Known.of(own, held, others, one.request.unseen_spaces)
    return Seen(known, rules, board_s, curve, measured, frozenset(held))


class _Learnt(NamedTuple):
    """What a round came to: what was seen, the predictor of whole models that it makes, how good that is where it was
    asked for, whether that is enough, and what the next round may measure."""

    seen: Seen
    fit: PlatformFit | None
    unseen: HoldoutScore | None
    standing: Standing
    asks: list[tuple[list[Costed], float]]


def _train(context: Context) -> None:
    """Learn from what there is, say how good that is, and decide whether another round follows."""
    if _rests(context):
        return
    with claims.kept(context.database, context.adaptation):
        learnt = _learn(context)
    one, fit = context.adaptation, learnt.fit
    stop = why_stop(learnt.standing)
    with _held(context) as tx:
        point = CurvePoint(
            round=one.round,
            at=tx.now,
            board_s=learnt.seen.board_s,
            rows=learnt.seen.known.rows.counts,
            unseen=learnt.unseen,
            chosen=[] if fit is None else [name[:200] for name in fit.chosen],
            train_s=context.worked_s,
        )
        adaptations.worked(tx, one, point.train_s)
        adaptations.keep_round(tx, one, point, [donor.name for donor in learnt.seen.known.donors])
        if stop is None and _want(tx, context, learnt.asks, one.request.budget_s - learnt.seen.board_s):
            adaptations.move(tx, one, AdaptationState.MEASURING, round_no=one.round + 1)
            return
        stop = stop or why_stop(learnt.standing._replace(is_more=False))
        adaptation_items.raise_holdouts(tx, context.whose)
        adaptations.move(tx, one, AdaptationState.JUDGING, "" if stop is None else stop.reason)


def _learn(context: Context) -> _Learnt:
    one, asked = context.adaptation, context.adaptation.request
    if one.round == 0:  # its probes have come, and donors are chosen by how alike they are
        pool.step(context.database, one.platform.id, context.boot_id, 0.0)
    seen = _see(context)
    fit = whole_model(seen.known)
    unseen = expected(fit, asked.spaces)
    scores = [*(point.unseen for point in seen.curve), unseen]
    hopeless = one.round > 0 and seen.measured.done == 0
    # where none was named it is for all, and rows of one say nothing of the next
    apart = [expected(fit, [name]) for name in asking.judged_spaces(asked)]
    standing = Standing(
        asked.target,
        asked.budget_s,
        seen.board_s,
        one.round,
        scores,
        apart,
        is_more=True,
        is_hopeless=hopeless,
        is_given=bool(asked.architectures),
    )
    asks = _next_round(context, seen, fit) if why_stop(standing) is None else []
    if asks:
        with context.database.transaction() as tx:
            adaptation_items.prepare(tx, context.whose, [*chain.from_iterable(each for each, _ in asks)])
    return _Learnt(seen, fit, unseen, standing, asks)


def expected(fit: PlatformFit | None, spaces: Sequence[str]) -> HoldoutScore | None:
    """How good a predictor would be in the spaces that were asked for, in all without any: rows of others say nothing
    of them. None where too few tell."""
    found = None if fit is None else fit.unseen_in(spaces)
    return found if found is not None and found.count >= ROWS_MIN else None


def _next_round(context: Context, seen: Seen, fit: PlatformFit | None) -> list[tuple[list[Costed], float]]:
    """What the next round may measure, the most telling first, each kind with the seconds that it may take."""
    one = context.adaptation
    number = one.round + 1
    mix = mix_of(
        round_no=number,
        has_spaces=bool(one.request.spaces),
        in_situ_by=in_situ_by(one.platform.engine.name, one.platform.precision),
        whole_models=sum(space in one.request.spaces for space in seen.known.rows.models.spaces),
    )
    seconds = round_s(one.request.budget_s, seen.board_s, number, is_given=bool(one.request.architectures))
    offered = asking.next_asks(one.request, mix, number, seconds, seen.rules)
    # what judges is not measured for this, so that nothing is told by it of what is like it
    asks = [([ask for ask in each if workload_id(ask.workload) not in seen.held], share_s) for each, share_s in offered]
    ordered = [(most_informative(each, fit, seen.known, seen.rules), share_s) for each, share_s in asks]
    return [(adaptation_items.costed(each, one.platform), share_s) for each, share_s in ordered]


def _want(tx: Transaction, context: Context, asks: Sequence[tuple[list[Costed], float]], left_s: float) -> bool:
    """Want what a round measures; whether there was anything that fits into the budget, of which `left_s` are left."""
    number = context.adaptation.round + 1
    is_any = False
    for each, seconds in asks:
        fixed: dict[str, Any] = {"purpose": Purpose.TRAIN, "round_no": number, "one_s": 0.0 if is_any else left_s}
        is_any |= adaptation_items.want(tx, context.whose, each, limit_s=seconds, **fixed).is_any
    return is_any


def _judge(context: Context) -> None:
    """Make the predictors, judge them on what was declared, and publish what is better than what answers."""
    with context.database.transaction() as tx:
        if _waits(tx, context):
            adaptations.release(tx, context.adaptation)
            return
    if _rests(context):
        return
    with claims.kept(context.database, context.adaptation) as keeping:
        seen = _see(context)
    one = keeping.adaptation
    told_s = 0.0
    for subject in [WHOLE_MODEL, *([] if one.request.architectures else kernel_types(seen.known))]:
        if _rests(context._replace(adaptation=one)):
            return
        with context.database.transaction() as tx:
            adaptations.worked(tx, one, context.worked_s - told_s)
            told_s = context.worked_s
            renewed = adaptations.renew(tx, one)
        if renewed is None:  # it was lost, and somebody else does the rest
            return
        with claims.kept(context.database, renewed) as keeping:
            publishing.publish_for(context.database, renewed, subject)
        one = keeping.adaptation
    with context.database.transaction() as tx:
        if adaptations.hold(tx, one):
            adaptations.worked(tx, one, context.worked_s - told_s)
            state, reason = outcome(adaptations.get_adaptation(tx, one.id))
            adaptations.move(tx, one, state, reason)


_STEPS: Final[Mapping[AdaptationState, Callable[[Context], None]]] = {
    AdaptationState.QUEUED: _begin,
    AdaptationState.PROBING: _look,
    AdaptationState.MEASURING: _look,
    AdaptationState.TRAINING: _train,
    AdaptationState.JUDGING: _judge,
}
