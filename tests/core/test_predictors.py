"""The rules around predictors: what is not a real board lends to nothing real, and no version moves backwards but by
a rollback."""

import pytest
from pydantic import ValidationError

from benchfarm_core.boards import BoardMark, mark_prefix
from benchfarm_core.errors import Conflict
from benchfarm_core.measurements import Timing
from benchfarm_core.predictors import (
    PREDICTOR_TRANSITIONS,
    KernelRow,
    PredictorEvidence,
    PredictorState,
    is_marked,
    may_lend,
)
from benchfarm_core.states import advance, final_states

MARKS: tuple[tuple[BoardMark, ...], ...] = (
    ("shared_host",),
    ("emulated",),
    ("simulated",),
    ("shared_host", "simulated"),
)


@pytest.mark.parametrize("marks", MARKS)
def test_marked_boards_lend_to_no_real_one(marks: tuple[BoardMark, ...]) -> None:
    model = f"{mark_prefix(marks)}host-a"
    assert is_marked(model)
    assert may_lend("rpi5", model)
    assert not may_lend(model, "rpi5")


def test_simulated_boards_lend_to_simulated_ones() -> None:
    assert may_lend("sim-a", "sim-b")
    assert may_lend("sim-board", "shared-sim-host-a")
    assert not may_lend("sim-board", "shared-host-a"), "a shared host is a real machine"
    assert not may_lend("sim-board", "emu-board")


def test_what_is_of_single_use_lends_to_nobody() -> None:
    for donor in ("shared-host-a", "emu-board", "shared-emu-board", "shared-sim-board"):
        for other in (donor, "shared-emu-sim-host-b", "sim-board", "rpi5"):
            assert not may_lend(donor, other)


def test_real_boards_lend_to_all() -> None:
    assert not is_marked("simple-board"), "a name that only begins alike"
    assert may_lend("simple-board", "rpi5")


def test_only_a_rollback_leads_back() -> None:
    assert final_states(PREDICTOR_TRANSITIONS) == {PredictorState.REJECTED}
    assert advance(PREDICTOR_TRANSITIONS, PredictorState.SUPERSEDED, PredictorState.ACTIVE) is PredictorState.ACTIVE
    for state in (PredictorState.ACTIVE, PredictorState.SUPERSEDED, PredictorState.REJECTED):
        with pytest.raises(Conflict):
            advance(PREDICTOR_TRANSITIONS, state, PredictorState.CANDIDATE)


@pytest.mark.parametrize("normalised_ms", [0, -1.0, float("nan"), float("inf")])
def test_a_row_has_a_time_that_can_be_one(normalised_ms: float) -> None:
    fields = {
        "workload_id": "w_1",
        "kernel_type": "fc",
        "config": {"cin": 64},
        "timing": Timing.ALONE,
        "grade": "A",
        "measured_at": "2026-01-31T12:00:00Z",
        "purpose": "job",
    }
    assert KernelRow.model_validate(fields | {"normalised_ms": 0.5}).timing is Timing.ALONE
    with pytest.raises(ValidationError):
        KernelRow.model_validate(fields | {"normalised_ms": normalised_ms})


def test_evidence_says_nothing_by_default() -> None:
    said = PredictorEvidence()
    assert PredictorEvidence.model_validate_json(said.model_dump_json()) == said
    assert (said.holdout, said.unseen, said.board_s) == (None, None, 0.0)
