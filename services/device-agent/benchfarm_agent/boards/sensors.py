"""A board's conditions over its port, and the rule that says whether measuring would be in vain now.

Garbage from a sensor is no reading. On Android without root the same is told by `dumpsys`, which costs the phone some
work: what it says is kept for a while.
"""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from benchfarm_agent.boards.clusters import CPU, number
from benchfarm_agent.boards.interface import Conditions
from benchfarm_agent.boards.linux_facts import BoardFacts, Sensors, cooling_states
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.ports.interface import Port

logger = logging.getLogger(__name__)

DUMP_EVERY_S: Final = 15.0
IDLE_DRIFT_S: Final = 3600.0
"""How slowly the idle temperature follows a board that stays warm: a room warms up over hours, a board in seconds."""
_DUMP: Final = "dumpsys battery; dumpsys thermalservice; dumpsys power | grep -m 1 mWakefulness="
_DUMP_LIMIT_S: Final = 10.0
_LOADAVG: Final = "/proc/loadavg"
_SUPPLY: Final = ("capacity", "temp", "status")
_HEAT: Final = re.compile(r"Temperature\{mValue=(-?\d+(?:\.\d+)?), mType=(-?\d+), mName=([^,]*), mStatus=(\d+)\}")
_BATTERY_FIELD: Final = re.compile(r"^\s+(level|temperature|status): (-?\d+)\s*$", re.MULTILINE)
_STATUS: Final = re.compile(r"Thermal Status:\s*(\d{1,2})\b")
_WAKEFULNESS: Final = re.compile(r"mWakefulness=(\w+)")
_PLAUSIBLE_C: Final = (-40.0, 150.0)
_CPU_TYPE: Final = "0"
_CHARGING: Final = 2
_FULL: Final = 5


@dataclass(frozen=True)
class BoardConditions(Conditions):
    """What a board's sensors say now; None where it has no such sensor, or one that tells garbage.

    `temperature_c` is the hottest of the processor's. `runnable_threads` of the whole board, the look included.
    `cooling_state`: how far the board slows itself down, 0 for not at all (on Android its thermal status).
    `implausible`: by sensor what was set aside because no board that measures is so hot.
    """

    runnable_threads: int | None = None
    battery_percent: float | None = None
    battery_c: float | None = None
    is_charging: bool | None = None
    is_screen_on: bool | None = None
    cooling_state: int | None = None
    implausible: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Idle:
    """What a board's temperatures are at rest; None where that is not known."""

    temperature_c: float | None = None
    battery_c: float | None = None


@dataclass(frozen=True)
class GateLimits:
    """When measuring is in vain. `over_idle_c` starts a cool-down, which ends at `cool_over_idle_c` above idle; with
    `cool_to_c` the maximum starts one, and it ends at that temperature.

    `foreign_threads` that want to run beside the look. `is_charging` None: both are fine. `wait_s`: how long a lease
    waits for its board; None: as long as the agent lets all wait.
    """

    max_temperature_c: float = 85.0
    over_idle_c: float = 8.0
    cool_over_idle_c: float = 4.0
    cool_to_c: float | None = None
    max_battery_c: float = 37.0
    battery_over_idle_c: float = 3.0
    min_battery_percent: float = 30.0
    foreign_threads: float = 1.0
    is_charging: bool | None = None
    may_screen_be_on: bool = False
    wait_s: float | None = None


def why_not_now(conditions: BoardConditions, idle: Idle, limits: GateLimits, *, is_cooling: bool = False) -> str | None:
    """Why measuring would be in vain now, or None. What a board does not tell is no reason.

    `is_cooling`: it was too hot before and has not been cool since, so that it must come down further than to where
    it was stopped.
    """
    return (
        _too_hot(conditions, idle, limits, is_cooling=is_cooling)
        or _battery(conditions, limits)
        or _busy(conditions, limits)
    )


def is_too_hot(conditions: BoardConditions, idle: Idle, limits: GateLimits, *, is_cooling: bool) -> bool:
    """Whether heat is a reason: then a cool-down begins, or goes on."""
    return _too_hot(conditions, idle, limits, is_cooling=is_cooling) is not None


def idle_after(idle: Idle, conditions: Conditions, battery_c: float | None, *, passed_s: float) -> Idle:
    """What is taken for rest after one more look: colder at once, warmer only over hours."""
    return Idle(
        temperature_c=_rested(idle.temperature_c, conditions.temperature_c, passed_s),
        battery_c=_rested(idle.battery_c, battery_c, passed_s),
    )


class BoardGate:
    """The rule with what it has to remember of one board: its idle temperatures, and whether it cools down.

    A sensor whose reading is set aside is told once, in the agent's log, under the board's name.
    """

    def __init__(self, limits: GateLimits, board: str = "") -> None:
        self._limits = limits
        self._board = board
        self._told: set[str] = set()
        self._idle = Idle()
        self._is_cooling = False
        self._looked_s: float | None = None

    @property
    def idle(self) -> Idle:
        return self._idle

    @property
    def is_cooling(self) -> bool:
        return self._is_cooling

    def why_not_now(self, conditions: BoardConditions, *, now_s: float | None = None) -> str | None:
        """Why measuring would be in vain, as of a look at `now_s` (of the machine's boot clock)."""
        now = boottime_s() if now_s is None else now_s
        passed_s = 0.0 if self._looked_s is None else max(now - self._looked_s, 0.0)
        self._looked_s = now
        self._tell(conditions.implausible)
        self._idle = idle_after(self._idle, conditions, conditions.battery_c, passed_s=passed_s)
        why = why_not_now(conditions, self._idle, self._limits, is_cooling=self._is_cooling)
        self._is_cooling = is_too_hot(conditions, self._idle, self._limits, is_cooling=self._is_cooling)
        return why

    def _tell(self, implausible: tuple[tuple[str, float], ...]) -> None:
        for sensor, degrees in implausible:
            if sensor not in self._told:
                self._told.add(sensor)
                logger.warning("%s says %g degrees, which is set aside", sensor, degrees, extra={"board": self._board})


class BoardSensors:
    """Reads a board's conditions: one round trip, on Android a second one now and then."""

    def __init__(self, port: Port, facts: BoardFacts) -> None:
        self._port = port
        self._facts = facts
        self._dump = ""
        self._dumped_s: float | None = None

    async def read(self, cores: tuple[int, ...]) -> BoardConditions:
        """The conditions, for the given cores. Raises BoardUnreachable."""
        texts = await self._port.read(self._files(cores))
        dump = await self._android_dump() if self._facts.is_android else ""
        return conditions_from(texts, dump, self._facts, cores)

    def _files(self, cores: tuple[int, ...]) -> list[str]:
        return [
            *sensor_files(self._facts.sensors),
            *_clock_files(self._facts, cores),
            *(f"{CPU}/cpu{core}/thermal_throttle/core_throttle_count" for core in cores),
        ]

    async def _android_dump(self) -> str:
        now = boottime_s()
        if self._dumped_s is None or now - self._dumped_s > DUMP_EVERY_S:
            ran = await self._port.run(["sh", "-c", _DUMP], timeout_s=_DUMP_LIMIT_S)
            self._dump, self._dumped_s = ran.stdout.decode(errors="replace"), now
        return self._dump


def conditions_from(
    texts: Mapping[str, str | None], dump: str, facts: BoardFacts, cores: tuple[int, ...]
) -> BoardConditions:
    """The conditions that these files and Android's words tell."""
    clocks = [path.rpartition("/")[0] for path in _clock_files(facts, cores) if path.endswith("_cur_freq")]
    freqs = [number(texts.get(f"{folder}/scaling_cur_freq")) for folder in clocks]
    throttles = (number(texts.get(f"{CPU}/cpu{core}/thermal_throttle/core_throttle_count")) for core in cores)
    counted = [count for count in throttles if count is not None]
    return replace(
        told_by(texts, facts.sensors, dump),
        freq_khz=tuple(freq for freq in freqs if freq is not None and freq > 0),
        governor=(texts.get(f"{clocks[0]}/scaling_governor") if clocks else None) or None,
        throttle_count=sum(counted) if counted else None,
    )


def sensor_files(sensors: Sensors) -> list[str]:
    """The files that `told_by` wants to have read."""
    return [
        _LOADAVG,
        *sensors.heats,
        *(f"{folder}/cur_state" for folder in sensors.coolings),
        *(f"{folder}/{name}" for folder in sensors.supplies for name in _SUPPLY),
    ]


def told_by(texts: Mapping[str, str | None], sensors: Sensors, dump: str = "") -> BoardConditions:
    """What the sensors' files, and Android's words, tell of load, heat, battery and screen."""
    heats = [degrees for path in sensors.heats if (degrees := degrees_c(texts.get(path))) is not None]
    states = cooling_states(texts, sensors).values()
    battery = _battery_of(texts, sensors.supplies) or _battery_in(dump)
    screen = _WAKEFULNESS.search(dump)
    status = _STATUS.search(dump)
    load, runnable = _load(texts.get(_LOADAVG))
    return BoardConditions(
        load_1m=load,
        temperature_c=max(heats or _heats_in(dump), default=None),
        runnable_threads=runnable,
        battery_percent=battery.get("percent"),
        battery_c=battery.get("degrees"),
        is_charging=None if "status" not in battery else battery["status"] in (_CHARGING, _FULL),
        is_screen_on=None if screen is None else screen[1] in ("Awake", "Dreaming"),
        cooling_state=max(states, default=int(status[1]) if status else None),
        implausible=_too_hot_to_be_true(texts, sensors),
    )


def degrees_c(text: str | None) -> float | None:
    """A thermal zone's reading, in thousandths, tenths or whole degrees as kernels have had it; None for nonsense."""
    raw = number(text)
    if raw is None or raw == 0:  # a zone that is switched off reads 0
        return None
    return _plausible(_degrees(raw))


def _degrees(raw: int) -> float:
    return raw if abs(raw) < 200 else raw / 10 if 0 < raw < 1500 else raw / 1000


def _too_hot_to_be_true(texts: Mapping[str, str | None], sensors: Sensors) -> tuple[tuple[str, float], ...]:
    """What is far too cold is how many sensors say no, and nothing to tell."""
    readings = ((path.split("/")[-2], number(texts.get(path))) for path in sensors.heats)
    degrees = ((name, _degrees(raw)) for name, raw in readings if raw is not None)
    return tuple((name, one) for name, one in degrees if one >= _PLAUSIBLE_C[1])


def _plausible(degrees: float) -> float | None:
    low, high = _PLAUSIBLE_C
    return degrees if low < degrees < high else None


def _load(text: str | None) -> tuple[float | None, int | None]:
    """Of ``0.50 0.40 0.30 2/104 999`` the load over a minute and the threads that want to run."""
    words = (text or "").split()
    if len(words) < 4 or not re.fullmatch(r"\d{1,6}\.\d{1,4}", words[0]):
        return None, None
    return float(words[0]), number(words[3].partition("/")[0])


def _clock_files(facts: BoardFacts, cores: tuple[int, ...]) -> list[str]:
    policies = [policy for cluster in facts.clusters for policy in cluster.policies if set(policy.cores) & set(cores)]
    return [f"{policy.folder}/{name}" for policy in policies for name in ("scaling_cur_freq", "scaling_governor")]


def _battery_of(texts: Mapping[str, str | None], supplies: tuple[str, ...]) -> dict[str, float]:
    """The first battery that says something: percent, degrees and Android's number for the status."""
    statuses = {"Charging": 2, "Discharging": 3, "Not charging": 4, "Full": 5}
    for folder in supplies:
        percent, tenths = number(texts.get(f"{folder}/capacity")), number(texts.get(f"{folder}/temp"))
        status = statuses.get(texts.get(f"{folder}/status") or "")
        if found := _battery_readings(percent, tenths, status):
            return found
    return {}


def _battery_in(dump: str) -> dict[str, float]:
    fields = {name: number(value) for name, value in _BATTERY_FIELD.findall(dump.partition("Thermal Status")[0])}
    return _battery_readings(fields.get("level"), fields.get("temperature"), fields.get("status"))


def _battery_readings(percent: int | None, tenths: int | None, status: int | None) -> dict[str, float]:
    degrees = None if not tenths else _plausible(tenths / 10)
    known = {"percent": percent if percent is not None and 0 <= percent <= 100 else None}
    return {name: value for name, value in {**known, "degrees": degrees, "status": status}.items() if value is not None}


def _heats_in(dump: str) -> list[float]:
    """What Android says now of the processor, or of anything where it names none so."""
    now = dump.partition("Current temperatures from HAL")[2].partition("Current cooling")[0]
    found = [(kind, degrees) for value, kind, _, _ in _HEAT.findall(now) if (degrees := _plausible(float(value)))]
    return [degrees for kind, degrees in found if kind == _CPU_TYPE] or [degrees for _, degrees in found]


def _rested(idle_c: float | None, now_c: float | None, passed_s: float) -> float | None:
    if now_c is None or idle_c is None:
        return idle_c if now_c is None else now_c
    if now_c <= idle_c:
        return now_c
    return idle_c + (now_c - idle_c) * (1 - math.exp(-passed_s / IDLE_DRIFT_S))


def _too_hot(conditions: BoardConditions, idle: Idle, limits: GateLimits, *, is_cooling: bool) -> str | None:
    if conditions.cooling_state:
        return "it slows itself down for heat"
    now_c, battery_c = conditions.temperature_c, conditions.battery_c
    if now_c is not None and now_c > limits.max_temperature_c:
        return f"{now_c:.0f} degrees are above {limits.max_temperature_c:.0f}"
    if now_c is not None and (bounds := _cool_down(idle, limits)) is not None:
        begins_c, ends_c = bounds
        if now_c > (ends_c if is_cooling else begins_c):
            return f"{now_c:.0f} degrees: it cools down to {ends_c:.0f}"
    if battery_c is not None and battery_c > limits.max_battery_c:
        return f"the battery's {battery_c:.0f} degrees are above {limits.max_battery_c:.0f}"
    if battery_c is not None and idle.battery_c is not None and battery_c > idle.battery_c + limits.battery_over_idle_c:
        return f"the battery's {battery_c:.0f} degrees are too far above its idle {idle.battery_c:.0f}"
    return None


def _cool_down(idle: Idle, limits: GateLimits) -> tuple[float, float] | None:
    """Above what a cool-down begins, and where it ends; None while rest is not known."""
    if limits.cool_to_c is not None:
        return limits.max_temperature_c, limits.cool_to_c
    if idle.temperature_c is None:
        return None
    return idle.temperature_c + limits.over_idle_c, idle.temperature_c + limits.cool_over_idle_c


def _battery(conditions: BoardConditions, limits: GateLimits) -> str | None:
    percent = conditions.battery_percent
    if percent is not None and percent < limits.min_battery_percent:
        return f"the battery is at {percent:.0f} %, below {limits.min_battery_percent:.0f}"
    if None not in (conditions.is_charging, limits.is_charging) and conditions.is_charging != limits.is_charging:
        return "the battery is charging" if conditions.is_charging else "the battery is not charging"
    return None


def _busy(conditions: BoardConditions, limits: GateLimits) -> str | None:
    if conditions.is_screen_on and not limits.may_screen_be_on:
        return "the screen is on"
    foreign = (conditions.runnable_threads or 1) - 1  # the look itself runs
    if foreign > limits.foreign_threads:
        return f"{foreign} other threads want to run, more than {limits.foreign_threads:g}"
    return None
