"""Rows to learn from: what is refused, and how they are divided."""

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.training.measured import FOLDS, MIN_ROWS, Measured, check_rows, config_keys, folds_of
from tests.predictor.training.platforms import measured


@pytest.mark.parametrize("count", [MIN_ROWS, 31, 200])
def test_every_row_is_held_back_once(count: int) -> None:
    folds = folds_of(measured(count), seed=1)
    held = np.concatenate([fold.held for fold in folds])
    assert len(folds) == FOLDS
    assert sorted(held) == list(range(count))
    for fold in folds:
        assert sorted([*fold.train, *fold.held]) == list(range(count))
        assert len(fold.held_kernels) == len(fold.held)


def test_folds_have_fast_and_slow_kernels() -> None:
    rows = measured(100)
    fastest = np.argsort(rows.latency_ms)[: len(rows) // 2]
    shares = [np.isin(fold.held, fastest).mean() for fold in folds_of(rows, seed=3)]
    assert shares == [0.5] * FOLDS


@pytest.mark.parametrize(
    ("latency_ms", "said"),
    [
        ([1.0, 2.0, 3.0], "too few"),
        ([2.5] * 12, "all 12 latencies are 2.5 ms"),
        ([*range(1, 12), float("nan")], "no positive number"),
        ([*range(12)], "no positive number"),
        ([*range(1, 12), float("inf")], "no positive number"),
    ],
)
def test_rows_that_nothing_can_be_learnt_from(latency_ms: list[float], said: str) -> None:
    rows = measured(len(latency_ms))
    with pytest.raises(InvalidRequest, match=said) as refused:
        check_rows(Measured(rows.kernels, np.array(latency_ms)))
    assert refused.value.code == "training_rows_invalid"


def test_a_configuration_is_known_in_any_order_of_columns() -> None:
    one = Kernels.of_rows("their-conv", ["hw", "cin"], [[7, 32], [14, 8]])
    other = Kernels.of_rows("their-conv", ["cin", "hw"], [[32, 7], [7, 32]])
    assert config_keys(one)[0] == config_keys(other)[0]
    assert len({*config_keys(one), *config_keys(other)}) == 3
