"""Which platforms a board offers, and why a board is not used. A scheduler that explains itself."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

from benchfarm_core.boards import (
    MEMORY_SHARE,
    USABLE_HEALTH,
    BoardFilter,
    BoardReport,
    BoardState,
    EngineOption,
    EngineReport,
    GateWait,
    Health,
    OptionValue,
    Removal,
    is_heard,
)
from benchfarm_core.correctness import is_ungated
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.operating_ranges import SHOWN_CHARS, OperatingRange, accepts, default_points, ranges_text
from benchfarm_core.platforms import EngineSpec, OperatingPoint, Platform, Precision
from benchfarm_core.workloads import AnyWorkload, KernelListRequest, PairWorkload, UploadedWorkload

SHOWN_OFFERS = 6
AS_GIVEN_ENGINES: Final = {"tflite": "litert"}
"""Who opens uploads of a format that is never converted."""
INT8_OPTIONS: Final = frozenset({"edges", "calibration_seed"})
"""How int8 is made: without effect in other precisions, also where a board does not tell."""
NOT_BY_DIFFERENCE: Final = "does not time kernels by difference, for which it wants this version's Python runner"
"""Why a board has no time in situ, as the end of a sentence about it."""
REST_REASONS: Final = {
    "gate": "its conditions did not hold",
    "error": "its agent met a fault",
    "board_lost": "it was lost during a lease",
    "unanswered": "its agent did not answer an offer",
    "ailing": "no launch began on it, by a fault of its own or its agent's",
    "noisy": "its canary was slower than it has been on this board, so neighbours are at work",
}
"""What made a board rest, by how its last lease ended."""
NEXT: Final = "next in line"


def first_points(report: BoardReport) -> tuple[OperatingPoint, ...]:
    """The operating points that a board is registered with: those that it names, else a few of its ranges."""
    return report.operating_points or default_points(report.ranges)


def offered_platforms(report: BoardReport) -> list[Platform]:
    """Every first operating point x available engine x precision of one board."""
    return [
        Platform(
            board_model=report.board_model,
            operating_point=point,
            engine=EngineSpec(name=engine.name, version=engine.version),
            precision=precision,
        )
        for engine in report.engines
        if engine.available and engine.version is not None
        for precision in engine.precisions
        for point in first_points(report)
    ]


def may_exist(platform: Platform, offered: Sequence[Platform]) -> None:
    """Raise InvalidRequest when no board ever offered this platform, naming the nearest that exist."""
    if any(known.key == platform.key for known in offered):
        return
    nearest = sorted(offered, key=lambda known: (-_shared_parts(known, platform), known.key))
    shown = ", ".join(known.key for known in nearest[:SHOWN_OFFERS]) or "nothing: no board is registered"
    raise InvalidRequest(
        f"no board of the farm offers {platform.key}; offered are {shown}",
        code="platform_impossible",
        field="platforms",
    )


def with_options(platform: Platform, options: Mapping[str, OptionValue]) -> Platform:
    """The same platform with other options of its engine."""
    engine = EngineSpec(name=platform.engine.name, version=platform.engine.version, options=dict(options))
    return platform.model_copy(update={"engine": engine})


def with_meant_options(platform: Platform, known: Mapping[str, EngineOption]) -> Platform:
    """The platform that is meant: an option at its default, one without effect at its precision, and none are the same.

    `known` are the engine's options. Raises InvalidRequest: `engine_option_unknown`, `engine_option_invalid`.
    """
    given = platform.engine.options
    engine = f"{platform.engine.name} {platform.engine.version}"
    unknown = sorted(set(given) - set(known))
    if unknown:
        have = "; ".join(f"{name} ({option.values})" for name, option in sorted(known.items()))
        raise InvalidRequest(
            f"{engine} has no option {unknown[0]!r}; " + (f"it has {have}" if have else "it has none"),
            code="engine_option_unknown",
            field="platforms",
        )
    meant = {name: known[name].value_of(value) for name, value in given.items()}
    for name, value in sorted(meant.items()):
        if value is None:
            raise InvalidRequest(
                f"option {name} of {engine} cannot be {given[name]!r}; it can be {known[name].values}",
                code="engine_option_invalid",
                field="platforms",
            )
    changing = {name: v for name, v in meant.items() if v is not None and known[name].changes(v, platform.precision)}
    if platform.precision is not Precision.INT8:
        changing = {name: value for name, value in changing.items() if name not in INT8_OPTIONS}
    return with_options(platform, changing)


def why_not_opened(workload: AnyWorkload | KernelListRequest, platform: Platform) -> str | None:
    """Why a platform opens no file of this workload, whatever its boards do; None where it does.

    Uploads of a format that is never converted run as they are in the one engine that reads them; all else is made
    for the platform's precision. What checks no output takes the farm's own workloads alone.
    """
    if is_ungated(platform.engine.name) and isinstance(workload, (PairWorkload, UploadedWorkload)):
        what = "pairs" if isinstance(workload, PairWorkload) else "uploads"
        return f"{platform.engine.name} takes the farm's own kernels and models alone, no {what}"
    if isinstance(workload, PairWorkload):
        return why_not_opened(workload.a, platform) or why_not_opened(workload.b, workload.platform_of_b(platform))
    file_format = workload.format if isinstance(workload, UploadedWorkload) else ""
    engine = AS_GIVEN_ENGINES.get(file_format)
    given = platform.precision is Precision.AS_GIVEN
    if engine is None:
        return "as_given is for uploaded files that run as they are, such as .tflite" if given else None
    if not given or platform.engine.name != engine:
        return f"an uploaded .{file_format} file runs as it is, on {engine} with precision as_given alone"
    return None


def is_too_large(needed_bytes: int | None, memory_bytes: int | None) -> bool:
    """Whether a workload certainly does not fit into a board; what is not known of either is no reason."""
    if needed_bytes is None or memory_bytes is None:
        return False
    return needed_bytes > memory_bytes * MEMORY_SHARE


def why_too_large(needed_bytes: int, memory_bytes: int) -> str:
    """The refusal, in one sentence."""
    return (
        f"it needs at least {needed_bytes / 2**30:.2f} GiB; a launch may use {memory_bytes * MEMORY_SHARE / 2**30:.2f}"
        f" GiB of its largest board's {memory_bytes / 2**30:.2f} GiB"
    )


def why_board_not(
    *,
    state: BoardState,
    health: Health,
    reason: str,
    agent_heard_s: float | None,
    clock_proof_ok: bool,
    times_so: bool = True,
    rests_after: str = "",
    rest_detail: str = "",
    gate_wait: GateWait | None = None,
) -> Removal | None:
    """The first filter that removes a board from a platform that it offers, or None when it may be used now.

    `times_so`: it has the timing that is asked for. `rests_after` is how the last lease of a cooling board ended, with
    the detail that its agent gave. `gate_wait`: it waits for quiet, within a lease or between two.
    """
    if not times_so:
        return Removal(BoardFilter.TIMING, NOT_BY_DIFFERENCE)
    if not clock_proof_ok:
        return Removal(BoardFilter.CLOCK_PROOF, "cannot prove its clock as the job asks")
    if health not in USABLE_HEALTH:
        return Removal(BoardFilter.HEALTH, f"health is {health}" + (f": {reason}" if reason else ""))
    if not is_heard(agent_heard_s):
        silence = "" if agent_heard_s is None else f" for {agent_heard_s:.0f} s"
        return Removal(BoardFilter.AGENT, "its agent has not been heard" + silence)
    if state == BoardState.IDLE:
        return None
    if gate_wait is not None:
        return Removal(BoardFilter.STATE, gate_wait.sentence)
    sentences = {
        BoardState.OFFLINE: "is offline",
        BoardState.LEASED: "is measuring something else",
        BoardState.COOLING: ": ".join(filter(None, ("is cooling down", REST_REASONS.get(rests_after), rest_detail))),
    }
    return Removal(BoardFilter.STATE, sentences[state])


def why_not_offered(
    platform: Platform,
    *,
    points: Sequence[OperatingPoint],
    ranges: Sequence[OperatingRange],
    engines: Sequence[EngineReport],
) -> Removal:
    """The first filter that removes a board of the platform's model which does not offer it.

    `points`: those that it does offer.
    """
    wanted = platform.engine
    engine = next((one for one in engines if one.name == wanted.name), None)
    if engine is None or not engine.available:
        told = f": {engine.reason}" if engine is not None and engine.reason else ""
        return Removal(BoardFilter.ENGINE, f"lacks {wanted.name}{told}")
    versions = sorted({one.version or "" for one in engines if one.name == wanted.name and one.available})
    if wanted.version not in versions:
        return Removal(BoardFilter.ENGINE, f"has {wanted.name} {' and '.join(versions)}, not {wanted.version}")
    same = [one for one in engines if (one.name, one.version) == (wanted.name, wanted.version)]
    if not any(platform.precision in one.precisions for one in same):
        return Removal(BoardFilter.PRECISION, f"its {wanted.name} does not run in {platform.precision}")
    if platform.operating_point not in points and not accepts(ranges, platform.operating_point):
        have = ranges_text(ranges)[:SHOWN_CHARS] or ", ".join(point.key for point in points)
        return Removal(BoardFilter.OPERATING_POINT, f"cannot be set to {platform.operating_point.key}; it has {have}")
    meant = _meant_by(platform, same)
    if meant is not None:
        told = f"takes this for {meant}: ask for that; what waits here is cancelled"
        return Removal(BoardFilter.ENGINE_OPTIONS, told)
    return Removal(BoardFilter.ENGINE_OPTIONS, f"its {wanted.name} cannot be set to {wanted.options_key or 'defaults'}")


def _meant_by(platform: Platform, engines: Sequence[EngineReport]) -> str | None:
    """The other key that a board has for a platform that was made when its options were thought to have effect."""
    for known in (one.options for one in engines if one.options is not None):
        with suppress(InvalidRequest):
            meant = with_meant_options(platform, known).key
            return None if meant == platform.key else meant
    return None


def why_board_unusable(*, health: Health, reason: str, clock_proof_ok: bool, times_so: bool = True) -> str | None:
    """What keeps a board from a job whatever it does at the moment, as the end of a sentence; else None."""
    if not times_so:
        return NOT_BY_DIFFERENCE
    if not clock_proof_ok:
        return "cannot prove its clock as the job asks"
    if health not in USABLE_HEALTH:
        return f"is out of use: {reason or health}"
    return None


class ItemsRest(NamedTuple):
    """Items that failed on a board which could begin no launch, and that no board tries yet: how many, until when the
    first of them rests, and what that board ailed from."""

    items: int
    until: datetime
    ailment: str

    @property
    def sentence(self) -> str:
        """For people."""
        what = "1 rests" if self.items == 1 else f"{self.items} rest, the first"
        until = f"{self.until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"{what} until {until}: no launch began on the board that tried last: {self.ailment}"


def why_platform(
    platform: Platform,
    *,
    boards_offering: int,
    boards_online: int,
    boards_idle: int,
    unusable: Sequence[str] = (),
    resting: Sequence[str] = (),
    again: int = 0,
    items_rest: ItemsRest | None = None,
    next_in_line: int = 1,
) -> str:
    """Why items of one platform wait, in one sentence.

    `boards_online` and `boards_idle` count usable boards; `unusable` says of each other board why it is none, and
    `resting` of each cooling board. `again`: how many items came to nothing sure before. `items_rest`: those that no
    board tries yet; `next_in_line`: how many are neither.
    """
    if boards_offering == 0:
        return f"no board with engine {platform.engine.name} {platform.engine.version} offers this operating point"
    if len(unusable) == boards_offering:
        if boards_offering == 1:
            return f"its only board {unusable[0]}"
        return f"none of its {boards_offering} boards can be used; one {unusable[0]}"
    usable = "usable " if unusable else ""
    if boards_online == 0:
        return f"no {usable}board with engine {platform.engine.name} is online"
    if boards_idle:
        return _why_with_idle_board(again, items_rest, next_in_line)
    if boards_online == 1:
        return f"its only {usable}board {resting[0] if resting else 'is in use'}"
    state = f"are in use or rest; one {resting[0]}" if resting else "are in use"
    return f"all {boards_online} {usable}boards of this platform {state}"


def _why_with_idle_board(again: int, items_rest: ItemsRest | None, next_in_line: int) -> str:
    reasons = [NEXT] if items_rest is not None and next_in_line else []
    if items_rest is not None:
        reasons.append(items_rest.sentence)
    if again:
        reasons.append(f"{again} were inconclusive and rest: their next try comes in another moment")
    return "; ".join(reasons) or NEXT


def _shared_parts(one: Platform, other: Platform) -> int:
    return sum(a == b for a, b in zip(one.key.split("/"), other.key.split("/"), strict=False))
