"""What a lab says of when its boards take no launch: `[gate]` and `[[board_gate]]` of `boards.toml`."""

import math
from collections.abc import Collection
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from benchfarm_agent.boards.sensors import GateLimits
from benchfarm_agent.settings import Settings
from benchfarm_agent.toml_file import TomlPart
from benchfarm_core.boards import BoardMark

HOTTEST_SETTING: Final = "BENCHFARM_AGENT_MAX_TEMPERATURE_C"
"""Where the agent's own limit of temperature is set."""
_CHARGING: Final = {"any": None, "required": True, "refused": False}
_ABOVE_IDLE: Final = frozenset({"over_idle_c", "cool_over_idle_c"})
_TO_A_TARGET: Final = frozenset({"cool_to_c"})

_Degrees = Annotated[float, Field(gt=0, le=150)]


class LabGate(TomlPart):
    """Conditions of a launch; what is left out is as `GateLimits` has it, or as the agent's settings say.

    charging: of a board with a battery. over_idle_c: a board that is so far above its idle temperature cools down, to
    `cool_over_idle_c` above it. cool_to_c: instead of these a temperature in degrees, to which a board comes down that
    was above `max_temperature_c`. foreign_threads: how many other threads may want to run. wait_s: how long a lease
    waits for all this before it is given back.
    """

    charging: Literal["any", "required", "refused"] | None = None
    screen_off: bool | None = None
    min_battery_percent: float | None = Field(default=None, ge=0, le=100)
    max_battery_c: _Degrees | None = None
    battery_over_idle_c: _Degrees | None = None
    max_temperature_c: _Degrees | None = None
    over_idle_c: _Degrees | None = None
    cool_over_idle_c: _Degrees | None = None
    cool_to_c: _Degrees | None = None
    foreign_threads: float | None = Field(default=None, ge=0, le=100_000)
    wait_s: float | None = Field(default=None, ge=0, le=3600)

    @model_validator(mode="after")
    def _cools_one_way(self) -> "LabGate":
        given = self.said.keys()
        if _TO_A_TARGET & given and _ABOVE_IDLE & given:
            raise ValueError("cool_to_c is degrees, the others are above idle: a board cools down one way or the other")
        return self

    def why_wrong(self, max_temperature_c: float) -> str | None:
        """What of all that holds for a board contradicts itself; of one table it is not known yet.

        max_temperature_c: the agent's own limit, where the lab names none.
        """
        limits = GateLimits(**{"max_temperature_c": max_temperature_c, **self.limits})
        hottest_c, target_c = limits.max_temperature_c, limits.cool_to_c
        if target_c is not None and target_c > hottest_c:
            whose = "" if self.max_temperature_c is not None else f" (left out; {HOTTEST_SETTING})"
            return f"cool_to_c, {target_c:g}, is above max_temperature_c, {hottest_c:g}{whose}"
        if limits.cool_over_idle_c > limits.over_idle_c:
            ends_c, begins_c = limits.cool_over_idle_c, limits.over_idle_c
            return f"cool_over_idle_c, {ends_c:g}, is above over_idle_c, {begins_c:g}"
        return None

    @property
    def said(self) -> dict[str, Any]:
        """What is not left out, by its name in the file."""
        return self.model_dump(include=set(LabGate.model_fields), exclude_none=True)

    @property
    def limits(self) -> dict[str, Any]:
        """The same as `GateLimits` names it."""
        said = self.said
        found = {name: value for name, value in said.items() if name not in ("charging", "screen_off")}
        if "charging" in said:
            found["is_charging"] = _CHARGING[said["charging"]]
        if "screen_off" in said:
            found["may_screen_be_on"] = not said["screen_off"]
        return found

    def over(self, other: "LabGate") -> "LabGate":
        """This gate, and the other where this one says nothing."""
        own = self.said
        other_way: frozenset[str] = frozenset()
        if _TO_A_TARGET & own.keys():
            other_way = _ABOVE_IDLE
        elif _ABOVE_IDLE & own.keys():
            other_way = _TO_A_TARGET
        rest = {name: value for name, value in other.said.items() if name not in other_way}
        return LabGate(**{**rest, **own})


class LabBoardGate(LabGate):
    """The same for some boards, before what holds for all. boards: SSH hosts' names, phones' serials, `local`, or
    patterns of them."""

    boards: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(min_length=1, max_length=1000)


NO_GATE: Final = LabGate()
"""A lab that says nothing of it."""


def gate_limits(
    settings: Settings, cores: int, marks: Collection[BoardMark] = (), gate: LabGate = NO_GATE
) -> GateLimits:
    """When a board takes no launch: what the lab says, else the agent's settings.

    A board that shares this host's cores sees all that runs here, which is no reason, whatever the lab says.
    """
    said: dict[str, Any] = {"max_temperature_c": settings.max_temperature_c, **gate.limits}
    threads = said.get("foreign_threads", settings.gate_foreign_threads)
    limit = math.inf if "shared_host" in marks else cores if threads is None else threads
    return GateLimits(**{**said, "foreign_threads": limit})
