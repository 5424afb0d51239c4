"""Measures the evaluation corpus on a farm of its own, portion by portion.

What is done lies in two places. The folder with the rows is committed: whatever any machine measured is there, and
nobody measures it again whose rows are told together with it. The folder to keep has the farm and its portions, because
the clock that times are normalised to is the board's first: another farm is another generation
(`corpus_generations.py`). Both are written after every portion: whatever ends a run, no more than one is lost.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

from bench.corpus_generations import generation_name, hardware_key
from bench.corpus_kept import Board, Kept
from bench.corpus_plan import SEED, WANTED_PLATFORMS, Chosen, Portion, short, stage_name
from bench.corpus_rows import (
    LICENCE,
    Fused,
    Generation,
    Manifest,
    Measured,
    Row,
    Session,
    counts_of,
    text_of,
    write,
)
from bench.platforms import LASTING, platform_keys
from bench.report import COMMIT, command_run, machine
from benchfarm import Client
from benchfarm_agent.boards.host_facts import read_host_facts
from benchfarm_core.boards import is_single_use, mark_prefix
from benchfarm_core.jobs import ItemView, JobRequest, JobState
from benchfarm_core.measurement_sets import SetPlatform
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.protocols import PROTOCOLS, ProtocolRequest
from benchfarm_core.quality import RULE_VERSION, canary_floors
from benchfarm_core.views import MeasurementView
from benchfarm_core.workloads import ArchitectureRequest, ArchitectureWorkload, KernelRequest
from benchfarm_standalone.farm_process import FarmProcess

PROTOCOL: Final = "kernel"
PORTION_LIMIT_S: Final = 900.0
PATIENCE, PATIENCE_MIN_S = 6.0, 120.0
"""A portion that takes so many times as long as expected is given up: what hangs does not take the whole run."""
GRACE_S: Final = 60.0
"""What a portion may take beyond the run's minutes, on a board that was not quiet; then it is given up."""
LEASES_END_S: Final = 20.0
"""A job ends with its last result, its last lease a moment later."""
CROWDED_SHARE: Final = 0.5
SHOWN_FACTS: Final = frozenset("cpu cores physical_cores caches memory_bytes hypervisor microcode os kernel".split())
"""Of a board, in the manifests: what says how alike two of them are, and no name of a machine."""
HOPELESS_ROWS: Final = 10
"""Where none of so many of a list could be measured, the rest is left."""
ENDINGS: Final = (signal.SIGTERM, signal.SIGHUP)
PASSES: Final = 2
"""Over the portions of a stage: what a board was too busy for is tried again once the others had their turn."""


class Limits(NamedTuple):
    """When to stop. `minutes`: of this run. `train_s`, `kernels_s`: of boards, for what teaches of one space, and for
    its kernels of either timing."""

    minutes: float
    train_s: float
    kernels_s: float


def measure(kept: Kept, wanted: Sequence[str], limits: Limits, rows: Path, chosen: Chosen) -> int:
    """Measure until all is done or the time is over; how many portions came. The rows are written as they come.

    Raises ValueError where the rows would be more than is committed.
    """
    for number in ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup it goes on
            signal.signal(number, _stop)
    until_s = time.monotonic() + 60 * limits.minutes
    with FarmProcess(kept.farm) as farm, Client(farm.url, farm.admin_token) as client:
        board = board_of(client, chosen_platforms(platform_keys(client), wanted))
        kept.note_board(board)
        if any(map(is_single_use, board.keys)):
            print("this machine is marked: what it measures lends to nobody, so no table with donors is made of it")
        pack(kept, rows)  # what an earlier run measured and could not write any more
        return measure_on(client, kept, board, chosen.of(list(board.keys)), Run(limits, until_s, rows))


def _stop(number: int, _frame: object) -> None:
    """End orderly: a farm that nobody stops stays. Whoever asks once more does not cut that short."""
    for each in ENDINGS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def board_of(client: Client, keys: Sequence[str]) -> Board:
    """What measures, by what this host and its farm say of it. Raises ValueError for platforms of several boards."""
    facts = read_host_facts()
    models = {parse_platform_key(key).board_model for key in keys}
    boards = [one for one in client.boards() if one.board_model in models]
    if len(boards) != 1 or len(models) != 1:
        raise ValueError(f"{len(boards)} boards of {len(models)} models measure: the corpus is of this host alone")
    board = boards[0]
    known = {hardware_key(key, facts.hardware, mark_prefix(board.marks)): key for key in keys}
    shown = {name: value for name, value in board.facts.items() if name in SHOWN_FACTS}
    return Board(known, generation_name(board.id, board.generation, RULE_VERSION), shown)


class Run(NamedTuple):
    """One call of `measure`: it ends when `time.monotonic` has come to `until_s`; `rows`: where they are written."""

    limits: Limits
    until_s: float
    rows: Path

    @property
    def left_s(self) -> float:
        """Seconds."""
        return self.until_s - time.monotonic()

    @property
    def spent_min(self) -> float:
        """Minutes of it."""
        return self.limits.minutes - self.left_s / 60


def measure_on(client: Client, kept: Kept, board: Board, portions: Sequence[Portion], run: Run) -> int:
    """Measure those portions that are still wanted while there is time, stage by stage; how many came."""
    for state in (JobState.QUEUED, JobState.PLANNING, JobState.RUNNING):
        for job in list(client.jobs(state=state)):
            client.cancel(job.id)  # of a run that was cut short
    kept.note_fused({key: _fused(client, own) for key, own in board.keys.items()})
    session = kept.begin(_session())
    print(overview(kept, portions, run.limits, board.generation), flush=True)
    done = 0
    for stage, found in groupby(portions, key=lambda portion: portion.stage):
        own = list(found)
        _say_stage(kept, stage, own, run, board.generation)
        for _ in range(PASSES):
            for group in side_by_side(own, lambda portion: is_next(kept, portion, run.limits, board.generation)):
                done += _are_done(client, kept, board, group, session, run)
    for key in board.keys:
        if kept.awaits_bridge(key, board.generation):
            print(
                f"{short(key)}: without its bridge nothing else was measured, for nobody could compare it", flush=True
            )
    print(f"after {run.spent_min:.1f} min: {overview(kept, portions, run.limits, board.generation)}", flush=True)
    return done


def _say_stage(kept: Kept, stage: int, portions: Sequence[Portion], run: Run, generation: str) -> None:
    if run.left_s > 0 and any(is_wanted(kept, portion, run.limits, generation) for portion in portions):
        print(f"{stage_name(stage)}: {overview(kept, portions, run.limits, generation)}", flush=True)


def overview(kept: Kept, portions: Iterable[Portion], limits: Limits, generation: str) -> str:
    """How many portions are wanted still, and about how long those take of which that can be told; lists of what
    teaches may end sooner."""
    wanted = [portion for portion in portions if is_wanted(kept, portion, limits, generation)]
    told_s = [seconds for portion in wanted if (seconds := expected_s(kept, portion))]
    unknown = len(wanted) - len(told_s)
    said = [f"{len(wanted)} portions wanted"]
    said += [f"about {sum(told_s) / 60:.1f} min"] if told_s else []
    said += [f"of {unknown} nobody knows how long they take"] if unknown else []
    return ", ".join(said)


def side_by_side(portions: Sequence[Portion], is_next: Callable[[Portion], bool]) -> Iterator[list[Portion]]:
    """Portions that are measured at once, each platform's next one: while what a busy board could not measure rests, it
    measures for another platform. Each portion has its turn once."""
    left = list(portions)
    while left:
        group: dict[str, Portion] = {}
        later: list[Portion] = []
        for portion in left:
            if portion.platform in group:
                later.append(portion)
            elif is_next(portion):
                group[portion.platform] = portion
        if group:
            yield list(group.values())
        left = later


def _are_done(client: Client, kept: Kept, board: Board, group: Sequence[Portion], session: int, run: Run) -> int:
    """Measure some portions at once, keep them and write their rows, as far as they fit into what is left of the time;
    how many came."""
    left_s, wanted_s = run.left_s, [expected_s(kept, portion) for portion in group]
    if left_s <= 0:
        return 0
    fitting = fitting_of(list(zip(group, wanted_s, strict=True)), left_s)
    wait_s = limit_s(sum(each_s for _, each_s in fitting) if all(each_s for _, each_s in fitting) else 0.0, left_s)
    jobs = [(portion, submitted(client, board, portion)) for portion, _ in fitting]
    began_s = came_s = time.monotonic()
    done = 0
    for portion, job_id in jobs:
        measured = measured_portion(client, board, portion, job_id, session, came_s, began_s + wait_s)
        if measured is not None:
            came_s += measured.wall_s
            done += _is_kept(kept, board, portion, measured, run)
    return done


def fitting_of(group: Sequence[tuple[Portion, float]], left_s: float) -> list[tuple[Portion, float]]:
    """The portions, each with its expected seconds, that fit together from the first on: a long one that does not keeps
    no shorter one out."""
    fitting: list[tuple[Portion, float]] = []
    for portion, wanted_s in group:
        if sum(each_s for _, each_s in fitting) + wanted_s <= left_s:
            fitting.append((portion, wanted_s))
    return fitting


def _is_kept(kept: Kept, board: Board, portion: Portion, measured: Measured, run: Run) -> bool:
    print(f"[{run.spent_min:.1f} of {run.limits.minutes:g} min] {_line(portion, measured)}", flush=True)
    if is_crowded(measured):
        print("    not kept: too few of it could be measured on a board that is as busy", flush=True)
        return False
    kept.add(portion, measured)
    pack(kept, run.rows, portion.platform)
    if portion.is_bridge:
        print(f"    {_relation(kept, portion.platform, board.generation)}", flush=True)
    return True


def limit_s(wanted_s: float, left_s: float) -> float:
    """How long portions are waited for that are expected to take `wanted_s` together (0: nobody knows), where the run
    has so much left."""
    patience_s = max(PATIENCE_MIN_S, PATIENCE * wanted_s) if wanted_s else PORTION_LIMIT_S
    return min(PORTION_LIMIT_S, patience_s, left_s + GRACE_S)


def _relation(kept: Kept, key: str, generation: str) -> str:
    """What the bridge says of the generations that measured a platform before."""
    others = sorted(kept.counting(key, generation) - {generation})
    return f"told together with {', '.join(others)}" if others else "told together with no earlier generation"


def is_crowded(measured: Measured) -> bool:
    """Whether most of a portion failed for another reason than what it is of: another hour would measure it."""
    failed = [row for row in measured.rows if row.failure and row.failure not in LASTING]
    return len(failed) > CROWDED_SHARE * len(measured.rows)


def _session() -> Session:
    return Session(began_unix_s=int(time.time()), commit=COMMIT or "unknown", machine=machine(), command=command_run())


def pack(kept: Kept, rows: Path, key: str | None = None) -> list[Path]:
    """Write what is kept, of one platform or of all, as the files that are committed; those of other generations stay
    as they are."""
    board = kept.board()
    written: list[Path] = []
    for (own, generation), measured in sorted(kept.own().items()):
        if key not in {None, own} or (board is not None and generation != board.generation):
            continue  # packed when it was measured, by the rules of then
        found = [row for one in measured for row in one.rows]
        manifest = manifest_of(own, generation, found, kept.sessions(), fused=kept.fused(own), board=board)
        written += write(Generation(manifest, tuple(found), {one.name: one.wall_s for one in measured}), rows)
    return written


def manifest_of(
    key: str,
    generation: str,
    rows: Sequence[Row],
    sessions: tuple[Session, ...],
    *,
    fused: Fused = (),
    board: Board | None = None,
) -> Manifest:
    """What is said of a generation's rows of a platform."""
    is_known = board is not None and board.generation == generation
    platform = parse_platform_key(key)
    point = platform.operating_point
    said = SetPlatform(
        board_model=platform.board_model,
        engine=platform.engine.key,
        precision=platform.precision,
        operating_point={"mode": point.mode, "cores": point.cores, "threads": point.threads},
        source="python -m bench.corpus measure",
        licence=LICENCE,
        batch=1,
    )
    return Manifest(
        key=key,
        measured_as=board.keys.get(key, key) if board is not None and is_known else key,
        generation=generation,
        machine=board.machine if board is not None and is_known else {},
        platform=said,
        rule_version=RULE_VERSION,
        protocol=PROTOCOLS[PROTOCOL].id,
        seed=SEED,
        fused=fused,
        sessions=sessions,
        counts=counts_of(rows),
        board_s=round(sum(row.board_s for row in rows), 1),
    )


def chosen_platforms(offered: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The keys that are meant by `engine:precision`, in that order. Raises ValueError for one that nobody offers."""
    pairs = [tuple(text.partition(":")[::2]) for text in wanted] or list(WANTED_PLATFORMS)
    found = []
    for engine, precision in pairs:
        keys = [key for key in offered if _is(key, engine, precision)]
        if not keys and wanted:
            raise ValueError(f"no platform {engine}:{precision} here; there are {', '.join(offered)}")
        if not keys:
            print(f"{engine} {precision} is not offered here and left out", flush=True)
        found += keys[:1]
    return found


def _is(key: str, engine: str, precision: str) -> bool:
    platform = parse_platform_key(key)
    return (platform.engine.name, platform.precision) == (engine, precision) and not platform.engine.options


def is_next(kept: Kept, portion: Portion, limits: Limits, generation: str) -> bool:
    """Whether it is wanted, and what comes before it in its list is done: without one of its portions a list is no
    prefix of its draw."""
    before = portion.before
    return is_wanted(kept, portion, limits, generation) and (before is None or kept.is_done(before, generation))


def is_wanted(kept: Kept, portion: Portion, limits: Limits, generation: str) -> bool:
    """Whether it is still to be measured: not done, its list not hopeless, and of what teaches not enough yet. Where
    others measured before, nothing but the bridge is until it tells which of their rows count."""
    if kept.is_done(portion, generation):
        return False
    if portion.is_bridge:
        return True
    if kept.awaits_bridge(portion.platform, generation):
        return False
    rows = [row for measured in kept.of_list(portion, generation) for row in measured.rows]
    if len(rows) >= HOPELESS_ROWS and not any(row.is_usable for row in rows):
        return False
    limit_s = {"train": limits.train_s, "in_situ": limits.kernels_s, "alone": limits.kernels_s}.get(portion.kind)
    return limit_s is None or sum(row.board_s for row in rows) < limit_s


def expected_s(kept: Kept, portion: Portion) -> float:
    """Seconds that a portion may take, by what the latest one like it took; 0 where nobody knows.

    At least what it took of the board: one that was done while another one of its group was waited for took no time.
    """
    done = kept.of_kind(portion)
    if not done:
        return 0.0
    took_s = max(done[-1].wall_s, sum(row.board_s for row in done[-1].rows))
    return took_s * portion.size / max(1, len(done[-1].rows))


def submitted(client: Client, board: Board, portion: Portion) -> str:
    """The job of a portion."""
    request = JobRequest.model_validate({
        "name": f"corpus {portion.name}",
        "workloads": [_request(one) for one in portion.workloads],
        "platforms": (board.keys[portion.platform],),
        "protocol": ProtocolRequest(name=PROTOCOL),
        "timing": portion.timing,
        "max_age_s": 0,
    })  # fmt: skip
    return client.submit(request).id


def measured_portion(
    client: Client, board: Board, portion: Portion, job_id: str, session: int, since_s: float, until_s: float
) -> Measured | None:
    """What came of a job; None where it took too long: nothing of it is kept.

    since_s, until_s: of `time.monotonic`; a portion takes what passed since the one before it of its group came.
    """
    try:
        client.wait(job_id, timeout_s=max(1.0, until_s - time.monotonic()))
    except TimeoutError:
        client.cancel(job_id)
        print(f"{short(portion.platform)} {portion.name}: not done in time", flush=True)
        return None
    items = sorted(client.items(job_id), key=lambda item: item.item_no)
    views = _ended(lambda: [_view(client, item) for item in items])
    rows = rows_of(portion, items, views, client.job(job_id).device_s_spent, session, board.generation)
    wall_s = time.monotonic() - since_s
    return Measured(
        key=portion.platform, name=portion.name, wall_s=wall_s, generation=board.generation, rows=tuple(rows)
    )


def _request(workload: object) -> ArchitectureRequest | KernelRequest:
    if isinstance(workload, ArchitectureWorkload):
        return ArchitectureRequest(space=workload.space, genes=workload.genes)
    return KernelRequest.model_validate({"type": workload.type, "config": workload.config})  # type: ignore[attr-defined]


def _view(client: Client, item: ItemView) -> MeasurementView | None:
    return None if item.measurement_id is None else client.measurement(item.measurement_id)


def _ended(views: Callable[[], list[MeasurementView | None]]) -> list[MeasurementView | None]:
    """The measurements once their leases have ended."""
    give_up_at_s = time.monotonic() + LEASES_END_S
    found = views()
    while any(one and one.evidence and one.evidence.ended_at is None for one in found):
        if time.monotonic() > give_up_at_s:
            break
        time.sleep(0.2)
        found = views()
    return found


def rows_of(
    portion: Portion,
    items: Sequence[ItemView],
    views: Sequence[MeasurementView | None],
    device_s: float,
    session: int,
    generation: str = "",
) -> list[Row]:
    """The rows of a portion's job. Its board seconds are split by the leases that had the workloads."""
    leases = _leases(views)
    weights = [_weight(view, leases) for view in views]
    if not sum(weights):
        weights = [1.0] * len(items)
    found = []
    for at, (item, view) in enumerate(zip(items, views, strict=True)):
        lease_id = view.evidence.lease_id if view and view.evidence else ""
        summary = item.summary
        found.append(Row(
            kind=portion.kind,
            drawn_for=portion.space,
            number=portion.start + at,
            workload=text_of(portion.workloads[at]),
            timing=portion.timing,
            repeat=2 if portion.kind == "again" else 1,
            split="holdout" if portion.kind in {"holdout", "again"} else "train",
            normalised_ms=summary.normalised_ms if summary else None,
            median_ms=summary.median_ms if summary else None,
            grade=summary.grade if summary else None,
            canary_ns=canary_floors(view.samples).get("sgemm") if view else None,
            lease_id=lease_id,
            lease_s=leases[lease_id].length_s if lease_id else 0.0,
            board_s=device_s * weights[at] / sum(weights),
            session=session,
            measured_unix_s=int(item.measured_at.timestamp()) if item.measured_at else 0,
            failure="" if summary else (item.failure or str(item.state)),
            generation=generation,
        ))  # fmt: skip
    return found


class _Lease(NamedTuple):
    length_s: float
    workloads: int


def _leases(views: Sequence[MeasurementView | None]) -> dict[str, _Lease]:
    """By id, from the first workload that was begun to its end."""
    by_id: dict[str, list[MeasurementView]] = {}
    for view in views:
        if view is not None and view.evidence is not None:
            by_id.setdefault(view.evidence.lease_id, []).append(view)
    return {lease_id: _lease(own) for lease_id, own in by_id.items()}


def _lease(views: Sequence[MeasurementView]) -> _Lease:
    every = [view.evidence for view in views if view.evidence is not None]
    begun = [one.started_at for one in every if one.started_at is not None]
    ended = [one.ended_at for one in every if one.ended_at is not None]
    length_s = (max(ended) - min(begun)).total_seconds() if begun and ended else 0.0
    return _Lease(max(0.0, length_s), len(views))


def _weight(view: MeasurementView | None, leases: dict[str, _Lease]) -> float:
    if view is None or view.evidence is None:
        return 0.0
    lease = leases[view.evidence.lease_id]
    return lease.length_s / lease.workloads


def _line(portion: Portion, measured: Measured) -> str:
    usable = sum(row.is_usable for row in measured.rows)
    board_s = sum(row.board_s for row in measured.rows)
    where = f"{short(portion.platform)} {portion.name}"
    return f"{where}: {usable} of {len(measured.rows)}, board {board_s:.1f} s, {measured.wall_s:.1f} s"


def _fused(client: Client, key: str) -> Fused:
    """What the farm holds of the platform's engine, as its kernel lists are made by."""
    measured = client.platform_fusion(key).measured
    decided = (one for one in measured if one.by_latency is not None or one.by_profile is not None)
    return tuple((one.first, one.second, one.fused) for one in decided)
