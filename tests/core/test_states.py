"""The transition tables are closed, reachable, and the document shows them as they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchfarm_core.errors import Conflict
from benchfarm_core.failures import FAILURE_NUMBERS, FailureCode, fault_of
from benchfarm_core.jobs import JOB_TRANSITIONS, JobState
from benchfarm_core.states import advance, final_states
from benchfarm_core.states_doc import TABLES, render

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("noun", "table"), TABLES)
def test_every_state_stands_in_its_table_and_can_be_reached(noun: str, table: Mapping[Any, frozenset[Any]]) -> None:
    enum: Any = type(next(iter(table)))
    states = set(enum)
    assert set(table) == states
    reached = {next(iter(table))}
    while more := {to for state in reached for to in table[state]} - reached:
        reached |= more
    assert reached == states, noun


def test_moves_outside_the_table_are_refused() -> None:
    assert advance(JOB_TRANSITIONS, JobState.QUEUED, JobState.PLANNING) is JobState.PLANNING
    with pytest.raises(Conflict):
        advance(JOB_TRANSITIONS, JobState.SUCCEEDED, JobState.RUNNING)


def test_final_states_follow_from_the_table() -> None:
    assert final_states(JOB_TRANSITIONS) == {JobState.SUCCEEDED, JobState.PARTIAL, JobState.FAILED, JobState.CANCELLED}


def test_every_failure_code_has_a_number_in_a_range_of_its_own() -> None:
    assert set(FAILURE_NUMBERS) == set(FailureCode)
    assert len(set(FAILURE_NUMBERS.values())) == len(FailureCode)
    assert fault_of(FailureCode.POISON) == "farm"
    assert fault_of(FailureCode.WRONG_RESULT) == "user"
    assert fault_of(FailureCode.BOARD_LOST) == "transient"


def test_the_document_is_fresh() -> None:
    page = (ROOT / "docs" / "states.md").read_text()
    assert page == render(), "run: python -m benchfarm_core.states_doc > docs/states.md"
