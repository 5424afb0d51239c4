"""Predictors made anew: only where it is called for, judged on the same hold-outs, and answering only if better."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from benchfarm_core.adapting import AdaptationState
from benchfarm_core.fusion import FusionReport, FusionRow
from benchfarm_core.jobs import JobRequest
from benchfarm_core.predictors import WHOLE_MODEL, PredictorState, PredictorsWanted, PredictorView
from benchfarm_predictor.training.platform_fit import PlatformFit
from benchfarm_store import fusions, kernel_lists, predictors, refreshes, training_rows
from benchfarm_store.database import Database, Transaction
from benchfarm_store.fusions import rules_digest
from benchfarm_worker import fitting, publishing, refreshing
from benchfarm_worker.fitting import Known
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.spaces import draws
from tests.adapting_lab import KEY, AdaptingLab
from tests.store.conftest import ok
from tests.worker.test_adapting import SMALL, to_end

SPACE = "proxylessnas"


@pytest.fixture
def lab(lab: AdaptingLab) -> AdaptingLab:
    lab.pace = 0.0, 0.25  # by its budget an adaptation learns as much beside load as alone
    return lab


def versions(lab: AdaptingLab) -> list[PredictorView]:
    """Of whole models, the oldest first."""
    with lab.farm.transaction() as tx:
        found = predictors.list_predictors(tx, PredictorsWanted(platform=KEY, subject=WHOLE_MODEL))
    return found.items[::-1]


def measure(lab: AdaptingLab, count: int, *, slower: float = 1.0, seed: str = "client") -> None:
    """What a client happens to have measured."""
    lab.slower = slower
    networks = [{"kind": "architecture", "space": SPACE, "genes": one.genes} for one in draws(SPACE, seed, count)]
    request = JobRequest.model_validate({"workloads": networks, "platforms": [KEY], "max_age_s": 0})
    lab.farm.submit_planned(lab.by, request)
    lab.measure(ok)


def look(lab: AdaptingLab) -> list[str | None]:
    """Look after the platform once; why each subject that may be due was made anew."""
    platform = lab.farm.scalar("SELECT public_id FROM platforms WHERE key = :key", key=KEY)
    with lab.farm.transaction() as tx:
        due = refreshes.due_on(tx, platform)
    return [refreshing.refresh(lab.farm.database, one) for one in due if one.subject == WHOLE_MODEL]


@pytest.mark.slow
def test_new_results_make_a_version_that_answers_only_if_it_is_better(lab: AdaptingLab) -> None:
    measure(lab, 60, seed="before")
    made = to_end(lab, lab.start(**SMALL).id)
    assert made.state is AdaptationState.SUCCEEDED, made.reason
    assert look(lab) == []
    measure(lab, 8)
    assert look(lab) == [None], "a few that lie where they were predicted change nothing"
    assert len(versions(lab)) == 1
    measure(lab, 40)
    assert look(lab) == ["rows"]
    first, second = versions(lab)
    assert first.evidence.holdout is not None
    assert second.evidence.holdout is not None
    assert second.evidence.holdout.count == first.evidence.holdout.count, "judged on the same hold-outs"
    assert second.evidence.rules == first.evidence.rules == rules_digest(FusionRules()), "nothing was measured of it"
    is_nearer = second.evidence.holdout.mape < first.evidence.holdout.mape
    states = (PredictorState.SUPERSEDED, PredictorState.ACTIVE)
    is_shown = is_nearer and "not shown" not in second.reason
    assert (first.state, second.state) == (states if is_shown else (PredictorState.ACTIVE, PredictorState.REJECTED))
    assert look(lab) == [], "the same rows are not tried twice"
    platform = lab.farm.scalar("SELECT public_id FROM platforms WHERE key = :key", key=KEY)
    refreshing.step(lab.farm.database, platform, "", 0.0)
    assert len(versions(lab)) == 2


@pytest.mark.slow
def test_what_answers_is_judged_by_the_rules_that_it_learnt(lab: AdaptingLab) -> None:
    made = to_end(lab, lab.start(**SMALL).id)
    assert made.state is AdaptationState.SUCCEEDED, made.reason
    (first,) = versions(lab)
    split = FusionRow(first="DepthwiseConv", second="Clip", by_profile=False)
    with lab.farm.transaction() as tx:
        fusions.report(tx, KEY, FusionReport(rows=(split, split.model_copy(update={"first": "Conv"}))))
        platform = lab.farm.scalar("SELECT id FROM platforms WHERE key = :key", key=KEY)
        judging, own = publishing.find_judging(tx, platform), training_rows.find_rows(tx, platform)
        active = predictors.answering(tx, platform, WHOLE_MODEL)
        rows = publishing.judging_rows(judging)
        networks = training_rows.find_networks(tx, rows)
    assert active is not None
    fit = fitting.whole_model(Known.of(training_rows.told(own), [row.workload_id for row in rows.every], ()))
    assert fit is not None
    assert publishing.judge(fit, rows, active, networks).before == first.evidence.holdout, "as when it was made"
    by_now = active._replace(rules=None)
    assert publishing.judge(fit, rows, by_now, networks).before != first.evidence.holdout, "they tell it other kernels"
    assert look(lab) == ["fusion"]
    second = versions(lab)[-1]
    assert second.evidence.rules not in (None, first.evidence.rules)
    if second.state == PredictorState.REJECTED:
        assert look(lab) == [], "what answers does so by its own rules: nobody needs another one"


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[str]]]:
    """Of each fit from now on the platform's own whole models that it is tried with first, and who lends to it."""
    found: list[tuple[int, list[str]]] = []
    really = refreshing._fit

    def fit(case: refreshing._Case, subject: str) -> PlatformFit | None:
        first = case.sources[0]
        found.append((len(first.own.models), [one.platform for one in first.others]))
        return really(case, subject)

    monkeypatch.setattr(refreshing, "_fit", fit)
    return found


def tell_outside_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no kernel list be computed while a transaction is open: a store of any size takes seconds for them."""
    really, begin = kernel_lists.kernel_list, Database.transaction
    opened: list[None] = []

    @contextmanager
    def transaction(database: Database, **fields: Any) -> Iterator[Transaction]:
        with begin(database, **fields) as tx:
            opened.append(None)
            try:
                yield tx
            finally:
                opened.pop()

    def kernel_list(*arguments: Any) -> Any:
        assert not opened, "a transaction waits for kernel lists"
        return really(*arguments)

    monkeypatch.setattr(Database, "transaction", transaction)
    monkeypatch.setattr(training_rows, "kernel_list", kernel_list)


@pytest.mark.slow
def test_what_is_missed_is_held_against_the_holdouts_measured_again(
    lab: AdaptingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell_outside_transactions(monkeypatch)
    made = to_end(lab, lab.start(**SMALL).id)
    assert made.state is AdaptationState.SUCCEEDED, made.reason
    measure(lab, 12, slower=1.3)
    assert look(lab) == [None], "first its hold-outs are measured again"
    assert look(lab) == [], "which takes boards"
    lab.slower = 1.0
    assert lab.measure(ok) >= SMALL["holdouts"]
    assert look(lab) == ["drift"]
    second = versions(lab)[-1].evidence.holdout
    assert second is not None
    assert second.count == SMALL["holdouts"] + 6, "the board is what it was, so half of what was missed judges too"
    measure(lab, 24, slower=1.6)
    assert look(lab) == [None]
    assert lab.measure(ok) == 0, "hold-outs were measured again today"
    assert look(lab) == []
    lab.farm.run("UPDATE predictor_looks SET wanted_at = wanted_at - interval '1 day'")
    assert look(lab) == [None]
    assert lab.measure(ok) >= SMALL["holdouts"]
    with monkeypatch.context() as patched:
        patched.setattr(refreshing, "_fit", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            look(lab)
    sources = watched(monkeypatch)
    assert look(lab) == ["drift"], "who dies of it has said nothing of the board"
    third = versions(lab)[-1]
    assert third.state == PredictorState.ACTIVE, third.reason
    assert third.evidence.holdout is not None
    assert third.evidence.holdout.count == SMALL["holdouts"]
    assert third.evidence.holdout.mape < 0.2, "what answered is a third too fast for the board as it is now"
    assert third.evidence.rows["models"] == 24
    assert sources[-1] == (24, [f"{KEY} (before)"]), "what it was lends to what it is"
    measure(lab, 24, slower=1.6, seed="later")
    assert look(lab) == ["rows"]
    assert sources[-1] == (48, [f"{KEY} (before)"]), "what the board was is not mixed with what it is"
