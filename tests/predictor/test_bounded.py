"""Corrections that stay where they were taught, and intervals that grow where nothing was tried."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_predictor.bounded import HALF_APART, SHARES, Bounded, Boxes, bounded
from benchfarm_predictor.combined import Farther, Regional, Residual
from benchfarm_predictor.composition import fit_whole_model
from benchfarm_predictor.conformal import calibrate
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.predictions import answer
from benchfarm_predictor.predictor_file import Predictor, read, write
from benchfarm_predictor.registry import Registry
from benchfarm_predictor.ridge import fit_ridge
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.spaces import draws, kernels
from tests.predictor.predictors import header
from tests.predictor.rows import noisy, whole_ms
from tests.predictor.whole_predictors import lists_of, region

MOBILE, RESNET = "ofa_mobilenet_v3", "ofa_resnet"


@pytest.fixture(scope="module")
def taught() -> KernelLists:
    return lists_of(MOBILE, 30)


@pytest.fixture(scope="module")
def correction(taught: KernelLists) -> Bounded:
    """Taught that everything takes half as long again, a little more with more kernels."""
    ratios = np.log(1.5) + 0.002 * (taught.kernel_counts - taught.kernel_counts.mean())
    ratio = fit_ridge(SHARES, taught, np.exp(ratios)).model
    return bounded(ratio, Boxes.around(taught, [MOBILE] * len(taught)), ratios)


def test_within_what_was_seen_it_is_the_ratio_and_far_away_none(correction: Bounded, taught: KernelLists) -> None:
    new, strange = lists_of(MOBILE, 20, "new"), lists_of(RESNET, 20)
    assert correction.predict(taught) == pytest.approx(correction.ratio.predict(taught), rel=1e-3)
    assert correction.predict(new) == pytest.approx(np.full(20, 1.5), rel=0.06)
    apart = correction.boxes.outside(strange)
    assert (apart > 4 * HALF_APART).all(), "networks without depthwise convolutions are like none of them"
    assert np.abs(np.log(correction.predict(strange))).max() < np.log(1.6) / 2**4


def test_it_never_leaves_the_ratios_that_were_seen(correction: Bounded, taught: KernelLists) -> None:
    wild = replace(correction, ratio=fit_ridge(SHARES, taught, np.exp(np.linspace(-9, 9, len(taught)))).model)
    said = np.log(wild.predict(taught))
    assert said.min() >= wild.least - 1e-12
    assert said.max() <= wild.most + 1e-12
    assert wild.least == 0.0, "no correction at all is always within"


def test_half_of_it_is_left_so_far_outside(correction: Bounded, taught: KernelLists) -> None:
    low, high = correction.boxes.low - 100, correction.boxes.high + 100
    at = SHARES.names.index("log2_kernels")
    found = SHARES.matrix(taught)[:, at]
    high[:, at] = found.min() - HALF_APART
    moved = replace(correction, boxes=Boxes(low, high))
    nearest = int(found.argmin())
    whole = np.log(np.clip(correction.ratio.predict(taught)[nearest], np.exp(0), np.exp(correction.most)))
    assert np.log(moved.predict(taught)[nearest]) == pytest.approx(whole / 2, rel=1e-6)


def test_a_row_between_two_spaces_is_outside_of_both() -> None:
    lists = KernelLists.of([*[list_of(1)] * 3, *[list_of(7)] * 3])
    between = KernelLists.of([list_of(3)])
    assert Boxes.around(lists, ["one", "one", "one", "two", "two", "two"]).outside(between)[0] > 0
    assert Boxes.around(lists, ["all"] * 6).outside(between)[0] == 0


def list_of(convolutions: int) -> Any:
    conv = {"hw": 28, "cin": 32, "cout": 64, "k": 3, "s": 1, "act": "relu"}
    token = {"seq": 64, "cin": 192, "cout": 192, "act": "none"}
    return [("conv-bn-act", conv, convolutions), ("linear", token, 8 - convolutions)]


def predictor_of(model: Any, lists: KernelLists) -> Predictor:
    return Predictor(header(WHOLE_MODEL), model, calibrate(model.predict(lists), whole_ms(lists)))


def test_it_comes_back_from_its_file_to_the_bit(correction: Bounded, taught: KernelLists) -> None:
    ridge = fit_whole_model(taught, noisy(whole_ms(taught), 0.02)).model
    told = write(predictor_of(Residual(ridge, correction), taught))
    found = read(told).model
    for lists in (taught, lists_of(RESNET, 5)):
        assert found.predict(lists).tolist() == Residual(ridge, correction).predict(lists).tolist()
    assert write(read(told)) == told


@pytest.mark.parametrize(
    ("arrays", "meta"),
    [
        ({"boxes/low": np.zeros((0, 3))}, {}),
        ({"boxes/low": np.full((1, len(SHARES.names)), 1e9)}, {}),
        ({"boxes/high": np.zeros((2, len(SHARES.names)))}, {}),
        ({}, {"least": 0.5, "most": 0.4}),
        ({}, {"least": 1e40}),
    ],
)
def test_what_nobody_wrote_is_damaged(correction: Bounded, arrays: dict[str, Any], meta: dict[str, Any]) -> None:
    own, said = correction.to_arrays()
    with pytest.raises(InvalidRequest) as caught:
        Registry().model(own | arrays, said | meta)
    assert caught.value.code == "predictor_file_damaged"


@pytest.fixture(scope="module")
def regional(taught: KernelLists) -> Regional:
    ridge = fit_whole_model(taught, whole_ms(taught)).model
    return region(taught, MOBILE, (ridge,), [[1.0], [1.0]])


def test_intervals_grow_with_the_distance_from_all_that_was_tried(regional: Regional, taught: KernelLists) -> None:
    strange = lists_of(RESNET, 10)
    assert (regional.places(strange) == 1).all()
    assert regional.widening(strange).tolist() == [1.5] * 10, "as files of before have it"
    boxes = Boxes.around(taught, [MOBILE] * len(taught))
    apart = boxes.outside(strange)
    near = replace(regional, farther=Farther(boxes, float(apart.max()), 0.4, 2.0))
    assert near.widening(strange) == pytest.approx(np.full(10, 1.5)), "that far it was tried"
    beyond = replace(regional, farther=Farther(boxes, float(apart.min()) / 2, 0.4, 2.0))
    assert beyond.widening(strange) == pytest.approx(1.5 * np.exp(0.4 * (apart / (apart.min() / 2) - 1)))
    assert beyond.widening(taught).tolist() == [1.0] * len(taught)
    far = replace(regional, farther=Farther(boxes, 1e-3, 0.4, 2.0))
    assert far.widening(strange) == pytest.approx(np.full(10, 1.5 * np.exp(2.0)))


def test_an_answer_is_as_wide_as_that_and_a_file_keeps_it(regional: Regional, taught: KernelLists) -> None:
    farther = Farther(Boxes.around(taught, [MOBILE] * len(taught)), 0.5, 0.4, 2.0)
    strange = lists_of(RESNET, 10)
    without, grown = (predictor_of(each, taught) for each in (regional, replace(regional, farther=farther)))
    plain, wide = answer(without, strange), answer(read(write(grown)), strange)
    ratio = (wide.high_ms / wide.latency_ms) / (plain.high_ms / plain.latency_ms)
    assert ratio == pytest.approx(farther.widening(farther.boxes.outside(strange)))
    assert (ratio > 1).all()


def test_who_lies_in_a_region_but_beside_all_rows_passes_into_elsewhere(regional: Regional) -> None:
    """Spaces that are alike share regions, and are not the same for all that."""
    lists = lists_of(MOBILE, 40, "new")
    kernels = SHARES.matrix(lists)[:, SHARES.names.index("log2_kernels")]
    few = lists.take(np.argsort(kernels)[:20])
    farther = Farther(Boxes.around(few, [MOBILE] * 20), 0.5, 0.4, 2.0)
    outside = farther.boxes.outside(lists)
    some = (outside > 0) & (outside < HALF_APART)
    assert some.any()
    assert (outside == 0).any()
    found = replace(regional, farther=farther)
    assert (found.places(lists) == 0).all()
    wanted = 1.5 ** np.minimum(outside / HALF_APART, 1.0)
    assert found.widening(lists) == pytest.approx(wanted)
    said = answer(predictor_of(found, lists), lists)
    assert (said.coverage[outside > 0] == 0).all(), "nothing was calibrated on such"
    assert (said.coverage[outside == 0] > 0).all()


def test_rows_do_not_see_each_other(correction: Bounded) -> None:
    every = KernelLists.of([*lists_of_kernels(MOBILE), *lists_of_kernels(RESNET)])
    together = correction.predict(every).tolist()
    assert [correction.predict(every.take(slice(at, at + 1)))[0] for at in range(len(every))] == together


def lists_of_kernels(name: str) -> list[Any]:
    return [kernels(each, FusionRules()) for each in draws(name, "both", 6)]
