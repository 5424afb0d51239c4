"""Boards in the command and the SDK: what they can be set to, what happened to them, why they are not used."""

from typing import Any

import pytest

from benchfarm import Forbidden
from benchfarm.commands.boards import _line
from benchfarm.exit_codes import ExitCode
from benchfarm_core.board_history import BoardEventKind, BoardEventView
from benchfarm_core.boards import Health
from tests.client.conftest import BOARD

RANGES = [{"mode": "pinned", "cores": [0, 1], "threads_max": 2, "freq_khz": [600_000, 1_500_000]}]
PI = {**BOARD, "serial": "S-2", "board_model": "pi", "operating_points": [], "ranges": RANGES}
WANTED = "pi/c0.t1.600000/onnxruntime-1.31.1/fp32"


@pytest.fixture
def kernels(farm: Any) -> tuple[str, ...]:
    return ("--kernel", farm.kernels[0])


def test_a_board_with_ranges_is_used_at_any_point_of_them(farm: Any, logged_in: Any, kernels: tuple[str, ...]) -> None:
    farm.register(BOARD, PI)
    board_id = farm.board_ids[1]
    shown = logged_in("boards", "show", board_id).out
    assert "c0-1: 600000 to 1500000 kHz in 2 steps" in shown
    assert "c0-1, up to 2 threads, at 600000 or 1500000 kHz" in shown
    submitted = logged_in("jobs", "submit", *kernels, "--platform", WANTED, "--json")
    assert submitted.code == 0, submitted.err
    farm.measure(submitted.document["id"])
    assert logged_in("jobs", "show", submitted.document["id"], "--json").document["state"] == "succeeded"
    assert "600000 or 1500000 kHz" in logged_in("platforms", "show", WANTED).out
    stray = logged_in("jobs", "submit", *kernels, "--platform", WANTED.replace("600000", "700000"))
    assert stray.code == ExitCode.USAGE
    assert "operating_point_impossible" in stray.err
    assert "600000 or 1500000 kHz" in stray.err


def test_what_happened_to_a_board_and_why_it_is_not_used(farm: Any, logged_in: Any) -> None:
    farm.register(BOARD, {**PI, "serial": "S-3"})
    board_id = farm.board_ids[1]
    assert "nothing waits" in logged_in("boards", "why", board_id).out
    assert logged_in("boards", "quarantine", board_id, "--reason", "smells burnt").code == 0
    assert "smells burnt" in logged_in("boards", "why", board_id).out
    assert logged_in("boards", "why", board_id, "--json").document["removed_by"] == "health"
    assert logged_in("boards", "release", board_id, "--reason", "dusted").code == 0
    assert "noted" in logged_in("boards", "note", board_id, "fan on the left").out
    farm.register(BOARD, {**PI, "serial": "S-3", "generation": "g2"})
    events = logged_in("boards", "history", board_id, "--json").document
    assert [event["kind"] for event in events] == ["generation", "note", "health", "health", "registered"]
    table = logged_in("boards", "history", board_id).out
    for text in ("g1 -> g2", "fan on the left", "good -> quarantined", "smells burnt", "dusted", "agent/a_"):
        assert text in table
    newest = logged_in("boards", "history", board_id, "--limit", "1", "--json").document
    assert [event["kind"] for event in newest] == ["generation"]
    assert logged_in("boards", "retire", board_id, "--reason", "broken").code == 0
    assert logged_in("boards", "release", board_id).code == ExitCode.CONFLICT
    assert logged_in("boards", "history", "b_nothing").code == ExitCode.NOT_FOUND
    assert logged_in("boards", "note", board_id, "").code == ExitCode.USAGE


def test_what_somebody_wrote_does_not_steer_a_terminal(farm: Any, logged_in: Any) -> None:
    farm.register(BOARD, {**PI, "serial": "S-5"})
    board_id = farm.board_ids[1]
    assert logged_in("boards", "note", board_id, "a\x1b[31mred\x9b2J\x7f\x07 note").code == 0
    for shown in (logged_in("boards", "history", board_id).out, logged_in("boards", "show", f"b\x1b{board_id}").err):
        assert not [letter for letter in shown if not letter.isprintable() and letter != "\n"], shown
    assert "a[31mred2J note" in logged_in("boards", "history", board_id).out
    (event, *_) = logged_in("boards", "history", board_id, "--json").document
    assert event["reason"] == "a\x1b[31mred\x9b2J\x7f\x07 note", "programs get what was written"
    assert "\x1b" not in _line(BoardEventView.model_validate(event))


def test_history_is_for_the_lab_and_why_for_everybody(farm: Any) -> None:
    farm.register(BOARD, {**PI, "serial": "S-4"})
    board_id = farm.board_ids[1]
    with farm.client("operator", "lab") as operator, farm.client() as sdk:
        operator.set_board_health(board_id, Health.MAINTENANCE, "new fan")
        assert operator.add_board_note(board_id, "hello").kind == BoardEventKind.NOTE
        assert next(operator.board_history(board_id)).reason == "hello"
        assert sdk.explain_board(board_id).health_reason == "new fan"
        for forbidden in (lambda: list(sdk.board_history(board_id)), lambda: sdk.add_board_note(board_id, "x")):
            with pytest.raises(Forbidden):
                forbidden()
