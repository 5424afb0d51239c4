"""Kernels as columns, and kernel lists: order, defaults, refusals, sums."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurement_sets import KernelRows
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Kernels
from benchfarm_workloads.columns import Config
from benchfarm_workloads.draws import draw
from benchfarm_workloads.kernels import kernel_types
from tests.predictor.rows import architectures

CONV: Config = {"hw": 56, "cin": 24, "cout": 40, "k": 3, "s": 2, "act": "relu6", "batch": 1}
LISTS = KernelLists.of(architectures(12))
FC: Config = {"cin": 3, "cout": 4, "act": "none", "batch": 1}


def refusal(type_name: str, config: dict[str, object]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        Kernels.of_configs(type_name, [config])  # type: ignore[list-item]
    assert caught.value.code == "kernel_out_of_range"
    return caught.value


def test_columns_come_in_the_catalogues_order_with_defaults_and_words_as_places() -> None:
    kernels = Kernels.of_configs("conv-bn-act", [dict(reversed(CONV.items())), {"hw": 7, "cin": 3, "cout": 5, "k": 1}])
    assert kernels.columns == ("hw", "cin", "cout", "k", "s", "act", "batch")
    assert kernels.values.tolist() == [[56, 24, 40, 3, 2, 2, 1], [7, 3, 5, 1, 1, 0, 1]]
    assert kernels.column("cout").tolist() == [40.0, 5.0]
    assert kernels.take(np.array([1, 1, 0])).values[:, 0].tolist() == [7, 7, 56]


def test_columns_beyond_the_catalogue_follow_by_name() -> None:
    rows = [(1, 9, 56, 24, 40, 3), (0, 8, 7, 3, 5, 1)]
    kernels = Kernels.of_rows("conv-bn-act", ["fused", "also", "hw", "cin", "cout", "k"], rows)
    assert kernels.columns == ("hw", "cin", "cout", "k", "s", "act", "batch", "also", "fused")
    assert kernels.values.tolist() == [[56, 24, 40, 3, 1, 0, 1, 9, 1], [7, 3, 5, 1, 1, 0, 1, 8, 0]]


def test_a_foreign_type_keeps_its_columns_as_given() -> None:
    kernels = Kernels.of_rows("their-conv", ["z", "a"], [(1, -2)])
    assert (kernels.columns, kernels.values.tolist(), kernels.is_known) == (("z", "a"), [[1, -2]], False)


def test_a_sets_fixed_columns_are_filled_in() -> None:
    rows = KernelRows(
        type="conv-bn-act",
        given_as="conv",
        columns=("hw", "cin", "cout", "k"),
        fixed={"act": "relu", "batch": 4},
        configs=((7, 3, 5, 1),),
        latency_ms=(0.1,),
    )
    assert Kernels.of_set(rows).values.tolist() == [[7, 3, 5, 1, 1, 1, 4]]
    foreign = Kernels.of_set(rows.model_copy(update={"type": "their-conv"}))
    assert (foreign.columns, foreign.values.tolist()) == (("hw", "cin", "cout", "k", "batch"), [[7, 3, 5, 1, 4]])


def test_nothing_at_all_is_no_row() -> None:
    assert Kernels.of_configs("conv-bn-act", []).values.shape == (0, 7)
    assert Kernels.of_rows("their-conv", ["a"], []).values.shape == (0, 1)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"hw": None}, "config.hw"),
        ({"act": "softplus"}, "config.act"),
        ({"act": 2}, "config.act"),
        ({"cin": 2**40}, "config.cin"),
        ({"cin": True}, "config.cin"),
        ({"cin": "24"}, "config.cin"),
        ({"extra": "word"}, "config.extra"),
    ],
)
def test_what_is_no_number_is_refused_with_its_column(change: dict[str, object], field: str) -> None:
    assert refusal("conv-bn-act", {**CONV, **change}).field == field


@pytest.mark.parametrize("rows", [[(1, 2), (3,)], [(2**40, 1)], [(2**80, 1)], [("x", 1)]])
def test_a_table_that_is_none_is_refused(rows: list[tuple[int, ...]]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Kernels.of_rows("their-conv", ["a", "b"], rows)
    assert caught.value.code == "kernel_out_of_range"


@given(st.sampled_from([kind.name for kind in kernel_types()]), st.integers(0, 2**20))
def test_rows_and_configurations_make_the_same_kernels(type_name: str, seed: int) -> None:
    kernels = Kernels.of_configs(type_name, draw(type_name, seed, 3))
    again = Kernels.of_rows(type_name, kernels.columns, kernels.values)
    assert again.columns == kernels.columns
    assert np.array_equal(again.values, kernels.values)


def test_equal_kernels_of_lists_are_held_once_and_summed_by_count() -> None:
    other: Config = {**FC, "cin": 5}
    lists = KernelLists.of([[("fc", FC, 2)], [], [("conv-bn-act", CONV, 1), ("fc", FC, 5), ("fc", other, 1)]])
    assert {name: len(entries.kernels) for name, entries in lists.by_type.items()} == {"fc": 2, "conv-bn-act": 1}
    assert lists.kernel_counts.tolist() == [2, 0, 7]
    assert lists.sums(lambda kernels: kernels.column("cin")).tolist() == [6, 0, 24 + 15 + 5]
    assert lists.maxima_of(lists.by_type["fc"], np.array([3.0, 5.0])).tolist() == [3, 0, 5]


def test_the_same_numbers_in_other_columns_are_another_kernel() -> None:
    lists = KernelLists.of([[("fc", {"cin": 3, "cout": 4}, 1), ("fc", {"cout": 3, "cin": 4}, 1)]])
    assert lists.by_type["fc"].kernels.column("cin").tolist() == [3, 4]


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        KernelLists.of([[("fc", FC, 0)]])
    assert (caught.value.code, caught.value.field) == ("kernel_out_of_range", "count")


@given(st.lists(st.integers(0, 11), max_size=20))
def test_taken_lists_have_the_sums_that_they_had(rows: list[int]) -> None:
    taken = LISTS.take(np.array(rows, dtype=np.int64))
    for name in ("cin", "batch"):
        after, before = (each.sums(partial(Kernels.column, name=name)) for each in (taken, LISTS))
        assert after.tolist() == before[rows].tolist()
    assert all(len(np.unique(each.kernel)) == len(each.kernels) for each in taken.by_type.values())


def test_lists_are_taken_by_mask_and_slice() -> None:
    lists = KernelLists.of(architectures(6))
    mask = np.array([True, False, True, False, False, True])
    assert lists.take(mask).kernel_counts.tolist() == lists.kernel_counts[mask].tolist()
    assert lists.take(slice(2, None)).kernel_counts.tolist() == lists.kernel_counts[2:].tolist()
