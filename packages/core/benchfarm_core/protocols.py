"""How to measure: named, versioned, with parameters. A changed meaning is a new version."""

from math import ceil
from typing import Annotated, Final, Literal

from pydantic import Field, StrictFloat, StrictInt, ValidationError, model_validator

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.values import Value, digest


class Protocol(Value):
    """Parameters of one way to measure.

    A measurement is `launches_min` to `launches_max` launches; each launch times a workload for
    `visit_ms` in blocks of at least `block_min_us`. Launches beyond the minimum replace contended ones, are added while
    the others do not confirm each other or too little of them was quiet (`quality.wants_more_launches`) and, where
    `half_width_target` is given, until half the interval's width is at most that share of the headline.

    Both canaries run before each `canary_every_ms` of a visit. With `clock_every_ms` the one that stands for the clock
    runs after so much time again, and behind the last block, so that each block lies between two (`quiet_blocks`).
    Where that one was loud, blocks wait until it is quiet again: the visits of a lease for `quiet_wait_ms` each, all
    together (`quiet_blocks.patience_ms`).
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")
    version: int = Field(ge=1)
    launches_min: int = Field(ge=1, le=20)
    launches_max: int = Field(ge=1, le=40)
    visit_ms: int = Field(ge=5, le=60_000)
    block_min_us: int = Field(ge=50, le=1_000_000)
    blocks_min: int = Field(ge=3, le=1000)
    blocks_max: int = Field(ge=3, le=2000)
    warmup_min_runs: int = Field(ge=1, le=1000)
    warmup_min_ms: int = Field(ge=0, le=10_000)
    canary_every_ms: int = Field(ge=5, le=10_000)
    clock_every_ms: int | None = Field(default=None, ge=1, le=10_000)
    quiet_wait_ms: int | None = Field(default=None, ge=1, le=10_000)
    half_width_target: float | None = Field(gt=0, lt=1)
    visit_timeout_s: int = Field(ge=1, le=3600)

    @model_validator(mode="after")
    def _possible(self) -> "Protocol":
        if self.launches_max < self.launches_min:
            raise ValueError("launches_max is below launches_min")
        if self.blocks_max < self.blocks_min:
            raise ValueError("blocks_max is below blocks_min")
        if self.visit_ms > self.visit_timeout_s * 1000:
            raise ValueError("visit_ms is above visit_timeout_s")
        return self

    @property
    def id(self) -> str:
        """Hash of name, version and every parameter; protocols of before there were some of them keep theirs."""
        return "proto_" + digest(self.model_dump(mode="json", exclude=_unsaid(self)), length=12)


def _unsaid(protocol: Protocol) -> set[str]:
    return {name for name in ("clock_every_ms", "quiet_wait_ms") if getattr(protocol, name) is None}


MEMORY: Final = "memory"
"""Each launch is one workload's own process, which is opened and run a few times without a canary. A block is its cold
start: opening and the first inference. Reading memory costs milliseconds, so nothing else is timed."""
PROFILE: Final = "profile"
"""The engine's own profiler tells each operator's time; a block is the sum over one inference, which is above what an
inference without a profiler takes."""
COMPARE: Final = "compare"
"""The protocol of pairs, in which `visit_ms` is the time of both sides and a block one of each."""
PAIR_ROUNDS: Final = 8
"""Rounds among which a visit of a pair divides its time."""
PAIR_ROUNDS_MIN: Final = 3
"""Times that a visit of a pair opens and warms both sides, at the least; fewer where `blocks_max` ends it."""
ROUND_PAIRS_MIN: Final = 4
"""Pairs of blocks in a round, at the least."""
COMPARED_ROUNDS_MIN: Final = 8
"""Rounds without which a comparison has no interval (`benchfarm_core.comparing`)."""

_PLAIN: Final = Protocol(
    name="kernel",
    version=3,
    launches_min=3,
    launches_max=8,
    visit_ms=10,
    block_min_us=200,
    blocks_min=5,
    blocks_max=600,
    warmup_min_runs=3,
    warmup_min_ms=2,
    canary_every_ms=20,
    half_width_target=None,
    visit_timeout_s=60,
)

_KERNEL: Final = _PLAIN.model_copy(update={"version": 5, "clock_every_ms": 1, "quiet_wait_ms": 20})

PROTOCOLS: Final[dict[str, Protocol]] = {
    "quick": _KERNEL.model_copy(update={"name": "quick", "launches_min": 1, "launches_max": 2}),
    "kernel": _KERNEL,
    "standard": _KERNEL.model_copy(
        update={
            "name": "standard",
            "launches_min": 6,
            "launches_max": 12,
            "visit_ms": 20,
            "blocks_min": 8,
            "half_width_target": 0.01,
        }
    ),
    MEMORY: _PLAIN.model_copy(update={"name": MEMORY, "version": 1, "launches_max": 6, "blocks_min": 3}),
    PROFILE: _PLAIN.model_copy(update={"name": PROFILE, "version": 1, "launches_max": 6, "visit_ms": 50}),
    COMPARE: _PLAIN.model_copy(
        update={
            "name": COMPARE,
            "version": 2,
            "launches_min": 3,
            "launches_max": 16,
            "visit_ms": 200,
            "blocks_min": 12,
            "blocks_max": 800,
            "warmup_min_ms": 2,
            "canary_every_ms": 100,
            "half_width_target": 0.02,
        }
    ),
}

GOLDEN: Final = _PLAIN.model_copy(update={"name": "golden", "version": 1, "launches_max": 5, "visit_timeout_s": 10})
"""Of the golden suite. No client can name it: what one board measured for its own sake answers nobody else."""


ChangedParameters = dict[str, int | float | None]
"""By name, those parameters of a protocol that are not its name's and version's own."""


def changed_parameters(protocol: Protocol) -> ChangedParameters:
    """What tells a protocol from the others of its name and version; of a version whose own parameters this farm does
    not know, all that it has."""
    own = {**PROTOCOLS, GOLDEN.name: GOLDEN}.get(protocol.name)
    known = own.model_dump() if own is not None and own.version == protocol.version else {}
    told = protocol.model_dump(exclude={"name", "version"})
    return {name: value for name, value in told.items() if name not in known or known[name] != value}


def parameters_text(changed: ChangedParameters) -> str:
    """``visit_ms=50 blocks_min=9``; empty where none differs."""
    return " ".join(f"{name}={'none' if value is None else value}" for name, value in changed.items())


def in_situ(protocol: Protocol) -> Protocol:
    """The protocol as it is followed in situ: a carrier runs between two blocks there, and no canary."""
    return protocol.model_copy(update={"clock_every_ms": None, "quiet_wait_ms": None})


def purpose_of(protocol: Protocol) -> Literal["latency", "memory", "profile"]:
    """What a protocol's launches look at; only `latency` answers how long an inference takes."""
    if protocol.name == MEMORY:
        return "memory"
    return "profile" if protocol.name == PROFILE else "latency"


def is_comparison(protocol: Protocol) -> bool:
    """Whether a protocol visits pairs; its `half_width_target` is the tolerance: what counts as no difference."""
    return protocol.name == COMPARE


class ProtocolRequest(Value):
    """A protocol as a client names it: a name, and parameters that differ from it."""

    name: str = "kernel"
    parameters: dict[Annotated[str, Field(max_length=60)], StrictInt | StrictFloat] = Field(default={}, max_length=50)


def resolve_protocol(request: ProtocolRequest) -> Protocol:
    """The protocol that a request means. Raises InvalidRequest on unknown names or impossible limits."""
    known = PROTOCOLS.get(request.name)
    if known is None:
        raise InvalidRequest(
            f"there is no protocol {request.name[:60]!r}; there are {', '.join(sorted(PROTOCOLS))}",
            code="protocol_unknown",
            field="protocol.name",
        )
    unknown = set(request.parameters) - (set(Protocol.model_fields) - {"name", "version"})
    if unknown:
        raise InvalidRequest(
            f"a protocol has no parameter {min(unknown)[:60]!r}",
            code="protocol_impossible",
            field="protocol.parameters",
        )
    try:
        protocol = Protocol.model_validate({**known.model_dump(), **request.parameters})
        _check_clock_points(protocol)
        _check_time(protocol)
        _check_rounds(protocol)
    except ValueError as error:
        raise InvalidRequest(
            f"the protocol's parameters are impossible: {_reason(error)}",
            code="protocol_impossible",
            field="protocol.parameters",
        ) from error
    return protocol


def longest_s(protocol: Protocol) -> float:
    """Board seconds that all visits of one measurement can take at the most: each lasts up to its limit. Waiting at
    gates and starting processes follow from no parameter and are no part of it."""
    return float(protocol.launches_max * protocol.visit_timeout_s)


def refuse_longer(request: ProtocolRequest | None, limit_s: float) -> None:
    """Raise InvalidRequest (`protocol_too_long`) where parameters let one measurement hold a board for longer than
    `limit_s`; what the named protocol may take without them is allowed in any case. Raises as `resolve_protocol`, too.
    """
    if request is None or not request.parameters:
        return
    protocol = resolve_protocol(request)
    allowed_s = max(limit_s, longest_s(PROTOCOLS[request.name]))
    if longest_s(protocol) > allowed_s:
        raise InvalidRequest(
            f"one measurement could hold a board for {longest_s(protocol):g} s: {protocol.launches_max} launches of up "
            f"to {protocol.visit_timeout_s} s; the limit is {allowed_s:g} s: lower launches_max or visit_timeout_s",
            code="protocol_too_long",
            field="protocol.parameters",
        )


def _reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return ": ".join([*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")])


def _check_clock_points(protocol: Protocol) -> None:
    """Raise ValueError where canaries between blocks are asked for that no runner takes."""
    if protocol.clock_every_ms is not None and (purpose_of(protocol) != "latency" or is_comparison(protocol)):
        raise ValueError(f"{protocol.name} has no canaries between its blocks: leave clock_every_ms out")
    if protocol.quiet_wait_ms is not None and protocol.clock_every_ms is None:
        raise ValueError("quiet_wait_ms waits for canaries between blocks: it needs clock_every_ms")


def _check_time(protocol: Protocol) -> None:
    """Raise ValueError when a visit certainly outlasts its limit. Stored protocols are older than this rule."""
    sides, rounds = (2, PAIR_ROUNDS_MIN) if is_comparison(protocol) else (1, 1)
    blocks_ms = max(protocol.visit_ms, sides * protocol.blocks_min * protocol.block_min_us / 1000)
    least_s = (sides * rounds * protocol.warmup_min_ms + blocks_ms) / 1000
    if least_s > protocol.visit_timeout_s:
        raise ValueError(
            f"warming up and its blocks alone take {least_s:.4g} s, visit_timeout_s is {protocol.visit_timeout_s}"
        )


def _check_rounds(protocol: Protocol) -> None:
    """Raise ValueError when no launches could answer for some pair. Stored protocols are older than this rule."""
    rounds = _rounds_certain(protocol)
    launches = ceil(COMPARED_ROUNDS_MIN / rounds)
    if is_comparison(protocol) and protocol.launches_max < launches:
        raise ValueError(
            f"a comparison stands on {COMPARED_ROUNDS_MIN} rounds, and with blocks_max {protocol.blocks_max} a launch "
            f"of some pairs has {rounds}: set launches_max, which is {protocol.launches_max}, to {launches} or more"
        )


def _rounds_certain(protocol: Protocol) -> int:
    """Rounds that a launch has of any pair, however long or short. One whose pairs all have one order says nothing."""
    round_us = protocol.visit_ms * 1000 / PAIR_ROUNDS
    least = max(ROUND_PAIRS_MIN, ceil(protocol.blocks_min / PAIR_ROUNDS))
    most = max(least, ceil(round_us / (2 * protocol.block_min_us)))
    return min(PAIR_ROUNDS_MIN, 1 + max(0, protocol.blocks_max - 2) // most)
