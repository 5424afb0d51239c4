"""What was never seen: judged with all of a space held back, by spaces, and not by donors that know it."""

from dataclasses import replace

import numpy as np
import pytest

from benchfarm_core.measurements import Timing
from benchfarm_core.predictors import KernelRow
from benchfarm_core.values import digest
from benchfarm_predictor.training.held_kernels import sums_without
from benchfarm_predictor.training.kernel_sums import fitted_once, kernel_models
from benchfarm_predictor.training.model_candidates import all_bases, fold_numbers, joint_candidates, model_problem
from benchfarm_predictor.training.model_donors import ModelView, model_views
from benchfarm_predictor.training.platform_fit import donor_of
from benchfarm_predictor.training.platform_rows import PlatformRows
from benchfarm_predictor.training.strangers import LEAST_ELSEWHERE, UNTRIED, Elsewhere, Tried, choose_elsewhere
from tests.predictor.training.farm_rows import (
    MOBILE,
    RESNET,
    Platform,
    drawn,
    in_situ_rows,
    kernel_rows,
    model_rows,
    training_rows,
)

PLATFORM = Platform(1)
BORROWER = Platform(2, likeness=PLATFORM)
PROXYLESS = "proxylessnas"
NETWORKS = 12


def with_kernels() -> PlatformRows:
    """Two spaces with kernels of both, timed in situ."""
    models = [row for space in (MOBILE, RESNET) for row in model_rows(PLATFORM, space, NETWORKS)]
    kernels = [row for space in (MOBILE, RESNET) for row in in_situ_rows(PLATFORM, space, NETWORKS, 20)]
    return PlatformRows.of(training_rows(PLATFORM, models, kernels))


def configs(space: str) -> set[str]:
    """Of all kernels in the space's networks."""
    return {digest([name, config]) for _, counted in drawn(space, NETWORKS) for name, config, _ in counted}


def groups_of(rows: PlatformRows) -> np.ndarray:
    return np.array([int(space == RESNET) for space in rows.models.spaces], dtype=np.int64)


def test_a_space_is_held_back_with_the_kernels_that_it_alone_has() -> None:
    rows = with_kernels()
    lists = rows.models.lists
    (sums,) = kernel_models(rows, (), 0)
    held = sums_without(rows, (sums,), lists, groups_of(rows), 0)[sums.name]
    for group, (space, other) in enumerate(((MOBILE, RESNET), (RESNET, MOBILE))):
        own = configs(space) - configs(other)
        kernels = [
            row
            for each in (MOBILE, RESNET)
            for row in in_situ_rows(PLATFORM, each, NETWORKS, 20)
            if digest([row.kernel_type, row.config]) not in own
        ]
        (left,) = kernel_models(PlatformRows.of(training_rows(PLATFORM, [], kernels)), (), 0, fitted_once)
        assert held[group].plain.kernel_sums(lists) == pytest.approx(left.plain.kernel_sums(lists)), space
        assert held[group].plain.kernel_sums(lists) != pytest.approx(sums.plain.kernel_sums(lists)), space


def test_kernels_like_those_of_a_space_are_held_back_with_it() -> None:
    """They were drawn for it, as likely as not."""
    rows = with_kernels()
    name = "dwconv-bn-act"
    assert name in rows.in_situ
    mine = [row for row in in_situ_rows(PLATFORM, MOBILE, NETWORKS, 20) if row.kernel_type != name]
    near = [nearly(row) for row in in_situ_rows(PLATFORM, MOBILE, NETWORKS, 20) if row.kernel_type == name]
    moved = PlatformRows.of(training_rows(PLATFORM, [], [*mine, *near]))
    sums = kernel_models(moved, (), 0)
    held = sums_without(moved, sums, rows.models.lists, groups_of(rows), 0)["in situ"][0]
    assert name not in held.models


def nearly(row: KernelRow) -> KernelRow:
    """A kernel that no network has, but nearly."""
    return row.model_copy(update={"config": {**row.config, "cin": int(row.config["cin"]) + 1}})


def test_sums_that_a_space_taught_nothing_stay_as_they_are() -> None:
    models = [row for space in (MOBILE, RESNET) for row in model_rows(PLATFORM, space, NETWORKS)]
    rows = PlatformRows.of(training_rows(PLATFORM, models, kernel_rows(PLATFORM, "gelu", 20, Timing.IN_SITU)))
    (sums,) = kernel_models(rows, (), 0)
    held = sums_without(rows, (sums,), rows.models.lists, groups_of(rows), 0)
    assert all(each is sums for each in held["in situ"])
    lent = replace(sums, donors=("one that knows all kernels",))
    held = sums_without(rows, (lent,), rows.models.lists, groups_of(rows), 0)
    assert not any(each.donors for each in held["in situ"])


def elsewhere_of(rows: PlatformRows, views: tuple[ModelView, ...]) -> Elsewhere:
    problem = model_problem(rows.models, fold_numbers(rows.models, 0), 0)
    sums = kernel_models(rows, (), 0)
    found = joint_candidates(problem, all_bases(problem, sums, views))
    return choose_elsewhere(problem, found, kernels=rows, sums=sums, views=views)


def test_a_donor_that_knows_the_space_that_is_held_back_does_not_say_how_strangers_fare() -> None:
    donor = donor_of(
        PlatformRows.of(
            training_rows(PLATFORM, [row for space in (MOBILE, PROXYLESS) for row in model_rows(PLATFORM, space, 14)])
        )
    )
    own = [row for space in (MOBILE, PROXYLESS) for row in model_rows(BORROWER, space, 12)]
    rows = PlatformRows.of(training_rows(BORROWER, own))
    views = model_views([donor], rows.models, 0)
    knowing = elsewhere_of(rows, views)
    assert knowing.own.least == UNTRIED
    assert knowing.lent is not None
    assert not np.isnan(knowing.lent.apart).all(), "there it is asked about what it knows"
    strange = elsewhere_of(rows, tuple(replace(view, spaces=frozenset()) for view in views))
    assert strange.own.least == LEAST_ELSEWHERE
    assert strange.lent is not None
    assert np.isnan(strange.lent.apart).all()


def test_spaces_bound_what_is_said_of_another_one_however_many_rows_they_have() -> None:
    groups = np.repeat([0, 1, 2], [200, 10, 3])
    apart = np.where(groups == 1, 0.6, 0.5)
    apart[groups == 2] = np.nan
    tried = Tried(None, np.zeros(213), apart, LEAST_ELSEWHERE)  # type: ignore[arg-type]
    rows = np.arange(213)
    assert tried.bound(groups, rows, 0.9) == 0.6
    assert tried.bound(groups, rows[groups != 1], 0.9) == 0.5
    assert tried.bound(groups, rows[groups == 2], 0.9) == LEAST_ELSEWHERE


@pytest.mark.parametrize(("apart", "is_kept"), [(0.0, True), (0.6, True), (0.8, False), (14.0, False)])
def test_untried_sums_that_are_far_off_say_nothing_of_another_space(apart: float, is_kept: bool) -> None:
    """One space: nothing can be held back, and sums were the only candidates however they did."""
    models, kernels = model_rows(PLATFORM, MOBILE, 15), in_situ_rows(PLATFORM, MOBILE, NETWORKS, 20)
    rows = PlatformRows.of(training_rows(PLATFORM, models, kernels))
    problem = model_problem(rows.models, fold_numbers(rows.models, 0), 0)
    sums = kernel_models(rows, (), 0)
    names = {f"kernels {each.name}" for each in sums}
    found = [
        replace(each, unseen=each.unseen + apart) if each.name in names else each
        for each in joint_candidates(problem, all_bases(problem, sums, ()))
    ]
    chosen = choose_elsewhere(problem, found, kernels=rows, sums=sums, views=()).own.choice
    assert (set(chosen.names) <= names) is is_kept
    assert is_kept or not names & set(chosen.names)
