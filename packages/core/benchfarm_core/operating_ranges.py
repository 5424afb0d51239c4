"""What a board can be set to: ranges of operating points, of which the farm offers what somebody wants."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.platforms import MAX_CORES, OperatingPoint, Platform
from benchfarm_core.values import Value

MAX_RANGES: Final = 100
MAX_FREQUENCIES: Final = 200
SHOWN_CHARS: Final = 1500
"""Of ranges in a sentence."""


class OperatingRange(Value):
    """A set of operating points: any of some cores, up to `threads_max` threads, one of some frequencies.

    `cores` ascending, of one cluster or of all; `freq_khz` ascending, those that the board can keep up; only for
    ``pinned``, and then the cores are of one cluster.
    """

    mode: Literal["pinned", "fixed_performance", "free"]
    cores: tuple[Annotated[int, Field(ge=0, lt=MAX_CORES)], ...] = Field(min_length=1, max_length=MAX_CORES)
    threads_max: int = Field(ge=1, le=MAX_CORES)
    freq_khz: tuple[Annotated[int, Field(gt=0, lt=2**31)], ...] = Field(default=(), max_length=MAX_FREQUENCIES)

    @model_validator(mode="after")
    def _consistent(self) -> "OperatingRange":
        if list(self.cores) != sorted(set(self.cores)):
            raise ValueError("cores must be ascending and distinct")
        if list(self.freq_khz) != sorted(set(self.freq_khz)):
            raise ValueError("freq_khz must be ascending and distinct")
        if self.threads_max > len(self.cores):
            raise ValueError("more threads than cores")
        if (self.mode == "pinned") != bool(self.freq_khz):
            raise ValueError("freq_khz belongs to mode pinned, and only to it")
        return self

    def accepts(self, point: OperatingPoint) -> bool:
        """Whether the point lies in this range. A governor is never part of a range."""
        return (
            point.mode == self.mode
            and point.governor is None
            and point.threads <= self.threads_max
            and set(point.cores) <= set(self.cores)
            and (self.mode != "pinned" or (len(point.freq_khz) == 1 and point.freq_khz[0] in self.freq_khz))
        )


def accepts(ranges: Iterable[OperatingRange], point: OperatingPoint) -> bool:
    """Whether a board with these ranges has the operating point."""
    return any(one.accepts(point) for one in ranges)


def default_points(ranges: Sequence[OperatingRange]) -> tuple[OperatingPoint, ...]:
    """The few points that a board is registered with, in a fixed order: one thread and all threads.

    On the largest cluster (the fastest of equals) at its highest frequency; where nothing can be pinned in fixed
    performance, else free. Empty where there are no ranges.
    """
    for mode in ("pinned", "fixed_performance", "free"):
        if found := [one for one in ranges if one.mode == mode]:
            return _points_of(max(found, key=_size))
    return ()


def _size(one: OperatingRange) -> tuple[int, int]:
    return len(one.cores), max(one.freq_khz, default=0)


def _points_of(one: OperatingRange) -> tuple[OperatingPoint, ...]:
    """One thread, and all threads, on as many of the last cores: the first ones serve interrupts."""
    return tuple(
        OperatingPoint(mode=one.mode, cores=one.cores[-threads:], threads=threads, freq_khz=one.freq_khz[-1:])
        for threads in sorted({1, one.threads_max})
    )


def ranges_text(ranges: Iterable[OperatingRange]) -> str:
    """The ranges for people, one after another: ``c0-3, up to 4 threads, at 600000, 1500000 or 2400000 kHz``."""
    return "; ".join(range_text(one) for one in ranges)


def clusters(ranges: Iterable[OperatingRange]) -> list[str]:
    """The clusters that pinned ranges tell of, for people: ``c0-3: 600000 to 2400000 kHz in 19 steps``."""
    pinned = [one for one in ranges if one.mode == "pinned"]
    return [
        f"{_cores(one)}: {one.freq_khz[0]} to {one.freq_khz[-1]} kHz in {len(one.freq_khz)} steps" for one in pinned
    ]


def range_text(one: OperatingRange) -> str:
    """One range for people."""
    threads = f"up to {one.threads_max} threads" if one.threads_max > 1 else "1 thread"
    clock = {"free": "free", "fixed_performance": "fixed"}.get(one.mode) or f"at {_either(one.freq_khz)} kHz"
    return f"{_cores(one)}, {threads}, {clock}"


def _cores(one: OperatingRange) -> str:
    """As in an operating point's key: ``c0-3``."""
    return OperatingPoint(mode="free", cores=one.cores, threads=1).key.partition(".")[0]


def _either(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last


def impossible_point(platform: Platform, ranges: Iterable[OperatingRange]) -> InvalidRequest:
    """The refusal of a platform at whose operating point no board of its model can be; `ranges` are all of theirs."""
    return InvalidRequest(
        f"no board of model {platform.board_model} can be set to {platform.operating_point.key};"
        f" they can be: {ranges_text(ranges)[:SHOWN_CHARS]}",
        code="operating_point_impossible",
        field="platforms",
    )
