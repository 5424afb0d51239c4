"""Boards: identity, state, health, and what an agent reports about one."""

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import Field, model_validator

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.leases import AGENT_SILENT_S
from benchfarm_core.operating_ranges import MAX_RANGES, OperatingRange
from benchfarm_core.platforms import ClockProof, Name, OperatingPoint, Precision
from benchfarm_core.values import Answer, Value, digest


class BoardState(StrEnum):
    """The machine's view of a board."""

    OFFLINE = "offline"
    IDLE = "idle"
    LEASED = "leased"
    COOLING = "cooling"


class Health(StrEnum):
    """The lab's view of a board, apart from its state; each change has a reason and an author."""

    GOOD = "good"
    SUSPECT = "suspect"
    QUARANTINED = "quarantined"
    MAINTENANCE = "maintenance"
    RETIRED = "retired"


_B = BoardState
BOARD_TRANSITIONS: Final[dict[BoardState, frozenset[BoardState]]] = {
    # leased at once where an older farm left its lease alive
    _B.OFFLINE: frozenset({_B.IDLE, _B.LEASED}),
    _B.IDLE: frozenset({_B.LEASED, _B.OFFLINE}),
    _B.LEASED: frozenset({_B.IDLE, _B.COOLING, _B.OFFLINE}),
    # a board that has rested takes its next offer without being idle in between; one that registers anew is idle
    _B.COOLING: frozenset({_B.IDLE, _B.LEASED, _B.OFFLINE}),
}

_H = Health
HEALTH_TRANSITIONS: Final[dict[Health, frozenset[Health]]] = {
    _H.GOOD: frozenset({_H.SUSPECT, _H.QUARANTINED, _H.MAINTENANCE, _H.RETIRED}),
    _H.SUSPECT: frozenset({_H.GOOD, _H.QUARANTINED, _H.MAINTENANCE, _H.RETIRED}),
    _H.QUARANTINED: frozenset({_H.GOOD, _H.MAINTENANCE, _H.RETIRED}),
    _H.MAINTENANCE: frozenset({_H.GOOD, _H.QUARANTINED, _H.RETIRED}),
    _H.RETIRED: frozenset(),
}

USABLE_HEALTH: Final = (Health.GOOD, Health.SUSPECT)

BoardKind = Literal["local", "adb", "ssh", "simulated", "air_gapped"]

BoardMark = Literal["shared_host", "emulated", "simulated"]
MARK_PREFIXES: Final[dict[BoardMark, str]] = {"shared_host": "shared-", "emulated": "emu-", "simulated": "sim-"}
"""What a board's numbers say nothing of real boards for, as the beginning of its model's name."""
SINGLE_USE: Final[dict[BoardMark, str]] = {
    "shared_host": "share a host's cores with others",
    "emulated": "are emulated",
}
"""Marks of boards whose results answer who asked for them and nobody else, and what that is for. Simulated boards are
not among them: what they say is made up, and farms are learnt with it."""
SINGLE_USE_PREFIXES: Final = tuple(MARK_PREFIXES[mark] for mark in SINGLE_USE)
"""What their models' names, and so their platforms' keys, begin with."""

ADDRESS: Final = "address"
"""The fact that says where in the lab's network a board is reached; a change stands in its history."""
BOOT: Final = "boot_id"
"""The fact that is another one after each start of the board's kernel."""
LAB_FACTS: Final = frozenset({ADDRESS, BOOT})
"""Facts that are shown, as serials are, to operators only."""
DUPLICATE: Final = "duplicate_board"
"""The reason of a board that two live agents drive: contested until an operator decides."""
MAX_OPTIONS: Final = 40
MEMORY_SHARE: Final = 0.75
"""Of a board's memory, what one launch may use."""

OptionValue = int | bool | Name
_Limit = Annotated[int, Field(gt=-(2**53), lt=2**53)]


class EngineOption(Value):
    """One option of an engine: a switch, a whole number in a range, or one of some names.

    `precisions`: in which it changes anything; none named: in all.
    """

    kind: Literal["switch", "number", "choice"]
    default: int | bool | Name
    meaning: str = Field(default="", max_length=300)
    choices: tuple[Name, ...] = Field(default=(), max_length=100)
    low: _Limit | None = None
    high: _Limit | None = None
    precisions: tuple[Precision, ...] = Field(default=(), max_length=20)

    @model_validator(mode="after")
    def _consistent(self) -> "EngineOption":
        if self.kind == "number" and (self.low is None or self.high is None):
            raise ValueError("a number has a low and a high limit")
        if self.value_of(self.default) is None:
            raise ValueError("the default is outside the option's own set")
        return self

    def value_of(self, given: OptionValue) -> OptionValue | None:
        """The value that is meant, as the engine takes it; None outside the option's set.

        A platform key is text: `1` may be a number or the name of a choice.
        """
        if self.kind == "choice":
            name = str(given).lower() if isinstance(given, bool) else str(given)
            return name if name in self.choices else None
        if self.kind == "switch":
            return given if isinstance(given, bool) else None
        if not isinstance(given, int) or isinstance(given, bool) or self.low is None or self.high is None:
            return None
        return given if self.low <= given <= self.high else None

    def changes(self, value: OptionValue, precision: Precision) -> bool:
        """Whether a value makes another platform than none: its default does not, nor does any where it is unused."""
        return value != self.default and (not self.precisions or precision in self.precisions)

    @property
    def values(self) -> str:
        """The option's set, for people."""
        if self.kind == "number":
            return f"{self.low} to {self.high}"
        return " or ".join(self.choices) if self.kind == "choice" else "true or false"


class EngineReport(Value):
    """One engine as a board has it; unavailable ones carry the reason. `options` is None where nothing is known.

    `by_difference`: what measures with it there times kernels in situ by difference. Older agents do not say so, and
    cannot.
    """

    name: Name
    available: bool
    version: str | None = Field(default=None, max_length=60)
    precisions: tuple[Precision, ...] = Field(default=(), max_length=20)
    reason: str = Field(default="", max_length=300)
    options: dict[Name, EngineOption] | None = Field(default=None, max_length=MAX_OPTIONS)
    by_difference: bool = False


class BoardReport(Value):
    """What an agent says about one board when it registers it.

    `operating_points` are those that it offers from the start, `ranges` all that it can be set to. `clock_proof`: the
    best that it can give at a pinned point. `marks`: why its numbers are never taken for those of a real board.
    """

    kind: BoardKind
    serial: str = Field(min_length=1, max_length=200)
    hardware_id: str = Field(max_length=200)
    board_model: Name
    model_name: str = Field(max_length=200)
    generation: str = Field(min_length=1, max_length=64)
    facts: dict[Annotated[str, Field(max_length=60)], str | int | float] = Field(max_length=100)
    engines: tuple[EngineReport, ...] = Field(max_length=50)
    operating_points: tuple[OperatingPoint, ...] = Field(max_length=500)
    clock_proof: ClockProof
    ranges: tuple[OperatingRange, ...] = Field(default=(), max_length=MAX_RANGES)
    marks: tuple[BoardMark, ...] = Field(default=(), max_length=len(MARK_PREFIXES))

    @model_validator(mode="after")
    def _marked(self) -> "BoardReport":
        if not self.board_model.startswith(mark_prefix(self.marks)):
            raise ValueError(f"the board model of a marked board begins with {mark_prefix(self.marks)}")
        return self


class BoardName(Value):
    """What a board is known by to its agent."""

    kind: BoardKind
    serial: str = Field(min_length=1, max_length=200)
    hardware_id: str = Field(max_length=200)


class BoardView(Answer):
    """A board as the API shows it; the serial is there for operators only."""

    id: str
    agent_id: str
    kind: BoardKind
    board_model: str
    model_name: str
    generation: str
    state: BoardState
    health: Health
    reason: str
    serial: str | None
    facts: dict[str, str | int | float]
    engines: list[EngineReport]
    clock_proof: ClockProof
    last_heard_at: datetime | None
    platforms: list[str]
    ranges: list[OperatingRange] = []
    marks: list[BoardMark] = []


class MergeRequest(Value):
    """Which board model another one is found to be."""

    into: str = Field(min_length=1, max_length=60)
    reason: str = Field(min_length=1, max_length=300)


class SplitRequest(Value):
    """Why a board model that was merged is none of the other's after all."""

    reason: str = Field(min_length=1, max_length=300)


class ModelSplit(Answer):
    """A board model that is its own again, the one that it was merged into, and boards that are of it at once."""

    board_model: str
    was_merged_into: str
    boards: list[str]


class ModelMerge(Answer):
    """A board model that is called otherwise from now on, and its boards."""

    board_model: str
    merged_into: str
    boards: list[str]


class BoardFilter(StrEnum):
    """What keeps a board from a platform's work, in the order in which it is looked at."""

    ENGINE = "engine"
    PRECISION = "precision"
    OPERATING_POINT = "operating_point"
    ENGINE_OPTIONS = "engine_options"
    TIMING = "timing"
    CLOCK_PROOF = "clock_proof"
    HEALTH = "health"
    AGENT = "agent"
    STATE = "state"


class Removal(NamedTuple):
    """Which filter removes a board, and why, as the end of a sentence about it."""

    by: BoardFilter
    reason: str


class GateWait(Value):
    """That a board waits until it is quiet and cool: since when, and what is in the way, beside its limit."""

    since_unix_s: float = Field(ge=0)
    reason: str = Field(max_length=300)

    @property
    def sentence(self) -> str:
        """The end of a sentence about the board."""
        since = datetime.fromtimestamp(self.since_unix_s, UTC)
        return f"waits for quiet since {since:%Y-%m-%d %H:%M:%S} UTC: {self.reason}"


class LastLease(Answer):
    """How a board's latest lease went; `end_reason` is null while it lives, `detail` the agent's own words."""

    offered_at: datetime
    accepted: bool
    ended_at: datetime | None
    end_reason: str | None
    detail: str


class BoardUse(Answer):
    """Why a board is not used now. `removed_by` is null for one that is used or could be.

    `waiting`: measurements on its platforms, of which its clock's proof suffices for; counted up to a limit.
    `contested`: two live agents drive it. `agent_heard_s` ago its agent was last heard. `gate_wait`: it has work and
    waits until it is quiet. `lacks`: engines that cannot be used on it, with the reasons.
    """

    board_id: str
    reason: str
    removed_by: BoardFilter | None
    state: BoardState
    health: Health
    health_reason: str
    contested: bool
    agent_heard_s: float | None
    rests_until: datetime | None
    waiting: int
    last_lease: LastLease | None
    ranges: list[OperatingRange]
    marks: list[BoardMark]
    gate_wait: GateWait | None = None
    lacks: dict[str, str] = {}


def is_heard(agent_heard_s: float | None) -> bool:
    """Whether an agent that was last heard so long ago counts as one that lives; None: it never was."""
    return agent_heard_s is not None and agent_heard_s < AGENT_SILENT_S


def is_online(state: BoardState, agent_heard_s: float | None) -> bool:
    """Whether a live agent drives a board. One that drains says so and counts as gone from then on; one that merely
    died counts until it has been silent for long enough."""
    return state != BoardState.OFFLINE and is_heard(agent_heard_s)


def mark_prefix(marks: Iterable[BoardMark]) -> str:
    """What the model's name of a board with these marks begins with: nothing where there are none."""
    given = set(marks)
    return "".join(prefix for mark, prefix in MARK_PREFIXES.items() if mark in given)


def marks_of(board_model: str) -> frozenset[BoardMark]:
    """The marks that the name of a board model tells, or the key of a platform, which begins with it."""
    found: set[BoardMark] = set()
    for mark, prefix in MARK_PREFIXES.items():
        if board_model.startswith(prefix):
            found.add(mark)
            board_model = board_model.removeprefix(prefix)
    return frozenset(found)


def is_single_use(board_model: str) -> bool:
    """Whether what is measured on boards of a model (its name, or a platform's key) is never used again: it answers no
    other request, teaches and judges no predictor, and lends nothing."""
    return not SINGLE_USE.keys().isdisjoint(marks_of(board_model))


def why_single_use(board_model: str) -> str | None:
    """Why that is so, and what to do instead; None where it is not so."""
    whys = [why for mark, why in SINGLE_USE.items() if mark in marks_of(board_model)]
    if not whys:
        return None
    return (
        f"boards of {board_model.partition('/')[0]} {' and '.join(whys)}: what is measured there answers the job that "
        "asked for it and nothing else; submit a job for a number"
    )


def refuse_single_use(platform: str, *, field: str = "platform") -> None:
    """Raise InvalidRequest (`platform_single_use`) for the key of a platform of which nothing is used again."""
    if (why := why_single_use(platform)) is not None:
        raise InvalidRequest(why, code="platform_single_use", field=field)


def is_witness_enforced(board_model: str) -> bool:
    """Whether blocks that the witness saw disturbed count for nothing there. A board that shares a host's cores has
    neighbours by what it is: there the witness is recorded, and grade and clean share tell."""
    return "shared_host" not in marks_of(board_model)


def provable(point: OperatingPoint, best: ClockProof) -> ClockProof:
    """What a board whose best proof is `best` can prove at an operating point: where nothing is pinned, nothing."""
    return best if point.mode == "pinned" else ClockProof.UNPINNED


def board_id(salt: str, report: BoardReport | BoardName) -> str:
    """Identity = hash(farm salt, kind, serial, hardware id): the serial cannot be read back from it."""
    return "b_" + digest([salt, report.kind, report.serial, report.hardware_id], length=16)
