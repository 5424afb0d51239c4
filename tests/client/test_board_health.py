"""The health of boards in the command and the SDK: followed live, compared with itself and its sisters, merged."""

import itertools
import json
from typing import Any

import pytest

from benchfarm import Forbidden
from benchfarm.board_events import watch_board
from benchfarm.exit_codes import ExitCode
from benchfarm_core.board_health import GOLDEN_SUITE
from benchfarm_store import board_health
from tests.client.conftest import BOARD

PLAIN = {**BOARD, "kind": "local", "board_model": "host-1"}


def test_what_happens_to_a_board_is_followed(farm: Any) -> None:
    farm.register({**PLAIN, "serial": "W-1"})
    board_id = farm.board_ids[0]
    with farm.client("operator", "lab") as operator, farm.client() as sdk:
        events = operator.watch_board(board_id)
        assert next(events).kind == "registered"
        operator.add_board_note(board_id, "first")
        assert next(events).reason == "first"
        farm.register({**PLAIN, "serial": "W-1", "facts": {"cores": 2, "boot_id": "x"}, "generation": "g2"})
        assert next(events).after == "g2"
        with pytest.raises(Forbidden):
            next(sdk.watch_board(board_id))


def test_the_command_shows_events_as_they_come(farm: Any, logged_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    farm.register({**PLAIN, "serial": "W-2"})
    board_id = farm.board_ids[0]
    assert logged_in("boards", "note", board_id, "fan on").code == 0

    def two(connection: Any, board: str) -> Any:
        return itertools.islice(watch_board(connection, board), 2)

    monkeypatch.setattr("benchfarm.board_events.watch_board", two)
    shown = logged_in("boards", "watch", board_id).out
    assert "note fan on" in shown
    lines = logged_in("boards", "watch", board_id, "--json").out.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["registered", "note"]
    assert logged_in("boards", "watch", "b_none").code == ExitCode.NOT_FOUND


def test_golden_runs_and_spread_are_shown(farm: Any, logged_in: Any) -> None:
    farm.register({**PLAIN, "serial": "W-3", "board_model": "host-3"})
    board_id = farm.board_ids[0]
    assert board_health.look_after(farm.database, every_s=86_400.0)[1] >= 1
    (run,) = logged_in("boards", "golden", board_id, "--json").document
    assert (run["reason"], run["outcome"], len(run["times"])) == ("enrolled", None, len(GOLDEN_SUITE))
    assert "running" in logged_in("boards", "golden", board_id).out
    assert "running at" in logged_in("boards", "show", board_id).out
    assert logged_in("boards", "spread", "host-3", "--json").document == []
    assert logged_in("boards", "spread", "host-none").code == ExitCode.NOT_FOUND


def test_two_models_become_one(farm: Any, logged_in: Any) -> None:
    farm.register(
        {**PLAIN, "serial": "W-4", "board_model": "host-4"}, {**PLAIN, "serial": "W-5", "board_model": "host-5"}
    )
    merged = logged_in("boards", "merge-model", "host-5", "host-4", "--reason", "same sticker")
    assert "host-5 is host-4 from now on" in merged.out
    shown = logged_in("boards", "show", farm.board_ids[1], "--json").document
    assert shown["board_model"] == "host-4"
    assert logged_in("boards", "merge-model", "host-none", "host-4", "--reason", "x").code == ExitCode.NOT_FOUND
    split = logged_in("boards", "split-model", "host-5", "--reason", "other chips")
    assert f"host-5 is host-4 no longer: {farm.board_ids[1]}" in split.out
    shown = logged_in("boards", "show", farm.board_ids[1], "--json").document
    assert shown["board_model"] == "host-5"
    assert logged_in("boards", "split-model", "host-5", "--reason", "x").code == ExitCode.NOT_FOUND
