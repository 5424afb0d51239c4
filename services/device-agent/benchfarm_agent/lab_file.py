"""`boards.toml`: which boards an agent drives. Read once at the start; an error names its line and says what to do.

local = true                         # this machine itself
adb = true                           # every phone on USB, or serials: ["R58M*", "10.0.0.7:5555"]
shared_host = ["pi-*"]               # boards that are really this machine: their platforms are apart from real ones
no_recovery = ["bench-*"]            # boards that are never rebooted or switched off when they stay away

[[ssh]]
name = "pi5"
host = "10.0.0.5"
user = "farm"
key_file = "pi5.key"                 # relative to this file
known_hosts_file = "known_hosts"

[[power]]
board = "pi5"
cycle = ["uhubctl", "-a", "cycle", "-p", "3"]

[gate]                               # when no board takes a launch; what is left out stays as docs/board-health.md says
charging = "required"                # or "refused", or "any"
min_battery_percent = 50

[[board_gate]]                       # the same for some boards, before [gate]
boards = ["pi5"]                     # `local` is this machine
max_temperature_c = 75
cool_to_c = 55

[[benchmark_model]]                  # LiteRT's own program, an engine beside the runner's: times without checks
abi = "aarch64"
binary = "benchmark_model"           # relative to this file
boards = ["pi5"]                     # all of that processor where it is left out
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from benchfarm_agent.boards.sensors import GateLimits
from benchfarm_agent.lab_gate import NO_GATE, LabBoardGate, LabGate
from benchfarm_agent.toml_file import TomlFile, TomlPart, open_toml
from benchfarm_core.boards import BoardMark
from benchfarm_core.platforms import Name

_SETTING: Final = "boards"
_ADVICE: Final = {
    "extra_forbidden": "there is no such entry: see the example in `benchfarm agent boards --help`",
    "missing": "is missing: add it",
}
_REASONS: Final = {"adb": "is true, false or a list of serials; change it"}

_Text = Annotated[str, Field(min_length=1, max_length=200)]
_Pattern = Annotated[str, Field(min_length=1, max_length=200)]
_Word = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]


class SshHost(TomlPart):
    """A Linux board that is reached over SSH.

    known_hosts_file: the host keys that are trusted; `benchfarm agent boards trust` writes to it. runner: what measures
    there: `python` (needs Python 3.9 or newer on the board) or `native` (ncnn alone, needs nothing). engines: of a
    Python runner, those that are put on the board.
    """

    name: Name
    host: _Text
    port: int = Field(default=22, ge=1, le=65_535)
    user: _Text
    key_file: Path
    known_hosts_file: Path = Path("known_hosts")
    runner: Literal["python", "native"] = "python"
    engines: tuple[Name, ...] = Field(default=("onnxruntime",), min_length=1, max_length=20)
    note: str = Field(default="", max_length=200)


class PowerHook(TomlPart):
    """What brings a board back that has been away: a command of this machine, no shell.

    board: an SSH host's name or a phone's serial. after_s: how long it must have been away; at most once in `again_s`.
    """

    board: _Text
    cycle: tuple[_Word, ...] = Field(min_length=1, max_length=100)
    after_s: float = Field(default=60.0, ge=1, le=86_400)
    again_s: float = Field(default=600.0, ge=10, le=86_400)
    timeout_s: float = Field(default=30.0, gt=0, le=600)


class BenchmarkModel(TomlPart):
    """LiteRT's `benchmark_model` as the operator has it, for boards over adb and SSH with one kind of processor.

    boards: SSH hosts' names and phones' serials, or patterns of them.
    """

    abi: Literal["x86_64", "aarch64"]
    binary: Path
    boards: tuple[_Pattern, ...] = Field(default=("*",), min_length=1, max_length=1000)


class LabFile(TomlPart):
    """The boards of one lab. adb: all phones, none, or those whose serial matches one of the patterns. gate: when none
    of them takes a launch; board_gate: the same for some, the first that names a board.

    no_recovery: boards that the agent does nothing for while they are away: no restart, no reboot, no power hook.
    """

    local: bool = True
    adb: bool | tuple[_Pattern, ...] = False
    shared_host: tuple[_Pattern, ...] = Field(default=(), max_length=100)
    no_recovery: tuple[_Pattern, ...] = Field(default=(), max_length=1000)
    ssh: tuple[SshHost, ...] = Field(default=(), max_length=1000)
    power: tuple[PowerHook, ...] = Field(default=(), max_length=1000)
    gate: LabGate = NO_GATE
    board_gate: tuple[LabBoardGate, ...] = Field(default=(), max_length=1000)
    benchmark_model: tuple[BenchmarkModel, ...] = Field(default=(), max_length=1000)

    @model_validator(mode="after")
    def _hosts_once(self) -> "LabFile":
        for what, given in (
            ("name", [host.name for host in self.ssh]),
            ("address", [f"{host.host}:{host.port}" for host in self.ssh]),
            ("hook", [hook.board for hook in self.power]),
        ):
            twice = sorted({one for one in given if given.count(one) > 1})
            if twice:
                raise ValueError(f"the {what} {twice[0]} is given twice: a board has one")
        return self

    @property
    def adb_addresses(self) -> tuple[str, ...]:
        """Phones in the network, as `host:port`, that the adb server is to connect to."""
        named = () if isinstance(self.adb, bool) else self.adb
        return tuple(one for one in named if re.fullmatch(r"[^*?\[\]]+:[0-9]{1,5}", one))

    def wants_adb(self, serial: str) -> bool:
        """Whether a phone with this serial is one of the lab's."""
        return self.adb if isinstance(self.adb, bool) else matches_one(serial, self.adb)

    def marks(self, label: str) -> tuple[BoardMark, ...]:
        """What a board's numbers are to be marked with; label: an SSH host's name or a phone's serial."""
        return ("shared_host",) if matches_one(label, self.shared_host) else ()

    def gate_of(self, label: str) -> LabGate:
        """When a board takes no launch; label: an SSH host's name, a phone's serial or `local`."""
        fits = (one for one in self.board_gate if matches_one(label, one.boards))
        found = next(fits, None)
        return self.gate if found is None else found.over(self.gate)

    def find_benchmark_model(self, label: str, abi: str) -> Path | None:
        """The first binary for a board with such a label and processor."""
        fits = (one.binary for one in self.benchmark_model if one.abi == abi and matches_one(label, one.boards))
        return next(fits, None)


def matches_one(label: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns (`*`, `?`) is meant."""
    return any(fnmatchcase(label, pattern) for pattern in patterns)


def read_lab_file(path: Path | None, *, max_temperature_c: float = GateLimits().max_temperature_c) -> LabFile:
    """The lab's boards; without a file this machine alone. Raises InvalidRequest with the line and the reason.

    max_temperature_c: the agent's setting, which holds where the file names no limit.
    """
    if path is None:
        return LabFile()
    file = open_toml(path, _SETTING, advice=_ADVICE, reasons=_REASONS)
    lab = file.parsed(LabFile)
    _check_gates(lab, file, max_temperature_c)
    return _with_files(lab, file)


def _with_files(lab: LabFile, file: TomlFile) -> LabFile:
    """The same with whole paths. Raises InvalidRequest for a file that cannot be read."""
    folder = file.path.resolve().parent
    programs = tuple(_program(one, number, folder, file) for number, one in enumerate(lab.benchmark_model))
    hosts = []
    for number, host in enumerate(lab.ssh):
        key_file, known = (folder / given.expanduser() for given in (host.key_file, host.known_hosts_file))
        try:
            with key_file.open("rb"):
                hosts.append(host.model_copy(update={"key_file": key_file, "known_hosts_file": known}))
        except OSError as error:
            reason = f"ssh.{number + 1}.key_file: cannot read {key_file} ({error.strerror}): {_KEY_ADVICE}"
            raise file.wrong(("ssh", number, "key_file"), reason) from error
    return lab.model_copy(update={"ssh": tuple(hosts), "benchmark_model": programs})


def _check_gates(lab: LabFile, file: TomlFile, max_temperature_c: float) -> None:
    """Raise InvalidRequest for limits that contradict each other, a board's own with those that hold for all too."""
    if (why := lab.gate.why_wrong(max_temperature_c)) is not None:
        raise file.wrong(("gate",), f"gate: {why}; change it")
    for number, one in enumerate(lab.board_gate):
        if (why := one.over(lab.gate).why_wrong(max_temperature_c)) is not None:
            raise file.wrong(("board_gate", number), f"board_gate.{number + 1}: {why}; change it")


def _program(given: BenchmarkModel, number: int, folder: Path, file: TomlFile) -> BenchmarkModel:
    binary = folder / given.binary.expanduser()
    try:
        with binary.open("rb"):
            return given.model_copy(update={"binary": binary})
    except OSError as error:
        place = ("benchmark_model", number, "binary")
        reason = f"cannot read {binary} ({error.strerror}): name the program that you built or fetched"
        raise file.wrong(place, f"benchmark_model.{number + 1}.binary: {reason}") from error


_KEY_ADVICE: Final = "make a key with `ssh-keygen` and put its public half on the board"
