"""Adaptations that were given architectures: winners of a search, of which some judge and the others teach."""

import random
from collections.abc import Sequence
from dataclasses import replace
from math import exp
from typing import Any

import pytest

from benchfarm_core.adapting import AdaptationState, AdaptationView
from benchfarm_core.architectures import Architecture
from benchfarm_core.measurements import Purpose
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_core.workloads import AnyWorkload, ArchitectureWorkload, workload_id
from benchfarm_predictor.combined import Scaled
from benchfarm_store import adaptation_items, predictors, training_rows
from benchfarm_store.database import Transaction
from benchfarm_worker import fitting, publishing
from benchfarm_worker.fitting import Known
from benchfarm_workloads.spaces import draws, space
from tests.adapting_lab import KEY, AdaptingLab
from tests.predictor.training.farm_rows import MOBILE
from tests.store.conftest import ok
from tests.worker.test_adapting import step, to_end

S = AdaptationState
DRAWN = draws(MOBILE, "given", 40)
CHOICES = {"kernel": (3, 5, 7), "expand": (3, 4, 6)}


def deep(count: int, seed: int) -> list[Architecture]:
    """As deep as the space has them, which one of 243 draws is."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        blocks = {name: [rng.choice(values) for _ in range(20)] for name, values in CHOICES.items()}
        found.append(space(MOBILE).validate({"hw": rng.choice(range(128, 225, 4)), "depth": [4] * 5, **blocks}))
    return found


def beyond_what_is_drawn(workload: AnyWorkload) -> float:
    """What has more blocks than most draws takes longer than its kernels would."""
    depth = workload.genes["depth"] if isinstance(workload, ArchitectureWorkload) else ()
    assert isinstance(depth, tuple)
    return 1 + 0.06 * max(0, sum(depth) - 17)


def given(architectures: Sequence[Architecture], **fields: Any) -> dict[str, Any]:
    asked = [{"space": one.space, "genes": one.genes} for one in architectures]
    return {"spaces": [MOBILE], "holdouts": 8, "budget_s": 1000.0, "architectures": asked, **fields}


def workloads_of(lab: AdaptingLab, purpose: Purpose) -> set[str]:
    """Ids of what was wanted for a purpose."""
    return {f"w_{digest}" for digest in lab.farm.scalar(_WORKLOADS, purpose=purpose) or ()}


_WORKLOADS = """
    SELECT array_agg(replace(w.digest::text, '-', '')) FROM measurements m JOIN workloads w ON w.id = m.workload_id
    WHERE m.purpose = :purpose
"""


def ids(architectures: Sequence[Architecture]) -> set[str]:
    return {workload_id(space(one.space).workload(one.genes)) for one in architectures}


def test_some_of_what_is_given_judges_the_rest_teaches_and_nothing_else_is_measured(lab: AdaptingLab) -> None:
    some = DRAWN[:17]
    made = lab.start(**given(some))
    assert step(lab, made.id) is S.PROBING
    counts = lab.view(made.id).measured
    assert (counts.wanted, counts.holdouts) == (0, 6) == (0, made.request.judged_by)
    assert step(lab, made.id) is S.TRAINING, "there are no probes to wait for"
    done = to_end(lab, made.id)
    assert done.state is S.SUCCEEDED, done.reason
    assert workloads_of(lab, Purpose.HOLDOUT) == ids(some[1::3])
    assert workloads_of(lab, Purpose.TRAIN) == ids(some) - ids(some[1::3])
    assert lab.farm.scalar("SELECT count(*) FROM measurements") == len(some)
    assert [(one.subject, one.is_active) for one in done.predictors] == [(WHOLE_MODEL, True)]
    assert (done.round, done.curve[-1].rows["models"]) == (1, 11)


def test_what_was_given_is_measured_within_the_budget_and_again_costs_nothing(lab: AdaptingLab) -> None:
    lab.pace = 0.0, 1.0
    done = to_end(lab, lab.start(**given(DRAWN[:24], budget_s=3.0)).id)
    assert 0 < done.measured.done < 16
    assert done.board_s < 1.15 * 3
    again = to_end(lab, lab.start(**given(DRAWN[:24], budget_s=1000.0)).id)
    assert again.measured.known >= done.measured.done
    assert again.measured.done == 16, "what judged before judges again, and what had no room teaches now"
    assert workloads_of(lab, Purpose.HOLDOUT) == ids(DRAWN[:24][1::3])


def test_what_was_measured_before_judges_nobody(lab: AdaptingLab) -> None:
    to_end(lab, lab.start(**given(DRAWN[:12])).id)
    learnt, new = DRAWN[0:12:2], DRAWN[20:26]
    made = lab.start(**given([new[0], learnt[0], new[1], learnt[1], *new[2:]]))
    step(lab, made.id)
    with lab.farm.transaction() as tx:
        held = set(adaptation_items.holdout_workloads(tx, made.id))
    assert held == ids([new[3], new[5]])


@pytest.mark.parametrize("some", [DRAWN[:1], [DRAWN[0]] * 4], ids=["one", "equal"])
def test_where_all_that_is_given_is_one_architecture_it_ends_with_a_reason(
    lab: AdaptingLab, some: Sequence[Architecture]
) -> None:
    done = to_end(lab, lab.start(**given(some)).id)
    assert (done.state, done.measured.holdouts) == (S.FAILED, 0), "however often it is given"
    assert done.reason
    assert lab.farm.scalar("SELECT count(*) FROM measurements") == 1, "who judges teaches nobody"


def test_what_was_given_since_a_version_was_made_is_picked_whoever_makes_the_next_one(lab: AdaptingLab) -> None:
    first = to_end(lab, lab.start(**given(DRAWN[:20], holdouts=5)).id)
    assert first.predictors[0].is_active, first.predictors[0].detail
    winners = deep(40, 3)
    step(lab, lab.start(**given(winners, holdouts=20)).id)
    lab.measure(ok)
    platform = lab.farm.scalar("SELECT id FROM platforms WHERE key = :key", key=KEY)
    with lab.farm.transaction() as tx:
        active = predictors.answering(tx, platform, WHOLE_MODEL)
        assert active is not None
        picked = adaptation_items.given_since(tx, platform, active.made_at)
        found, own = publishing.find_judging(tx, platform), training_rows.find_rows(tx, platform)
    assert set(picked) == ids(winners[1::2])
    rows = publishing.judging_rows(found)
    with lab.farm.transaction() as tx:
        networks = training_rows.find_networks(tx, rows)
    off = fitting.log_ratios(active.file, rows, WHOLE_MODEL)
    times = [
        row.normalised_ms / exp(ratio) * (1.07 if row.workload_id in picked else 1.0)
        for row, ratio in zip(rows.models, off, strict=True)
    ]
    models = [row.model_copy(update={"normalised_ms": ms}) for row, ms in zip(rows.models, times, strict=True)]
    rows = rows.model_copy(update={"models": tuple(models)})
    fit = fitting.whole_model(Known.of(training_rows.told(own), [row.workload_id for row in rows.every], ()))
    assert fit is not None
    slower = replace(fit, predictor=replace(fit.predictor, model=Scaled(fit.predictor.model, 1.07)))
    assert publishing.judge(slower, rows, active, networks).verdict.activate, "it is nearer to twenty of twenty-five"
    judged: list[publishing.Judged] = []

    def take(_: Transaction, one: publishing.Judged) -> bool:
        judged.append(one)
        return True

    assert publishing.publish(lab.farm.database, platform, WHOLE_MODEL, slower, rows, take)
    (one,) = judged
    assert (one.verdict.activate, one.verdict.reason.partition(":")[0]) == (False, "worse where nobody picked")


@pytest.mark.slow
def test_a_predictor_learns_where_a_search_picked_and_keeps_what_it_knew_elsewhere(lab: AdaptingLab) -> None:
    lab.planted = beyond_what_is_drawn
    first = taught(lab, DRAWN)
    assert first.predictors[0].is_active, first.predictors[0].detail
    lesson = taught(lab, deep(24, 1))
    (model,) = lesson.predictors
    assert model.is_active, model.detail
    assert model.holdout is not None
    assert model.before is not None
    assert model.holdout.count == 16, "those that were drawn judge too"
    assert model.holdout.mape < 0.7 * model.before.mape
    again = taught(lab, deep(24, 2))
    (model,) = again.predictors
    assert model.before is not None
    assert model.before.mape < 0.03, "what it has not seen of them is no surprise any more"


def taught(lab: AdaptingLab, architectures: Sequence[Architecture]) -> AdaptationView:
    done = to_end(lab, lab.start(**given(architectures)).id)
    assert done.state is S.SUCCEEDED, done.reason
    return done
