"""Makes one predictor, judges it beside what answers now, and publishes it: it answers only if it is better."""

from typing import NamedTuple

from benchfarm_core.adapting import AdaptedPredictor, Verdict, verdict
from benchfarm_core.errors import NotFound
from benchfarm_core.predictors import HoldoutScore, PredictorState, TrainingRows
from benchfarm_predictor.training.platform_fit import PlatformFit
from benchfarm_store import adaptation_items, adaptations, predictors, training_rows
from benchfarm_store.adaptations import Adaptation
from benchfarm_store.database import Database, Transaction
from benchfarm_worker import fitting
from benchfarm_worker.fitting import Known


class Judged(NamedTuple):
    """A fitted predictor with its file, its score on hold-outs and the active one's, and what becomes of it."""

    fit: PlatformFit
    file: bytes
    holdout: HoldoutScore | None
    before: HoldoutScore | None
    verdict: Verdict


def publish_for(database: Database, adaptation: Adaptation, known: Known, subject: str) -> None:
    """Make an adaptation's predictor of one subject; once it is made, doing it again changes nothing."""
    with database.transaction() as tx:
        view = adaptations.get_adaptation(tx, adaptation.id)
        if any(one.subject == subject for one in view.predictors):
            return
        held = adaptation_items.holdout_workloads(tx, adaptation.id)
        rows = judging_rows(tx, adaptation.platform_id, held)
        active = active_file(tx, adaptation.platform_id, subject)
    judged = judge(known, subject, rows, active)
    with database.transaction() as tx:
        if not adaptations.hold(tx, adaptation):
            return
        if isinstance(judged, str):
            made = _nothing(subject, judged)
        else:
            spent_s = adaptation_items.spent(tx, adaptation.id).board_s
            made = keep(tx, adaptation.platform_id, subject, judged, board_s=spent_s, adaptation_id=adaptation.id)
        adaptations.keep_predictor(tx, adaptation, made)


def judging_rows(tx: Transaction, platform_id: int, workload_ids: list[str] | None = None) -> TrainingRows:
    """The first measurements of a platform's hold-outs, and the second ones, which say what nobody can beat."""
    first, second = (
        training_rows.holdout_rows(tx, platform_id, workload_ids=workload_ids, occasion=occasion) for occasion in (1, 2)
    )
    both = {"kernels": first.kernels + second.kernels, "models": first.models + second.models}
    return first.model_copy(update=both)


def active_file(tx: Transaction, platform_id: int, subject: str) -> bytes | None:
    """The file of what answers now; None where nothing does."""
    found = [head for head in predictors.active(tx, [platform_id]) if head.subject == subject]
    try:
        return predictors.file(tx, found[0].id) if found else None
    except NotFound:  # another version has taken its place meanwhile
        return None


def judge(known: Known, subject: str, rows: TrainingRows, active: bytes | None) -> Judged | str:
    """Fit, and score new and active on the same rows; or why there is too little to learn from."""
    fit = fitting.fit_or_why(known, subject)
    if isinstance(fit, str):
        return fit
    file = fit.file()
    holdout = fitting.score(file, rows)
    before = None if active is None else fitting.score(active, rows)
    return Judged(fit, file, holdout, before, verdict(holdout, before, has_active=active is not None))


def keep(
    tx: Transaction,
    platform_id: int,
    subject: str,
    judged: Judged,
    *,
    board_s: float = 0.0,
    adaptation_id: str | None = None,
) -> AdaptedPredictor:
    """Publish what was judged: it answers from the commit on, or is kept as rejected."""
    evidence = judged.fit.evidence(board_s=board_s, holdout=judged.holdout, adaptation_id=adaptation_id)
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
