"""Where something is measured: board model x operating point x engine x precision."""

import re
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.values import Value, digest

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,59}$")]

MAX_CORES: Final = 4096
MAX_ALTERNATIVES: Final = 100
"""Values that one part of a filter lists."""


class Precision(StrEnum):
    """The arithmetic a platform runs in; ``as_given`` for an uploaded file that is never converted."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    AS_GIVEN = "as_given"


EffectivePrecision = Precision | Literal["other"]
"""What an engine computed a workload in, as it says itself; ``other``: several at once, or none of the farm's words."""


def effective_precision(said: object) -> EffectivePrecision | None:
    """An engine's word for what it computed in; None where it said none."""
    if said is None:
        return None
    known = [one for one in Precision if one == said]
    return known[0] if known else "other"


class ClockProof(StrEnum):
    """How sure the farm is of the clock during a measurement, weakest first."""

    UNPINNED = "unpinned"
    BOUNDED = "bounded"
    VERIFIED = "verified"


CLOCK_PROOF_ORDER: dict[ClockProof, int] = {
    ClockProof.UNPINNED: 0,
    ClockProof.BOUNDED: 1,
    ClockProof.VERIFIED: 2,
}


class OperatingPoint(Value):
    """Cores, threads and clock as asked for. What was observed is evidence, never part of this."""

    mode: Literal["pinned", "fixed_performance", "free"]
    cores: tuple[Annotated[int, Field(ge=0, lt=MAX_CORES)], ...] = Field(min_length=1, max_length=MAX_CORES)
    threads: int = Field(ge=1, le=MAX_CORES)
    freq_khz: tuple[Annotated[int, Field(gt=0, lt=2**31)], ...] = Field(default=(), max_length=MAX_CORES)
    governor: Name | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "OperatingPoint":
        if list(self.cores) != sorted(set(self.cores)):
            raise ValueError("cores must be ascending and distinct")
        if self.threads > len(self.cores):
            raise ValueError("more threads than cores")
        if (self.mode == "pinned") != bool(self.freq_khz):
            raise ValueError("freq_khz belongs to mode pinned, and only to it")
        return self

    @property
    def key(self) -> str:
        """``c0-3.t1.2400000``, ``c1.t1.free``, ``c0-1.t2.fixed``; a governor follows after a dot."""
        clock = {"free": "free", "fixed_performance": "fixed"}.get(self.mode) or "_".join(map(str, self.freq_khz))
        governor = f".{self.governor}" if self.governor else ""
        return f"c{_ranges(self.cores)}.t{self.threads}.{clock}{governor}"


class EngineSpec(Value):
    """An inference runtime at an exact version with its typed options."""

    name: Name
    version: str = Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+_-]{0,59}$")
    options: dict[Name, int | bool | Name] = {}

    @property
    def key(self) -> str:
        """``onnxruntime-1.31.1``, options in name order: ``onnxruntime-1.31.1~edges=fp32~graph_optimization=none``."""
        return f"{self.name}-{self.version}{self.options_key}"

    @property
    def options_key(self) -> str:
        """The options alone: ``~graph_optimization=none``, or nothing."""
        return "".join(f"~{name}={_option(value)}" for name, value in sorted(self.options.items()))


class Platform(Value):
    """Results and predictors belong to a platform; it is made when first wanted."""

    board_model: Name
    operating_point: OperatingPoint
    engine: EngineSpec
    precision: Precision

    @property
    def key(self) -> str:
        """The name for people: ``rpi5/c0-3.t1.2400000/onnxruntime-1.31.1/fp32``."""
        return f"{self.board_model}/{self.operating_point.key}/{self.engine.key}/{self.precision}"

    @property
    def id(self) -> str:
        """Short hash of the key."""
        return platform_id(self.key)


class PlatformFilter(Value):
    """Selects platforms by their parts; every given field must match, lists mean any of.

    A job's filter means engines with default options; others are named by their keys.
    """

    board_model: tuple[Annotated[str, Field(max_length=60)], ...] = Field(default=(), max_length=MAX_ALTERNATIVES)
    engine: tuple[Annotated[str, Field(max_length=60)], ...] = Field(default=(), max_length=MAX_ALTERNATIVES)
    precision: tuple[Precision, ...] = Field(default=(), max_length=MAX_ALTERNATIVES)
    threads: tuple[int, ...] = Field(default=(), max_length=MAX_ALTERNATIVES)
    mode: tuple[Literal["pinned", "fixed_performance", "free"], ...] = Field(default=(), max_length=MAX_ALTERNATIVES)


def platform_id(key: str) -> str:
    """Short hash of a platform key."""
    return "p_" + digest(key, length=12)


def matches(platform: Platform, wanted: PlatformFilter) -> bool:
    """Whether a platform passes a filter; an empty filter passes everything."""
    point = platform.operating_point
    return (
        (not wanted.board_model or platform.board_model in wanted.board_model)
        and (not wanted.engine or platform.engine.name in wanted.engine)
        and (not wanted.precision or platform.precision in wanted.precision)
        and (not wanted.threads or point.threads in wanted.threads)
        and (not wanted.mode or point.mode in wanted.mode)
    )


KEY_FORM: Final = "board-model/c0-3.t1.free/engine-version/precision"
OPTIONS_FORM: Final = "engine-version~name=value~name=value"
"""How options of the engine are written into a key."""
_POINT = re.compile(r"^c([0-9+-]+)\.t([0-9]{1,4})\.(free|fixed|[0-9]+(?:_[0-9]+)*)(?:\.([a-z0-9_-]+))?$")
_ENGINE = re.compile(r"^([a-z0-9_]+)-([0-9A-Za-z][0-9A-Za-z.+_-]*)((?:~[a-z0-9_.-]+=[a-z0-9_.-]+)*)$")


def parse_platform_key(key: str) -> Platform:
    """The platform that a key names, its options as they are written.

    Raises InvalidRequest: `platform_unknown` when the text is no platform key, `engine_option_repeated`.
    """
    parts = key.split("/")
    point = _POINT.match(parts[1]) if len(parts) == 4 else None
    engine = _ENGINE.match(parts[2]) if len(parts) == 4 else None
    if not point or not engine:
        raise _not_a_key(key)
    try:
        return Platform(
            board_model=parts[0],
            operating_point=_parse_point(point),
            engine=EngineSpec(name=engine[1], version=engine[2], options=_parse_options(engine[3])),
            precision=Precision(parts[3]),
        )
    except ValueError as error:
        raise _not_a_key(key) from error


def _not_a_key(key: str) -> InvalidRequest:
    return InvalidRequest(
        f"{key[:120]!r} is no platform key; the form is {KEY_FORM}, with options of the engine {OPTIONS_FORM}",
        code="platform_unknown",
    )


def _parse_point(match: re.Match[str]) -> OperatingPoint:
    clock = match[3]
    mode: Literal["pinned", "fixed_performance", "free"] = "pinned"
    if clock in ("free", "fixed"):
        mode = "free" if clock == "free" else "fixed_performance"
    return OperatingPoint(
        mode=mode,
        cores=_parse_ranges(match[1]),
        threads=int(match[2]),
        freq_khz=tuple(map(int, clock.split("_"))) if mode == "pinned" else (),
        governor=match[4],
    )


def _parse_options(text: str) -> dict[str, int | bool | str]:
    options: dict[str, int | bool | str] = {}
    for pair in text.split("~")[1:]:
        name, value = pair.split("=")
        if name in options:
            raise InvalidRequest(
                f"the engine option {name} is named twice, in {text[:120]!r}: name it once",
                code="engine_option_repeated",
                field="platforms",
            )
        number = value.removeprefix("-").isdigit()
        options[name] = value == "true" if value in ("true", "false") else int(value) if number else value
    return options


def _option(value: int | bool | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _ranges(cores: tuple[int, ...]) -> str:
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return "+".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _parse_ranges(text: str) -> tuple[int, ...]:
    cores: list[int] = []
    for run in text.split("+"):
        first, _, last = run.partition("-")
        if int(last or first) - int(first) > 4096:
            raise ValueError("core range too long")
        cores.extend(range(int(first), int(last or first) + 1))
    return tuple(cores)
