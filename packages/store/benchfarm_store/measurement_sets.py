"""Imported measurement sets: tables of their own, which no answer of the farm and no planning looks into."""

from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from sqlalchemy import Row, delete, select
from sqlalchemy.dialects.postgresql import insert

from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.jobs import Page
from benchfarm_core.measurement_sets import (
    IMPORTED,
    MAX_LISTED_ROWS,
    KernelRows,
    MeasurementSet,
    MeasurementSetImported,
    MeasurementSetView,
    SetKernelView,
    SetPlatform,
)
from benchfarm_store import accounts, cursors
from benchfarm_store.board_history import author_of
from benchfarm_store.database import Transaction
from benchfarm_store.set_codec import SET_FORMAT, pack, unpack
from benchfarm_store.tables import measurement_set_kernels, measurement_sets
from benchfarm_store.tokens import Caller

_PREFIX: Final = "s_"


def import_set(tx: Transaction, found: MeasurementSet, *, by: Caller, dry_run: bool = False) -> MeasurementSetImported:
    """Take a set in, once: the same contents again change nothing. A dry run only says what would come of it.

    Raises InvalidRequest (`measurement_set_empty`) where no row can be taken, QuotaExceeded where the account's stored
    bytes are full.
    """
    if not found.kernels and not dry_run:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.rejected_by_reason.items())
        detail = f"no row of the set can be taken ({reasons}); a dry run lists them"
        raise InvalidRequest(detail, code="measurement_set_empty", field="tables")
    known = _known_id(tx, found)
    set_id = public_id(found) if known is None else known
    repeated = known is not None or (not dry_run and not _insert(tx, set_id, found, by))
    return MeasurementSetImported(
        id=None if dry_run and not repeated else set_id,
        dry_run=dry_run,
        repeated=repeated,
        kernels=[_seen(kernel) for kernel in found.kernels.values()],
        rows=found.rows,
        rejected=list(found.rejected[:MAX_LISTED_ROWS]),
        rejected_by_reason=found.rejected_by_reason,
    )


def _known_id(tx: Transaction, found: MeasurementSet) -> str | None:
    """The id of a set that is there; one that came long ago has another."""
    ids = (public_id(found), f"{_PREFIX}{found.former_hash}")
    rows = tx.execute(select(measurement_sets.c.public_id).where(measurement_sets.c.public_id.in_(ids))).scalars().all()
    return min(rows, key=ids.index, default=None)


def public_id(found: MeasurementSet) -> str:
    """The id that a set has wherever it is imported."""
    return f"{_PREFIX}{found.content_hash}"


def _insert(tx: Transaction, set_id: str, found: MeasurementSet, by: Caller) -> bool:
    """False where another transaction brought the same set meanwhile: then nothing is charged."""
    packed = {name: pack(kernel.configs, kernel.latency_ms) for name, kernel in found.kernels.items()}
    size_bytes = sum(map(len, packed.values()))
    accounts.take_bytes(tx, by.account_number, size_bytes)
    row = {
        "public_id": set_id,
        "account_id": by.account_number,
        "author": author_of(by),
        "imported_at": tx.now,
        "stored_bytes": size_bytes,
        "platform": found.platform.model_dump(mode="json"),
        "rejected": found.rejected_by_reason,
    }
    statement = insert(measurement_sets).values(**row).on_conflict_do_nothing(index_elements=["public_id"])
    number = tx.execute(statement.returning(measurement_sets.c.id)).scalar_one_or_none()
    if number is None:
        accounts.take_bytes(tx, by.account_number, -size_bytes)
        return False
    tx.execute(insert(measurement_set_kernels), [_columns(number, k, packed[k.type]) for k in found.kernels.values()])
    return True


def _columns(set_number: int, kernel: KernelRows, packed: bytes) -> dict[str, Any]:
    return {
        "set_id": set_number,
        "row_count": len(kernel.latency_ms),
        "format": SET_FORMAT,
        "type": kernel.type,
        "given_as": kernel.given_as,
        "columns": list(kernel.columns),
        "fixed": kernel.fixed,
        "rows": packed,
    }


def list_sets(tx: Transaction, *, cursor: str | None = None, limit: int = 100) -> Page[MeasurementSetView]:
    """Imported sets, newest first."""
    last = cursors.decode("measurement-sets", cursor, int)[0] if cursor else None
    statement = select(measurement_sets).order_by(measurement_sets.c.id.desc()).limit(limit + 1)
    if last is not None:
        statement = statement.where(measurement_sets.c.id < last)
    rows = tx.execute(statement).all()
    kernels = _kernels(tx, [row.id for row in rows])
    encode = partial(cursors.encode, "measurement-sets")
    return cursors.page(rows, limit, lambda row: _view(row, kernels[row.id]), lambda row: encode(row.id))


def get_set(tx: Transaction, set_id: str) -> MeasurementSetView:
    """One imported set. Raises NotFound."""
    row = _row(tx, set_id)
    return _view(row, _kernels(tx, [row.id])[row.id])


def load_set(tx: Transaction, set_id: str) -> MeasurementSet:
    """The rows of an imported set. Raises NotFound."""
    row = _row(tx, set_id)
    found = tx.execute(select(measurement_set_kernels).where(measurement_set_kernels.c.set_id == row.id))
    kernels = (_loaded(kernel) for kernel in found)
    platform = SetPlatform.model_validate(row.platform)
    return MeasurementSet(platform=platform, kernels={kernel.type: kernel for kernel in kernels}, rejected=())


def delete_set(tx: Transaction, set_id: str) -> MeasurementSetView:
    """Take an imported set away with its rows, and give its bytes back. Raises NotFound."""
    row = _row(tx, set_id, lock=True)
    view = _view(row, _kernels(tx, [row.id])[row.id])
    tx.execute(delete(measurement_sets).where(measurement_sets.c.id == row.id))
    accounts.take_bytes(tx, row.account_id, -row.stored_bytes)
    return view


def _row(tx: Transaction, set_id: str, *, lock: bool = False) -> Row[Any]:
    statement = select(measurement_sets).where(measurement_sets.c.public_id == set_id)
    row = tx.execute(statement.with_for_update() if lock else statement).one_or_none()
    if row is None:
        raise NotFound("there is no such measurement set")
    return row


def _kernels(tx: Transaction, numbers: Iterable[int]) -> dict[int, list[SetKernelView]]:
    """The kernel types of sets without their rows, by the set's row."""
    found: dict[int, list[SetKernelView]] = {number: [] for number in numbers}
    table = measurement_set_kernels.c
    shown = (table.set_id, table.type, table.given_as, table["columns"], table.fixed, table.row_count.label("rows"))
    for row in tx.execute(select(*shown).where(table.set_id.in_(found)).order_by(table.set_id, table.type)):
        fields = row._asdict()
        found[fields.pop("set_id")].append(SetKernelView.model_validate(fields))
    return found


def _view(row: Row[Any], kernels: list[SetKernelView]) -> MeasurementSetView:
    return MeasurementSetView(
        id=row.public_id,
        origin=IMPORTED,
        platform=SetPlatform.model_validate(row.platform),
        kernels=kernels,
        rows=sum(kernel.rows for kernel in kernels),
        rejected_by_reason=row.rejected,
        imported_at=row.imported_at,
        author=row.author,
    )


def _seen(kernel: KernelRows) -> SetKernelView:
    return SetKernelView(
        type=kernel.type,
        given_as=kernel.given_as,
        columns=list(kernel.columns),
        fixed=kernel.fixed,
        rows=len(kernel.latency_ms),
    )


def _loaded(row: Row[Any]) -> KernelRows:
    configs, latency_ms = unpack(row.rows, row.row_count, len(row.columns))
    return KernelRows(
        type=row.type,
        given_as=row.given_as,
        columns=tuple(row.columns),
        fixed=row.fixed,
        configs=configs,
        latency_ms=latency_ms,
    )
