"""The correctness gate and the fitness of references."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.gate import (
    BadReference,
    check_each,
    check_outputs,
    load_reference,
    refuse_unfit_reference,
    relative_l2,
)

FINITE = st.floats(-1e6, 1e6, width=32)


@given(arrays.arrays(np.float32, (3, 4), elements=FINITE))
def test_equal_outputs_have_no_error(array: np.ndarray) -> None:
    assert relative_l2([array], [array.copy()]) == 0


@given(st.floats(1e-6, 1e-1))
def test_a_relative_change_is_found_as_it_is(change: float) -> None:
    reference = np.linspace(1, 2, 50)
    assert relative_l2([reference * (1 + change)], [reference]) == pytest.approx(change, rel=1e-6)


def test_all_outputs_count_as_one_vector() -> None:
    reference = [np.full(100, 10.0), np.array([1.0])]
    wrong = [reference[0], np.array([2.0])]
    assert relative_l2(wrong, reference) == pytest.approx(1 / math.sqrt(100 * 100 + 1))


def test_a_small_output_that_is_wrong_is_found_by_itself() -> None:
    reference = [np.full(100, 10.0), np.array([1.0])]
    wrong = [reference[0], np.array([2.0])]
    assert check_outputs(wrong, reference, 0.02) < 0.02
    with pytest.raises(EngineFailure, match="output 1 by itself is 1") as caught:
        check_each(wrong, reference, 0.02)
    assert caught.value.code is FailureCode.WRONG_RESULT
    assert check_each(wrong, reference, 1.0) == 1


def test_a_reference_of_zeros_allows_zeros_only() -> None:
    zeros = [np.zeros(3)]
    assert relative_l2(zeros, zeros) == 0
    assert relative_l2([np.full(3, 1e-30)], zeros) == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_are_wrong_results(bad: float) -> None:
    with pytest.raises(EngineFailure) as caught:
        check_outputs([np.array([1.0, bad])], [np.ones(2)], 1.0)
    assert caught.value.code is FailureCode.WRONG_RESULT


@pytest.mark.parametrize("outputs", [[np.ones(3)], [np.ones(2), np.ones(2)], []])
def test_other_shapes_are_wrong_results(outputs: list[np.ndarray]) -> None:
    with pytest.raises(EngineFailure, match="shapes"):
        check_outputs(outputs, [np.ones(2)], 1.0)


def test_the_limit_is_inclusive() -> None:
    assert check_outputs([np.array([1.5])], [np.array([1.0])], 0.5) == 0.5
    with pytest.raises(EngineFailure, match=r"is 0\.5, allowed is 0\.25"):
        check_outputs([np.array([1.5])], [np.array([1.0])], 0.25)


def test_integers_are_compared_too() -> None:
    assert relative_l2([np.array([3, 5])], [np.array([3, 4])]) == pytest.approx(0.2)


@pytest.mark.parametrize(("bad", "says"), [(math.nan, "NaN"), (math.inf, "Inf"), (1e-40, "denormal")])
def test_unfit_references(bad: float, says: str) -> None:
    with pytest.raises(EngineFailure, match=says) as caught:
        refuse_unfit_reference([np.array([1.0, bad], dtype=np.float32)])
    assert caught.value.code is FailureCode.INVALID_WORKLOAD


def test_fit_references() -> None:
    refuse_unfit_reference([np.array([0.0, 2e-38, -3.0], dtype=np.float32), np.array([1, 2]), np.zeros((0, 3))])


def test_references_come_back_in_graph_order(tmp_path: Path) -> None:
    outputs = {f"out{number}": np.array([number]) for number in (10, 2, 0, 1, *range(3, 10))}
    np.savez(tmp_path / "r.npz", **outputs)  # type: ignore[arg-type]
    assert [int(each[0]) for each in load_reference(tmp_path / "r.npz")] == list(range(11))


def test_a_pickled_reference_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", out0=np.array([{}], dtype=object))
    with pytest.raises(BadReference):
        load_reference(tmp_path / "r.npz")


@pytest.mark.parametrize("place", [0, 20_000, 99_999])
def test_outputs_of_many_pieces_are_compared_to_their_end(place: int) -> None:
    reference = np.ones(100_000, dtype=np.float32)
    wrong = reference.copy()
    wrong[place] = 2
    assert relative_l2([wrong], [reference]) == pytest.approx(1 / math.sqrt(100_000))
    wrong[place] = np.nan
    with pytest.raises(EngineFailure, match="NaN"):
        relative_l2([wrong], [reference])
