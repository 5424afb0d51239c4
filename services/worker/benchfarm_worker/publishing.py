"""Makes one predictor, judges it beside what answers now, and publishes it: it answers only if it is better."""

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Final, NamedTuple

from benchfarm_core.adapting import AdaptedPredictor
from benchfarm_core.predictors import HoldoutScore, PredictorState, TrainingRows
from benchfarm_core.publishing import Compared, Verdict, verdict
from benchfarm_core.refreshing import JUDGES_MIN, judges_since, rows_of
from benchfarm_predictor.training.platform_fit import PlatformFit
from benchfarm_store import adaptation_budgets, adaptation_items, adaptations, predictors, training_rows
from benchfarm_store.adaptation_donors import find_donors
from benchfarm_store.adaptations import Adaptation
from benchfarm_store.database import Database, Transaction
from benchfarm_store.fusions import keep_rules
from benchfarm_store.predictors import Answering
from benchfarm_store.training_rows import FoundRows
from benchfarm_worker import fitting
from benchfarm_worker.fitting import Known
from benchfarm_worker.lending import lent
from benchfarm_workloads.fusing import FusionRules

MAX_DONORS: Final = 4
"""Platforms that one predictor may start from: each costs seconds, and the nearest teach most."""
TRIES: Final = 3
"""What answers may change while a new version is judged; then it is judged again."""


class Judges(NamedTuple):
    """What a subject is judged by, and the workloads that nobody who is judged may have learnt from."""

    rows: TrainingRows
    held: tuple[str, ...]

    def beside(self, others: TrainingRows) -> "Judges":
        """The same with rows of other workloads."""
        new = dict.fromkeys(row.workload_id for row in others.every if row.workload_id not in self.held)
        kernels = tuple(row for row in others.kernels if row.workload_id in new)
        models = tuple(row for row in others.models if row.workload_id in new)
        both = {"kernels": self.rows.kernels + kernels, "models": self.rows.models + models}
        return Judges(self.rows.model_copy(update=both), (*self.held, *new))


class Judged(NamedTuple):
    """A fitted predictor with its file, its score and that of what answers, and what becomes of it.

    `beside`: the id of what answers; None where nothing does.
    """

    fit: PlatformFit
    file: bytes
    holdout: HoldoutScore | None
    before: HoldoutScore | None
    verdict: Verdict
    beside: str | None


def publish_for(database: Database, adaptation: Adaptation, subject: str) -> None:
    """Make an adaptation's predictor of one subject; once it is made, doing it again changes nothing."""
    one = adaptation
    with database.transaction() as tx:
        if _is_made(tx, one, subject):
            return
        active = predictors.answering(tx, one.platform_id, subject)
        own_found = training_rows.find_rows(tx, one.platform_id, subject)
        declared = adaptation_items.holdout_workloads(tx, one.id)
        # what was picked by what answers is no fair judge of it alone: all hold-outs of the platform judge beside it
        picked = declared if one.request.architectures else []
        judging = find_judging(tx, one.platform_id, None if one.request.architectures else declared)
        donors = find_donors(tx, one.platform_id, one.platform, one.request.donors, MAX_DONORS, subject)
    own = training_rows.told(own_found)
    found = judges(judging_rows(judging), own, subject, None if active is None else active.made_at)
    known = Known.of(own, found.held, lent(database, donors), one.request.unseen_spaces)
    fit = fitting.fit_or_why(known, subject)

    def take(tx: Transaction, judged: Judged | str) -> bool:
        if not adaptations.hold(tx, one) or _is_made(tx, one, subject):
            return True
        if isinstance(judged, str):
            made: AdaptedPredictor | None = _nothing(subject, judged)
        else:
            spent = adaptation_budgets.spent(tx, one.id)
            board_s = spent.board_s + spent.known_board_s
            fused = own_found.rules
            made = keep(tx, one.platform_id, subject, judged, rules=fused, board_s=board_s, adaptation_id=one.id)
        if made is not None:
            adaptations.keep_predictor(tx, one, made)
        return made is not None

    if isinstance(fit, str) or not publish(database, one.platform_id, subject, fit, found.rows, take, picked):
        why = fit if isinstance(fit, str) else f"what answers changed {TRIES} times while it was judged"
        with database.transaction() as tx:
            take(tx, why)


def _is_made(tx: Transaction, adaptation: Adaptation, subject: str) -> bool:
    return any(one.subject == subject for one in adaptations.get_adaptation(tx, adaptation.id).predictors)


def find_judging(
    tx: Transaction, platform_id: int, workload_ids: list[str] | None = None, *, since: datetime | None = None
) -> tuple[FoundRows, FoundRows]:
    """The first measurements of a platform's hold-outs, and the second ones, which say what nobody can beat; with
    `since` of those that came later."""
    first, second = (
        training_rows.find_holdouts(tx, platform_id, workload_ids=workload_ids, occasion=occasion, since=since)
        for occasion in (1, 2)
    )
    return first, second


def judging_rows(found: tuple[FoundRows, FoundRows]) -> TrainingRows:
    """Both as rows."""
    first, second = map(training_rows.told, found)
    both = {"kernels": first.kernels + second.kernels, "models": first.models + second.models}
    return first.model_copy(update=both)


def judges(declared: TrainingRows, own: TrainingRows, subject: str, since: datetime | None) -> Judges:
    """Declared hold-outs; where there are too few of a subject, what came since what answers was made, if that is
    enough. Kernel types that only clients measure have no hold-outs, and boards of another generation none yet."""
    rows = declared
    if since is not None and len({row.workload_id for row in rows_of(declared, subject)}) < JUDGES_MIN:
        came = judges_since(own, subject, since)
        rows = came if came.every else declared
    return Judges(rows, tuple(dict.fromkeys(row.workload_id for row in (*declared.every, *rows.every))))


def publish(
    database: Database,
    platform_id: int,
    subject: str,
    fit: PlatformFit,
    rows: TrainingRows,
    take: Callable[[Transaction, Judged], bool],
    picked: Collection[str] = (),
) -> bool:
    """Judge a predictor beside what answers and have it taken; again where another one answers by then. Whether it was
    taken. `picked`: see `judge`; whatever was given to adaptations since what answers was made is picked, too, whoever
    makes the new one."""
    for _ in range(TRIES):
        with database.transaction() as tx:
            active = predictors.answering(tx, platform_id, subject)
            given = [] if active is None else adaptation_items.given_since(tx, platform_id, active.made_at)
            networks = {} if active is None or active.rules is None else training_rows.find_networks(tx, rows)
        judged = judge(fit, rows, active, networks, {*picked, *given})
        with database.transaction() as tx:
            if take(tx, judged):
                return True
    return False


def judge(
    fit: PlatformFit,
    rows: TrainingRows,
    active: Answering | None,
    networks: Mapping[str, str] | None = None,
    picked: Collection[str] = (),
) -> Judged:
    """Score new and active on the same rows, each with their kernels by the rules of fusion that it learnt by, as it
    answers. Where what answers is not to be read, what it scored when it was made speaks for it.

    Args:
        networks: the rows' whole models as they are stored, where those rules are kept.
        picked: workloads among the rows that somebody picked by what is predicted of them.
    """
    file = fit.file()
    holdout = fitting.score(file, rows)
    if active is None:
        first = fitting.as_first(fit, file, rows, holdout)
        return Judged(fit, file, holdout, None, verdict(holdout, None, has_active=False, first=first), None)
    theirs = rows if active.rules is None else training_rows.fused_by(rows, networks or {}, active.rules)
    before = fitting.score(active.file, theirs)
    gains: list[float] = []
    if holdout is not None and before is not None:
        gains = fitting.gains(file, active.file, rows, theirs)
    is_any_picked = any(row.workload_id in picked for row in rows.every)
    drawn = _compared(file, active.file, _without(rows, picked), _without(theirs, picked)) if is_any_picked else None
    found = verdict(holdout, before, has_active=True, gains=gains, recorded=active.holdout, drawn=drawn)
    return Judged(fit, file, holdout, before, found, active.id)


def _compared(file: bytes, before: bytes, rows: TrainingRows, rows_before: TrainingRows) -> Compared | None:
    """Two versions on the same rows, each as it takes them; None where there are none, or one is not to be read."""
    new, old = fitting.score(file, rows), fitting.score(before, rows_before)
    if new is None or old is None:
        return None
    return Compared(new, old, fitting.gains(file, before, rows, rows_before))


def _without(rows: TrainingRows, workload_ids: Collection[str]) -> TrainingRows:
    kernels = tuple(row for row in rows.kernels if row.workload_id not in workload_ids)
    models = tuple(row for row in rows.models if row.workload_id not in workload_ids)
    return rows.model_copy(update={"kernels": kernels, "models": models})


def keep(
    tx: Transaction,
    platform_id: int,
    subject: str,
    judged: Judged,
    *,
    rules: FusionRules,
    board_s: float = 0.0,
    adaptation_id: str | None = None,
) -> AdaptedPredictor | None:
    """Publish what was judged: it answers from the commit on, or is kept as rejected. None, and nothing is changed,
    where another one answers than it was judged beside. `rules`: by which its kernel lists were made; it answers by
    these."""
    if predictors.hold_answering(tx, platform_id, subject) != judged.beside:
        return None
    kept = keep_rules(tx, rules)
    evidence = judged.fit.evidence(board_s=board_s, holdout=judged.holdout, adaptation_id=adaptation_id, rules=kept)
    reason = judged.verdict.reason
    view = predictors.publish(
        tx,
        platform_id=platform_id,
        subject=subject,
        file=judged.file,
        evidence=evidence,
        reason=reason,
        activate=judged.verdict.activate,
    )
    if not judged.verdict.activate and view.state == PredictorState.CANDIDATE:
        view = predictors.reject(tx, view.id, reason)
    return AdaptedPredictor(
        subject=subject,
        predictor_id=view.id,
        version=view.version,
        is_active=view.state == PredictorState.ACTIVE,
        detail=reason,
        holdout=judged.holdout,
        unseen=judged.fit.unseen,
        before=judged.before,
    )


def _nothing(subject: str, why: str) -> AdaptedPredictor:
    return AdaptedPredictor(
        subject=subject,
        predictor_id=None,
        version=None,
        is_active=False,
        detail=why,
        holdout=None,
        unseen=None,
        before=None,
    )
