"""The rows of the evaluation corpus: what was measured of it, as files, and as what predictors learn from.

A platform has a folder, and in it each *generation* that measured it: `GENERATION.json` says where and how, and for
each round `GENERATION-rNN.csv.gz` holds a row for each measurement, in one table because most are architectures. A
round that is done never changes again. What generations have to do with each other says `corpus_generations.py`.
"""

import csv
import gzip
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

from pydantic import Field

from bench.corpus_plan import Kind, file_name, portion_size
from benchfarm.workload_text import parse_architecture, parse_kernel
from benchfarm_core.architectures import genes_text
from benchfarm_core.measurement_sets import SetPlatform
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.predictors import KernelRow, ModelRow, TrainingRows
from benchfarm_core.summaries import Grade
from benchfarm_core.values import Value, digest
from benchfarm_core.workloads import ArchitectureWorkload, KernelWorkload, workload_id, workload_label
from benchfarm_store.kernel_lists import kernel_list
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.spaces import space, spaces

DATA: Final = Path(__file__).resolve().parent / "corpus_data"
FORMAT: Final = 2
MAX_BYTES: Final = 10 * 2**20
"""Of all files together: they are committed."""
LICENCE: Final = "Apache-2.0, as the project"
Split = Literal["train", "holdout"]
Fused = tuple[tuple[str, str, bool], ...]
"""Pairs of operators, and whether an engine computes them as one."""


class Row(Value):
    """One measurement.

    `kind`, `drawn_for`, `number`: its list and its place there; `workload`: what it is, as a person types it. Without
    `normalised_ms` it failed, and `failure` says why. `canary_ns`: the floor of the clock's canary beside it.
    `lease_id` and `lease_s`: the lease that measured it, from its first workload to its end. `board_s`: its share of
    what its portion took of boards, failures and lost leases included. `session`: of those in the manifest.
    `generation`: who measured it.
    """

    kind: Kind
    drawn_for: str
    number: int = Field(ge=0)
    workload: str
    timing: Timing
    repeat: Literal[1, 2]
    split: Split
    normalised_ms: float | None = Field(default=None, gt=0)
    median_ms: float | None = Field(default=None, gt=0)
    grade: Grade | None = None
    canary_ns: int | None = None
    lease_id: str = ""
    lease_s: float = 0.0
    board_s: float = Field(ge=0)
    session: int = Field(ge=0)
    measured_unix_s: int = 0
    failure: str = ""
    generation: str = ""

    @property
    def portion_name(self) -> str:
        """Of the portion that it is in."""
        size = portion_size(self.kind)
        return f"{self.kind}-{self.drawn_for}-{self.number // size * size:03d}"

    @property
    def turn(self) -> int:
        """The round that it is in."""
        return self.number // portion_size(self.kind)

    @property
    def is_usable(self) -> bool:
        """Whether it may teach or judge."""
        return self.normalised_ms is not None and self.grade is not None and self.grade is not Grade.D


class Session(Value):
    """One run of `measure` that brought rows."""

    began_unix_s: int
    commit: str
    machine: str
    command: str


class Round(Value):
    """One file of a generation: the hash of its rows, and of each of its portions the seconds that it took."""

    rows_sha256: str
    rows: int
    portions: dict[str, float]


class Manifest(Value):
    """Where and how a generation's rows of a platform were measured. `fused`: what its engine was seen to fuse, where
    that was looked at. `counts`: of usable rows by kind and space, and of all; `board_s`: of all of them.

    `key`: the platform's, its board named by its hardware alone; `measured_as`: as the farm called it, to which a
    virtual machine is a model of its own. `generation`: of board, system below the engine, farm and rules.
    """

    format: int = FORMAT
    key: str
    measured_as: str
    generation: str
    machine: dict[str, str | int | float] = {}
    platform: SetPlatform
    rule_version: int
    protocol: str
    seed: str
    fused: Fused = ()
    sessions: tuple[Session, ...]
    counts: dict[str, str]
    board_s: float
    rounds: dict[str, Round] = {}


class Measured(Value):
    """A portion that is done, as `measure` keeps it. `key`: the platform's, named by hardware."""

    key: str
    name: str
    wall_s: float
    generation: str
    rows: tuple[Row, ...]


class PlatformCorpus:
    """The rows of one platform, each list in the order of its draw, with the manifest of the generation whose clock
    they are told by. `notes`: what is to be said of its generations."""

    def __init__(self, manifest: Manifest, rows: Iterable[Row], notes: tuple[str, ...] = ()) -> None:
        self.manifest = manifest
        self.notes = notes
        self.rows = sorted(rows, key=_order)
        self.rules = FusionRules({(first, second): fused for first, second, fused in manifest.fused})
        self._kernels: dict[str, KernelRow | ModelRow] = {}

    @property
    def key(self) -> str:
        """The platform's."""
        return self.manifest.key

    def listed(self, kind: Kind, name: str | None = None) -> list[Row]:
        """A list as far as it was measured; without a name all of a kind, the first of each before the second."""
        found = [row for row in self.rows if row.kind == kind and name in {None, row.drawn_for}]
        return sorted(found, key=lambda row: (row.number, row.drawn_for))

    def training_rows(self, rows: Sequence[Row]) -> TrainingRows:
        """Some of its rows as the store would tell them; those that failed or are graded D are left out."""
        told = [self._told(row) for row in rows if row.is_usable]
        return TrainingRows(
            platform=self.key,
            kernels=tuple(one for one in told if isinstance(one, KernelRow)),
            models=tuple(one for one in told if isinstance(one, ModelRow)),
            rule_version=self.manifest.rule_version,
            data_hash=digest(sorted((one.workload_id, one.normalised_ms) for one in told)),
        )

    def _told(self, row: Row) -> KernelRow | ModelRow:
        """Each once: laying out a network takes a millisecond."""
        name = f"{row.kind} {row.drawn_for} {row.number}"
        if name not in self._kernels:
            self._kernels[name] = _told(row, self.rules)
        return self._kernels[name]


def workload_of(row: Row) -> ArchitectureWorkload | KernelWorkload:
    """What was measured."""
    head = row.workload.partition(" ")[0]
    if head in {one.name for one in spaces()}:
        return space(head).workload(parse_architecture(row.workload).genes)
    return kernel_type(head).workload(parse_kernel(row.workload).config)


def text_of(workload: ArchitectureWorkload | KernelWorkload) -> str:
    """As a person types it; `workload_of` reads it."""
    if isinstance(workload, ArchitectureWorkload):
        return f"{workload.space} {genes_text(workload.genes)}"
    return workload_label(workload)


def _told(row: Row, rules: FusionRules) -> KernelRow | ModelRow:
    assert row.normalised_ms is not None  # usable rows have one
    assert row.grade is not None
    workload = workload_of(row)
    fields = {
        "workload_id": workload_id(workload),
        "normalised_ms": row.normalised_ms,
        "grade": row.grade,
        "measured_at": datetime.fromtimestamp(row.measured_unix_s, UTC),
        "purpose": Purpose.HOLDOUT if row.split == "holdout" else Purpose.TRAIN,
    }
    if isinstance(workload, KernelWorkload):
        kernel = {"kernel_type": workload.type, "config": workload.config, "timing": row.timing}
        return KernelRow.model_validate(fields | kernel)
    found = kernel_list(workload, rules)
    model = {"space": workload.space, "kernels": found.kernels, "unknown": found.unknown}
    return ModelRow.model_validate(fields | model)


# --- files


class Generation(NamedTuple):
    """The rows of a platform that one generation measured; `wall_s`: by portion."""

    manifest: Manifest
    rows: tuple[Row, ...]
    wall_s: dict[str, float]

    @property
    def measured(self) -> list[Measured]:
        """Its portions, as `measure` keeps them."""
        by_name: dict[str, list[Row]] = {}
        for row in self.rows:
            by_name.setdefault(row.portion_name, []).append(row)
        key, generation = self.manifest.key, self.manifest.generation
        return [
            Measured(key=key, name=name, wall_s=self.wall_s[name], generation=generation, rows=tuple(rows))
            for name, rows in by_name.items()
        ]


def write(generation: Generation, folder: Path) -> list[Path]:
    """All files of a generation; the same bytes for the same rows.

    Raises ValueError where all files of the folder together would be more than is committed.
    """
    manifest = generation.manifest
    own = folder / file_name(manifest.key)
    by_turn: dict[int, list[Row]] = {}
    for row in sorted(generation.rows, key=_order):
        by_turn.setdefault(row.turn, []).append(row)
    rounds, files = {}, {}
    for turn, rows in sorted(by_turn.items()):
        text = _text(rows)
        names = sorted({row.portion_name for row in rows})
        walls = {name: round(generation.wall_s[name], 1) for name in names}
        sha256 = hashlib.sha256(text).hexdigest()
        rounds[f"{turn:02d}"] = Round(rows_sha256=sha256, rows=len(rows), portions=walls)
        files[own / f"{manifest.generation}-r{turn:02d}.csv.gz"] = gzip.compress(text, 9, mtime=0)
    said = manifest.model_copy(update={"rounds": rounds})
    files[own / f"{manifest.generation}.json"] = (said.model_dump_json(indent=1) + "\n").encode()
    _check_size(folder, files)
    own.mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        path.write_bytes(data)
    return list(files)


def _check_size(folder: Path, files: Mapping[Path, bytes]) -> None:
    others = sum(path.stat().st_size for path in folder.glob("*/*") if path not in files)
    size_bytes = others + sum(map(len, files.values()))
    if size_bytes > MAX_BYTES:
        raise ValueError(f"{folder.name} would have {size_bytes} bytes, more than {MAX_BYTES}")


def read_generations(folder: Path) -> list[Generation]:
    """Every generation of every platform of a folder, in the order of names.

    Raises ValueError for a table that is not its manifest's, and for a folder of another format.
    """
    return [_generation(path) for path in sorted(folder.glob("*/*.json"))]


def _generation(path: Path) -> Generation:
    manifest = Manifest.model_validate_json(path.read_text())
    if manifest.format != FORMAT:
        raise ValueError(f"{path.stem}: format {manifest.format}, not {FORMAT}")
    rows: list[Row] = []
    wall_s: dict[str, float] = {}
    for turn, said in manifest.rounds.items():
        text = gzip.decompress(path.with_name(f"{path.stem}-r{turn}.csv.gz").read_bytes())
        if hashlib.sha256(text).hexdigest() != said.rows_sha256:
            raise ValueError(f"{path.stem}, round {turn}: the rows are not those that the manifest is of")
        table = csv.DictReader(io.StringIO(text.decode(), newline=""))
        rows += [_row(cells) for cells in table]
        wall_s |= said.portions
    return Generation(manifest, tuple(rows), wall_s)


_COLUMNS: Final = tuple(Row.model_fields)
_LEFT_EMPTY: Final = frozenset({"normalised_ms", "median_ms", "grade", "canary_ns"})


def _text(rows: Sequence[Row]) -> bytes:
    out = io.StringIO(newline="")
    table = csv.writer(out, lineterminator="\n")
    table.writerow(_COLUMNS)
    table.writerows([_cell(value) for value in row.model_dump().values()] for row in rows)
    return out.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else value


def _row(cells: Mapping[str, str]) -> Row:
    given: dict[str, object] = {name: text for name, text in cells.items() if text or name not in _LEFT_EMPTY}
    return Row.model_validate(given | {"repeat": int(cells["repeat"])})


def _order(row: Row) -> tuple[int, str, int]:
    return get_args(Kind).index(row.kind), row.drawn_for, row.number


def counts_of(rows: Iterable[Row]) -> dict[str, str]:
    """Of each list, how many rows are usable of how many were measured, and why others are not."""
    by_list: dict[str, list[Row]] = {}
    for row in rows:
        by_list.setdefault(f"{row.kind} {row.drawn_for}", []).append(row)
    return {name: _count_text(own) for name, own in sorted(by_list.items())}


def _count_text(rows: Sequence[Row]) -> str:
    lost = Counter(row.failure or f"grade {row.grade}" for row in rows if not row.is_usable)
    why = "".join(f", {count} {reason}" for reason, count in sorted(lost.items()))
    return f"{sum(row.is_usable for row in rows)} of {len(rows)}{why}"
