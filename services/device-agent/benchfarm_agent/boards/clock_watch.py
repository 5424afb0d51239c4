"""What is seen of a board's clock while a launch runs.

The kernel's own count of the time at each frequency decides, read before and after. Where there is none, one loop on
the board looks at the current frequency 20 times a second and tells the sum at its end: no round trip, and nothing on
the wire, while something is timed.
"""

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from benchfarm_agent.boards.clocks import CLOCK_TOLERANCE
from benchfarm_agent.boards.clusters import CPU, ClockPolicy, core_list, number, time_in_state
from benchfarm_agent.boards.linux_facts import BoardFacts, cooling_states
from benchfarm_agent.ports.interface import Port
from benchfarm_core.clock_proof import ClockEvidence
from benchfarm_core.platforms import OperatingPoint

TICK_S: Final = 0.01
"""The unit of time_in_state, whatever the kernel's own tick is."""
COUNTED_MIN: Final = 0.7
"""Share of the watched time that must be counted, or the count stands still and says nothing."""
SAMPLE_EVERY_S: Final = 0.05
WATCH_LIMIT_S: Final = 3600.0
_UPTIME: Final = "/proc/uptime"
_ONLINE: Final = f"{CPU}/online"
_LIMIT_S: Final = 10.0
_THROTTLED_NOW: Final = 0xF
"""Low bits of a Raspberry Pi's throttle word: what holds now; the same bits 16 higher: what has happened since boot."""
_STATUS: Final = re.compile(rb"Thermal Status:\s*(\d+)")
# It reads with the shell's own means, and where the board has `taskset` it keeps off the measured cores. It ends when
# the file that stands for the watch goes, and by itself when nobody ends it.
_SAMPLE: Final = f"""
watch=$1; left=$2; low=$3; high=$4; mask=$5; shift 5
[ "$mask" = 0 ] || taskset -p "$mask" $$ >/dev/null 2>&1
seen=0; off=0
while [ -e "$watch" ] && [ "$left" -gt 0 ]; do
  is_off=0
  for path; do
    khz=0; read -r khz < "$path"
    [ "$khz" -ge "$low" ] && [ "$khz" -le "$high" ] || is_off=1
  done 2>/dev/null
  seen=$((seen + 1)); off=$((off + is_off)); left=$((left - 1))
  sleep {SAMPLE_EVERY_S} 2>/dev/null || usleep 50000 2>/dev/null || sleep 1
done
rm -f "$watch"
echo "$seen $off"
"""


@contextlib.asynccontextmanager
async def watched_clock(
    port: Port, facts: BoardFacts, point: OperatingPoint, folder: str
) -> AsyncIterator["ClockWatch"]:
    """Watches the board's clock from here on; `end` gives what was seen. Nothing of it runs on afterwards.

    `folder` is one of the board's that can be written. Raises TransientDeviceError.
    """
    watch = ClockWatch(port, facts, point, folder)
    await watch.begin()
    try:
        yield watch
    finally:
        await watch.abandon()


class ClockWatch:
    """One watch over one launch at one operating point: `begin`, then `end`."""

    def __init__(self, port: Port, facts: BoardFacts, point: OperatingPoint, folder: str) -> None:
        self._port = port
        self._facts = facts
        self._point = point
        self._policies = _policies(facts, point)
        self._before: dict[str, str | None] = {}
        self._folders_before: dict[str, str] = {}
        self._status_before: int | None = None
        self._flag = f"{folder}/clock-watch-{secrets.token_hex(6)}"
        self._sampler: asyncio.Task[tuple[int, int]] | None = None

    async def begin(self) -> None:
        """Raises TransientDeviceError."""
        self._status_before, self._folders_before, self._before = await asyncio.gather(
            self._status(), self._core_folders(), self._port.read(self._files())
        )
        if self._policies and not all(self._counts(self._before, policy) for policy in self._policies):
            await self._port.run(["touch", self._flag], timeout_s=_LIMIT_S)
            self._sampler = asyncio.create_task(self._sample())

    async def end(self, launch_s: float) -> ClockEvidence:
        """What was seen since `begin` of a launch that lasted so long meanwhile. Raises TransientDeviceError.

        All that the clock was off is held against the launch alone, which is shorter than the watch around it: the
        residency of the launch is never told better than it was.
        """
        after, (seen, off), status, folders = await asyncio.gather(
            self._port.read(self._files()), self._samples(), self._status(), self._core_folders()
        )
        around_s = max(_uptime_s(after) - _uptime_s(self._before), 0.0)
        watched_s = min(launch_s, around_s)
        return ClockEvidence(
            asked_khz=self._point.freq_khz,
            residency=self._residency(after, around_s, watched_s) if self._sampler is None else None,
            watched_s=watched_s,
            samples=min(seen, int(launch_s / SAMPLE_EVERY_S)),
            samples_off=off,
            throttle_events=self._throttle_events(after, status),
            cores_lost=folders != self._folders_before or self._has_lost_cores(after),
        )

    async def abandon(self) -> None:
        """Ends what still watches on the board. Harmless after `end`."""
        if self._sampler is not None and not self._sampler.done():
            self._sampler.cancel()
            await asyncio.gather(self._sampler, return_exceptions=True)

    def _files(self) -> list[str]:
        sensors = self._facts.sensors
        names = [f"{policy.folder}/{name}" for policy in self._policies for name in _POLICY_FILES]
        names += [f"{CPU}/cpu{core}/thermal_throttle/{name}" for core in self._point.cores for name in _COUNTERS]
        names += [f"{folder}/{name}" for folder in sensors.coolings for name in ("cur_state", "stats/total_trans")]
        firmware = [sensors.firmware_throttle] if sensors.firmware_throttle else []
        return [_UPTIME, *names, _ONLINE, *firmware]

    @staticmethod
    def _counts(texts: Mapping[str, str | None], policy: ClockPolicy) -> dict[int, int]:
        return time_in_state(texts[f"{policy.folder}/stats/time_in_state"])

    def _residency(self, after: Mapping[str, str | None], around_s: float, launch_s: float) -> float | None:
        """The lowest share, over the point's clocks, of the launch's time at the asked frequency."""
        shares = [
            residency(self._counts(self._before, policy), self._counts(after, policy), khz, around_s)
            for policy in self._policies
            for khz in self._point.freq_khz
        ]
        known = [share for share in shares if share is not None]
        return residency_of_launch(min(known), around_s, launch_s) if known and len(known) == len(shares) else None

    def _throttle_events(self, after: Mapping[str, str | None], status: int | None) -> int | None:
        """How often the board slowed itself down, by everything that it counts; None where it counts nothing."""
        found: list[int] = []
        for path in self._before:
            if "/thermal_throttle/" in path or path.endswith("/stats/total_trans"):
                found += _risen(self._before[path], after[path])
        states = cooling_states(self._before, self._facts.sensors), cooling_states(after, self._facts.sensors)
        found += [int(state > 0) for by_folder in states for state in by_folder.values()]
        if self._facts.sensors.firmware_throttle is not None:
            path = self._facts.sensors.firmware_throttle
            found += _firmware_events(self._before[path], after[path])
        found += [int(one > 0) for one in (self._status_before, status) if one is not None]
        lowered = [1 for policy in self._policies if self._is_lowered(after, policy)]
        return sum(found) + len(lowered) if found or lowered else None

    def _is_lowered(self, after: Mapping[str, str | None], policy: ClockPolicy) -> bool:
        limit = number(after[f"{policy.folder}/scaling_max_freq"])
        return limit is not None and any(limit < khz for khz in self._point.freq_khz)

    def _has_lost_cores(self, after: Mapping[str, str | None]) -> bool:
        online = core_list(after[_ONLINE])
        return bool(online) and not set(self._point.cores) <= set(online)

    async def _core_folders(self) -> dict[str, str]:
        """The inode of a folder that a core gets anew whenever it comes online: a core that went and came back."""
        paths = [f"{CPU}/cpu{core}/topology" for core in self._point.cores]
        ran = await self._port.run(["ls", "-d", "-i", *paths], timeout_s=_LIMIT_S)
        pairs = (line.split(None, 1) for line in ran.stdout.decode(errors="replace").splitlines())
        return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}

    async def _status(self) -> int | None:
        """Android's own word on heat, where its cooling devices cannot be read: 0 for none."""
        if not self._facts.is_android or self._facts.is_root:
            return None
        ran = await self._port.run(["dumpsys", "thermalservice"], timeout_s=_LIMIT_S)
        match = _STATUS.search(ran.stdout)
        return int(match[1][:3]) if match else None

    async def _sample(self) -> tuple[int, int]:
        khz = self._point.freq_khz[0]
        low, high = int(khz * (1 - CLOCK_TOLERANCE)), int(khz * (1 + CLOCK_TOLERANCE))
        others = sum(1 << core for core in set(self._facts.cores) - set(self._point.cores))
        rounds = int(WATCH_LIMIT_S / SAMPLE_EVERY_S)
        paths = [f"{policy.folder}/scaling_cur_freq" for policy in self._policies]
        words = (self._flag, str(rounds), str(low), str(high), f"{others:x}", *paths)
        ran = await self._port.run(["sh", "-c", _SAMPLE, "sh", *words], timeout_s=WATCH_LIMIT_S + _LIMIT_S)
        told = ran.stdout.split()
        if len(told) != 2 or not all(word.isdigit() for word in told):
            return (0, 0)
        return int(told[0]), int(told[1])

    async def _samples(self) -> tuple[int, int]:
        if self._sampler is None:
            return (0, 0)
        await self._port.run(["rm", "-f", self._flag], timeout_s=_LIMIT_S)
        try:
            return await asyncio.wait_for(self._sampler, _LIMIT_S)
        except TimeoutError:
            return (0, 0)


_POLICY_FILES: Final = ("stats/time_in_state", "scaling_max_freq")
_COUNTERS: Final = ("core_throttle_count", "package_throttle_count")


def residency(before: Mapping[int, int], after: Mapping[int, int], khz: int, watched_s: float) -> float | None:
    """The share of the counted time at a frequency; None where the count was set back or stands still.

    `before` and `after` in ticks of 10 ms by kHz.
    """
    spent = {one: after[one] - before.get(one, 0) for one in after}
    counted = sum(spent.values())
    if any(ticks < 0 for ticks in spent.values()) or before.keys() - after.keys():
        return None
    if counted <= 0 or (counted + 1) * TICK_S < watched_s * COUNTED_MIN:
        return None
    return spent.get(khz, 0) / counted


def residency_of_launch(share: float, around_s: float, launch_s: float) -> float | None:
    """The least share of a launch at a frequency that had this share of the time around it; None of no time at all.

    The count is read before and after the launch. Were the clock off in all of what lies between, the launch would be
    the better for a longer watch: so all that it was off counts as the launch's.
    """
    return max(0.0, 1 - (1 - share) * around_s / launch_s) if launch_s > 0 else None


def _policies(facts: BoardFacts, point: OperatingPoint) -> Sequence[ClockPolicy]:
    """The clocks of the point's cores; none where nothing is asked of them."""
    if point.mode != "pinned":
        return ()
    policies = [policy for cluster in facts.clusters for policy in cluster.policies]
    return [policy for policy in policies if set(policy.cores) & set(point.cores)]


def _uptime_s(texts: Mapping[str, str | None]) -> float:
    word = (texts[_UPTIME] or "0").split()[0]
    return float(word) if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", word) else 0.0


def _risen(before: str | None, after: str | None) -> list[int]:
    first, last = number(before), number(after)
    return [] if first is None or last is None else [max(last - first, 0)]


def _firmware_events(before: str | None, after: str | None) -> list[int]:
    """From the throttle words, hexadecimal: anything that holds now, or that has newly happened."""
    try:
        first, last = int(before or "", 16), int(after or "", 16)
    except ValueError:
        return []
    holds = (first | last) & _THROTTLED_NOW
    happened = (last & ~first) >> 16 & _THROTTLED_NOW
    return [(holds | happened).bit_count()]
