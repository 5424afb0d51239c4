"""How the rows of a platform are packed for a pool file: each different kernel once, then times, as JSON by zlib.

A kernel's workload id is left out, because it follows from what the kernel is; moments are kept to the second.
"""

import json
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import Field, StrictInt, ValidationError

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.predictors import CountedKernel, KernelRow, ModelRow, TrainingRows
from benchfarm_core.summaries import Grade
from benchfarm_core.values import Value, canonical_json
from benchfarm_core.workloads import Config, KernelWorkload, workload_id

MAX_COUNTED: Final = 500_000
"""Kernels of all whole models of an entry, or of a file: of ten thousand models."""
MAX_CELLS: Final = 1_000_000
"""Values of all different configurations of an entry."""
MAX_LISTS: Final = 800_000
"""JSON lists of an entry's rows: one for each row, each kernel of a model and each different configuration. An empty
one has three bytes and takes dozens of times as many in memory, so that they are counted before they are made."""
_LEVEL: Final = 9
_Tables = Sequence[Sequence[tuple[str, Config]]]

PRINTED: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"
"""Of texts that people will see: no control characters. Half a surrogate pair no bounded text has."""
_Word = Annotated[str, Field(max_length=40, pattern=PRINTED)]
_Name = Annotated[str, Field(max_length=200, pattern=PRINTED)]
_Place = Annotated[int, Field(ge=0)]
_Moment = Annotated[int, Field(ge=0, lt=2**33)]
_Ms = Annotated[float, Field(gt=0)]
_Counted = tuple[_Place, _Place, Annotated[int, Field(ge=1, le=1_000_000)]]
_Kernel = tuple[_Place, _Place, Timing, _Ms, Grade, _Moment, Purpose]
_Model = tuple[str, _Word | None, tuple[_Counted, ...], tuple[_Name, ...], _Ms, Grade, _Moment, Purpose]


class _Table(Value):
    """The different configurations of one kernel type."""

    type: _Word
    columns: tuple[_Word, ...] = Field(max_length=50)
    configs: tuple[tuple[StrictInt | _Word, ...], ...]

    def kernels(self) -> list[tuple[str, Config]]:
        """Its kernels, each made once: many models hold the same."""
        return [(self.type, dict(zip(self.columns, config, strict=True))) for config in self.configs]


class _Packed(Value):
    """Rows name kernels by table and place in it."""

    platform: str = Field(max_length=300)
    rule_version: int = Field(ge=0, lt=2**31)
    data_hash: str = Field(max_length=100, pattern=PRINTED)
    catalogue_version: int
    tables: tuple[_Table, ...]
    kernels: tuple[_Kernel, ...]
    models: tuple[_Model, ...]


def pack(rows: TrainingRows, catalogue_version: int) -> tuple[bytes, int]:
    """The packed rows, and how many bytes they unpack to; the same bytes for the same rows."""
    drafts = _Drafts()
    # in an order in which neighbours are alike, which packs better
    kernels = sorted(rows.kernels, key=lambda row: (row.kernel_type, row.timing, _sortable(row.config)))
    packed = {
        "platform": rows.platform,
        "rule_version": rows.rule_version,
        "data_hash": rows.data_hash,
        "catalogue_version": catalogue_version,
        "kernels": [[*drafts.place(row.kernel_type, row.config), row.timing, *_measured(row)] for row in kernels],
        "models": [
            [row.workload_id, row.space, drafts.counted(row), row.unknown, *_measured(row)] for row in rows.models
        ],
        "tables": drafts.tables,
    }
    text = canonical_json(packed).encode()
    return zlib.compress(text, _LEVEL), len(text)


def unpack(part: bytes, size_bytes: int, catalogue_version: int) -> TrainingRows:
    """The same rows again, in the order of their workloads' ids.

    Raises:
        InvalidRequest: ``pool_file_damaged``, also where they unpack to more than ``size_bytes``;
            ``pool_file_foreign`` for kernels of another version of the catalogue.
    """
    packed = _parsed(_unzipped(part, size_bytes))
    if packed.catalogue_version != catalogue_version:
        detail = f"its kernels are of catalogue version {packed.catalogue_version}, this farm's of {catalogue_version}"
        raise InvalidRequest(f"the pool file is foreign: {detail}", code="pool_file_foreign", field="file")
    _check_sizes(packed)
    try:
        tables = [table.kernels() for table in packed.tables]
        return TrainingRows.model_construct(
            platform=packed.platform,
            kernels=tuple(sorted(_kernels(packed, tables), key=lambda row: (row.workload_id, row.timing))),
            models=tuple(sorted(_models(packed, tables), key=lambda row: row.workload_id)),
            rule_version=packed.rule_version,
            data_hash=packed.data_hash,
        )
    except (IndexError, ValueError) as error:  # a place that no table has, or a value that no row has
        raise damaged("a row names no kernel, or holds what no row holds") from error


def count_kernels(rows: TrainingRows) -> int:
    """How many kernels the whole models hold, each different one of a model once."""
    return sum(len(model.kernels) for model in rows.models)


def damaged(detail: str) -> InvalidRequest:
    """The error of a pool file whose content cannot be what was written."""
    return InvalidRequest(f"the pool file is damaged: {detail[:200]}", code="pool_file_damaged", field="file")


class _Drafts:
    """Tables while rows are packed."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[object, ...], int] = {}
        self._places: dict[tuple[object, ...], int] = {}
        self.tables: list[dict[str, object]] = []
        self._configs: list[list[list[int | str]]] = []

    def place(self, type_name: str, config: Config) -> tuple[int, int]:
        """Table and place of a kernel."""
        number = self._numbers.get((type_name, *config))
        if number is None:
            number = self._numbers[type_name, *config] = len(self.tables)
            self._configs.append([])
            self.tables.append({"type": type_name, "columns": [*config], "configs": self._configs[number]})
        configs = self._configs[number]
        place = self._places.setdefault((number, *config.values()), len(configs))
        if place == len(configs):
            configs.append([*config.values()])
        return number, place

    def counted(self, row: ModelRow) -> list[list[int]]:
        """A whole model's kernels."""
        return [[*self.place(type_name, config), count] for type_name, config, count in row.kernels]


def _measured(row: KernelRow | ModelRow) -> list[object]:
    return [row.normalised_ms, row.grade, int(row.measured_at.timestamp()), row.purpose]


def _sortable(config: Config) -> list[tuple[bool, int | str]]:
    return [(isinstance(value, str), value) for value in config.values()]


def _unzipped(part: bytes, size_bytes: int) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(part, size_bytes + 1)
    except zlib.error as error:
        raise damaged("its rows cannot be unpacked") from error
    if len(text) != size_bytes or not unpacking.eof or unpacking.unused_data:
        raise damaged("its rows are not as long as it says")
    return text


def _parsed(text: bytes) -> _Packed:
    # json.loads takes a tenth of the memory that pydantic takes for lists within lists
    if text.count(b"[") > MAX_LISTS:
        raise damaged(f"its rows are more than {MAX_LISTS} lists")
    try:
        return _Packed.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(f"its rows: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise damaged("its rows are no JSON") from error


def _check_sizes(packed: _Packed) -> None:
    """Few bytes name a kernel that takes many, and each may be named often. Raises InvalidRequest."""
    cells = sum((1 + len(table.columns)) * len(table.configs) for table in packed.tables)
    counted = sum(len(kernels) for _, _, kernels, *_ in packed.models)
    if cells > MAX_CELLS or counted > MAX_COUNTED:
        detail = f"{cells} values of kernels, {counted} kernels of models; at most {MAX_CELLS} and {MAX_COUNTED}"
        raise damaged(f"its rows are too many: {detail}")


def _kernels(packed: _Packed, tables: _Tables) -> list[KernelRow]:
    made = []
    for number, place, timing, ms, grade, moment, purpose in packed.kernels:
        type_name, config = tables[number][place]
        workload = KernelWorkload(catalogue_version=packed.catalogue_version, type=type_name, config=config)
        made.append(
            KernelRow(
                workload_id=workload_id(workload),
                kernel_type=type_name,
                config=config,
                timing=timing,
                normalised_ms=ms,
                grade=grade,
                measured_at=datetime.fromtimestamp(moment, UTC),
                purpose=purpose,
            )
        )
    return made


def _models(packed: _Packed, tables: _Tables) -> list[ModelRow]:
    """Their fields were checked when the rows were read; checked again, every model would get kernels of its own."""
    known: dict[tuple[int, int, int], CountedKernel] = {}
    return [
        ModelRow.model_construct(
            workload_id=id_,
            space=space,
            kernels=_counted(tables, counted, known),
            unknown=unknown,
            normalised_ms=ms,
            grade=grade,
            measured_at=datetime.fromtimestamp(moment, UTC),
            purpose=purpose,
        )
        for id_, space, counted, unknown, ms, grade, moment, purpose in packed.models
    ]


def _counted(
    tables: _Tables, counted: Sequence[tuple[int, int, int]], known: dict[tuple[int, int, int], CountedKernel]
) -> tuple[CountedKernel, ...]:
    """Equal ones are one object."""
    for each in counted:
        if each not in known:
            number, place, count = each
            known[each] = (*tables[number][place], count)
    return tuple(known[each] for each in counted)
