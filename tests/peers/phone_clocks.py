"""Plays the kernel on a phone whose /sys is plain files: the clock follows what is written, and counts.

Real kernels refuse a bad value; files take it, so it is put back a moment later. The QEMU board has the real thing.
"""

import ctypes
import os
import select
import threading
import time
from pathlib import Path

from tests.peers.phone_files import DEFAULT_GOVERNOR, GOVERNORS, THERMAL, TRIP_C, UNSUPPORTED, Cluster, PhoneModel

IN_CLOSE_WRITE = 0x8
COUNT_S = 0.25
TICKS_PER_S = 100  # of time_in_state, as on every Linux that people use
DEGREES_PER_STATE = 10.0
COOLING_STATES = 3

_libc = ctypes.CDLL(None, use_errno=True)


class PhoneClocks:
    """A thread that keeps the frequency files of one phone in step; `root` is the phone's file system."""

    def __init__(self, root: Path, model: PhoneModel) -> None:
        self._clocks = [_Clock(root, cluster, model.has_time_in_state) for cluster in model.clusters]
        self._zone = root / THERMAL / "thermal_zone0" / "temp"
        self._cooling = root / THERMAL / "cooling_device0" / "cur_state"
        self._root = root
        self._lock = threading.Lock()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._events = _watch([clock.folder for clock in self._clocks] + [self._zone.parent])
        self.settle()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def say(self, freq_khz: int | None) -> None:
        """From now on scaling_cur_freq says this, whatever the clock is; None: the truth."""
        for clock in self._clocks:
            clock.said_khz = freq_khz
        self.settle()

    def stick(self, freq_khz: int | None) -> None:
        """From now on every clock is this, whatever is asked; None: it follows."""
        for clock in self._clocks:
            clock.stuck_khz = freq_khz
        self.settle()

    def settle(self) -> None:
        """Brings the files in step with what was written to them."""
        with self._lock:
            state = self._cooling_state()
            _replace(self._root, self._cooling, str(state))
            for clock in self._clocks:
                clock.settle(state)

    def end(self) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join(5)
        for fd in (self._stop, self._events):
            os.close(fd)

    def _cooling_state(self) -> int:
        try:
            above_c = int(self._zone.read_text()) / 1000 - TRIP_C
        except (OSError, ValueError):
            return 0
        return min(COOLING_STATES, 1 + int(above_c / DEGREES_PER_STATE)) if above_c > 0 else 0

    def _follow(self) -> None:
        while True:
            ready, _, _ = select.select([self._stop, self._events], [], [], COUNT_S)
            if self._stop in ready:
                return
            try:
                if self._events in ready:
                    os.read(self._events, 1 << 16)
                    self.settle()
                with self._lock:
                    for clock in self._clocks:
                        clock.count()
            except OSError:  # the phone is being laid out anew or is gone
                continue


class _Clock:
    """The clock of one cluster."""

    def __init__(self, root: Path, cluster: Cluster, counts: bool) -> None:
        self.folder = root / cluster.policy
        self.said_khz: int | None = None
        self.stuck_khz: int | None = None
        self._root = root
        self._table = cluster.freq_khz
        self._governor = DEFAULT_GOVERNOR
        self._limits_khz = {"scaling_min_freq": self._table[0], "scaling_max_freq": self._table[-1]}
        self._freq_khz = self._table[-1]
        self._seen_s = time.monotonic()
        self._spent_s = dict.fromkeys(self._table, 0.0) if counts else None
        if counts:
            (self.folder / "stats").mkdir(exist_ok=True)

    def settle(self, cooling_state: int) -> None:
        self.count()
        self._governor = self._valid_governor()
        for name in self._limits_khz:
            self._limits_khz[name] = self._valid_limit(name)
        asked_khz = self._asked()
        cap_khz = self._table[max(0, len(self._table) - 1 - cooling_state)]
        self._freq_khz = self.stuck_khz or min(asked_khz, cap_khz)
        said = str(self.said_khz or self._freq_khz)
        for name in ("scaling_cur_freq", "cpuinfo_cur_freq"):
            self._put(name, said)

    def count(self) -> None:
        """Adds the time since the last call to the frequency of now."""
        now_s = time.monotonic()
        if self._spent_s is not None:
            self._spent_s[self._freq_khz] = self._spent_s.get(self._freq_khz, 0.0) + now_s - self._seen_s
            lines = (f"{freq_khz} {int(spent_s * TICKS_PER_S)}" for freq_khz, spent_s in self._spent_s.items())
            self._put("stats/time_in_state", "\n".join(lines))
        self._seen_s = now_s

    def _valid_governor(self) -> str:
        said = self._read("scaling_governor")
        if said in GOVERNORS:
            return said
        self._put("scaling_governor", self._governor)
        return self._governor

    def _valid_limit(self, name: str) -> int:
        said = self._read(name)
        if said.isdecimal() and self._table[0] <= int(said) <= self._table[-1]:
            return int(said)
        self._put(name, str(self._limits_khz[name]))
        return self._limits_khz[name]

    def _asked(self) -> int:
        lowest_khz, highest_khz = self._limits_khz["scaling_min_freq"], self._limits_khz["scaling_max_freq"]
        wish_khz = lowest_khz if self._governor == "powersave" else highest_khz
        if self._governor == "userspace":
            said = self._read("scaling_setspeed")
            wish_khz = int(said) if said.isdecimal() else self._freq_khz
            self._put("scaling_setspeed", str(wish_khz))
        else:
            self._put("scaling_setspeed", UNSUPPORTED)
        wish_khz = max(lowest_khz, min(wish_khz, highest_khz))
        reachable = [freq_khz for freq_khz in self._table if freq_khz <= highest_khz] or [self._table[0]]
        return next((freq_khz for freq_khz in reachable if freq_khz >= wish_khz), reachable[-1])

    def _read(self, name: str) -> str:
        return (self.folder / name).read_text().strip()

    def _put(self, name: str, text: str) -> None:
        path = self.folder / name
        if not path.exists() or path.read_text() != f"{text}\n":
            _replace(self._root, path, text)


def _replace(root: Path, path: Path, text: str) -> None:
    """Nobody sees half a file, and the watch sees nothing: it is written elsewhere in the same file system."""
    draft = root / "run" / f"draft-{threading.get_ident()}"
    draft.write_text(f"{text}\n")
    draft.chmod(0o644)
    draft.rename(path)


def _watch(folders: list[Path]) -> int:
    """An inotify descriptor that tells of every file in these folders that was written."""
    events: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    for folder in folders:
        if _libc.inotify_add_watch(events, os.fsencode(folder), IN_CLOSE_WRITE) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", str(folder))
    return events
