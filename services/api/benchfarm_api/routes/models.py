"""Uploaded models of the account."""

import re
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import Path, Query, Request
from pydantic import Field

from benchfarm_api.access import CallerDep
from benchfarm_api.parts import PartsDep
from benchfarm_api.problems import binary_body, not_found, quota, too_large
from benchfarm_api.routes import PageParameters, new_router
from benchfarm_api.uploads import Bound, inspect_and_keep, received
from benchfarm_core.errors import BenchfarmError, InvalidRequest
from benchfarm_core.fusion import ModelKernels
from benchfarm_core.jobs import Page
from benchfarm_core.values import Value
from benchfarm_core.views import ListedModel, ModelView
from benchfarm_core.workloads import Fill, IntsFill, ModelFormat
from benchfarm_store import fusions, models

router = new_router("models")

ModelId = Annotated[str, Path(max_length=64)]


class UploadQuery(Value):
    """What the file is, and what its inputs are to be."""

    name: str = Field(min_length=1, max_length=200)
    format: ModelFormat | None = Field(default=None, description="by default what the file's own bytes say")
    dims: tuple[str, ...] = Field(
        default=(), max_length=200, description="binds an open dimension: `name:size` or `input[axis]:size`"
    )
    ints: tuple[str, ...] = Field(
        default=(), max_length=64, description="fills an input with integers below a limit: `input:limit`"
    )


_COLUMN: Final = re.compile(r"([a-z][a-z0-9_]{0,39}):([A-Za-z][A-Za-z0-9_-]{0,39}|[0-9]{1,15})")
_PAIR: Final = re.compile(r"(.{1,200}):([1-9][0-9]{0,9})", re.DOTALL)


@router.post("/models", status_code=201, openapi_extra=binary_body(), responses=quota() | too_large())
async def upload_model(
    request: Request,
    caller: CallerDep,
    parts: PartsDep,
    query: Annotated[UploadQuery, Query()],
) -> ModelView:
    """Upload an ONNX or TFLite file as the raw body. It is opened in a limited process; its verdict is the answer.

    Nothing is kept of a file that is refused. The same bytes with the same dimensions are the same model,
    under its first name.
    """
    sizes = _pairs("dims", query.dims)
    fills: dict[str, Fill] = {
        input_name: IntsFill(below=below) for input_name, below in _pairs("ints", query.ints).items()
    }
    try:
        async with received(request, parts, caller) as file:
            model = await inspect_and_keep(parts, file, caller, query.name, Bound(sizes, fills, query.format))
    except BenchfarmError as error:
        parts.metrics.uploads.labels(error.code).inc()
        raise
    parts.metrics.uploads.labels("accepted").inc()
    return model


@router.get("/models")
def list_models(caller: CallerDep, parts: PartsDep, page: PageParameters) -> Page[ListedModel]:
    """The account's models, without their operator graphs."""
    with parts.database.transaction(read_only=True) as tx:
        return models.list_models(tx, caller, page.cursor, page.limit)


@router.get("/models/{model_id}", responses=not_found())
def get_model(model_id: ModelId, caller: CallerDep, parts: PartsDep) -> ModelView:
    """One model of the account, with its operator graph."""
    with parts.database.transaction(read_only=True) as tx:
        return models.get_model(tx, model_id, caller)


@router.delete("/models/{model_id}", status_code=204, responses=not_found())
def delete_model(model_id: ModelId, caller: CallerDep, parts: PartsDep) -> None:
    """Remove a model from the account. Jobs that use it already go on."""
    with parts.database.transaction() as tx:
        models.delete_model(tx, model_id, caller)


@router.get("/models/{model_id}/kernels", responses=not_found())
def list_model_kernels(
    model_id: ModelId,
    platform: Annotated[str, Query(max_length=300, description="id, key or alias")],
    caller: CallerDep,
    parts: PartsDep,
    config: Annotated[
        tuple[str, ...], Query(max_length=50, description="columns of a generated model, `name:value`: `hw:160`")
    ] = (),
) -> ModelKernels:
    """What a platform's engine would compute as one kernel each; operators that the catalogue lacks are listed too.

    Of an uploaded model, or with its name as id of a generated one, in its default configuration but for `config`.
    """
    columns = _columns(config)
    with parts.database.transaction(read_only=True) as tx:
        return fusions.model_kernels(tx, model_id, platform, caller, columns)


def _columns(texts: Sequence[str]) -> dict[str, int | str]:
    columns: dict[str, int | str] = {}
    for text in texts:
        match = _COLUMN.fullmatch(text)
        if match is None or match[1] in columns:
            raise InvalidRequest(f"config={text[:100]}: write name:value, each name once", field="config")
        columns[match[1]] = int(match[2]) if match[2].isdigit() else match[2]
    return columns


def _pairs(field: str, texts: Sequence[str]) -> dict[str, int]:
    pairs: dict[str, int] = {}
    for text in texts:
        match = _PAIR.fullmatch(text)
        if match is None or match[1] in pairs:
            form = "name:number, a whole number from 1 on of at most ten digits, each name once"
            raise InvalidRequest(f"{field}={text[:100]}: write {form}", field=field)
        pairs[match[1]] = int(match[2])
    return pairs
