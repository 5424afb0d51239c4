"""This host's own board at its gate: hot, cooling down, and with a sensor that tells nonsense."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.conditions import HostSensors
from benchfarm_agent.journal import Journal
from benchfarm_agent.lab_gate import NO_GATE, LabGate
from benchfarm_agent.settings import Settings
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.platforms import OperatingPoint
from tests.agent.conftest import stand_in
from tests.agent.tree_port import laid_out
from tests.agent.trees import PC

Run = Callable[[Any], Any]
POINT = OperatingPoint(mode="free", cores=(0,), threads=1)
PACKAGE = "sys/class/thermal/thermal_zone1/temp"
CHIP = "sys/class/hwmon/hwmon2/temp1_input"


@pytest.fixture
def sensors() -> Iterator[Path]:
    """A PC's sensors as plain files."""
    with laid_out(PC) as root:
        yield root


@pytest.fixture
def make(state: StateDir, sensors: Path) -> Callable[..., LocalBoard]:
    def board(gate: LabGate = NO_GATE, **settings: Any) -> LocalBoard:
        common: dict[str, Any] = {"url": "http://127.0.0.1:1", "state_dir": state.root, "runner_argv": stand_in()}
        made = Settings(**{**common, "gate_foreign_threads": 1000, **settings})
        return LocalBoard(state, Journal(state.journal), made, gate=gate, sensors=HostSensors(sensors))

    return board


def told(board: LocalBoard, sensors: Path, running: Run, *degrees: float) -> list[str | None]:
    """What the gate says at each of the temperatures."""
    whys = []
    for one in degrees:
        for name in (PACKAGE, CHIP):
            (sensors / name).write_text(f"{one * 1000:.0f}")
        whys.append(running(board.gate(POINT)))
    return whys


def test_it_cools_down_to_near_its_idle_temperature(
    make: Callable[..., LocalBoard], sensors: Path, running: Run
) -> None:
    whys = told(make(), sensors, running, 42, 49, 51, 47, 45, 49)
    assert [why is None for why in whys] == [True, True, False, False, True, True]
    assert whys[2] == "51 degrees: it cools down to 46"


def test_its_limit_is_the_agents_setting_or_what_the_lab_says(
    make: Callable[..., LocalBoard], sensors: Path, running: Run
) -> None:
    assert told(make(max_temperature_c=60), sensors, running, 61) == ["61 degrees are above 60"]
    assert told(make(), sensors, running, 61) == [None], "it was never seen colder"
    said = LabGate(max_temperature_c=50, cool_to_c=40)
    assert told(make(said, max_temperature_c=60), sensors, running, 51, 41, 40) == [
        "51 degrees are above 50",
        "41 degrees: it cools down to 40",
        None,
    ]


def test_one_sensor_that_tells_nonsense_does_not_shut_it_and_is_told(
    make: Callable[..., LocalBoard], sensors: Path, running: Run
) -> None:
    board = make()
    assert told(board, sensors, running, 45) == [None]
    (sensors / CHIP).write_text("150000")
    assert running(board.gate(POINT)) is None
    assert running(board.describe()).facts["implausible_sensors"] == "hwmon2 says 150 degrees"
    (sensors / PACKAGE).write_text("60000")
    assert "it cools down" in running(board.gate(POINT)), "the others are believed"


def test_what_slows_the_processor_down_and_a_low_battery_shut_it_too(
    make: Callable[..., LocalBoard], sensors: Path, running: Run
) -> None:
    (sensors / "sys/class/thermal/cooling_device0/cur_state").write_text("3")
    assert running(make().gate(POINT)) == "it slows itself down for heat"
    (sensors / "sys/class/thermal/cooling_device0/cur_state").write_text("0")
    battery = sensors / "sys/class/power_supply/BAT0"
    battery.mkdir(parents=True)
    for name, text in {"type": "Battery", "capacity": "20", "status": "Discharging"}.items():
        (battery / name).write_text(text)
    assert running(make().gate(POINT)) == "the battery is at 20 %, below 30"
    assert running(make(LabGate(min_battery_percent=10)).gate(POINT)) is None
    assert running(make(LabGate(min_battery_percent=10, charging="required")).gate(POINT)) == (
        "the battery is not charging"
    )
