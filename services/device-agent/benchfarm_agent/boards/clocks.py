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
_SWITCH: Final = "online"
_FIRST: Final = frozenset({_LOW, _HIGH, _GOVERNOR})
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
        self._own_paths: dict[tuple[str, str], list[str]] = {}  # of governors' own settings, by clock and governor

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
        paths = [name.removeprefix(CLOCK_NOTE) for name in notes if name not in (_BOOT, _FIXED)]
        now = await port.read([BOOT_ID, *_with_limits(paths)])
        if _has_rebooted(notes, now):  # a kernel's settings do not outlive it
            journal.forget_all(board, notes)
            return
        wrong = await _put_back(port, {path: notes[CLOCK_NOTE + path] for path in paths}, now)
        if _FIXED in notes and (why := await _fixed(port, notes[_FIXED])) is not None:
            wrong["fixed-performance"] = f"fixed performance stays on: {why}"
        left = {CLOCK_NOTE + path for path in wrong}
        journal.forget_all(board, notes.keys() - left - ({_BOOT} if left else set()))
        if wrong:
            raise TransientDeviceError("not put back on the board yet: " + "; ".join(wrong.values()))

    async def _bring(self, port: Port, point: OperatingPoint, journal: Journal, board: str) -> None:
        policies = self._policies(point)
        settings = [f"{one.folder}/{name}" for one in policies for name in (_GOVERNOR, _LOW, _HIGH, _SPEED)]
        coolings = [f"{folder}/cur_state" for folder in self._facts.sensors.coolings]
        switches = [f"{CPU}/cpu{core}/{_SWITCH}" for core in point.cores]
        paths = [BOOT_ID, _ONLINE, *switches, *settings, *coolings]
        found = await port.read(paths)
        if await _bring_online(port, point.cores, found, journal, board):
            found = await port.read(paths)  # a clock of which no core is there has no settings
        if point.mode == "fixed_performance":
            await _fix_performance(port, found, journal, board)
        elif point.mode == "pinned":
            await self._set(port, policies, point.freq_khz[0], found, journal, board)

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

    async def _set(
        self,
        port: Port,
        policies: Sequence[ClockPolicy],
        khz: int,
        found: Mapping[str, str | None],
        journal: Journal,
        board: str,
    ) -> None:
        if slowed := [folder for folder, state in cooling_states(found, self._facts.sensors).items() if state]:
            # what it shows as its limits now are not those that somebody set
            raise TransientDeviceError(f"the board slows itself down: {', '.join(map(_tail, slowed))}")
        notes = _notes(policies, found)
        tunables = await self._tunables(port, policies, found)
        journal.remember_all(board, {**notes, **tunables})
        governors = {one.folder: await _set_one(port, one, khz, found) for one in policies}
        await self._hold(port, policies, khz, governors)

    async def _tunables(
        self, port: Port, policies: Sequence[ClockPolicy], found: Mapping[str, str | None]
    ) -> dict[str, str]:
        """What governors that go have of their own: many kernels forget it with them."""
        paths: set[str] = set()
        for policy in policies:
            governor = found[f"{policy.folder}/{_GOVERNOR}"] or ""
            if _governor_for(policy, governor) != governor:
                key = (policy.folder, governor)
                if key not in self._own_paths:
                    folders = (f"{policy.folder}/{governor}/*", f"{CPU}/cpufreq/{governor}/*")
                    told = await find_paths(port, folders)
                    self._own_paths[key] = [path for path, can_write in told.items() if can_write]
                paths.update(self._own_paths[key])
        texts = await port.read(sorted(paths)) if paths else {}
        return {CLOCK_NOTE + path: text for path, text in texts.items() if text}

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


async def _bring_online(
    port: Port, cores: Sequence[int], found: Mapping[str, str | None], journal: Journal, board: str
) -> bool:
    """Switches on the cores that a phone has switched off; whether there were any.

    Raises TransientDeviceError when they stay off.
    """
    online = core_list(found[_ONLINE])
    off = [core for core in cores if online and core not in online]
    if not off:
        return False
    switches = {core: f"{CPU}/cpu{core}/{_SWITCH}" for core in off}
    if any(found[path] is None for path in switches.values()):
        raise TransientDeviceError(f"core {cores_text(off)} is offline and cannot be switched on")
    journal.remember_all(board, {**_boot_note(found), **{CLOCK_NOTE + path: "0" for path in switches.values()}})
    for path in switches.values():
        await _write(port, path, "1")
    now = core_list((await port.read([_ONLINE]))[_ONLINE])
    if still := [core for core in off if core not in now]:
        raise TransientDeviceError(f"core {cores_text(still)} stays offline")
    return True


async def _fix_performance(port: Port, found: Mapping[str, str | None], journal: Journal, board: str) -> None:
    journal.remember_all(board, {**_boot_note(found), _FIXED: "false"})
    if (why := await _fixed(port, "true")) is not None:
        journal.forget_all(board, [_FIXED])  # a phone without such a mode could not be told to leave it either
        raise TransientDeviceError(f"the phone has no fixed performance after all: {why}")


async def _fixed(port: Port, value: str) -> str | None:
    """Switches Android's mode; None when it did, else its words. It cannot be asked how it is switched."""
    ran = await port.run(["cmd", "power", FIXED_PERFORMANCE, value], timeout_s=_COMMAND_LIMIT_S)
    return None if ran.returncode == 0 else ran.stderr.decode(errors="replace").strip()[-200:] or "no reason given"


def _notes(policies: Sequence[ClockPolicy], found: Mapping[str, str | None]) -> dict[str, str]:
    """What was found, for the journal. Raises TransientDeviceError for a setting that cannot be read."""
    notes = _boot_note(found)
    for policy in policies:
        own = [_SPEED] if found[f"{policy.folder}/{_GOVERNOR}"] == "userspace" else []
        for path in (f"{policy.folder}/{name}" for name in (_LOW, _HIGH, _GOVERNOR, *own)):
            text = found[path]
            if not text:
                raise TransientDeviceError(f"{path} cannot be read, so it could not be put back")
            notes[CLOCK_NOTE + path] = text
    return notes


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


async def _put_back(port: Port, found: Mapping[str, str], now: Mapping[str, str | None]) -> dict[str, str]:
    """Writes what differs, in an order that the kernel takes; of what differs afterwards, by path, how.

    What a governor has of its own is there again only after the governor, and a kernel may take a value late: it is
    read and written as often as that takes.
    """
    words: dict[str, str] = {}
    wrong = [path for path in found if now[path] != found[path]]
    for number_of_look, pause_s in enumerate((0.0, 0.0, *SETTLE_S[1:])):
        if not wrong:
            break
        await asyncio.sleep(pause_s)
        ready = [path for path in wrong if number_of_look > 0 or _tail(path) in _FIRST]
        for path in _ordered(ready, found, now):
            try:
                await port.write(path, found[path])
            except PortWriteRefused as error:
                words[path] = error.detail
        now = await port.read(_with_limits(wrong))
        wrong = [path for path in wrong if now[path] != found[path]]
    told = {path: f" ({words[path]})" if path in words else "" for path in wrong}
    return {path: f"{path} is {now[path]}, was {found[path]}{told[path]}" for path in wrong}


def _with_limits(paths: Sequence[str]) -> list[str]:
    """The paths, and beside each upper limit the lower one, which decides the order of writing."""
    beside = [f"{path.rpartition('/')[0]}/{_LOW}" for path in paths if path.endswith(_HIGH)]
    return list(dict.fromkeys([*paths, *beside]))


def _ordered(paths: Sequence[str], found: Mapping[str, str], now: Mapping[str, str | None]) -> list[str]:
    """Both limits of a clock in the order in which the lower one is never above the upper; cores last."""

    def rank(path: str) -> int:
        folder, _, name = path.rpartition("/")
        if name not in (_LOW, _HIGH):
            return 4 if name == _SWITCH else 3
        high, low = number(found.get(f"{folder}/{_HIGH}")), number(now.get(f"{folder}/{_LOW}"))
        is_high_first = high is None or low is None or high >= low
        return 1 if (name == _HIGH) == is_high_first else 2

    return sorted(paths, key=rank)


def _has_rebooted(notes: Mapping[str, str], now: Mapping[str, str | None]) -> bool:
    return _BOOT in notes and now[BOOT_ID] not in (None, notes[_BOOT])


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
