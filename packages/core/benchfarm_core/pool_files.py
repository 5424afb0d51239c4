"""Pool files: rows and predictors of platforms, in one file that another farm takes in.

The file is safetensors: eight bytes of length, a JSON object, then bytes. Its metadata holds one text, the *manifest*:
what entries there are, where they come from, under which licence. Every part, a predictor's file or packed rows, is an
array of bytes (``pool_rows``). Nothing of a file is believed: sizes are bounded before anything is unpacked, each part
has its hash, and rows are checked as if a client had sent them. The same entries give the same bytes.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from pydantic import Field, ValidationError, model_validator

from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_core.measurement_sets import KernelCatalogue
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.platforms import Platform
from benchfarm_core.pool import LicenceText, SourceText
from benchfarm_core.pool_rows import MAX_COUNTED, PRINTED, count_kernels, damaged, unpack
from benchfarm_core.predictor_headers import LENGTH_BYTES, METADATA_KEY, Lineage, read_header
from benchfarm_core.predictors import WHOLE_MODEL, KernelRow, ModelRow, Subject, TrainingRows
from benchfarm_core.set_rows import CEILING_MS, FLOOR_MS, Rejected, check_flops, known_flops
from benchfarm_core.summaries import is_reusable
from benchfarm_core.values import Value, canonical_json, digest, find_unkept
from benchfarm_core.workloads import Sha256

POOL_FORMAT: Final = 1
MAX_POOL_BYTES: Final = 10 * 2**20
MAX_HEADER_BYTES: Final = 2**20
MAX_ENTRIES: Final = 100
MAX_ENTRY_PREDICTORS: Final = 50
MAX_ENTRY_ROWS: Final = 50_000
MAX_FILE_ROWS: Final = 100_000
"""Of all entries: who takes a file in looks at every row before it answers."""
MAX_ROWS_BYTES: Final = 16 * 2**20
"""Of all rows of a file together, unpacked."""
_WORKLOAD_ID: Final = re.compile(r"w_[0-9a-f]{32}")
LEAST_DIFFERENT: Final = 5
"""So many rows of one kernel type do not all take the same time."""

V = TypeVar("V", bound=Value)


class PackedRows(Value):
    """The rows of one entry: how many of each kind, and their part of the file."""

    sha256: Sha256
    size_bytes: int = Field(ge=1, le=MAX_ROWS_BYTES, description="unpacked")
    alone: int = Field(ge=0, le=MAX_ENTRY_ROWS)
    in_situ: int = Field(ge=0, le=MAX_ENTRY_ROWS)
    models: int = Field(ge=0, le=MAX_ENTRY_ROWS)
    measured_at: datetime | None = Field(description="the newest row; null without rows")

    @property
    def counts(self) -> dict[str, int]:
        """By kind."""
        return {"alone": self.alone, "in_situ": self.in_situ, "models": self.models}

    @property
    def count(self) -> int:
        """Of all kinds."""
        return self.alone + self.in_situ + self.models


class PackedPredictor(Value):
    """One predictor of an entry, and its part of the file: a predictor file with its own header."""

    subject: Subject
    sha256: Sha256
    lineage: Lineage


class PoolEntry(Value):
    """One platform in a pool file. `origin`: the farm that measured, never the one that exports."""

    origin: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")
    platform: Platform
    licence: LicenceText
    source: SourceText
    rows: PackedRows
    predictors: tuple[PackedPredictor, ...] = Field(max_length=MAX_ENTRY_PREDICTORS)

    @model_validator(mode="after")
    def _one_each(self) -> "PoolEntry":
        subjects = [one.subject for one in self.predictors]
        if len(set(subjects)) != len(subjects):
            raise ValueError("a subject has two predictors")
        return self

    @property
    def id(self) -> str:
        """Names the entry by its contents, wherever it is imported."""
        return "e_" + digest(self)


class PoolManifest(Value):
    """What a pool file says of itself. `farm`: who exported it."""

    format: int
    farm: str = Field(min_length=1, max_length=100, pattern=PRINTED)
    code_version: str = Field(min_length=1, max_length=60, pattern=PRINTED)
    entries: tuple[PoolEntry, ...] = Field(min_length=1, max_length=MAX_ENTRIES)

    @model_validator(mode="after")
    def _bounded(self) -> "PoolManifest":
        why = why_too_many(self.entries)
        if why is not None:
            raise ValueError(why)
        if len({entry.id for entry in self.entries}) != len(self.entries):
            raise ValueError("an entry is there twice")
        return self


def why_too_many(entries: Sequence[PoolEntry]) -> str | None:
    """Why these entries do not fit into one file; None where they do."""
    rows = sum(entry.rows.count for entry in entries)
    size_bytes = sum(entry.rows.size_bytes for entry in entries)
    if len(entries) > MAX_ENTRIES:
        return f"{len(entries)} entries are more than {MAX_ENTRIES}"
    if rows > MAX_FILE_ROWS or size_bytes > MAX_ROWS_BYTES:
        return f"{rows} rows of {size_bytes} bytes are more than {MAX_FILE_ROWS}, or than {MAX_ROWS_BYTES} bytes"
    return None


@dataclass(frozen=True, eq=False)
class PoolFile:
    """A pool file that was read: its manifest, and its parts by hash."""

    manifest: PoolManifest
    parts: Mapping[str, bytes]


def part_hash(part: bytes) -> str:
    """How a part is named."""
    return hashlib.sha256(part).hexdigest()


def write(manifest: PoolManifest, parts: Iterable[bytes]) -> bytes:
    """The file; the same bytes for the same entries. ``parts``: all that the manifest names, in any order.

    Raises:
        TooLarge: above ``MAX_POOL_BYTES``; the detail says how large, and what to do.
    """
    given = {part_hash(part): part for part in parts}
    named = sorted(set(_named(manifest)))
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: canonical_json(manifest)}}
    start = 0
    for name in named:
        end = start + len(given[name])
        header[name] = {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
        start = end
    # as safetensors writes it: the bytes begin at a multiple of eight
    text = canonical_json(header).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    size_bytes = LENGTH_BYTES + len(text) + start
    if size_bytes > MAX_POOL_BYTES or len(text) > MAX_HEADER_BYTES:
        raise TooLarge(f"the pool file has {size_bytes} bytes, at most {MAX_POOL_BYTES}: name fewer platforms")
    return b"".join([len(text).to_bytes(LENGTH_BYTES, "little"), text, *(given[name] for name in named)])


def read(data: bytes) -> PoolFile:
    """A pool file with every part whole. What rows hold is not looked at yet.

    Raises:
        InvalidRequest: ``pool_file_damaged``, or ``pool_file_foreign`` for what is no pool file of this format.
        TooLarge: above ``MAX_POOL_BYTES``.
    """
    if len(data) > MAX_POOL_BYTES:
        raise TooLarge(f"a pool file has at most {MAX_POOL_BYTES} bytes")
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if len(data) < LENGTH_BYTES or not 0 < length <= min(MAX_HEADER_BYTES, len(data) - LENGTH_BYTES):
        raise _foreign("it does not begin as one")
    header = _json_object(data[LENGTH_BYTES : LENGTH_BYTES + length])
    manifest = _manifest(header)
    body = memoryview(data)[LENGTH_BYTES + length :]
    return PoolFile(manifest, {name: _part(name, header.get(name), body) for name in _named(manifest)})


def _manifest(header: Mapping[str, Any]) -> PoolManifest:
    metadata = header.get("__metadata__")
    text = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise _foreign("it is a safetensors file of something else")
    said = _json_object(text.encode(errors="replace"))
    if "entries" not in said:
        raise _foreign("it holds a predictor and no pool; hand over what `pool export` wrote")
    if said.get("format") != POOL_FORMAT:
        raise _foreign(f"its format is version {said.get('format')!r:.20}, this farm's is {POOL_FORMAT}")
    unkept = find_unkept(said)
    if unkept is not None:
        raise damaged(f"a text of its header holds what no text holds: {unkept!r:.80}")
    return _checked(PoolManifest, said)


def _part(name: str, place: object, body: memoryview) -> bytes:
    offsets = place.get("data_offsets") if isinstance(place, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(one) is int for one in offsets):
        raise damaged(f"the part {name[:12]} is missing")
    start, end = offsets
    part = bytes(body[start:end]) if 0 <= start <= end <= len(body) else b""
    if part_hash(part) != name:
        raise damaged(f"the part {name[:12]} is not what its hash says")
    return part


def _named(manifest: PoolManifest) -> Iterator[str]:
    for entry in manifest.entries:
        yield entry.rows.sha256
        yield from (one.sha256 for one in entry.predictors)


@dataclass(frozen=True, eq=False)
class OpenedEntry:
    """An entry whose rows were looked at, one by one.

    `part`: its rows as they lay in the file. `files`: predictor files by subject. `left_out`: predictors that this
    version does not read, with the reason.
    """

    entry: PoolEntry
    rows: TrainingRows
    part: bytes
    files: Mapping[str, bytes]
    left_out: tuple[str, ...]


def open_entries(
    data: bytes,
    catalogue: KernelCatalogue,
    catalogue_version: int,
    read_predictor: Callable[[bytes], object] = read_header,
) -> list[OpenedEntry]:
    """The entries of a pool file with their rows, all of them fit to be kept.

    ``read_predictor`` looks at each predictor's file and raises as ``read_header`` does, which looks at headers alone.

    Raises:
        InvalidRequest: ``pool_file_damaged``, ``pool_file_foreign``; a file with one bad entry is refused whole.
        TooLarge: above ``MAX_POOL_BYTES``.
    """
    file = read(data)
    opened: list[OpenedEntry] = []
    counted = 0
    for entry in file.manifest.entries:
        rows = _checked_rows(entry, file.parts[entry.rows.sha256], catalogue, catalogue_version)
        opened.append(_opened(entry, rows, file.parts, read_predictor))
        counted += count_kernels(opened[-1].rows)
        if counted > MAX_COUNTED:
            raise damaged(f"its models have more than {MAX_COUNTED} kernels")
    return opened


def _checked_rows(entry: PoolEntry, part: bytes, catalogue: KernelCatalogue, catalogue_version: int) -> TrainingRows:
    rows = unpack(part, entry.rows.size_bytes, catalogue_version)
    check_entry(entry, rows, catalogue)
    return rows


def _opened(
    entry: PoolEntry, rows: TrainingRows, parts: Mapping[str, bytes], read_predictor: Callable[[bytes], object]
) -> OpenedEntry:
    files: dict[str, bytes] = {}
    left_out: list[str] = []
    for packed in entry.predictors:
        try:
            _check_predictor(entry, packed, parts[packed.sha256])
            read_predictor(parts[packed.sha256])
            files[packed.subject] = parts[packed.sha256]
        except InvalidRequest as error:
            if error.code != "predictor_file_foreign":
                raise damaged(error.detail) from error
            left_out.append(f"{packed.subject} of {entry.platform.key}: {error.detail}")
    return OpenedEntry(entry, rows, parts[entry.rows.sha256], files, tuple(left_out))


def _check_predictor(entry: PoolEntry, packed: PackedPredictor, file: bytes) -> None:
    """Whether a predictor file is what the manifest says. Raises InvalidRequest, also as `read_header` does."""
    header = read_header(file)
    key = entry.platform.key
    if (header.kernel_type, header.platform, header.lineage) != (packed.subject, key, packed.lineage):
        raise damaged(f"the predictor of {packed.subject} on {key} is of something else")


# rows


def packed_rows(rows: TrainingRows, part: bytes, size_bytes: int) -> PackedRows:
    """What a manifest says of rows that ``pool_rows.pack`` made a part of."""
    timings = [row.timing for row in rows.kernels]
    newest = max((row.measured_at for row in rows.every), default=None)
    return PackedRows(
        sha256=part_hash(part),
        size_bytes=size_bytes,
        alone=timings.count(Timing.ALONE),
        in_situ=timings.count(Timing.IN_SITU),
        models=len(rows.models),
        measured_at=None if newest is None else newest.replace(microsecond=0),
    )


def check_entry(entry: PoolEntry, rows: TrainingRows, catalogue: KernelCatalogue) -> None:
    """Whether an entry's rows are what an entry may bring.

    They must be of its platform, as many as it says, reusable, no hold-outs, of kernels of the catalogue, and no time
    impossible or repeated. A farm's own export always is all that, so a file with one bad row is refused whole.

    Raises:
        InvalidRequest: ``pool_file_damaged`` with the row and what is wrong with it.
    """
    key = entry.platform.key
    if rows.platform != key:
        raise damaged(f"rows of {rows.platform[:80]} stand in the entry of {key}")
    every = rows.every
    if len(every) > MAX_ENTRY_ROWS:
        raise damaged(f"{key} has {len(every)} rows, at most {MAX_ENTRY_ROWS}")
    found = packed_rows(rows, b"", 1)
    if (found.counts, found.measured_at) != (entry.rows.counts, entry.rows.measured_at):
        raise damaged(f"{key} has other rows than it says, or newer or older ones")
    _check_kernels(rows, catalogue)
    seen: set[tuple[str, Timing]] = set()
    for row in every:
        why = _why_not(row, seen)
        if why is not None:
            raise damaged(f"row {row.workload_id[:40]} of {key}: {why}")
    _check_spread(rows)


def _why_not(row: KernelRow | ModelRow, seen: set[tuple[str, Timing]]) -> str | None:
    """What is wrong with a row beside those that were seen; None where nothing is."""
    place = (row.workload_id, row.timing if isinstance(row, KernelRow) else Timing.ALONE)
    if place in seen:
        return "it is there twice"
    seen.add(place)
    if _WORKLOAD_ID.fullmatch(row.workload_id) is None:
        return "that is no workload's id"
    if not is_reusable(row.grade):
        return f"grade {row.grade} is never learnt from"
    if row.purpose == Purpose.HOLDOUT:
        return "a hold-out is never learnt from"
    if not math.isfinite(row.normalised_ms) or not FLOOR_MS <= row.normalised_ms <= CEILING_MS:
        return f"no workload takes {row.normalised_ms:g} ms"
    return _why_too_fast(row)


def _why_too_fast(row: KernelRow | ModelRow) -> str | None:
    """A whole model is held to all of its kernels together."""
    kernels = [(row.kernel_type, row.config, 1)] if isinstance(row, KernelRow) else row.kernels
    runs = sum(count for _, _, count in kernels)
    if row.normalised_ms < runs * FLOOR_MS:
        return f"no machine runs {runs} kernels in {row.normalised_ms:g} ms"
    try:
        check_flops(sum(count * (known_flops(name, config) or 0) for name, config, count in kernels), row.normalised_ms)
    except Rejected as verdict:
        return verdict.detail
    return None


def _check_kernels(rows: TrainingRows, catalogue: KernelCatalogue) -> None:
    """Every different kernel once: architectures share most of theirs."""
    known = set(catalogue.names())
    seen: set[tuple[object, ...]] = set()
    counted = (one[:2] for model in rows.models for one in model.kernels)
    for type_name, config in (*((row.kernel_type, row.config) for row in rows.kernels), *counted):
        key = (type_name, *config.items())
        if key in seen:
            continue
        seen.add(key)
        if type_name not in known:
            raise _foreign(f"this farm has no kernel type {type_name[:40]!r}; upgrade it")
        why = catalogue.why_not(type_name, config)
        if why is not None:
            raise damaged(why)


def _check_spread(rows: TrainingRows) -> None:
    """Rows of one kind whose times are all the same were not measured."""
    kinds: dict[tuple[str, Timing], set[float]] = {}
    counts: dict[tuple[str, Timing], int] = {}
    for row in rows.every:
        kind = (row.kernel_type, row.timing) if isinstance(row, KernelRow) else (WHOLE_MODEL, Timing.ALONE)
        kinds.setdefault(kind, set()).add(row.normalised_ms)
        counts[kind] = counts.get(kind, 0) + 1
    for kind, times in kinds.items():
        if counts[kind] >= LEAST_DIFFERENT and len(times) == 1:
            raise damaged(f"all {counts[kind]} times of {kind[0]} are the same")


# errors and JSON


def _foreign(detail: str) -> InvalidRequest:
    return InvalidRequest(f"this is no pool file of ours: {detail[:200]}", code="pool_file_foreign", field="file")


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _foreign("its header is no JSON") from error
    if not isinstance(found, dict):
        raise _foreign("its header is no JSON object")
    return found


def _checked(kind: type[V], said: Mapping[str, Any]) -> V:
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        raise damaged(_first(error)) from error


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
