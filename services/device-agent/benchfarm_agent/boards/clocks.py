"""Brings a board's clock to an operating point and puts back what was found.

Everything that is changed is in the journal before the first change of it: whatever ends the agent, `restore` finds
there what was found on the board, and forgets it only when the board shows it again.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

from benchfarm_agent.boards.clusters import CPU, ClockPolicy, core_list, cores_text, number
from benchfarm_agent.boards.linux_facts import BOOT_ID, FIXED_PERFORMANCE, BoardFacts, cooling_states, find_paths
from benchfarm_agent.journal import Journal
from benchfarm_agent.ports.interface import Port, PortWriteRefused
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.platforms import OperatingPoint

SETTLE_S: Final = (0.1, 0.2, 0.2)
"""Pauses before each look whether the clock obeys: some kernels take a scaling_setspeed late."""
CLOCK_TOLERANCE: Final = 0.01
"""Boards round the current frequency; neighbouring steps are further apart."""
CLOCK_NOTE: Final = "clock:"
"""What the journal's names of changed settings begin with; the setting's path follows."""
_BOOT: Final = f"{CLOCK_NOTE}boot"
_FIXED: Final = f"{CLOCK_NOTE}fixed-performance"
_GOVERNOR, _SPEED = "scaling_governor", "scaling_setspeed"
_LOW, _HIGH = "scaling_min_freq", "scaling_max_freq"
_CUR: Final = "scaling_cur_freq"
_ONLINE: Final = f"{CPU}/online"
_COMMAND_LIMIT_S: Final = 10.0
_DAEMONS: Final = (
    *("perfd", "mpdecision", "thermal-engine", "thermald", "thermal-engine-v2", "tlp", "cpufreqd", "tuned"),
    *("power-profiles-daemon", "auto-cpufreq", "perf-hal-service"),
)
_RUNNING: Final = 'for name; do pidof "$name" >/dev/null 2>&1 && echo "$name"; done; true'
_MSM_LIMITS: Final = "/sys/module/msm_performance/parameters/cpu_max_freq"


class Clocks:
    """The clocks of a board with these facts. A `board` names it in the journal."""

    def __init__(self, facts: BoardFacts) -> None:
        self._facts = facts

    async def pin(self, port: Port, point: OperatingPoint, journal: Journal, board: str) -> None:
        """Brings the board to an operating point and reads back that it is there.

        Raises TransientDeviceError with what the board refused; then everything is as it was found, or, where the
        board went away, the journal says what is not.
        """
        await self.restore(port, journal, board)
        try:
            await self._bring(port, point, journal, board)
        except (TransientDeviceError, asyncio.CancelledError):
            with contextlib.suppress(TransientDeviceError):  # the journal keeps what could not be put back
                await self.restore(port, journal, board)
            raise

    @staticmethod
    async def restore(port: Port, journal: Journal, board: str) -> None:
        """Puts back what the journal says was changed. Harmless to repeat, needs no facts.

        Raises TransientDeviceError with what the board does not take back; that stays in the journal.
        """
        notes = {name: value for name, value in journal.entries(board).items() if name.startswith(CLOCK_NOTE)}
        if not notes:
            return
        if await _has_rebooted(port, notes):  # a kernel's settings do not outlive it
            journal.forget_all(board, notes)
            return
        found = {name: value for name, value in notes.items() if name != _BOOT}
        wrong: dict[str, str] = {}
        for pause_s in (0.0, *SETTLE_S[1:]):
            await asyncio.sleep(pause_s)
            wrong = await _put_back(port, found)
            journal.forget_all(board, found.keys() - wrong.keys())
            found = {name: found[name] for name in wrong}
            if not found:
                journal.forget_all(board, [_BOOT])
                return
        raise TransientDeviceError("not put back on the board yet: " + "; ".join(wrong.values()))

    async def _bring(self, port: Port, point: OperatingPoint, journal: Journal, board: str) -> None:
        policies = self._policies(point)
        await _bring_online(port, point.cores, journal, board)
        if point.mode == "fixed_performance":
            await _fix_performance(port, journal, board)
        elif point.mode == "pinned":
            await self._set(port, policies, point.freq_khz[0], journal, board)

    def _policies(self, point: OperatingPoint) -> list[ClockPolicy]:
        """The clocks that the point is about. Raises TransientDeviceError for a point that the board does not have."""
        facts, wanted = self._facts, set(point.cores)
        missing = TransientDeviceError(f"this board cannot be brought to {point.key}")
        if not wanted <= set(facts.cores) or point.governor is not None:
            raise missing
        if point.mode == "fixed_performance" and not facts.has_fixed_performance:
            raise missing
        if point.mode != "pinned":
            return []
        pinnable = [cluster for cluster in facts.clusters if cluster.is_pinnable and wanted <= set(cluster.cores)]
        if not pinnable or len(point.freq_khz) != 1 or point.freq_khz[0] not in pinnable[0].freq_khz:
            raise missing
        return [policy for policy in pinnable[0].policies if wanted & set(policy.cores)]

    async def _set(self, port: Port, policies: Sequence[ClockPolicy], khz: int, journal: Journal, board: str) -> None:
        settings = [f"{one.folder}/{name}" for one in policies for name in (_GOVERNOR, _LOW, _HIGH, _SPEED)]
        coolings = [f"{folder}/cur_state" for folder in self._facts.sensors.coolings]
        found = await port.read([BOOT_ID, *settings, *coolings])
        if slowed := [folder for folder, state in cooling_states(found, self._facts.sensors).items() if state]:
            # what it shows as its limits now are not those that somebody set
            raise TransientDeviceError(f"the board slows itself down: {', '.join(map(_tail, slowed))}")
        notes = await _notes(port, policies, found)
        journal.remember_all(board, notes)
        governors = {one.folder: await _set_one(port, one, khz, found) for one in policies}
        await self._hold(port, policies, khz, governors)

    async def _hold(
        self, port: Port, policies: Sequence[ClockPolicy], khz: int, governors: Mapping[str, str | None]
    ) -> None:
        """Waits until the board shows what was set. Raises TransientDeviceError with what it shows instead."""
        wrong: list[str] = []
        for pause_s in SETTLE_S:
            await asyncio.sleep(pause_s)
            wrong = await self._wrong(port, policies, khz, governors)
            if not wrong:
                return
        raise TransientDeviceError(f"the board does not stay at {khz} kHz: {'; '.join(wrong)}{await _suspects(port)}")

    async def _wrong(
        self, port: Port, policies: Sequence[ClockPolicy], khz: int, governors: Mapping[str, str | None]
    ) -> list[str]:
        names = (_GOVERNOR, _LOW, _HIGH, _CUR)
        coolings = [f"{folder}/cur_state" for folder in self._facts.sensors.coolings]
        texts = await port.read([*(f"{one.folder}/{name}" for one in policies for name in names), *coolings])
        wrong = [
            f"{_tail(one)} slows it down" for one, state in cooling_states(texts, self._facts.sensors).items() if state
        ]
        for policy in policies:
            expected = {_GOVERNOR: governors[policy.folder], _LOW: str(khz), _HIGH: str(khz)}
            for name, value in expected.items():
                if texts[f"{policy.folder}/{name}"] != value:
                    wrong.append(f"{_tail(policy.folder)}/{name} is {texts[f'{policy.folder}/{name}']}, not {value}")
            shown = number(texts[f"{policy.folder}/{_CUR}"])
            if not policy.is_measured and shown is not None and not is_at(shown, khz):
                wrong.append(f"{_tail(policy.folder)} runs at {shown}")
        return wrong


def is_at(shown_khz: int, asked_khz: int) -> bool:
    """Whether a frequency that a board shows is the asked one."""
    return abs(shown_khz - asked_khz) <= asked_khz * CLOCK_TOLERANCE


async def _bring_online(port: Port, cores: Sequence[int], journal: Journal, board: str) -> None:
    """Cores that a phone has switched off are switched on. Raises TransientDeviceError when they stay off."""
    switches = {core: f"{CPU}/cpu{core}/online" for core in cores}
    texts = await port.read([_ONLINE, BOOT_ID, *switches.values()])
    online = core_list(texts[_ONLINE])
    off = [core for core in cores if online and core not in online]
    if not off:
        return
    if any(texts[switches[core]] is None for core in off):
        raise TransientDeviceError(f"core {cores_text(off)} is offline and cannot be switched on")
    journal.remember_all(board, {**_boot_note(texts), **{CLOCK_NOTE + switches[core]: "0" for core in off}})
    for core in off:
        await _write(port, switches[core], "1")
    still = [core for core in off if core not in core_list((await port.read([_ONLINE]))[_ONLINE])]
    if still:
        raise TransientDeviceError(f"core {cores_text(still)} stays offline")


async def _fix_performance(port: Port, journal: Journal, board: str) -> None:
    journal.remember_all(board, {**_boot_note(await port.read([BOOT_ID])), _FIXED: "false"})
    if (why := await _fixed(port, "true")) is not None:
        journal.forget(board, _FIXED)  # a phone that has no such mode could not be told to leave it either
        raise TransientDeviceError(f"the phone has no fixed performance after all: {why}")


async def _fixed(port: Port, value: str) -> str | None:
    """Switches Android's mode; None when it did, else its words. It cannot be asked how it is switched."""
    ran = await port.run(["cmd", "power", FIXED_PERFORMANCE, value], timeout_s=_COMMAND_LIMIT_S)
    return None if ran.returncode == 0 else ran.stderr.decode(errors="replace").strip()[-200:] or "no reason given"


async def _notes(port: Port, policies: Sequence[ClockPolicy], found: Mapping[str, str | None]) -> dict[str, str]:
    """What was found, for the journal. Raises TransientDeviceError for a setting that cannot be read."""
    notes = _boot_note(found)
    for policy in policies:
        governor = found[f"{policy.folder}/{_GOVERNOR}"]
        own = [_SPEED] if governor == "userspace" else []
        for path in (f"{policy.folder}/{name}" for name in (_LOW, _HIGH, _GOVERNOR, *own)):
            text = found[path]
            if not text:
                raise TransientDeviceError(f"{path} cannot be read, so it could not be put back")
            notes[CLOCK_NOTE + path] = text
        if governor and _governor_for(policy, governor) != governor:
            notes.update(await _tunables(port, policy, governor))
    return notes


async def _tunables(port: Port, policy: ClockPolicy, governor: str) -> dict[str, str]:
    """A governor's own settings: many kernels forget them when it goes."""
    folders = (f"{policy.folder}/{governor}/*", f"{CPU}/cpufreq/{governor}/*")
    paths = [path for path, can_write in (await find_paths(port, folders)).items() if can_write]
    texts = await port.read(paths) if paths else {}
    return {CLOCK_NOTE + path: text for path, text in texts.items() if text}


def _governor_for(policy: ClockPolicy, found: str) -> str:
    """The governor that holds a clock best: the one that does as it is told, else one that stays at the top."""
    return next((name for name in ("userspace", "performance") if name in policy.governors), found)


async def _set_one(port: Port, policy: ClockPolicy, khz: int, found: Mapping[str, str | None]) -> str | None:
    """Sets one clock; the governor that it has then. Raises TransientDeviceError with what the board refused."""
    folder, governor = policy.folder, found[f"{policy.folder}/{_GOVERNOR}"]
    wanted = _governor_for(policy, governor or "")
    if wanted != governor:
        with contextlib.suppress(PortWriteRefused):  # limits that leave one clock hold any governor
            await port.write(f"{folder}/{_GOVERNOR}", wanted)
            governor = wanted
    low = number(found[f"{folder}/{_LOW}"])
    bounds = (_HIGH, _LOW) if low is None or khz >= low else (_LOW, _HIGH)  # the lower one never above the upper
    for name in bounds:
        if found[f"{folder}/{name}"] != str(khz):
            await _write(port, f"{folder}/{name}", str(khz))
    if governor == "userspace":
        await _write(port, f"{folder}/{_SPEED}", str(khz))
    return governor


async def _write(port: Port, path: str, text: str) -> None:
    try:
        await port.write(path, text)
    except PortWriteRefused as error:
        raise TransientDeviceError(f"the board refuses {text} for {path}: {error.detail}") from error


async def _put_back(port: Port, found: Mapping[str, str]) -> dict[str, str]:
    """Writes what differs, in an order that the kernel takes; of what differs afterwards, by note, how."""
    words: dict[str, str] = {}
    values = {name.removeprefix(CLOCK_NOTE): value for name, value in found.items() if name != _FIXED}
    for stage in _stages(values):
        now = await port.read([*stage, *_bounds_beside(stage)])
        for path in _ordered(stage, values, now):
            if now[path] != values[path]:
                try:
                    await port.write(path, values[path])
                except PortWriteRefused as error:
                    words[path] = error.detail
    after = await port.read(list(values)) if values else {}
    wrong = {
        CLOCK_NOTE + path: f"{path} is {after[path]}, was {value}" + (f" ({words[path]})" if path in words else "")
        for path, value in values.items()
        if after[path] != value
    }
    if _FIXED in found and (why := await _fixed(port, found[_FIXED])) is not None:
        wrong[_FIXED] = f"fixed performance stays on: {why}"
    return wrong


def _stages(paths: Mapping[str, str]) -> list[list[str]]:
    """Limits and governors, then what a governor has of its own, then cores that were off."""
    stages: list[list[str]] = [[], [], []]
    for path in paths:
        name = path.rpartition("/")[2]
        stages[2 if name == "online" else 0 if name in (_LOW, _HIGH, _GOVERNOR) else 1].append(path)
    return [stage for stage in stages if stage]


def _bounds_beside(stage: Sequence[str]) -> list[str]:
    return [f"{path.rpartition('/')[0]}/{_LOW}" for path in stage if path.endswith(_HIGH)]


def _ordered(stage: Sequence[str], values: Mapping[str, str], now: Mapping[str, str | None]) -> list[str]:
    """Both limits of a clock in the order in which the lower one is never above the upper, governors last."""

    def rank(path: str) -> int:
        folder, _, name = path.rpartition("/")
        if name not in (_LOW, _HIGH):
            return 3
        high, low = number(values.get(f"{folder}/{_HIGH}")), number(now.get(f"{folder}/{_LOW}"))
        is_high_first = high is None or low is None or high >= low
        return 1 if (name == _HIGH) == is_high_first else 2

    return sorted(stage, key=rank)


async def _has_rebooted(port: Port, notes: Mapping[str, str]) -> bool:
    if _BOOT not in notes:
        return False
    now = (await port.read([BOOT_ID]))[BOOT_ID]
    return now is not None and now != notes[_BOOT]


def _boot_note(texts: Mapping[str, str | None]) -> dict[str, str]:
    boot_id = texts[BOOT_ID]
    return {_BOOT: boot_id} if boot_id else {}


async def _suspects(port: Port) -> str:
    """Programs on the board that are known to set clocks, for people; empty where none runs."""
    ran = await port.run(["sh", "-c", _RUNNING, "sh", *_DAEMONS], timeout_s=_COMMAND_LIMIT_S)
    found = [name for name in ran.stdout.decode(errors="replace").split() if name in _DAEMONS]
    if (await port.read([_MSM_LIMITS]))[_MSM_LIMITS] is not None:
        found.append("msm_performance")
    return f" ({', '.join(found)} may set it back)" if found else ""


def _tail(path: str) -> str:
    return path.rpartition("/")[2]
