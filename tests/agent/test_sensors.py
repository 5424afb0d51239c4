"""A board's conditions over its port, and when they say that measuring would be in vain."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from benchfarm_agent.boards.linux_facts import read_board_facts
from benchfarm_agent.boards.sensors import (
    BoardConditions,
    BoardGate,
    BoardSensors,
    GateLimits,
    Idle,
    degrees_c,
    idle_after,
    why_not_now,
)
from tests.agent.conftest import run
from tests.agent.tree_port import TreePort, laid_out
from tests.agent.trees import CPU, PC, PHONE, PHONE_LARGE, RASPBERRY_PI, VIRTUAL_MACHINE, Tree

Look = Callable[..., BoardConditions]

DUMP = """Current Battery Service state:
  AC powered: false
  USB powered: true
  status: 2
  health: 2
  level: 91
  temperature: 301
IsStatusOverride: false
Thermal Status: 1
Cached temperatures:
	Temperature{mValue=99.0, mType=0, mName=CPU0, mStatus=3}
Current temperatures from HAL:
	Temperature{mValue=41.5, mType=0, mName=CPU0, mStatus=0}
	Temperature{mValue=43.25, mType=0, mName=CPU4, mStatus=0}
	Temperature{mValue=77.0, mType=3, mName=skin, mStatus=0}
Current cooling devices from HAL:
	CoolingDevice{mValue=0, mType=2, mName=cpu}
  mWakefulness=Awake
"""
LOCKED = {"sys/class/thermal/thermal_zone7/temp": None, "sys/class/thermal/cooling_device3/cur_state": None}
LOCKED |= {f"sys/class/power_supply/battery/{name}": None for name in ("capacity", "temp", "status")}


@pytest.fixture
def look() -> Iterator[Look]:
    """What a board's sensors say."""
    with ExitStack() as stack:

        def conditions(tree: Tree, *cores: int) -> BoardConditions:
            port = TreePort(stack.enter_context(laid_out(tree)))

            async def read() -> BoardConditions:
                return await BoardSensors(port, await read_board_facts(port)).read(cores or (0,))

            return run(read())

        yield conditions


def test_a_raspberry_pi(look: Look) -> None:
    speed = {f"{CPU}/cpufreq/policy0/scaling_setspeed": "1500000"}
    assert look(RASPBERRY_PI.with_files(speed)) == BoardConditions(
        load_1m=0.5,
        freq_khz=(1_500_000,),
        governor="ondemand",
        temperature_c=48.312,
        runnable_threads=1,
        cooling_state=0,
    )


def test_a_phone_with_root(look: Look) -> None:
    found = look(PHONE, 4, 5)
    assert (found.battery_percent, found.battery_c, found.is_charging) == (85, 28.5, False)
    assert (found.temperature_c, found.is_screen_on, found.cooling_state) == (39.0, False, 0)
    assert (found.freq_khz, found.governor) == ((2_802_000,), "schedutil")


def test_a_phone_without_root_is_asked(look: Look) -> None:
    found = look(PHONE.with_files({**LOCKED, "dumps/text": DUMP}))
    assert (found.battery_percent, found.battery_c, found.is_charging) == (91, 30.1, True)
    assert (found.temperature_c, found.is_screen_on, found.cooling_state) == (43.25, True, 1)


def test_a_pc_and_a_virtual_machine(look: Look) -> None:
    pc = look(PC, 0, 1)
    assert pc.temperature_c == 52.0
    assert pc.throttle_count == 14
    assert len(pc.freq_khz) == 2
    virtual = look(VIRTUAL_MACHINE)
    assert virtual == BoardConditions(load_1m=0.5, runnable_threads=1)


@pytest.mark.parametrize("garbage", ["", "garbage", "-274000", "999999999", "\x00", "1e9", "9" * 40])
def test_garbage_from_sensors_is_no_reading(look: Look, garbage: str) -> None:
    sensors = [name for name in PHONE.files if "thermal" in name or "power_supply" in name or "loadavg" in name]
    files = {name: garbage for name in sensors if not name.endswith("/type")}
    clocks = {f"{PHONE_LARGE}/scaling_max_freq": garbage}
    found = look(PHONE.with_files({**files, **clocks, "dumps/text": garbage}), 4)
    assert (found.temperature_c, found.battery_percent, found.battery_c) == (None, None, None)
    assert (found.load_1m, found.runnable_threads, found.is_screen_on) == (None, None, None)


def test_degrees_as_kernels_have_had_them() -> None:
    told = {"48312": 48.312, "48": 48.0, "453": 45.3, "-5000": -5.0, "0": None, "-274000": None, "x": None}
    assert {text: degrees_c(text) for text in told} == told
    assert degrees_c(None) is None


QUIET = BoardConditions(
    temperature_c=45.0,
    runnable_threads=1,
    battery_percent=60.0,
    battery_c=30.0,
    is_charging=True,
    is_screen_on=False,
    cooling_state=0,
)
IDLE = Idle(temperature_c=42.0, battery_c=29.0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, None),
        ({"temperature_c": 50.1}, "50 degrees: it cools down to 46"),
        ({"temperature_c": 86.0}, "86 degrees are above 85"),
        ({"cooling_state": 1}, "it slows itself down for heat"),
        ({"battery_c": 32.1}, "the battery's 32 degrees are too far above its idle 29"),
        ({"battery_c": 37.5}, "the battery's 38 degrees are above 37"),
        ({"battery_percent": 29.0}, "the battery is at 29 %, below 30"),
        ({"is_screen_on": True}, "the screen is on"),
        ({"runnable_threads": 3}, "2 other threads want to run, more than 1"),
        (dict.fromkeys(vars(QUIET)), None),
    ],
)
def test_why_not_now(change: dict[str, Any], why: str | None) -> None:
    assert why_not_now(replace(QUIET, **change), IDLE, GateLimits()) == why


def test_what_a_lab_may_ask_for() -> None:
    assert why_not_now(QUIET, IDLE, GateLimits(is_charging=False)) == "the battery is charging"
    assert why_not_now(replace(QUIET, is_charging=False), IDLE, GateLimits(is_charging=True)) is not None
    assert why_not_now(replace(QUIET, is_screen_on=True), IDLE, GateLimits(may_screen_be_on=True)) is None
    assert why_not_now(replace(QUIET, runnable_threads=3), IDLE, GateLimits(foreign_threads=2)) is None


def test_a_board_that_was_too_hot_comes_down_to_a_target_and_not_to_the_limit_alone() -> None:
    gate = BoardGate(GateLimits(over_idle_c=8, cool_over_idle_c=4))
    heat = [42.0, 49.0, 51.0, 49.0, 46.5, 45.9, 49.0]
    told = [gate.why_not_now(replace(QUIET, temperature_c=one), now_s=100.0) is None for one in heat]
    assert told == [True, True, False, False, False, True, True]
    assert not gate.is_cooling
    assert gate.idle.temperature_c == 42.0


def test_a_lab_may_name_the_temperature_to_which_a_board_cools_down() -> None:
    """Then nothing depends on what it was at rest: a board without a fan is warm all day."""
    gate = BoardGate(GateLimits(max_temperature_c=70, cool_to_c=50))
    heat = [42.0, 69.0, 71.0, 69.0, 51.0, 50.0, 69.0]
    told = [gate.why_not_now(replace(QUIET, temperature_c=one), now_s=100.0) for one in heat]
    assert [why is None for why in told] == [True, True, False, False, False, True, True]
    assert told[2:4] == ["71 degrees are above 70", "69 degrees: it cools down to 50"]


def test_a_reading_that_cannot_be_is_set_aside_and_told_once(look: Look, caplog: pytest.LogCaptureFixture) -> None:
    chip = "sys/class/hwmon/hwmon2/temp1_input"
    seen = look(PC.with_files({chip: "150000"}))
    assert (seen.temperature_c, seen.implausible) == (51.0, (("hwmon2", 150.0),))
    assert look(PC.with_files({chip: "-273000"})).implausible == (), "a sensor's way to say no"
    gate = BoardGate(GateLimits(foreign_threads=1000), "pi5")
    with caplog.at_level("WARNING"):
        assert [gate.why_not_now(seen) for _ in range(2)] == [None, None]
    (told,) = caplog.records
    assert (told.getMessage(), vars(told)["board"]) == ("hwmon2 says 150 degrees, which is set aside", "pi5")


def test_a_mouse_s_battery_is_not_the_boards(look: Look) -> None:
    mouse = "sys/class/power_supply/hidpp_battery_0"
    files = {f"{mouse}/type": "Battery", f"{mouse}/capacity": "5", f"{mouse}/status": "Discharging"}
    assert look(PC.with_files(files)).battery_percent == 5.0
    assert look(PC.with_files({**files, f"{mouse}/scope": "Device"})).battery_percent is None


def test_rest_is_the_coldest_seen_and_follows_the_room_over_hours() -> None:
    rest = Idle()
    for seconds, now_c in ((0, 50.0), (1, 44.0), (1, 42.0), (600, 47.0)):
        rest = idle_after(rest, replace(QUIET, temperature_c=now_c), None, passed_s=seconds)
    assert rest.temperature_c == pytest.approx(42.8, abs=0.1)
    hours = idle_after(rest, replace(QUIET, temperature_c=47.0), None, passed_s=4 * 3600)
    assert hours.temperature_c == pytest.approx(47.0, abs=0.2)
    assert idle_after(rest, BoardConditions(), None, passed_s=60) == rest


def test_android_is_asked_now_and_then_only() -> None:
    with laid_out(PHONE) as root:
        port = TreePort(root)

        async def twice() -> list[bool | None]:
            sensors = BoardSensors(port, await read_board_facts(port))
            first = await sensors.read((4,))
            port.put("dumps/text", "mWakefulness=Awake")
            return [first.is_screen_on, (await sensors.read((4,))).is_screen_on]

        assert run(twice()) == [False, False]
