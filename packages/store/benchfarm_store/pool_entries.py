"""Pool entries: platforms of other farms with their rows and predictors, which no answer of this farm reads."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, delete, select, text, update
from sqlalchemy.dialects.postgresql import insert

from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.measurements import Timing
from benchfarm_core.pool import PooledPredictor, PoolEntryView, PoolImported, PoolMember, TaughtPredictor
from benchfarm_core.pool_files import OpenedEntry, PoolEntry
from benchfarm_core.pool_rows import damaged, unpack
from benchfarm_core.predictors import KernelRow, TrainingRows
from benchfarm_core.values import digest
from benchfarm_store import accounts
from benchfarm_store.board_history import author_of
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import workload_digest, workload_text
from benchfarm_store.tables import likenesses, pool_entries, pool_predictors
from benchfarm_store.tokens import Caller
from benchfarm_workloads.kernels import CATALOGUE_VERSION
from benchfarm_workloads.probes import PROBES_VERSION, probe_set

_ORIGIN_DIGITS: Final = 12
CLOCKS_APART: Final = timedelta(days=1)
"""By so much the clock of the farm that measured may be ahead."""

Times = dict[tuple[str, Timing], float]
"""Normalised times in ms by workload id and timing."""


class ProbedEntry(NamedTuple):
    """An entry with its times of the present probe set."""

    id: str
    board_model: str
    times: Times


def own_origin(tx: Transaction) -> str:
    """What this farm is called in pool files: farms have the same name until somebody gives them another."""
    row = tx.execute(text("SELECT name, salt FROM farms WHERE id = 1")).one()
    name = "".join(char if char.isascii() and char.isalnum() else "-" for char in row.name)[:40]
    return f"{name}-{digest(['origin', row.salt], length=_ORIGIN_DIGITS)}"


def import_entries(tx: Transaction, opened: Sequence[OpenedEntry], *, by: Caller) -> PoolImported:
    """Take in the entries of a pool file, each once: the same again changes nothing.

    What this farm measured itself is left out: its own rows are there, and newer. Raises QuotaExceeded where the
    account's stored bytes are full, InvalidRequest (`pool_file_damaged`) for rows that are still to be measured; then
    nothing is kept.
    """
    for one in opened:
        newest = one.entry.rows.measured_at
        if newest is not None and newest > tx.now + CLOCKS_APART:
            raise damaged(f"rows of {one.entry.platform.key} are of {newest:%Y-%m-%d}, and it is {tx.now:%Y-%m-%d} now")
    own = own_origin(tx)
    kept: list[str] = []
    repeated: list[str] = []
    mine: list[str] = []
    left_out: list[str] = []
    rows = 0
    for one in opened:
        if one.entry.origin == own:
            mine.append(one.entry.platform.key)
        elif _insert(tx, one, by):
            kept.append(one.entry.id)
            left_out += one.left_out
            rows += one.entry.rows.count
        else:
            repeated.append(one.entry.id)
    return PoolImported(entries=kept, repeated=repeated, own=mine, left_out=left_out, rows=rows)


def _insert(tx: Transaction, opened: OpenedEntry, by: Caller) -> bool:
    """False where the entry is there already, or comes with another transaction: then nothing is charged."""
    size_bytes = len(opened.part) + sum(map(len, opened.files.values()))
    values = {
        "public_id": opened.entry.id,
        "account_id": by.account_number,
        "author": author_of(by),
        "imported_at": tx.now,
        "stored_bytes": size_bytes,
        "key": opened.entry.platform.key,
        "manifest": opened.entry.model_dump(mode="json"),
        "probes_version": PROBES_VERSION,
        "probes": _probe_times(opened.rows),
        "rows": opened.part,
    }
    statement = insert(pool_entries).values(**values).on_conflict_do_nothing(index_elements=["public_id"])
    number = tx.execute(statement.returning(pool_entries.c.id)).scalar_one_or_none()
    if number is None:
        return False
    accounts.take_bytes(tx, by.account_number, size_bytes)
    hashes = {packed.subject: packed.sha256 for packed in opened.entry.predictors}
    files = [
        {"entry_id": number, "subject": subject, "sha256": hashes[subject], "file": file}
        for subject, file in opened.files.items()
    ]
    if files:
        tx.execute(insert(pool_predictors), files)
    return True


def _probe_times(rows: TrainingRows) -> dict[str, dict[str, float]]:
    """By timing and workload id, as the column holds them."""
    probes = set(probe_set().workload_ids)
    found: dict[str, dict[str, float]] = {}
    for row in rows.every:
        if row.workload_id in probes:
            timing = row.timing if isinstance(row, KernelRow) else Timing.ALONE
            found.setdefault(timing, {})[row.workload_id] = row.normalised_ms
    return found


def delete_entry(tx: Transaction, entry_id: str) -> PoolMember:
    """Take an entry away with its rows and predictors, and give its bytes back. Raises NotFound."""
    statement = select(pool_entries).where(pool_entries.c.public_id == entry_id).with_for_update()
    row = tx.execute(statement).one_or_none()
    if row is None:
        raise _not_found()
    (view,) = _members(tx, [row])
    tx.execute(delete(likenesses).where(likenesses.c.donor == entry_id))
    tx.execute(delete(pool_entries).where(pool_entries.c.id == row.id))
    accounts.take_bytes(tx, row.account_id, -row.stored_bytes)
    return view


def list_entries(tx: Transaction) -> list[PoolMember]:
    """All entries by key."""
    columns = (column for column in pool_entries.c if column.name != "rows")
    return _members(tx, tx.execute(select(*columns).order_by(pool_entries.c.key, pool_entries.c.id)).all())


def get_entry(tx: Transaction, entry_id: str) -> PoolEntryView:
    """One entry with what its predictors were taught, also those that were left out. Raises NotFound."""
    columns = (column for column in pool_entries.c if column.name != "rows")
    row = tx.execute(select(*columns).where(pool_entries.c.public_id == entry_id)).one_or_none()
    if row is None:
        raise _not_found()
    (member,) = _members(tx, [row])
    kept = {one.subject for one in member.predictors}
    taught = [
        TaughtPredictor(subject=one.subject, sha256=one.sha256, is_kept=one.subject in kept, lineage=one.lineage)
        for one in PoolEntry.model_validate(row.manifest).predictors
    ]
    return PoolEntryView(**dict(member), taught=taught)


def _members(tx: Transaction, rows: Sequence[Row[Any]]) -> list[PoolMember]:
    files: dict[int, list[PooledPredictor]] = {row.id: [] for row in rows}
    for found in tx.execute(_FILES, {"ids": list(files)}):
        fields = {"subject": found.subject, "version": None, "sha256": found.sha256, "size_bytes": found.size_bytes}
        files[found.entry_id].append(PooledPredictor.model_validate(fields))
    return [_member(row, files[row.id]) for row in rows]


_FILES = text("""
    SELECT entry_id, subject, sha256, octet_length(file) AS size_bytes FROM pool_predictors
    WHERE entry_id = ANY(CAST(:ids AS int[])) ORDER BY entry_id, subject
""")


def _member(row: Row[Any], predictors: list[PooledPredictor]) -> PoolMember:
    entry = PoolEntry.model_validate(row.manifest)
    is_current = row.probes_version == PROBES_VERSION
    return PoolMember(
        id=row.public_id,
        key=row.key,
        is_own=False,
        origin=entry.origin,
        probes=sum(map(len, row.probes.values())) if is_current else 0,
        probes_of=probe_set().measurements,
        rows=entry.rows.counts,
        predictors=predictors,
        licence=entry.licence,
        source=entry.source or None,
        measured_at=entry.rows.measured_at,
        imported_at=row.imported_at,
        author=row.author,
    )


def get_manifest(tx: Transaction, entry_id: str) -> PoolEntry:
    """What an entry says of itself. Raises NotFound."""
    found = tx.execute(select(pool_entries.c.manifest).where(pool_entries.c.public_id == entry_id)).one_or_none()
    if found is None:
        raise _not_found()
    return PoolEntry.model_validate(found.manifest)


class FoundEntry(NamedTuple):
    """An entry's rows as they lie in the store, packed: unpacking takes up to a second, and no transaction."""

    entry: PoolEntry
    part: bytes

    @property
    def platform(self) -> str:
        """Its platform's key."""
        return self.entry.platform.key

    def unpacked(self) -> TrainingRows:
        """All of its rows, hold-outs of this farm among them. Raises InvalidRequest (`pool_file_foreign`) where this
        version has another catalogue of kernels."""
        return unpack(self.part, self.entry.rows.size_bytes, CATALOGUE_VERSION)


def find_rows(tx: Transaction, entry_id: str) -> FoundEntry:
    """An entry's rows, only read. Raises NotFound."""
    return FoundEntry(get_manifest(tx, entry_id), load_part(tx, entry_id))


def without(entry: PoolEntry, rows: TrainingRows, held: Collection[str]) -> TrainingRows:
    """An entry's rows but for these workloads. Where any is left out, `data_hash` is that of the rest: what was learnt
    from more rows is not taken for it."""
    left_out = {row.workload_id for row in rows.every} & frozenset(held)
    if not left_out:
        return rows
    return rows.model_copy(
        update={
            "kernels": tuple(row for row in rows.kernels if row.workload_id not in left_out),
            "models": tuple(row for row in rows.models if row.workload_id not in left_out),
            "data_hash": digest([entry.id, rows.data_hash, sorted(left_out)]),
        }
    )


def held_of(tx: Transaction, every: Sequence[TrainingRows]) -> frozenset[str]:
    """Workloads of these rows that are hold-outs anywhere on this farm."""
    ids = {row.workload_id for rows in every for row in rows.every}
    found = tx.execute(_HOLDOUTS, {"digests": [workload_digest(id_) for id_ in sorted(ids)]})
    return frozenset(workload_text(one) for one in found.scalars())


_HOLDOUTS = text("""
    SELECT w.digest::text FROM workloads w
    WHERE w.digest = ANY(CAST(:digests AS uuid[]))
        AND EXISTS (SELECT FROM measurements m
            WHERE m.workload_id = w.id AND m.purpose = 'holdout' AND m.state <> 'cancelled')
""")


def load_part(tx: Transaction, entry_id: str) -> bytes:
    """The rows of an entry as they lay in the pool file. Raises NotFound."""
    found = tx.execute(select(pool_entries.c.rows).where(pool_entries.c.public_id == entry_id)).one_or_none()
    if found is None:
        raise _not_found()
    return bytes(found.rows)


def load_files(tx: Transaction, entry_id: str) -> dict[str, bytes]:
    """The predictor files that an entry brought, by subject."""
    joined = select(pool_predictors).join(pool_entries, pool_entries.c.id == pool_predictors.c.entry_id)
    rows = tx.execute(joined.where(pool_entries.c.public_id == entry_id))
    return {row.subject: bytes(row.file) for row in rows}


def probed(tx: Transaction) -> list[ProbedEntry]:
    """All entries with their times of probes; those of before the present probe set have none until somebody has looked
    at them again: see `outdated`."""
    table = pool_entries.c
    statement = select(table.public_id, table.manifest, table.probes).where(table.probes_version == PROBES_VERSION)
    return [
        ProbedEntry(row.public_id, PoolEntry.model_validate(row.manifest).platform.board_model, _times(row.probes))
        for row in tx.execute(statement.order_by(table.id))
    ]


def outdated(tx: Transaction) -> list[str]:
    """The ids of entries whose probes were looked for by another probe set."""
    table = pool_entries.c
    statement = select(table.public_id).where(table.probes_version != PROBES_VERSION).order_by(table.id)
    return list(tx.execute(statement).scalars())


class FoundProbes(NamedTuple):
    """An entry's times of the present probe set, as its column holds them."""

    entry_id: str
    times: dict[str, dict[str, float]]

    @classmethod
    def of(cls, entry_id: str, found: FoundEntry) -> "FoundProbes":
        """Unpacks its rows, which takes up to a second: no transaction is needed for it."""
        try:
            return cls(entry_id, _probe_times(found.unpacked()))
        except InvalidRequest:  # kernels of an older catalogue: such an entry is like nobody
            return cls(entry_id, {})


def keep_probes(tx: Transaction, found: FoundProbes) -> None:
    """Keep them; the entry is to be compared anew. One that is gone meanwhile stays so."""
    changes = {"probes": found.times, "probes_version": PROBES_VERSION, "compared_at": None}
    tx.execute(update(pool_entries).where(pool_entries.c.public_id == found.entry_id).values(**changes))


def _times(probes: dict[str, dict[str, float]]) -> Times:
    return {(id_, Timing(timing)): ms for timing, times in probes.items() for id_, ms in times.items()}


def mark_compared(tx: Transaction, entry_id: str) -> None:
    """The entry was compared as it is now."""
    tx.execute(update(pool_entries).where(pool_entries.c.public_id == entry_id).values(compared_at=tx.now))


def _not_found() -> NotFound:
    return NotFound("the pool has no such entry")
