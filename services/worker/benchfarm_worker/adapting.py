"""One step of an adaptation: look at its state in Postgres, do the one next thing, leave.

Whatever takes seconds is computed between transactions. The last of them holds the adaptation's row and writes only if
it still stands as the step found it, so a step may be taken twice, or by two processes at once. What fails for the
adaptation's own reasons ends it; anything else is tried again when the claim has run out.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from benchfarm_core.adapting import (
    LAPSE_S,
    PROBE_SHARE,
    WAITS_FOR_BOARDS,
    AdaptationMeasured,
    AdaptationState,
    CurvePoint,
    Standing,
    mix_of,
    outcome,
    round_s,
    why_stop,
)
from benchfarm_core.errors import BenchfarmError, Unavailable
from benchfarm_core.measurements import Purpose
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_core.profilers import in_situ_by
from benchfarm_predictor.training.platform_fit import PlatformFit
from benchfarm_store import adaptation_items, adaptations, fusions, host_leases, training_rows
from benchfarm_store.adaptation_donors import donor_rows
from benchfarm_store.adaptation_items import Ask, AskedWorkload, Whose
from benchfarm_store.adaptations import Adaptation
from benchfarm_store.database import Database, Transaction
from benchfarm_worker import asking, pool, publishing
from benchfarm_worker.fitting import Known, kernel_types, most_informative, whole_model
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
    with database.transaction() as tx:
        found = adaptations.claim(tx, adaptation_id)
        now = tx.now
    if found is None:
        return
    context = Context(database, found, boot_id, wait_s)
    if (now - found.changed_at).total_seconds() > LAPSE_S:
        _fail(context, f"nothing came of it for {LAPSE_S / 3600:g} h while it was {found.state}")
        return
    try:
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


def _begin(context: Context) -> None:
    """Declare what judges, then want the probes."""
    request, platform = context.adaptation.request, context.adaptation.platform
    judging: list[tuple[Sequence[AskedWorkload], int]] = [
        *asking.holdout_architectures(request),
        *asking.holdout_kernels(request),
    ]
    probes = asking.probes(platform)
    with context.database.transaction() as tx:
        if not adaptations.hold(tx, context.adaptation):
            return
        adaptation_items.prepare(tx, context.whose)
        for drawn, count in judging:
            adaptation_items.declare_holdouts(tx, context.whose, drawn, count)
        limit_s = PROBE_SHARE * request.budget_s
        adaptation_items.want(tx, context.whose, probes, purpose=Purpose.PROBE, round_no=0, limit_s=limit_s)
        adaptations.move(tx, context.adaptation, AdaptationState.PROBING)


def _look(context: Context) -> None:
    """Go on to training when the round's measurements have ended."""
    with context.database.transaction() as tx:
        if _waits(tx, context) or not adaptations.hold(tx, context.adaptation):
            adaptations.release(tx, context.adaptation)
            return
        adaptations.move(tx, context.adaptation, AdaptationState.TRAINING)


def _waits(tx: Transaction, context: Context) -> bool:
    """Whether boards have yet to answer."""
    one = context.adaptation
    is_judging = one.state == AdaptationState.JUDGING
    return one.state in WAITS_FOR_BOARDS and adaptation_items.open_items(tx, one.id, holdouts=is_judging) > 0


def _is_disturbing(tx: Transaction, context: Context) -> bool:
    """Whether a board of this very host measures now, and has not for too long."""
    waited_s = (tx.now - context.adaptation.changed_at).total_seconds()
    return waited_s < context.wait_s and host_leases.is_measuring(tx, context.boot_id)


class Seen(NamedTuple):
    """What a step that computes found in Postgres."""

    known: Known
    rules: FusionRules
    board_s: float
    curve: Sequence[CurvePoint]
    measured: AdaptationMeasured


def _see(context: Context) -> Seen | None:
    """What can be learnt from now; None, the claim given back, while this host measures."""
    one = context.adaptation
    with context.database.transaction() as tx:
        if _is_disturbing(tx, context):
            adaptations.release(tx, one)
            return None
        own = training_rows.training_rows(tx, one.platform_id)
        held = adaptation_items.holdout_workloads(tx, one.id)
        others = donor_rows(tx, one.platform_id, one.platform, one.request.donors, MAX_DONORS)
        rules = fusions.engine_rules(tx, one.platform)
        board_s, curve = adaptation_items.spent(tx, one.id).board_s, adaptations.curve(tx, one.id)
        measured = adaptation_items.measured(tx, one.id)
    return Seen(Known.of(own, held, others), rules, board_s, curve, measured)


def _train(context: Context) -> None:
    """Learn from what there is, say how good that is, and decide whether another round follows."""
    one = context.adaptation
    began_s = time.process_time()
    if one.round == 0:  # its probes have come, and donors are chosen by how alike they are
        pool.step(context.database, one.platform.id, context.boot_id, context.wait_s)
    seen = _see(context)
    if seen is None:
        return
    fit = whole_model(seen.known)
    scores = [*(point.unseen for point in seen.curve), None if fit is None else fit.unseen]
    asked = one.request
    hopeless = one.round > 0 and seen.measured.done == 0
    standing = Standing(asked.target, asked.budget_s, seen.board_s, one.round, scores, True, is_hopeless=hopeless)
    stop = why_stop(standing)
    asks = _next_round(context, seen, fit) if stop is None else []
    train_s = time.process_time() - began_s
    with context.database.transaction() as tx:
        if not adaptations.hold(tx, one):
            return
        point = CurvePoint(
            round=one.round,
            at=tx.now,
            board_s=seen.board_s,
            rows=seen.known.rows.counts,
            unseen=None if fit is None else fit.unseen,
            chosen=[] if fit is None else [name[:200] for name in fit.chosen],
            train_s=train_s,
        )
        adaptations.keep_round(tx, one, point, [donor.name for donor in seen.known.donors])
        if stop is None and _want(tx, context, asks):
            adaptations.move(tx, one, AdaptationState.MEASURING, round_no=one.round + 1)
            return
        stop = stop or why_stop(standing._replace(is_more=False))
        adaptation_items.raise_holdouts(tx, context.whose)
        adaptations.move(tx, one, AdaptationState.JUDGING, "" if stop is None else stop.reason)


def _next_round(context: Context, seen: Seen, fit: PlatformFit | None) -> list[tuple[list[Ask], float]]:
    """What the next round may measure, the most telling first, each kind with the seconds that it may take."""
    one = context.adaptation
    number = one.round + 1
    mix = mix_of(
        round_no=number,
        has_spaces=bool(one.request.spaces),
        times_in_situ=in_situ_by(one.platform.engine.name, one.platform.precision) is not None,
        whole_models=len(seen.known.rows.models),
    )
    limit_s = round_s(one.request.budget_s, seen.board_s, number)
    asks = asking.next_asks(one.request, mix, number, limit_s, seen.rules)
    return [(most_informative(each, fit, seen.known, seen.rules), seconds) for each, seconds in asks]


def _want(tx: Transaction, context: Context, asks: Sequence[tuple[list[Ask], float]]) -> bool:
    """Want what a round measures; whether there was anything."""
    number = context.adaptation.round + 1
    found = [
        adaptation_items.want(tx, context.whose, each, purpose=Purpose.TRAIN, round_no=number, limit_s=seconds)
        for each, seconds in asks
    ]
    return any(one.is_any for one in found)


def _judge(context: Context) -> None:
    """Make the predictors, judge them on what was declared, and publish what is better than what answers."""
    with context.database.transaction() as tx:
        if _waits(tx, context):
            adaptations.release(tx, context.adaptation)
            return
    seen = _see(context)
    if seen is None:
        return
    one = context.adaptation
    for subject in [WHOLE_MODEL, *kernel_types(seen.known)]:
        with context.database.transaction() as tx:
            if _is_disturbing(tx, context):
                adaptations.release(tx, one)
                return
            adaptations.renew(tx, one)
        publishing.publish_for(context.database, one, seen.known, subject)
    with context.database.transaction() as tx:
        if adaptations.hold(tx, one):
            state, reason = outcome(adaptations.get_adaptation(tx, one.id))
            adaptations.move(tx, one, state, reason)


_STEPS: Final[Mapping[AdaptationState, Callable[[Context], None]]] = {
    AdaptationState.QUEUED: _begin,
    AdaptationState.PROBING: _look,
    AdaptationState.MEASURING: _look,
    AdaptationState.TRAINING: _train,
    AdaptationState.JUDGING: _judge,
}
