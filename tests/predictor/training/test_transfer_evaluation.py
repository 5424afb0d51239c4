"""The offline evaluation: rows that judge influence nothing, and the same figures come twice."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurement_sets import KernelRows, MeasurementSet
from benchfarm_predictor.evaluation import transfer
from benchfarm_predictor.evaluation.report import TransferEvaluation
from benchfarm_predictor.evaluation.splits import TEST_SHARE, draws, split
from benchfarm_predictor.evaluation.transfer import NamedSet, Plan, Shelf, evaluate_transfer
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.metrics import Score, score
from benchfarm_predictor.set_folders import read_folder
from benchfarm_predictor.training import trees
from benchfarm_predictor.training.absent import TORCH, why_absent
from benchfarm_predictor.training.measured import Measured, config_keys
from tests.predictor.training.platforms import measured, set_of

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

PLAN = Plan(samples=(20,), repeats=2, seed=1, baselines=False)
RECORDED = Path(os.environ.get("BENCHFARM_MEASUREMENT_SETS", "")) / "kernels"


def named(name: str, rows: Measured) -> NamedSet:
    return NamedSet(name, set_of(rows, board_model=name))


def target() -> NamedSet:
    return named("target", measured(160, seed=1))


def pool() -> list[NamedSet]:
    return [named("donor", measured(160, seed=1, speed=0.8, bandwidth=1.2))]


@pytest.fixture(scope="module")
def evaluated() -> TransferEvaluation:
    return evaluate_transfer(target(), pool(), PLAN)


def with_latencies(one: NamedSet, latency_ms: np.ndarray) -> NamedSet:
    [(name, rows)] = one.content.kernels.items()
    changed = rows.model_copy(update={"latency_ms": tuple(latency_ms.tolist())})
    return NamedSet(one.name, one.content.model_copy(update={"kernels": {name: changed}}))


def rows_of(one: NamedSet) -> KernelRows:
    [rows] = one.content.kernels.values()
    return rows


@pytest.fixture
def short_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    """LitePred's network and nn-Meter's forest as they are made, with less of it."""
    monkeypatch.setattr(trees, "FOREST_TREES", 10)
    if why_absent(TORCH) is None:
        from benchfarm_predictor.training import litepred_network

        recipe = litepred_network.Recipe(10, 1e-3)
        for name in ("fit_base", "fine_tune"):
            monkeypatch.setattr(litepred_network, name, partial(getattr(litepred_network, name), recipe=recipe))


def judged_otherwise(one: NamedSet, factor: float) -> NamedSet:
    """The set with other latencies where it judges: another order, and up to ``factor`` times as long."""
    _, judged = split(Measured.of_set(rows_of(one)).kernels, PLAN.seed)
    latency_ms = np.array(rows_of(one).latency_ms)
    permuted = np.random.default_rng(0).permutation(latency_ms[judged])
    latency_ms[judged] = permuted * np.linspace(1, factor, len(judged))
    return with_latencies(one, latency_ms)


@pytest.mark.usefixtures("short_baselines")
def test_the_rows_that_judge_change_no_choice_and_no_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target's are permuted, those of both donors become nonsense; all methods and baselines say what they said."""
    kept: list[Floats] = []

    def listening(predicted_ms: Floats, measured_ms: Floats) -> Score:
        kept.append(predicted_ms)
        return score(predicted_ms, measured_ms)

    monkeypatch.setattr(transfer, "score", listening)
    plan = replace(PLAN, repeats=1, baselines=True)
    donors = [*pool(), named("third", measured(160, seed=1, speed=2.0))]
    before = evaluate_transfer(target(), donors, plan)
    said, kept = kept, []
    after = evaluate_transfer(judged_otherwise(target(), 1.0), [judged_otherwise(each, 1000) for each in donors], plan)
    assert {"ours", "stacked", "random-forest"} <= {each.method for each in before.kernels[0].methods}
    assert len(said) == len(kept) == len(before.kernels[0].methods)
    for one, other, first, second in zip(before.kernels[0].methods, after.kernels[0].methods, said, kept, strict=True):
        assert (other.method, other.members) == (one.method, one.members)
        assert second.tolist() == first.tolist(), one.method
        assert other.mape.mean > one.mape.mean, "only what they are judged by is another"


def test_the_same_figures_come_twice(evaluated: TransferEvaluation) -> None:
    assert evaluate_transfer(target(), pool(), PLAN) == evaluated


def test_another_seed_draws_other_rows(evaluated: TransferEvaluation) -> None:
    other = evaluate_transfer(target(), pool(), Plan(samples=(20,), repeats=1, seed=2, baselines=False))
    assert other.kernels[0].methods[0].runs[0] != evaluated.kernels[0].methods[0].runs[0]


def test_every_method_is_there_and_says_what_it_is_made_of(evaluated: TransferEvaluation) -> None:
    [kernel] = evaluated.kernels
    assert {each.method for each in kernel.methods} >= {"ridge", "scratch", "scale-only", "residual", "ours"}
    assert all(len(each.runs) == PLAN.repeats for each in kernel.methods)
    assert all(sum(each.members.values()) >= PLAN.repeats for each in kernel.methods)
    reasons = {each.method: each.reason for each in evaluated.left_out}
    assert reasons["stacked"] == "it needs several donors"
    assert "litepred" in reasons


def test_ours_is_near_the_best_single_method(evaluated: TransferEvaluation) -> None:
    [kernel] = evaluated.kernels
    for size in PLAN.samples:
        found = {each.method: each.within_10.mean for each in kernel.methods if each.samples == size}
        assert found["ours"] >= max(found.values()) - 0.08


def test_a_donor_that_is_far_from_the_target_lends_nothing() -> None:
    """It is slow where the target is fast: what needs a donor is left out, with the reason."""
    rows = measured(160, seed=1)
    far = named("far", Measured(rows.kernels, 1 / rows.latency_ms))
    found = evaluate_transfer(target(), [far], PLAN)
    [kernel] = found.kernels
    methods = {each.method for each in kernel.methods}
    assert {"ridge", "scratch", "ours"} <= methods
    assert not methods & {"scale-only", "residual", "stacked", "fine-tune"}
    assert all(not name.startswith("far") for each in kernel.methods for name in each.members)
    reasons = {(each.method, each.samples): each.reason for each in found.left_out if each.samples}
    assert reasons[None, 20] == "far was too far to be a donor in 2 of 2 repeats"
    assert reasons["residual", 20] == "too few donors were near in 2 of 2 repeats"


def test_several_donors_are_stacked_and_fitted_once() -> None:
    pool_of_two = [*pool(), named("third", measured(160, seed=1, speed=2.0))]
    shelf = Shelf()
    told: list[str] = []
    plan = Plan(samples=(20,), repeats=1, baselines=False)
    found = evaluate_transfer(target(), pool_of_two, plan, shelf=shelf)
    again = evaluate_transfer(target(), pool_of_two, plan, shelf=shelf, say=told.append)
    assert "stacked" in {each.method for each in found.kernels[0].methods}
    assert found == again
    assert not any("fitting" in line for line in told)


def test_no_donor_sees_a_configuration_that_it_is_judged_by() -> None:
    shelf = Shelf()
    evaluate_transfer(target(), pool(), Plan(samples=(20,), repeats=1, baselines=False), shelf=shelf)
    [donor] = shelf.donors.values()
    kernels = Measured.of_set(rows_of(target())).kernels
    _, judged = split(kernels, seed=0)
    assert not {*config_keys(donor.measured.kernels)} & {*config_keys(kernels.take(judged))}


def test_splits_depend_on_configurations_alone() -> None:
    kernels = measured(400, seed=1).kernels
    rows, judged = split(kernels, seed=5)
    assert sorted([*rows, *judged]) == list(range(400))
    assert len(judged) / 400 == pytest.approx(TEST_SHARE, abs=0.07)
    keys = config_keys(kernels)
    backwards = kernels.take(np.arange(400)[::-1])
    assert {config_keys(backwards)[at] for at in split(backwards, 5)[1]} == {keys[at] for at in judged}
    assert {*split(kernels, 6)[1]} != {*judged}


def test_small_draws_are_parts_of_larger_ones() -> None:
    [(_, few), (_, many)] = draws(100, (10, 30), seed=1)
    assert few.tolist() == many[:10].tolist()
    assert len(set(many.tolist())) == 30


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (Plan(samples=()), "samples"),
        (Plan(samples=(5,)), "samples"),
        (Plan(repeats=0), "repeats"),
        (Plan(kernels=("fc",)), "kernel"),
    ],
)
def test_a_wrong_plan_names_its_field(plan: Plan, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        evaluate_transfer(target(), pool(), plan)
    assert refused.value.field == field


def refused_with(content: MeasurementSet, *pool_sets: NamedSet) -> str:
    with pytest.raises(InvalidRequest) as refused:
        evaluate_transfer(NamedSet("target", content), pool_sets, PLAN)
    return refused.value.detail


def test_pools_that_cannot_help() -> None:
    content = target().content
    assert "at least one" in refused_with(content)
    assert "two measurement sets" in refused_with(content, *pool(), *pool())
    assert "its own donor" in refused_with(content, NamedSet("copy", content))
    foreign = set_of(measured(160, seed=2), kernel="their-conv")
    assert "no set of the pool has this kernel type" in refused_with(content, NamedSet("foreign", foreign))


@pytest.mark.parametrize("digits", [None, 4])
def test_a_set_cannot_be_a_donor_of_itself_however_it_is_written(digits: int | None) -> None:
    """Another source, other words for the board, columns and rows in another order, rows left out, fewer digits."""
    content, rows = target().content, rows_of(target())
    some = np.random.default_rng(0).permutation(len(rows.latency_ms))[:120]
    places = [rows.columns.index(name) for name in rows.columns[::-1]]
    times = [rows.latency_ms[at] for at in some]
    written = rows.model_copy(
        update={
            "columns": rows.columns[::-1],
            "configs": tuple(tuple(rows.configs[at][place] for place in places) for at in some),
            "latency_ms": tuple(time_ms if digits is None else round(time_ms, digits) for time_ms in times),
        }
    )
    platform = content.platform.model_copy(update={"source": "another", "board_model": "made-up too"})
    copy = content.model_copy(update={"platform": platform, "kernels": {rows.type: written}})
    assert "its own donor" in refused_with(content, *pool(), NamedSet("copy", copy))


def test_targets_that_cannot_be_judged() -> None:
    assert "too few" in refused_with(set_of(measured(30, seed=1)), *pool())
    constant = with_latencies(target(), np.full(160, 2.0)).content
    assert "nothing can be learnt" in refused_with(constant, *pool())


def test_a_size_that_cannot_be_drawn_is_left_out_with_the_reason() -> None:
    found = evaluate_transfer(target(), pool(), Plan(samples=(20, 500), repeats=1, baselines=False))
    assert {each.samples for each in found.kernels[0].methods} == {20}
    assert [each.reason for each in found.left_out if each.samples == 500] == ["114 rows can be drawn from"]


@pytest.mark.skipif(not RECORDED.is_dir(), reason="BENCHFARM_MEASUREMENT_SETS names no folder of recorded sets")
def test_transfer_between_recorded_boards_beats_learning_from_scratch() -> None:
    names = {"conv": "conv-bn-act:act=none"}
    p100, p4 = (NamedSet(name, read_folder(RECORDED / f"neusight-{name}", names)) for name in ("p100", "p4"))
    found = evaluate_transfer(p4, [p100], Plan(samples=(100,), repeats=1, baselines=False))
    scores = {each.method: each.within_10.mean for each in found.kernels[0].methods}
    assert scores["ours"] > scores["scratch"] + 0.01, "with as many trees as in earnest it is 0.05 to 0.09"
