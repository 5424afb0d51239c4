"""Brings boards back that stay away, rung by rung: connect anew, restart the adb server, reboot, switch the power.

Each rung has its time, its limit and a pause after it, and is told to the farm for the board's history. A board that
the lab's file names under `no_recovery` is left alone, and so is one that answers, whatever it answers; one that is
really this machine, or was never there, is not rebooted.

A board that answers and cannot measure (`ailments.py`) rests and is rebooted. The adb server has all phones, so it is
started again only while no other phone is at work, and none takes an offer meanwhile: their boards go for a moment, and
nobody's lease with them.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, runtime_checkable

from benchfarm_agent.board_watch import AILING, BoardWatch
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.lab_file import LabFile, PowerHook, matches_one
from benchfarm_agent.power_hooks import run_hook
from benchfarm_core.board_history import RecoveryStep
from benchfarm_core.errors import BenchfarmError

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
USABLE: Final = frozenset({"ready", "opening"})
TROUBLED: Final = frozenset({"away", "offline"})
"""States in which a board is tried to be brought back by itself."""
SWITCHABLE: Final = TROUBLED | {"gone", ""}
"""States in which its power hook runs; the empty one is that of a board which was not seen since the agent's start."""


class Rung(NamedTuple):
    """A step of the ladder: how long a board must have been away, and how long it then gets to come back.

    At most once in `again_s`, however often the board comes and goes meanwhile; what has not ended after `limit_s` has
    failed. A failed step may yet have been taken, as a reboot that cuts its own answer off, so the pause is the same.
    """

    step: RecoveryStep
    after_s: float
    pause_s: float
    again_s: float = 3600.0
    limit_s: float = 30.0


LADDER: Final = (
    Rung(RecoveryStep.RECONNECT, 10.0, 10.0),
    Rung(RecoveryStep.RESTART_ADB, 30.0, 20.0),
    Rung(RecoveryStep.REBOOT, 60.0, 180.0),
)


@runtime_checkable
class Recoverable(Protocol):
    """A way that can do something for its board."""

    @property
    def steps(self) -> frozenset[RecoveryStep]:
        """What it can do."""

    async def recover(self, step: RecoveryStep) -> None:
        """Does it. Raises BenchfarmError or OSError where that does not go."""


@dataclass
class Absence:
    """What was done for one board: when it went away, until when it is given time, when each rung was last climbed."""

    since_s: float
    until_s: float = 0.0
    last_s: dict[RecoveryStep, float] = field(default_factory=dict)


def next_rung(rungs: Sequence[Rung], absence: Absence, now_s: float) -> Rung | None:
    """The rung that is due: the lowest that was not climbed lately, once the board was away for long enough."""
    if now_s < absence.until_s:
        return None
    for rung in rungs:
        last_s = absence.last_s.get(rung.step)
        if last_s is not None and now_s - last_s < rung.again_s:
            continue
        return rung if now_s - absence.since_s >= rung.after_s else None
    return None


class Recovery:
    """Looks after every board that the agent has seen or that a hook names."""

    def __init__(self, lab_file: LabFile, ladder: Sequence[Rung] = LADDER) -> None:
        self._lab_file = lab_file
        self._ladder = tuple(ladder)
        self._hooks: Mapping[str, PowerHook] = {hook.board: hook for hook in lab_file.power}
        self._absences: dict[str, Absence] = {}
        self._climbing: dict[str, asyncio.Task[None]] = {}
        self._adb_restarted_s: float | None = None  # one server has all phones

    async def follow(self, watch: BoardWatch) -> None:
        """Until cancelled."""
        watch.ailments.may_recover = lambda label: self._may_reboot(watch, label)
        try:
            while True:
                self._look(watch)
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            for task in self._climbing.values():
                task.cancel()
            await asyncio.gather(*self._climbing.values(), return_exceptions=True)

    def _look(self, watch: BoardWatch) -> None:
        if watch.is_closing:
            return
        states = {one.label: one.state for one in watch.standings()}
        for label in sorted(states.keys() | self._hooks.keys()):
            state = states.get(label, "")
            absence = self._absences.setdefault(label, Absence(boottime_s()))
            if state in USABLE:
                absence.since_s = boottime_s()
                absence.until_s = 0.0
            elif label not in self._climbing:
                rung = next_rung(self._rungs(watch, label, state), absence, boottime_s())
                if rung is not None:
                    self._note_begin(absence, rung)
                    self._begin(watch, label, rung)

    def _begin(self, watch: BoardWatch, label: str, rung: Rung) -> None:
        """To be called in the step in which it was seen that no phone is at work: no offer is taken in between."""
        let_go = watch.hold_back("adb") if rung.step == RecoveryStep.RESTART_ADB else None
        task = self._climbing[label] = asyncio.create_task(self._climb(watch, label, rung))
        if let_go is not None:
            task.add_done_callback(lambda _: let_go())

    def _note_begin(self, absence: Absence, rung: Rung) -> None:
        absence.last_s[rung.step] = boottime_s()
        if rung.step == RecoveryStep.RESTART_ADB:
            self._adb_restarted_s = boottime_s()

    def _rungs(self, watch: BoardWatch, label: str, state: str) -> list[Rung]:
        """What may be done for a board now, the mildest first."""
        if matches_one(label, self._lab_file.no_recovery):
            return []
        if state == AILING:
            return [rung._replace(after_s=0.0) for rung in self._ladder if rung.step == RecoveryStep.REBOOT]
        if watch.answers(label):
            return []
        rungs = [rung for rung in self._ladder if rung.step in self._able(watch, label, state) and self._may(rung)]
        if (hook := self._hooks.get(label)) is not None and state in SWITCHABLE:
            limit_s = hook.timeout_s + 10.0
            rungs.append(Rung(RecoveryStep.POWER_CYCLE, hook.after_s, hook.again_s, hook.again_s, limit_s))
        return rungs

    def _able(self, watch: BoardWatch, label: str, state: str) -> frozenset[RecoveryStep]:
        """What its way can do for a board in this state without harm."""
        way: object = watch.way(label)
        if state not in TROUBLED or not isinstance(way, Recoverable):
            return frozenset()
        able = way.steps
        # what never worked no reboot mends, and what merely takes long may be at work
        if self._lab_file.marks(label) or not watch.was_there(label) or not watch.is_unreachable(label):
            able -= {RecoveryStep.REBOOT}
        if any(one.report.kind == "adb" and watch.is_at_work(one.board) for one in watch.present()):
            able -= {RecoveryStep.RESTART_ADB}
        return able

    def _may_reboot(self, watch: BoardWatch, label: str) -> bool:
        """Whether a board that answers would be rebooted if it rested now."""
        way: object = watch.way(label)
        if self._lab_file.marks(label) or matches_one(label, self._lab_file.no_recovery):
            return False
        if not isinstance(way, Recoverable) or RecoveryStep.REBOOT not in way.steps:
            return False
        rung = next((one for one in self._ladder if one.step == RecoveryStep.REBOOT), None)
        last_s = self._absences.setdefault(label, Absence(boottime_s())).last_s.get(RecoveryStep.REBOOT)
        return rung is not None and (last_s is None or boottime_s() - last_s >= rung.again_s)

    def _may(self, rung: Rung) -> bool:
        """Whether the adb server was left alone for long enough, whichever phone it was last restarted for."""
        last_s = self._adb_restarted_s
        return rung.step != RecoveryStep.RESTART_ADB or last_s is None or boottime_s() - last_s >= rung.again_s

    async def _climb(self, watch: BoardWatch, label: str, rung: Rung) -> None:
        logger.warning("board %s stays away or cannot measure: %s", label, rung.step)
        detail = ""
        try:
            async with asyncio.timeout(rung.limit_s):
                await self._do(watch, label, rung.step)
        except (BenchfarmError, OSError) as error:
            detail = str(error)[:200] or type(error).__name__
        finally:
            self._climbing.pop(label, None)
            self._absences[label].until_s = boottime_s() + rung.pause_s
        watch.recovered(label)
        watch.tell_recovery(label, rung.step, detail)

    async def _do(self, watch: BoardWatch, label: str, step: RecoveryStep) -> None:
        """Raises BenchfarmError, OSError (TimeoutError is one)."""
        if step == RecoveryStep.POWER_CYCLE:
            if not await run_hook(self._hooks[label]):
                raise OSError("the power hook failed: see the agent's log")
            return
        way: object = watch.way(label)
        assert isinstance(way, Recoverable)  # its rungs were asked for just now
        await way.recover(step)
