"""Measures the evaluation corpus on a farm of its own, portion by portion.

What is done lies in a folder, the farm itself with it: the clock that times are normalised to is the board's first, and
another farm would have another one.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import ValidationError

from bench.corpus_plan import SEED, WANTED_PLATFORMS, Portion, file_name, schedule, short
from bench.corpus_rows import Fused, Manifest, Measured, PlatformCorpus, Row, Session, counts_of, read, text_of, write
from bench.platforms import LASTING, platform_keys
from bench.report import COMMIT, command_run, machine
from benchfarm import Client
from benchfarm_core.jobs import ItemView, JobRequest, JobState
from benchfarm_core.measurement_sets import SetPlatform
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.protocols import PROTOCOLS, ProtocolRequest
from benchfarm_core.quality import RULE_VERSION, canary_floors
from benchfarm_core.values import Value
from benchfarm_core.views import MeasurementView
from benchfarm_core.workloads import ArchitectureRequest, ArchitectureWorkload, KernelRequest
from benchfarm_standalone.farm_process import FarmProcess

PROTOCOL: Final = "kernel"
PORTION_LIMIT_S: Final = 900.0
GRACE_S: Final = 60.0
"""What a portion may take beyond the run's minutes, on a board that was not quiet; then it is given up."""
LEASES_END_S: Final = 20.0
"""A job ends with its last result, its last lease a moment later."""
CROWDED_SHARE: Final = 0.5
HOPELESS_ROWS: Final = 10
"""Where none of so many of a list could be measured, the rest is left."""


class Limits(NamedTuple):
    """When to stop. `minutes`: of this run. `train_s`, `kernels_s`: of boards, for what teaches of one space, and for
    its kernels of either timing."""

    minutes: float
    train_s: float
    kernels_s: float


class Kept:
    """What is done, in a folder: a file for each portion, the sessions, the farm."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Path, Measured] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def farm(self) -> Path:
        """The farm's home."""
        return self.folder / "farm"

    def portion(self, portion: Portion) -> Measured | None:
        """A portion that is done. One that was cut short while it was written is not."""
        path = self._path(portion)
        return self._read(path) if path.exists() else None

    def add(self, portion: Portion, measured: Measured) -> None:
        """Keep it; what is there is there whole."""
        path = self._path(portion)
        path.parent.mkdir(exist_ok=True)
        self._replace(path, measured)
        self._known[path] = measured

    def rows(self, key: str) -> list[Row]:
        """All rows of a platform."""
        return [row for measured in self._of(key) for row in measured.rows]

    def of_list(self, portion: Portion) -> list[Measured]:
        """The portions of its list that are done."""
        head = f"{portion.kind}-{portion.space}-"
        return [measured for measured in self._of(portion.platform) if measured.name.startswith(head)]

    def platforms(self) -> list[str]:
        """Keys of platforms that something is kept of."""
        return sorted({measured.key for measured in self._all("*")})

    def sessions(self) -> tuple[Session, ...]:
        """Every run so far."""
        path = self.folder / "sessions.json"
        return _Sessions.model_validate_json(path.read_text()).sessions if path.exists() else ()

    def begin(self, session: Session) -> int:
        """Add a run; its number."""
        every = (*self.sessions(), session)
        self._replace(self.folder / "sessions.json", _Sessions(sessions=every))
        return len(every) - 1

    def fused(self, key: str) -> Fused:
        """What a platform's engine was seen to fuse, by the farm that measured."""
        path = self.folder / "fused.json"
        known = _FusedPairs.model_validate_json(path.read_text()).by_platform if path.exists() else {}
        return known.get(key, ())

    def note_fused(self, found: dict[str, Fused]) -> None:
        """Keep that beside what was known of other platforms."""
        path = self.folder / "fused.json"
        known = _FusedPairs.model_validate_json(path.read_text()).by_platform if path.exists() else {}
        self._replace(path, _FusedPairs(by_platform=known | found))

    def _of(self, key: str) -> Iterator[Measured]:
        return self._all(file_name(key))

    def _all(self, folder: str) -> Iterator[Measured]:
        paths = sorted(path for path in self.folder.glob(f"{folder}/*.json") if path.parent != self.farm)
        return (measured for path in paths if (measured := self._read(path)) is not None)

    def _read(self, path: Path) -> Measured | None:
        if path not in self._known:
            try:
                self._known[path] = Measured.model_validate_json(path.read_text())
            except ValidationError:
                return None
        return self._known[path]

    def _path(self, portion: Portion) -> Path:
        return self.folder / file_name(portion.platform) / f"{portion.name}.json"

    @staticmethod
    def _replace(path: Path, value: Value) -> None:
        beside = path.with_suffix(".part")
        beside.write_text(value.model_dump_json())
        beside.replace(path)


class _Sessions(Value):
    sessions: tuple[Session, ...]


class _FusedPairs(Value):
    by_platform: dict[str, Fused]


def measure(kept: Kept, wanted: Sequence[str], limits: Limits, rows: Path, *, one_by_one: bool) -> int:
    """Measure until all is done or the time is over, then write the rows; how many portions came.

    Raises ValueError where rows lie there that another folder's farm measured.
    """
    refuse_other_rows(kept, rows)
    # a farm that nobody stops stays
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    until_s = time.monotonic() + 60 * limits.minutes
    try:
        with FarmProcess(kept.farm) as farm, Client(farm.url, farm.admin_token) as client:
            keys = chosen_platforms(platform_keys(client), wanted)
            return measure_on(client, kept, schedule(keys, one_by_one=one_by_one), limits, until_s)
    finally:
        pack(kept, rows)


def refuse_other_rows(kept: Kept, rows: Path) -> None:
    """Rows are replaced whole: nobody loses what he measured by forgetting to name its folder. Raises ValueError."""
    known = kept.sessions()
    others = [each.key for each in read(rows) if any(one not in known for one in each.manifest.sessions)]
    if others:
        raise ValueError(
            f"{rows.name} has rows of {', '.join(others)} that were measured with another folder: name that one with "
            "--keep, or other --rows"
        )


def measure_on(client: Client, kept: Kept, wanted: Iterable[Portion], limits: Limits, until_s: float) -> int:
    """Measure those portions that are still wanted until `time.monotonic` has come so far; how many came."""
    for state in (JobState.QUEUED, JobState.PLANNING, JobState.RUNNING):
        for job in list(client.jobs(state=state)):
            client.cancel(job.id)  # of a run that was cut short
    portions = list(wanted)
    kept.note_fused({key: _fused(client, key) for key in dict.fromkeys(portion.platform for portion in portions)})
    session = kept.begin(_session())
    done, blocked = 0, set[tuple[str, str, str]]()
    for portion in portions:
        # without one of its portions a list is no prefix of its draw
        if portion.list_name in blocked or not is_wanted(kept, portion, limits):
            continue
        if _is_done(client, kept, portion, session, until_s - time.monotonic()):
            done += 1
        else:
            blocked.add(portion.list_name)
    return done


def _is_done(client: Client, kept: Kept, portion: Portion, session: int, left_s: float) -> bool:
    """Measure a portion and keep it, if it fits into what is left of the time."""
    if left_s <= 0 or expected_s(kept, portion) > left_s:
        return False
    measured = measured_portion(client, portion, session, min(PORTION_LIMIT_S, left_s + GRACE_S))
    if measured is None:
        return False
    print(_line(portion, measured), flush=True)
    if is_crowded(measured):
        print("    not kept: too few of it could be measured on a board that is as busy", flush=True)
        return False
    kept.add(portion, measured)
    return True


def is_crowded(measured: Measured) -> bool:
    """Whether most of a portion failed for another reason than what it is of: another hour would measure it."""
    failed = [row for row in measured.rows if row.failure and row.failure not in LASTING]
    return len(failed) > CROWDED_SHARE * len(measured.rows)


def _session() -> Session:
    return Session(began_unix_s=int(time.time()), commit=COMMIT or "unknown", machine=machine(), command=command_run())


def pack(kept: Kept, rows: Path) -> list[Path]:
    """Write what is kept as the files that are committed."""
    written: list[Path] = []
    for key in kept.platforms():
        found = kept.rows(key)
        manifest = manifest_of(key, found, kept.sessions(), kept.fused(key))
        written += write(PlatformCorpus(manifest, found), rows)
    return written


def manifest_of(key: str, rows: Sequence[Row], sessions: tuple[Session, ...], fused: Fused = ()) -> Manifest:
    """What is said of a platform's rows."""
    platform = parse_platform_key(key)
    point = platform.operating_point
    said = SetPlatform(
        board_model=platform.board_model,
        engine=platform.engine.key,
        precision=platform.precision,
        operating_point={"mode": point.mode, "cores": point.cores, "threads": point.threads},
        source="python -m bench.corpus measure",
        licence="as the project",
        batch=1,
    )
    return Manifest(
        key=key,
        platform=said,
        rule_version=RULE_VERSION,
        protocol=PROTOCOLS[PROTOCOL].id,
        seed=SEED,
        fused=fused,
        sessions=sessions,
        counts=counts_of(rows),
        board_s=round(sum(row.board_s for row in rows), 1),
        rows_sha256="",
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


def is_wanted(kept: Kept, portion: Portion, limits: Limits) -> bool:
    """Whether it is still to be measured: not done, its list not hopeless, and of what teaches not enough yet."""
    if kept.portion(portion) is not None:
        return False
    rows = [row for measured in kept.of_list(portion) for row in measured.rows]
    if len(rows) >= HOPELESS_ROWS and not any(row.is_usable for row in rows):
        return False
    limit_s = {"train": limits.train_s, "in_situ": limits.kernels_s, "alone": limits.kernels_s}.get(portion.kind)
    return limit_s is None or sum(row.board_s for row in rows) < limit_s


def expected_s(kept: Kept, portion: Portion) -> float:
    """Seconds that a portion may take, by what the latest of its list took; 0 where nobody knows."""
    done = kept.of_list(portion)
    return done[-1].wall_s * portion.size / max(1, len(done[-1].rows)) if done else 0.0


def measured_portion(client: Client, portion: Portion, session: int, limit_s: float) -> Measured | None:
    """One job; None where it took too long: nothing of it is kept."""
    began_s = time.monotonic()
    request = JobRequest.model_validate({
        "name": f"corpus {portion.name}",
        "workloads": [_request(one) for one in portion.workloads],
        "platforms": (portion.platform,),
        "protocol": ProtocolRequest(name=PROTOCOL),
        "timing": portion.timing,
        "max_age_s": 0,
    })  # fmt: skip
    job = client.submit(request)
    try:
        client.wait(job.id, timeout_s=limit_s)
    except TimeoutError:
        client.cancel(job.id)
        print(f"{short(portion.platform)} {portion.name}: not done in {limit_s:.0f} s", flush=True)
        return None
    items = sorted(client.items(job.id), key=lambda item: item.item_no)
    views = _ended(lambda: [_view(client, item) for item in items])
    rows = rows_of(portion, items, views, client.job(job.id).device_s_spent, session)
    return Measured(key=portion.platform, name=portion.name, wall_s=time.monotonic() - began_s, rows=tuple(rows))


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
    portion: Portion, items: Sequence[ItemView], views: Sequence[MeasurementView | None], device_s: float, session: int
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
