"""The rows of the evaluation corpus: what was measured of it, as files, and as what predictors learn from.

Of each platform two files, as a measurement set has them (docs/measurement-sets.md), in one table because most rows
are architectures: `NAME.json` says where and how it was measured, `NAME.csv.gz` holds a row for each measurement.
"""

import csv
import gzip
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, get_args

from pydantic import Field

from bench.corpus_plan import Kind, file_name
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
FORMAT: Final = 1
Split = Literal["train", "holdout"]
Fused = tuple[tuple[str, str, bool], ...]
"""Pairs of operators, and whether an engine computes them as one."""


class Row(Value):
    """One measurement.

    `kind`, `drawn_for`, `number`: its list and its place there; `workload`: what it is, as a person types it. Without
    `normalised_ms` it failed, and `failure` says why. `canary_ns`: the floor of the clock's canary beside it.
    `lease_id` and `lease_s`: the lease that measured it, from its first workload to its end. `board_s`: its share of
    what its portion took of boards, failures and lost leases included. `session`: of those in the manifest.
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


class Manifest(Value):
    """Where and how the rows of a platform were measured. `fused`: what its engine was seen to fuse, where that was
    looked at. `counts`: of usable rows by kind and space, and of all; `board_s`: of all of them."""

    format: int = FORMAT
    key: str
    platform: SetPlatform
    rule_version: int
    protocol: str
    seed: str
    fused: Fused = ()
    sessions: tuple[Session, ...]
    counts: dict[str, str]
    board_s: float
    rows_sha256: str


class Measured(Value):
    """A portion that is done, as `measure` keeps it."""

    key: str
    name: str
    wall_s: float
    rows: tuple[Row, ...]


class PlatformCorpus:
    """The rows of one platform with its manifest, each list in the order of its draw."""

    def __init__(self, manifest: Manifest, rows: Iterable[Row]) -> None:
        self.manifest = manifest
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


def write(corpus: PlatformCorpus, folder: Path) -> tuple[Path, Path]:
    """Both files of a platform; the same bytes for the same rows."""
    folder.mkdir(parents=True, exist_ok=True)
    name = file_name(corpus.key)
    table, manifest = folder / f"{name}.csv.gz", folder / f"{name}.json"
    text = _text(corpus.rows)
    table.write_bytes(gzip.compress(text, 9, mtime=0))
    said = corpus.manifest.model_copy(update={"rows_sha256": hashlib.sha256(text).hexdigest()})
    manifest.write_text(said.model_dump_json(indent=1) + "\n")
    return table, manifest


def read(folder: Path) -> list[PlatformCorpus]:
    """Every platform of a folder, in the order of names. Raises ValueError for a table that is not its manifest's."""
    found = []
    for path in sorted(folder.glob("*.json")):
        manifest = Manifest.model_validate_json(path.read_text())
        text = gzip.decompress(path.with_suffix(".csv.gz").read_bytes())
        if hashlib.sha256(text).hexdigest() != manifest.rows_sha256:
            raise ValueError(f"{path.stem}: the rows are not those that the manifest is of")
        table = csv.DictReader(io.StringIO(text.decode(), newline=""))
        found.append(PlatformCorpus(manifest, [_row(cells) for cells in table]))
    return found


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
