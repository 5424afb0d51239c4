"""When predictors are made anew, and what judges them then."""

from datetime import UTC, datetime, timedelta
from math import log
from typing import Any

import pytest

from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.predictors import WHOLE_MODEL, KernelRow, ModelRow, TrainingRows
from benchfarm_core.refreshing import (
    CANARIES_MOVED,
    DRIFT,
    JUDGES_MIN,
    LOOK_ROWS,
    NEW_ROWS_MIN,
    RefreshReason,
    Since,
    drift,
    first_since,
    is_another_board,
    is_drifted,
    is_other_version,
    judges_since,
    may_be_due,
    parted,
    rows_of,
    why_due,
)

KEY = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
MADE_AT = datetime(2026, 11, 22, 12, tzinfo=UTC)


def rows(kernels: int = 0, models: int = 0, *, later: bool = True, slower: float = 1.0) -> TrainingRows:
    """So many rows of `fc` alone, each also in situ, and of whole models."""
    fields: dict[str, Any] = {
        "grade": "A",
        "measured_at": MADE_AT + timedelta(seconds=1 if later else -1),
        "purpose": "job",
    }
    kinds = [(f"w_{number}", timing) for number in range(kernels) for timing in Timing]
    return TrainingRows(
        platform=KEY,
        kernels=tuple(
            KernelRow(workload_id=id_, kernel_type="fc", config={}, timing=timing, normalised_ms=slower, **fields)
            for id_, timing in kinds
        ),
        models=tuple(
            ModelRow(workload_id=f"w_m{number}", space=None, kernels=(), unknown=(), normalised_ms=slower, **fields)
            for number in range(models)
        ),
        rule_version=1,
        data_hash="d",
    )


@pytest.mark.parametrize(
    ("since", "why", "is_looked_at"),
    [
        (Since(100, LOOK_ROWS - 1, True), None, False),
        (Since(100, LOOK_ROWS, True), RefreshReason.GENERATION, True),
        (Since(100, LOOK_ROWS), None, True),
        (Since(10, NEW_ROWS_MIN - 1), None, True),
        (Since(10, NEW_ROWS_MIN), RefreshReason.ROWS, True),
        (Since(1000, NEW_ROWS_MIN), None, True),
        (Since(1000, 200), RefreshReason.ROWS, True),
        (Since(100, LOOK_ROWS, canaries=CANARIES_MOVED / 2), None, True),
        (Since(100, LOOK_ROWS, canaries=2 * CANARIES_MOVED), RefreshReason.CANARIES, True),
        (Since(100, LOOK_ROWS, canaries=-2 * CANARIES_MOVED), RefreshReason.CANARIES, True),
        (Since(100, LOOK_ROWS - 1, canaries=2 * CANARIES_MOVED), None, False),
        (Since(0, LOOK_ROWS, is_first=True), RefreshReason.ENGINE_VERSION, True),
        (Since(0, LOOK_ROWS - 1, is_first=True), None, False),
        (Since(100, 0, has_new_rules=True), RefreshReason.FUSION, True),
        (Since(10, NEW_ROWS_MIN, has_new_rules=True), RefreshReason.FUSION, True),
        (Since(100, LOOK_ROWS, True, has_new_rules=True), RefreshReason.GENERATION, True),
    ],
)
def test_it_takes_enough_rows_or_something_that_is_another_one(
    since: Since, why: RefreshReason | None, is_looked_at: bool
) -> None:
    assert (why_due(since, since.new), may_be_due(since)) == (why, is_looked_at)


def test_drift_is_what_most_new_rows_say_and_few_say_nothing() -> None:
    slower = [log(1 + 2 * DRIFT)] * LOOK_ROWS
    assert drift(slower) == pytest.approx(2 * DRIFT)
    assert is_drifted(slower)
    assert is_drifted([-one for one in slower])
    assert drift(slower[1:]) is None
    assert not is_drifted(slower[1:])
    assert not is_drifted(slower, error=3 * DRIFT), "nobody expected it to be nearer"
    assert not is_drifted([*slower, *[0.0] * (LOOK_ROWS + 1)]), "half of them are where they were"


def test_a_kernel_type_is_predicted_alone() -> None:
    found = rows(3, 2)
    assert len(found.kernels) == 6
    assert [row.workload_id for row in rows_of(found, "fc")] == ["w_0", "w_1", "w_2"]
    assert (len(rows_of(found, WHOLE_MODEL)), len(rows_of(found, "conv-bn-act"))) == (2, 0)


def test_every_second_row_that_came_since_judges_where_there_are_enough() -> None:
    enough = 2 * JUDGES_MIN
    judging = judges_since(rows(enough, 3), "fc", MADE_AT)
    assert len(judging.every) == JUDGES_MIN
    assert {row.workload_id for row in judging.every} < {row.workload_id for row in rows(enough).kernels}
    assert all(row.timing is Timing.ALONE for row in judging.kernels)
    assert judges_since(rows(enough - 2), "fc", MADE_AT).every == ()
    assert judges_since(rows(enough, later=False), "fc", MADE_AT).every == (), "the one that answers has learnt these"
    assert len(judges_since(rows(0, enough), WHOLE_MODEL, MADE_AT).models) == JUDGES_MIN


def test_what_was_only_measured_again_neither_judges_nor_calls_for_a_version() -> None:
    again = rows(2 * NEW_ROWS_MIN)
    known = {"first_at": MADE_AT - timedelta(days=1)}
    again = again.model_copy(update={"kernels": tuple(row.model_copy(update=known) for row in again.kernels)})
    assert first_since(again, "fc", MADE_AT) == []
    assert judges_since(again, "fc", MADE_AT).every == (), "the one that answers has learnt these"
    assert why_due(Since(10, 2 * NEW_ROWS_MIN), 0) is None
    assert why_due(Since(10, LOOK_ROWS, is_other_generation=True), 0) is RefreshReason.GENERATION


def test_rows_are_parted_by_when_they_were_measured() -> None:
    both = rows(2, 2).model_copy(update={"models": rows(0, 3, later=False).models})
    before, since = parted(both, MADE_AT)
    assert (len(before.kernels), len(before.models)) == (0, 3)
    assert (len(since.kernels), len(since.models)) == (4, 0)


def test_a_board_is_another_one_when_its_holdouts_say_so() -> None:
    first = rows(0, JUDGES_MIN, later=False)
    assert is_another_board(first, rows(0, JUDGES_MIN, slower=1 + 2 * DRIFT), WHOLE_MODEL)
    assert not is_another_board(first, rows(0, JUDGES_MIN, slower=1 + DRIFT / 2), WHOLE_MODEL)
    assert not is_another_board(first, rows(0, JUDGES_MIN - 1, slower=2.0), WHOLE_MODEL), "too few say so"
    assert not is_another_board(first, rows(JUDGES_MIN, 0, slower=2.0), "fc"), "none of them was measured before"


def test_another_version_of_the_engine_and_nothing_else_is_a_neighbour() -> None:
    own = parse_platform_key(KEY)
    assert is_other_version(parse_platform_key(KEY.replace("1.31.1", "1.30")), own)
    for other in (KEY, KEY.replace("1.31.1", "1.30").replace("fp32", "int8"), KEY.replace("onnxruntime", "ncnn")):
        assert not is_other_version(parse_platform_key(other), own)
