"""Uploaded models: private to their account, named by what they contain."""

import math
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Column, Row, Select, insert, select, text, update

from benchfarm_core.errors import NotFound
from benchfarm_core.jobs import Page
from benchfarm_core.values import Value
from benchfarm_core.views import ListedModel, ModelView
from benchfarm_core.workloads import Cost, InputSpec, ModelFormat, Sha256, UploadedWorkload
from benchfarm_store import accounts, cursors, specs
from benchfarm_store.database import Transaction
from benchfarm_store.tables import models
from benchfarm_store.tokens import Caller
from benchfarm_workloads.costs import BYTES_PER_ELEMENT


class NewModel(Value):
    """An accepted upload: what the inspection said of a kept file."""

    name: str
    sha256: Sha256
    size_bytes: int
    format: ModelFormat = "onnx"
    opset: int
    dims: dict[str, int]
    inputs: tuple[InputSpec, ...]
    graph: dict[str, Any]
    flops: int | None
    parameters: int | None
    reasons: tuple[str, ...] = ()
    reference_sha256: Sha256 | None = None

    @property
    def workload(self) -> UploadedWorkload:
        """What is measured when this model is."""
        return UploadedWorkload(sha256=self.sha256, format=self.format, dims=self.dims, inputs=self.inputs)

    @property
    def cost(self) -> Cost | None:
        """What is known of it; None where the operations could not be counted."""
        if self.flops is None:
            return None
        elements = sum(math.prod(one.shape) for one in self.inputs)
        weights = self.parameters or 0
        return Cost(
            flops=self.flops,
            parameters=weights,
            input_bytes=elements * BYTES_PER_ELEMENT,
            output_bytes=0,
            weight_bytes=min(weights * BYTES_PER_ELEMENT, self.size_bytes),
        )


def add(tx: Transaction, model: NewModel, *, by: Caller) -> ModelView:
    """A new model of the account; the same file with the same dims and inputs is the model it already has.

    Raises QuotaExceeded when the account's stored bytes are full.
    """
    workload_id = specs.ensure_workloads(tx, [specs.Resolved(model.workload, model.cost)])[0]
    if model.reference_sha256 is not None:
        tx.execute(_REFERENCE, {"id": workload_id, "sha256": model.reference_sha256})
    # the account's row is the lock under which the same upload twice at once stays one model
    accounts.take_bytes(tx, by.account_number, model.size_bytes)
    row = tx.execute(_of(by, _SHOWN).where(models.c.workload_id == workload_id)).one_or_none()
    if row is not None:
        accounts.take_bytes(tx, by.account_number, -model.size_bytes)
        # what is read of a file grows with the farm's versions
        read = {"reference_sha256": model.reference_sha256, "graph": model.graph}
        return _view(tx.execute(update(models).where(models.c.id == row.id).values(read).returning(*_SHOWN)).one())
    columns = model.model_dump(mode="json") | {
        "id": "m_" + secrets.token_hex(8),
        "account_id": by.account_number,
        "workload_id": workload_id,
        "created_at": tx.now,
    }
    return _view(tx.execute(insert(models).values(**columns).returning(*_SHOWN)).one())


_REFERENCE = text("""
    UPDATE workloads SET reference_sha256 = :sha256 WHERE id = :id AND reference_sha256 IS DISTINCT FROM :sha256
""")


def list_models(tx: Transaction, by: Caller, cursor: str | None, limit: int) -> Page[ListedModel]:
    """The account's models without their graphs, newest first."""
    statement = _of(by, _LISTED).order_by(models.c.created_at.desc(), models.c.id.desc()).limit(limit + 1)
    if cursor:
        at, model_id = cursors.decode("models", cursor, datetime, str)
        older = (models.c.created_at < at) | ((models.c.created_at == at) & (models.c.id < model_id))
        statement = statement.where(older)
    rows = tx.execute(statement).all()
    return cursors.page(rows, limit, _listed, lambda row: cursors.encode("models", row.created_at, row.id))


def get_model(tx: Transaction, model_id: str, by: Caller) -> ModelView:
    """One model of the caller's account. Raises NotFound, also for those of others."""
    row = tx.execute(_of(by, _SHOWN).where(models.c.id == model_id)).one_or_none()
    if row is None:
        raise NotFound("there is no such model")
    return _view(row)


def delete_model(tx: Transaction, model_id: str, by: Caller) -> ModelView:
    """Take a model away: no new job may use it; its results stay readable to the account. Raises NotFound."""
    model = get_model(tx, model_id, by)
    statement = update(models).where(models.c.id == model_id, models.c.deleted_at.is_(None)).values(deleted_at=tx.now)
    if tx.execute(statement).rowcount:
        accounts.take_bytes(tx, by.account_number, -model.size_bytes)
    return model


def unneeded_files(tx: Transaction, sha256s: Sequence[str]) -> list[str]:
    """Those of some kept files that nobody needs any more.

    A model or reference is needed while some account has a model of that workload, an unfinished job names it,
    or a measurement of it waits or runs.
    """
    return list(tx.execute(_UNNEEDED, {"sha256s": list(sha256s)}).scalars()) if sha256s else []


_UNNEEDED = text("""
    SELECT x.sha256 FROM unnest(CAST(:sha256s AS text[])) AS x(sha256) WHERE NOT EXISTS (
        SELECT FROM models o CROSS JOIN LATERAL (
            SELECT ARRAY(SELECT o.workload_id UNION ALL
                SELECT p.workload_id FROM pairs p WHERE o.workload_id IN (p.a_id, p.b_id)) AS ids) y
        WHERE (o.sha256 = x.sha256 OR o.reference_sha256 = x.sha256) AND (
            EXISTS (SELECT FROM models l WHERE l.workload_id = o.workload_id AND l.deleted_at IS NULL)
            OR EXISTS (SELECT FROM jobs j WHERE j.finished_at IS NULL AND y.ids && j.workload_ids)
            OR EXISTS (
                SELECT FROM measurements m WHERE m.workload_id = ANY(y.ids) AND m.state IN ('wanted', 'leased'))))
    ORDER BY x.sha256
""")


_SHOWN: Final = [models.c[name] for name in ModelView.model_fields]
_LISTED: Final = [models.c[name] for name in ListedModel.model_fields]


def _of(by: Caller, columns: Sequence[Column[Any]]) -> Select[Any]:
    return select(*columns).where(models.c.account_id == by.account_number, models.c.deleted_at.is_(None))


def _listed(row: Row[Any]) -> ListedModel:
    return ListedModel.model_validate(row._asdict())


def _view(row: Row[Any]) -> ModelView:
    return ModelView.model_validate(row._asdict())
