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
    check_as_one,
    check_beside,
    check_outputs,
    codes_apart,
    distances,
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
    with pytest.raises(EngineFailure, match="output 1 by itself is 1") as caught:
        check_outputs(wrong, reference, 0.02)
    assert caught.value.code is FailureCode.WRONG_RESULT
    assert check_outputs(wrong, reference, 1.0) == 1
    assert check_as_one(wrong, reference, 0.02, each=1.0) == 1
    for limit, each in ((0.02, 0.9), (0.005, 1.0)):
        with pytest.raises(EngineFailure, match="relative L2"):
            check_as_one(wrong, reference, limit, each)


def test_an_output_of_zeros_is_measured_beside_the_others() -> None:
    reference = [np.array([3.0, 4.0]), np.zeros(2)]
    assert distances([reference[0], np.array([0.0, 0.05])], reference) == pytest.approx([0, 0.01])


def test_each_output_is_held_to_its_own_twin() -> None:
    """The second output is farther from the truth than its twin; the first one's nearness does not make up for it."""
    truth, twin = [np.full(4, 1.0), np.full(4, 1.0)], [np.full(4, 1.04), np.full(4, 1.001)]
    assert check_beside([np.full(4, 1.0), np.full(4, 1.0)], truth, twin, 0.02) == pytest.approx(0.04 / 1.04)
    with pytest.raises(EngineFailure, match=r"output 1 by itself is 0\.02"):
        check_beside([np.full(4, 1.0), np.full(4, 1.03)], truth, twin, 0.02)
    assert check_beside([np.full(4, 1.0), np.full(4, 1.03)], truth, twin, 0.02, as_one=True) > 0.02


def codes(seed: int = 0, *, spread: float = 20.0, zero_point: int = 128, size: int = 50_000) -> np.ndarray:
    """Quantised numbers; more than a piece of them."""
    values = np.random.default_rng(seed).standard_normal(size) * spread + zero_point
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def test_a_zero_point_hides_nothing_of_what_is_wrong_with_codes() -> None:
    """As they stand these codes are 16 % apart, far beyond what the numbers behind them may be, which are others."""
    reference, other = codes(0, spread=15), codes(1, spread=15)
    assert relative_l2([other], [reference]) < 0.17
    assert distances([other], [reference])[0] > 1.2
    nothing = np.full_like(reference, 128)
    assert relative_l2([nothing], [reference]) < 0.12
    assert distances([nothing], [reference])[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("zero_point", [0, 20, 128, 255])
@pytest.mark.parametrize("scale", [0.01, 3.0])
def test_the_numbers_behind_codes_are_never_farther_apart(zero_point: int, scale: float) -> None:
    reference = codes(0)
    wrong = np.clip(reference.astype(np.int64) + np.random.default_rng(2).integers(-9, 10, reference.size), 0, 255)
    real = [(each.astype(np.float64) - zero_point) * scale for each in (wrong, reference)]
    assert 0 < relative_l2(real[:1], real[1:]) <= codes_apart(wrong.astype(np.uint8), reference) + 1e-3


def test_single_steps_are_nothing_for_a_bounded_share_of_the_codes() -> None:
    reference = codes()
    few, many, far = reference.copy(), reference.copy(), reference.copy()
    few[: reference.size // 25] += 1
    many[: reference.size // 2] += 1
    far[: reference.size // 25] += 2
    assert codes_apart(few, reference) == 0
    assert codes_apart(many, reference) == pytest.approx(math.sqrt(0.45) / reference.std(), rel=1e-3)
    assert codes_apart(far, reference) == pytest.approx(math.sqrt(4 / 25) / reference.std(), rel=1e-3)
    assert distances([few], [reference])[0] == relative_l2([few], [reference]) > 0


def test_codes_of_one_value_allow_one_step_of_one_code() -> None:
    constant = np.full(10, 255, np.uint8)
    assert codes_apart(constant, constant) == 0
    assert codes_apart(np.full(1, 254, np.uint8), constant[:1]) == 0
    assert codes_apart(np.full(10, 254, np.uint8), constant) == math.inf


def test_signed_codes_and_those_of_another_sign_are_codes_too() -> None:
    reference = (codes().astype(np.int64) - 128).astype(np.int8)
    assert codes_apart(reference, reference) == 0
    assert codes_apart(codes(), reference) > 1
    assert distances([np.array([3, 5])], [np.array([3, 4])]) == pytest.approx([0.2])  # wider numbers are no codes


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
