"""Tables of search spaces without a network: exactly the numbers of the farm, a million architectures in a second.

Needs the extra `offline` (numpy and the numpy half of the predictor package). A table is used only if it is signed by a
farm whose key the caller names, and if it is young enough for him::

    table = Table.open("ofa.table", keys={"key_1": "9f..."}, max_age_s=86_400)
    codes = table.encode(genes)             # once: architectures as numbers of blocks
    found = table.latency(codes)            # found.latency_ms: float64[n]

Errors are InvalidRequest with a code: `table_tampered`, `table_foreign`, `table_stale`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from benchfarm_core.architectures import Architecture
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.exports import MAX_TABLE_BYTES, FarmKeys, TableHead, is_key
from benchfarm_predictor import table_file
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.space_tables import NOT_THERE, Encoded, SpaceTable
from benchfarm_workloads.spaces import Space, space

Genes = Mapping[str, Any]
"""By gene one integer, or a list of them."""
MAX_LISTED: Final = 1000
"""Misses that an answer names; all of them have no number."""
MAX_AHEAD_S: Final = 3600.0
"""By so much a farm's clock may be ahead of this machine's."""


@dataclass(frozen=True)
class TableMiss:
    """An architecture without a number: its row, and why.

    ``code``: `architecture_out_of_range`, `not_in_table` for blocks that the table was not made for, `not_learnt` for
    what lies where the predictor does not know its kernels.
    """

    row: int
    code: str
    detail: str


@dataclass(frozen=True, eq=False)
class TableAnswers:
    """Of n architectures, in order; what has no number is NaN.

    Attributes:
        latency_ms, low_ms, high_ms, coverage: float64[n], as `median_ms`, `low_ms`, `high_ms` and `coverage` of
            POST /v1/latency.
        missing: bool[n]; ``misses`` names the first ``MAX_LISTED`` of them.
    """

    latency_ms: Floats
    low_ms: Floats
    high_ms: Floats
    coverage: Floats
    missing: npt.NDArray[np.bool_]
    misses: tuple[TableMiss, ...]


@dataclass(frozen=True, eq=False)
class EncodedArchitectures:
    """n architectures as numbers of a table's blocks: of this table alone. ``refused``: by row what is not of the
    space, and why. ``export_id``: of that table."""

    export_id: str
    codes: Encoded
    refused: Mapping[int, str]

    def __len__(self) -> int:
        return int(self.codes.shape[1])

    def take(self, rows: npt.NDArray[Any] | slice) -> Self:
        """Some of them, by their numbers, a mask or a slice, in that order."""
        chosen = np.arange(len(self))[rows]
        refused: dict[int, str] = {}
        if self.refused:
            refused = {at: self.refused[row] for at, row in enumerate(chosen.tolist()) if row in self.refused}
        return type(self)(self.export_id, self.codes[:, chosen], refused)


@dataclass(frozen=True, eq=False)
class Table:
    """A table that was looked at and is believed. Make it by ``open`` or ``read``; threads may share it."""

    head: TableHead
    _table: SpaceTable
    _space: Space

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        keys: FarmKeys | Mapping[str, str],
        max_age_s: float | None = None,
        predictor_id: str | None = None,
        now_unix_s: float | None = None,
    ) -> Self:
        """The table of a file; as ``read``. Raises InvalidRequest also for a file that cannot be read."""
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_TABLE_BYTES + 1)
        except OSError as error:
            raise InvalidRequest(f"cannot read {path}: {error.strerror or error}", field="file") from error
        return cls.read(data, keys=keys, max_age_s=max_age_s, predictor_id=predictor_id, now_unix_s=now_unix_s)

    @classmethod
    def read(
        cls,
        data: bytes,
        *,
        keys: FarmKeys | Mapping[str, str],
        max_age_s: float | None = None,
        predictor_id: str | None = None,
        now_unix_s: float | None = None,
    ) -> Self:
        """The table of bytes.

        Args:
            data: what `GET /v1/exports/{id}/file` gave.
            keys: of the farms that are believed: `GET /v1/keys`, or public keys in hexadecimal digits by their ids.
            max_age_s: a table that was made longer ago is refused, and one that was made more than ``MAX_AHEAD_S``
                after now: a clock that stands before its making says nothing of its age. None: no matter when.
            predictor_id: a table of any other version of the predictor is refused; None: of whichever.
            now_unix_s: the time to count its age to; None: this machine's.

        Raises:
            InvalidRequest: ``table_tampered``, ``table_foreign`` (another key, format or version of the space),
                ``table_stale``.
        """
        table, head = table_file.read(data, _public_keys(keys))
        _check_fresh(head, max_age_s, predictor_id, time.time() if now_unix_s is None else now_unix_s)
        return cls(head, table, _known_space(head))

    @property
    def blocks(self) -> int:
        """How many different blocks it holds."""
        return len(self._table.blocks)

    def encode(self, architectures: Sequence[Genes]) -> EncodedArchitectures:
        """Architectures by their genes as numbers of blocks: some 30,000 in a second of one core."""
        known: list[Architecture] = []
        rows: list[int] = []
        refused: dict[int, str] = {}
        for row, genes in enumerate(architectures):
            try:
                if not isinstance(genes, Mapping):
                    raise InvalidRequest("an architecture is a mapping from genes to values")
                known.append(self._space.validate(genes))
                rows.append(row)
            except InvalidRequest as error:
                refused[row] = error.detail
        codes = np.full((self._table.slots, len(architectures)), NOT_THERE, dtype=np.int32)
        codes[:, rows] = self._table.encode(self._space, known)
        return EncodedArchitectures(self.head.export_id, codes, refused)

    def latency(self, architectures: EncodedArchitectures | Sequence[Genes]) -> TableAnswers:
        """What the farm's predictor says, at the speed of arrays where architectures are encoded."""
        given = architectures if isinstance(architectures, EncodedArchitectures) else self.encode(architectures)
        if given.export_id != self.head.export_id:
            raise InvalidRequest("the architectures were encoded for another table: encode them by this one")
        there = ((given.codes >= 0) & (given.codes <= self.blocks)).all(axis=0)
        rows = np.flatnonzero(there)
        codes = given.codes if len(rows) == len(given) else given.codes[:, rows]
        found = np.full((4, len(rows)), np.nan)
        learnt = np.ones(len(rows), dtype=bool)
        for part, each, is_known in self._table.answers(codes):
            learnt[part] = is_known
            for at, values in enumerate((each.latency_ms, each.low_ms, each.high_ms, each.coverage)):
                found[at, part] = np.where(is_known, values, np.nan)
        return self._answers(given, rows, found, learnt)

    def _answers(
        self, given: EncodedArchitectures, rows: npt.NDArray[np.intp], found: Floats, learnt: npt.NDArray[np.bool_]
    ) -> TableAnswers:
        count = len(given)
        missing = np.ones(count, dtype=bool)
        missing[rows] = ~learnt
        if len(rows) == count:
            columns = found
        else:
            columns = np.full((4, count), np.nan)
            columns[:, rows] = found
        in_table = np.zeros(count, dtype=bool)
        in_table[rows] = True
        misses = tuple(
            self._miss(int(row), given, in_table=bool(in_table[row])) for row in np.flatnonzero(missing)[:MAX_LISTED]
        )
        return TableAnswers(columns[0], columns[1], columns[2], columns[3], missing, misses)

    def _miss(self, row: int, given: EncodedArchitectures, *, in_table: bool) -> TableMiss:
        if row in given.refused:
            return TableMiss(row, "architecture_out_of_range", given.refused[row])
        if in_table:
            return TableMiss(row, "not_learnt", "its kernels were never seen where it lies")
        only = ", ".join(f"{name} in {list(values)}"[:100] for name, values in self.head.genes.items())
        return TableMiss(row, "not_in_table", f"the table was made for {only or 'other blocks'}")


def _public_keys(keys: FarmKeys | Mapping[str, str]) -> dict[str, str]:
    given = {each.id: each.public_key for each in keys.keys} if isinstance(keys, FarmKeys) else dict(keys)
    for name, key in given.items():
        if not is_key(key):
            raise InvalidRequest(f"the key {name[:40]} is no Ed25519 key in hexadecimal digits", field="keys")
    return given


def _check_fresh(head: TableHead, max_age_s: float | None, predictor_id: str | None, now_unix_s: float) -> None:
    age_s = now_unix_s - head.made_at.timestamp()
    if max_age_s is not None and age_s < -MAX_AHEAD_S:
        detail = f"the table was made {-age_s:.0f} s after this machine's present, so that its age is unknown"
        raise InvalidRequest(f"{detail}: set the clock", code="table_stale", field="max_age_s")
    if max_age_s is not None and not age_s <= max_age_s:
        detail = f"the table was made {age_s:.0f} s ago, and {max_age_s:.0f} s are allowed"
        detail += ": export it again with that max_age_s, which makes an old one anew"
        raise InvalidRequest(detail, code="table_stale", field="max_age_s")
    if predictor_id is not None and predictor_id != head.predictor_id:
        detail = f"the table is of predictor {head.predictor_id}, not of {predictor_id[:40]}: export it again"
        raise InvalidRequest(detail, code="table_stale", field="predictor_id")


def _known_space(head: TableHead) -> Space:
    """Raises InvalidRequest, ``table_foreign``, for a space that this code does not have in that version."""
    try:
        found = space(head.space)
    except InvalidRequest as error:
        raise InvalidRequest(error.detail, code="table_foreign") from error
    if found.version != head.space_version:
        detail = f"the table is of {head.space} version {head.space_version}; this code knows {found.version}"
        raise InvalidRequest(detail, code="table_foreign")
    return found
