"""Versions judged beside what answers at that very moment, by rows that neither of them has learnt."""

from dataclasses import astuple, replace
from typing import Any

import pytest

from benchfarm_core.adapting import AdaptationState
from benchfarm_core.jobs import JobRequest
from benchfarm_core.predictors import PredictorState, PredictorsWanted, PredictorView, TrainingRows
from benchfarm_core.publishing import ROWS_MIN, UNJUDGED
from benchfarm_core.refreshing import RefreshReason
from benchfarm_predictor.combined import Scaled
from benchfarm_predictor.training.platform_fit import PlatformFit, Told
from benchfarm_store import adaptations, predictors, refreshes, training_rows
from benchfarm_store.database import Transaction
from benchfarm_worker import adapting, asking, fitting, publishing, refreshing
from benchfarm_worker.fitting import Known
from benchfarm_workloads.draws import draw
from benchfarm_workloads.fusing import FusionRules
from tests.adapting_lab import KEY, AdaptingLab
from tests.store.conftest import board_report, ok

FC = "fc"


def measure(lab: AdaptingLab, count: int, *, seed: int, slower: float = 1.0) -> None:
    """Kernels of a type that no adaptation declares hold-outs of, for a client."""
    lab.slower = slower
    kernels = [{"kind": "kernel", "type": FC, "config": config} for config in draw(FC, seed, count)]
    lab.farm.submit_planned(lab.by, JobRequest.model_validate({"workloads": kernels, "platforms": [KEY]}))
    lab.measure(ok)


def platform_row(lab: AdaptingLab) -> int:
    return int(lab.farm.scalar("SELECT id FROM platforms WHERE key = :key", key=KEY))


def own_rows(lab: AdaptingLab) -> TrainingRows:
    with lab.farm.transaction() as tx:
        return training_rows.training_rows(tx, platform_row(lab), FC)


def fitted(lab: AdaptingLab) -> PlatformFit:
    fit = fitting.fit_or_why(Known.of(own_rows(lab), (), ()), FC)
    assert isinstance(fit, PlatformFit), fit
    return fit


def publish(lab: AdaptingLab, fit: PlatformFit, rows: TrainingRows) -> list[bool]:
    """Judge and keep it; whether it was kept, of each try."""
    kept = []

    def take(tx: Transaction, judged: publishing.Judged) -> bool:
        kept.append(publishing.keep(tx, platform_row(lab), FC, judged, rules=FusionRules()) is not None)
        return kept[-1]

    publishing.publish(lab.farm.database, platform_row(lab), FC, fit, rows, take)
    return kept


def versions(lab: AdaptingLab) -> list[PredictorView]:
    """The oldest first."""
    with lab.farm.transaction() as tx:
        return predictors.list_predictors(tx, PredictorsWanted(platform=KEY, subject=FC)).items[::-1]


def refresh(lab: AdaptingLab) -> list[RefreshReason | None]:
    platform = lab.farm.scalar("SELECT public_id FROM platforms WHERE key = :key", key=KEY)
    with lab.farm.transaction() as tx:
        due = refreshes.due_on(tx, platform)
    return [refreshing.refresh(lab.farm.database, one) for one in due]


def test_a_type_without_holdouts_is_judged_by_what_came_since(lab: AdaptingLab) -> None:
    measure(lab, 16, seed=1)
    assert publish(lab, fitted(lab), own_rows(lab)) == [True]
    measure(lab, 60, seed=2)
    assert refresh(lab) == ["rows"]
    first, second = versions(lab)
    assert second.evidence.holdout is not None
    assert second.evidence.holdout.count == 30, "every second one"
    assert second.evidence.rows["alone"] == 16 + 30, "what judges has taught nobody"
    assert (first.state, second.state) == (PredictorState.SUPERSEDED, PredictorState.ACTIVE), second.reason


def test_boards_of_another_generation_get_predictors_of_their_own(lab: AdaptingLab) -> None:
    measure(lab, 40, seed=1)
    assert publish(lab, fitted(lab), own_rows(lab)) == [True]
    lab.agent.register(board_report("s1", generation="g2"))
    measure(lab, 24, seed=2, slower=1.5)
    assert refresh(lab) == ["generation"]
    second = versions(lab)[-1]
    assert second.state == PredictorState.ACTIVE, second.reason
    assert second.evidence.holdout is not None
    assert second.evidence.holdout.mape < 0.15, "what answered is half too fast"


def test_another_version_of_an_engine_learns_from_the_one_before(lab: AdaptingLab) -> None:
    old = KEY.replace("1.31.1", "1.30.0")
    measure(lab, 40, seed=1)
    publish(lab, fitted(lab), own_rows(lab))
    lab.farm.run("UPDATE platforms SET key = :old, public_id = 'p_old' WHERE key = :key", old=old, key=KEY)
    version = """UPDATE platforms SET spec = jsonb_set(spec, '{engine,version}', '"1.30.0"') WHERE key = :old"""
    lab.farm.run(version, old=old)
    lab.agent.register(board_report("s1"))
    measure(lab, 12, seed=2, slower=1.1)
    assert refresh(lab) == ["engine_version"]
    (first,) = versions(lab)
    assert (first.state, first.evidence.donors) == (PredictorState.ACTIVE, (old,))
    assert refresh(lab) == []


def test_what_answers_is_looked_at_again_before_it_is_replaced(
    lab: AdaptingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(lab, 16, seed=1)
    few = fitted(lab)
    publish(lab, few, own_rows(lab))
    measure(lab, 40, seed=2)
    many, rows = fitted(lab), own_rows(lab)
    really = fitting.score
    judged: list[bytes] = []

    def meanwhile(file: bytes, rows: TrainingRows) -> Any:
        """While the first of them is judged somebody publishes the other."""
        if not judged:
            judged.append(file)
            monkeypatch.setattr(fitting, "score", really)
            assert publish(lab, many, rows) == [True]
        return really(file, rows)

    monkeypatch.setattr(fitting, "score", meanwhile)
    assert publish(lab, few, rows) == [False, True]
    assert versions(lab)[1].state == PredictorState.ACTIVE, "it was judged beside the one that answers"


def test_what_was_picked_alone_lets_nothing_answer_that_is_worse_elsewhere(lab: AdaptingLab) -> None:
    measure(lab, 40, seed=1)
    fit, rows = fitted(lab), own_rows(lab)
    publish(lab, fit, rows)
    slower = replace(fit, predictor=replace(fit.predictor, model=Scaled(fit.predictor.model, 1.07)))
    picked = [row.workload_id for row in rows.kernels[:30]]
    times = [(1.07 if row.workload_id in picked else 1.0) * row.normalised_ms for row in rows.kernels]
    kernels = [row.model_copy(update={"normalised_ms": ms}) for row, ms in zip(rows.kernels, times, strict=True)]
    judging = rows.model_copy(update={"kernels": tuple(kernels)})
    with lab.farm.transaction() as tx:
        active = predictors.answering(tx, platform_row(lab), FC)
    assert publishing.judge(slower, judging, active).verdict.activate, "it is nearer to three of four"
    found = publishing.judge(slower, judging, active, picked=picked).verdict
    assert (found.activate, found.reason.partition(":")[0]) == (False, "worse where nobody picked")
    assert "the same 10 hold-outs" in found.reason


def test_what_cannot_be_read_is_replaced_only_by_what_is_no_worse_than_it_was(
    lab: AdaptingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(lab, 40, seed=1)
    good, rows = fitted(lab), own_rows(lab)
    publish(lab, good, rows)
    unreadable = good.file()
    really = fitting.score
    monkeypatch.setattr(fitting, "score", lambda file, rows: None if file == unreadable else really(file, rows))
    slow = rows.model_copy(
        update={
            "kernels": tuple(row.model_copy(update={"normalised_ms": 3 * row.normalised_ms}) for row in rows.kernels)
        }
    )
    bad = fitting.fit_or_why(Known.of(slow, (), ()), FC)
    assert isinstance(bad, PlatformFit)
    publish(lab, bad, rows)
    assert [one.state for one in versions(lab)] == [PredictorState.ACTIVE, PredictorState.REJECTED]
    assert "not to be read" in versions(lab)[-1].reason


def test_a_first_version_that_is_off_by_factors_is_kept_as_rejected(lab: AdaptingLab) -> None:
    measure(lab, 40, seed=1)
    rows = own_rows(lab)
    slow = tuple(row.model_copy(update={"normalised_ms": 3 * row.normalised_ms}) for row in rows.kernels)
    bad = fitting.fit_or_why(Known.of(rows.model_copy(update={"kernels": slow}), (), ()), FC)
    assert isinstance(bad, PlatformFit)
    publish(lab, bad, rows)
    publish(lab, fitted(lab), rows)
    first, second = versions(lab)
    assert first.state == PredictorState.REJECTED
    assert first.reason.startswith("worse than no answer")
    assert (second.state, second.reason) == (PredictorState.ACTIVE, "the first one")


def test_without_hold_outs_a_first_version_is_told_by_its_own_rows(lab: AdaptingLab) -> None:
    measure(lab, 16, seed=1)
    rows, fit = own_rows(lab), fitted(lab)
    nothing = rows.model_copy(update={"kernels": ()})
    assert fit.told is not None
    far = replace(fit, told=replace(fit.told, predicted_ms=3 * fit.told.predicted_ms))
    few = replace(fit, told=Told(*(column[: ROWS_MIN - 1] for column in astuple(fit.told))))
    judged = [publishing.judge(one, nothing, None).verdict for one in (fit, far, few, replace(fit, told=None))]
    assert [one.activate for one in judged] == [True, False, False, False]
    assert [one.reason.startswith(UNJUDGED) for one in judged] == [False, False, True, True]


def test_a_look_that_dies_is_repeated_a_few_times_and_one_that_finds_nothing_is_not(
    lab: AdaptingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(lab, 16, seed=1)
    publish(lab, fitted(lab), own_rows(lab))
    measure(lab, 24, seed=2)

    def planted(*_: object, **__: object) -> None:
        raise RuntimeError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "fit_or_why", planted)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="planted"):
                refresh(lab)
        assert refresh(lab) == [], "nobody looks a fourth time"
    measure(lab, 1, seed=3)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "fit_or_why", lambda *_: "too few")
        assert refresh(lab) == [None]
    assert refresh(lab) == []


def test_a_refresh_lets_adaptations_pass(lab: AdaptingLab) -> None:
    measure(lab, 16, seed=1)
    publish(lab, fitted(lab), own_rows(lab))
    measure(lab, 24, seed=2)
    platform = lab.farm.scalar("SELECT public_id FROM platforms WHERE key = :key", key=KEY)
    other = lab.start(KEY.replace("c0.t1", "c0-1.t2"))
    refreshing.step(lab.farm.database, platform, "", 0.0)
    assert len(versions(lab)) == 1
    with lab.farm.transaction() as tx:
        adaptations.cancel(tx, other.id, by=lab.by)
    refreshing.step(lab.farm.database, platform, "", 0.0)
    assert len(versions(lab)) == 2


def test_a_step_that_dies_three_times_ends_its_adaptation(lab: AdaptingLab, monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab.start(budget_s=3.0, spaces=["proxylessnas"], holdouts=5)

    def planted(*_: object, **__: object) -> None:
        raise RuntimeError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(asking, "probes", planted)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="planted"):
                adapting.step(lab.farm.database, made.id, "", 0.0)
            lab.farm.run("UPDATE adaptations SET claimed_until = now() - interval '1 second'")
    adapting.step(lab.farm.database, made.id, "", 0.0)
    ended = lab.view(made.id)
    assert (ended.state, "3 tries" in ended.reason) == (AdaptationState.FAILED, True)
