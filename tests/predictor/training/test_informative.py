"""What to measure next: spread out, where models disagree, never what is known, the same again."""

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import ArchitectureWorkload, workload_id
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.models import Batch
from benchfarm_predictor.training.informative import (
    disagreement,
    kernels_to_time,
    next_kernels,
    next_models,
    space_plan,
)
from benchfarm_workloads.draws import draw
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.spaces import kernels
from tests.predictor.rows import costs
from tests.predictor.training.farm_rows import MOBILE, RESNET, drawn

LISTS = KernelLists.of(each for _, each in drawn(MOBILE, 40))


class Says:
    """One latency for everything, another one for some rows."""

    kind = "says"

    def __init__(self, latency_ms: float, odd: int = -1) -> None:
        self.latency_ms, self.odd = latency_ms, odd

    def predict(self, batch: Batch) -> Floats:
        said = np.full(len(batch), self.latency_ms)
        if self.odd >= 0:
            said[self.odd] *= 5
        return said


def ids(found: tuple[object, ...]) -> list[str]:
    return [workload_id(ArchitectureWorkload(**dict(each))) for each in found]  # type: ignore[call-overload]


def test_a_plan_is_the_same_again_and_holds_nothing_twice() -> None:
    plan = space_plan(MOBILE, "a", 12)
    assert (ids(plan), len(set(ids(plan)))) == (ids(space_plan(MOBILE, "a", 12)), 12)
    assert ids(plan) != ids(space_plan(MOBILE, "b", 12))
    assert {each.space for each in plan} == {MOBILE}


def test_a_plan_begins_with_both_ends_of_the_work() -> None:
    lists = KernelLists.of(kernels(each, FusionRules()) for each in space_plan(MOBILE, "a", 20))
    least, most, *others = lists.sums(lambda each: costs(each).flops)
    assert least <= min(others)
    assert most >= max(others)


def test_a_plan_leaves_out_what_is_known() -> None:
    plan = ids(space_plan(RESNET, "a", 10))
    other = ids(space_plan(RESNET, "a", 10, known=plan[:6]))
    assert len(other) == 10
    assert not set(other) & set(plan[:6])


def test_a_plan_of_a_space_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        space_plan("nowhere", "a", 3)
    assert caught.value.code == "space_unknown"
    assert space_plan(MOBILE, "a", 0) == ()
    with pytest.raises(InvalidRequest, match="count"):
        space_plan(MOBILE, "a", -1)


def test_models_are_asked_for_where_the_plausible_ones_disagree() -> None:
    measured, offered = LISTS.take(slice(0, 10)), LISTS.take(slice(10, 40))
    agree, odd = Says(2.0), Says(2.0, odd=17)
    assert next_models((agree, odd), measured, offered, 5)[0] == 17  # type: ignore[arg-type]
    assert disagreement((agree, odd), offered).argmax() == 17  # type: ignore[arg-type]
    assert not disagreement((agree,), offered).any()  # type: ignore[arg-type]


def test_what_is_asked_for_is_spread_out_and_half_of_it_as_drawn() -> None:
    measured, offered = LISTS.take(slice(0, 10)), LISTS.take(slice(10, 40))
    found = next_models((), measured, offered, 10)
    assert len(set(found)) == 10
    assert found[1] == min(set(range(30)) - {found[0]})
    assert next_models((), measured, offered, 99)[:10] == found
    assert len(next_models((), measured, offered, 99)) == 30
    assert next_models((), measured, KernelLists.of([]), 5) == ()


def test_what_was_measured_already_comes_last() -> None:
    offered = LISTS.take(slice(0, 20))
    found = next_models((), LISTS.take(slice(10, 20)), offered, 10)
    assert set(found[::2]) <= set(range(10))


def test_kernels_far_from_the_measured_ones_come_first() -> None:
    near = [{"cin": 100 + 4 * at, "cout": 100} for at in range(8)]
    far = {"cin": 2000, "cout": 1000}
    measured, offered = Kernels.of_configs("fc", near[:4]), Kernels.of_configs("fc", [*near[4:], far])
    assert next_kernels((), measured, offered, 2)[0] == 4
    with pytest.raises(InvalidRequest):
        next_kernels((), Kernels.of_configs("act", draw("act", 0, 3)), offered, 2)


def test_kernels_to_time_are_distinct_valid_and_of_every_type() -> None:
    found = kernels_to_time(LISTS, 120)
    assert len(found) == 120
    assert {name for name, _ in found[: len(LISTS.by_type)]} == set(LISTS.by_type)
    made = [(name, *kernel_type(name).validate(config).items()) for name, config in found]
    assert len(set(made)) == 120
    assert found[:50] == kernels_to_time(LISTS, 120)[:50]


def test_kernels_that_are_known_are_not_timed_again() -> None:
    known = [entries.kernels for entries in LISTS.by_type.values() if entries.kernels.type != "fc"]
    found = kernels_to_time(LISTS, 50, known=known)
    assert {name for name, _ in found} == {"fc"}
    assert kernels_to_time(KernelLists.of([]), 50) == ()
