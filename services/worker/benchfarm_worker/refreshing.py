"""Makes a platform's predictors anew where new results call for it; what is no better is kept as rejected."""

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.predictors import TrainingRows
from benchfarm_core.refreshing import (
    BOARD_REASONS,
    RefreshReason,
    first_since,
    is_another_board,
    is_drifted,
    judges_since,
    parted,
    rows_of,
    why_due,
)
from benchfarm_predictor.training.platform_fit import PlatformFit
from benchfarm_store import adaptations, predictors, refreshes, training_rows
from benchfarm_store.adaptation_donors import FoundDonor, find_donors
from benchfarm_store.database import Database, Transaction
from benchfarm_store.predictors import Answering
from benchfarm_store.refreshes import Due
from benchfarm_store.training_rows import FoundRows, told
from benchfarm_worker import fitting, publishing, resting
from benchfarm_worker.fitting import Known
from benchfarm_worker.lending import lent
from benchfarm_worker.publishing import MAX_DONORS, Judged, Judges
from benchfarm_workloads.fusing import FusionRules

logger = logging.getLogger(__name__)


def step(database: Database, platform_id: str, boot_id: str, wait_s: float) -> None:
    """Look after one predictor of a platform, the one that was looked at longest ago, and ask for the next one.
    Adaptations come first, for somebody waits for them. Twice changes nothing: the same rows make the same file.

    While this host measures it is left to the next look, though not for ever.
    """
    with database.transaction() as tx:
        due = refreshes.due_on(tx, platform_id)
        if due and adaptations.is_any_due(tx):
            logger.info("an adaptation is due, the next look asks again", extra={"platform_id": platform_id})
            return
    if not due:
        return
    if resting.rests(database, "refresh", platform_id, boot_id, wait_s):
        return
    refresh(database, due[0])
    with database.transaction() as tx:
        if any(one.subject != due[0].subject for one in refreshes.due_on(tx, platform_id)):
            refreshes.ask(tx, platform_id)


def refresh(database: Database, due: Due) -> RefreshReason | None:
    """Make one subject's predictor anew, if it is due; why it was. None where it was not, where too little was there
    to learn from, or where what judges it is measured first, or was measured again too shortly before."""
    with database.transaction() as tx:
        refreshes.begin(tx, due)
    with database.transaction() as tx:
        found = training_rows.find_rows(tx, due.platform_id, due.subject)
        active = predictors.answering(tx, due.platform_id, due.subject)
    own = told(found)
    # what answers is held against new rows as it takes them
    as_asked = own if active is None or active.rules is None else told(found._replace(rules=active.rules))
    reason = _why(due, as_asked, active)
    if reason in BOARD_REASONS and not _are_wanted(due):
        with database.transaction() as tx:
            if not due.may_be_judged_again:
                refreshes.end(tx, due)  # in some hours there is something else to see
                return None
            if refreshes.want_holdouts_again(tx, due):
                return None
    is_made = reason is not None and _make(database, due, reason, own, found.rules)
    with database.transaction() as tx:
        refreshes.end(tx, due)
    return reason if is_made else None


def _why(due: Due, own: TrainingRows, active: Answering | None) -> RefreshReason | None:
    """Drift before mere rows: however many they are, hold-outs of before would judge a board that is another one."""
    new = parted(own, due.made_at)[1]
    counted = due.since._replace(new=len(rows_of(new, due.subject)))
    found = why_due(counted, len(first_since(own, due.subject, due.made_at)))
    if found not in (None, RefreshReason.ROWS) or active is None:
        return found
    error = 0.0 if active.holdout is None else active.holdout.mape
    return RefreshReason.DRIFT if is_drifted(_log_ratios(due, new, active.file), error) else found


def _log_ratios(due: Due, new: TrainingRows, file: bytes) -> Sequence[float]:
    """Measured over predicted of what came since, as natural logarithms."""
    try:
        return fitting.log_ratios(file, new, due.subject)
    except InvalidRequest:
        return []


def _are_wanted(due: Due) -> bool:
    """Whether its hold-outs were wanted again since its newest version was made."""
    return due.wanted_at is not None and due.wanted_at > due.made_at


class _Source(NamedTuple):
    """A platform's own rows, and those of others that lend to it."""

    own: TrainingRows
    others: Sequence[TrainingRows]


class _Case(NamedTuple):
    """What judges, and what a new version learns from: first what is of the board as it is now, then, where that is too
    little, everything. `judges_from`: until when the board was another one, where that was seen now."""

    judges: Judges
    sources: tuple[_Source, ...]
    judges_from: datetime | None = None


def _make(database: Database, due: Due, reason: RefreshReason, own: TrainingRows, rules: FusionRules) -> bool:
    """Fit, judge and publish; whether there was enough to learn from. `rules`: by which the rows' kernel lists were
    made."""
    again_at = due.wanted_at if reason in BOARD_REASONS and _are_wanted(due) else None
    with database.transaction() as tx:
        seen = _see(tx, due, again_at)
    case = _case(due, reason, own, seen, lent(database, seen.donors))
    fit = _fit(case, due.subject)
    if fit is None:
        return False

    def take(tx: Transaction, judged: Judged) -> bool:
        made = publishing.keep(tx, due.platform_id, due.subject, judged, rules=rules)
        if made is not None:
            if case.judges_from is not None:
                refreshes.judge_from(tx, due, case.judges_from)
            said = {"platform": own.platform, "subject": due.subject, "why": reason, "answers": made.is_active}
            logger.info("made a predictor anew", extra=said | {"detail": made.detail})
        return made is not None

    return publishing.publish(database, due.platform_id, due.subject, fit, case.judges.rows, take)


class _Seen(NamedTuple):
    """What a version is made of beside the platform's own rows, as it was read; the kernels of whole models are told
    outside the transaction. `again`: whether `judging` is what was measured again, instead of what `first` was."""

    judging: tuple[FoundRows, FoundRows]
    first: FoundRows
    again: bool
    former: FoundRows
    donors: list[FoundDonor]


def _see(tx: Transaction, due: Due, again_at: datetime | None) -> _Seen:
    return _Seen(
        publishing.find_judging(tx, due.platform_id, since=again_at),
        training_rows.find_holdouts(tx, due.platform_id),
        again_at is not None,
        training_rows.find_former(tx, due.platform_id, due.subject),
        find_donors(tx, due.platform_id, due.platform, due.donors, MAX_DONORS, due.subject),
    )


def _case(due: Due, reason: RefreshReason, own: TrainingRows, seen: _Seen, others: Sequence[TrainingRows]) -> _Case:
    declared = publishing.judging_rows(seen.judging)
    judges = publishing.judges(declared, own, due.subject, None if due.since.is_first else due.made_at)
    former = told(seen.former)
    everything = _Source(own, [_former(former), *others] if former.every else others)
    if reason in (RefreshReason.GENERATION, RefreshReason.FUSION):
        return _Case(judges, (everything,))
    if seen.again and is_another_board(told(seen.first), declared, due.subject):
        before, since = parted(own, due.made_at)
        return _Case(judges, (_Source(since, [_former(before), *others]), everything), due.made_at)
    if reason is RefreshReason.DRIFT:  # what it misses is of a kind that no hold-out is
        judges = judges.beside(judges_since(own, due.subject, due.made_at))
    return _Case(judges, (everything,))


def _former(rows: TrainingRows) -> TrainingRows:
    """What a platform knew of the board as it was, as a donor of what it is now."""
    return rows.model_copy(update={"platform": f"{rows.platform} (before)"})


def _fit(case: _Case, subject: str) -> PlatformFit | None:
    for source in case.sources:
        fit = fitting.fit_or_why(Known.of(source.own, case.judges.held, source.others), subject)
        if not isinstance(fit, str):
            return fit
    return None
