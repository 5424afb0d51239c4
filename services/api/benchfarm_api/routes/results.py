"""Stored results over all jobs, and single measurements with their evidence."""

from typing import Annotated

from fastapi import Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field

from benchfarm_api.access import CallerDep
from benchfarm_api.csv_export import PAGE_ROWS, csv_response, wants_csv
from benchfarm_api.parts import PartsDep
from benchfarm_api.problems import csv_too, not_found
from benchfarm_api.routes import ExportQuery, new_router
from benchfarm_core.csv_rows import RESULT_COLUMNS
from benchfarm_core.jobs import Page
from benchfarm_core.measurements import Timing
from benchfarm_core.values import Instant
from benchfarm_core.views import MeasurementView, ResultsWanted, ResultView
from benchfarm_store import results

router = new_router("results")


class ResultsQuery(ExportQuery):
    """Every given field must match."""

    workload_id: str | None = Field(default=None, max_length=64)
    platform: str | None = Field(default=None, max_length=300, description="id, key or alias")
    origin: str | None = Field(default=None, max_length=100)
    protocol: str | None = Field(default=None, max_length=40, description="its name, as in kernel")
    timing: Timing | None = None
    since: Instant | None = Field(default=None, description="measured at or after; with a time zone")
    until: Instant | None = Field(default=None, description="measured before; with a time zone")


@router.get("/results", response_model=Page[ResultView], responses=csv_too())
def list_results(
    request: Request,
    caller: CallerDep,
    parts: PartsDep,
    query: Annotated[ResultsQuery, Query()],
) -> Page[ResultView] | StreamingResponse:
    """Results, newest first. As CSV: all of them from the first on, whatever `cursor` and `limit` say."""
    wanted = ResultsWanted.model_validate(query.model_dump(include=set(ResultsWanted.model_fields)))

    def page(after: str | None, rows: int = PAGE_ROWS) -> Page[ResultView]:
        with parts.database.transaction(read_only=True) as tx:
            return results.list_results(tx, caller, wanted, cursor=after, limit=rows)

    if wants_csv(request, query.format):
        return csv_response(RESULT_COLUMNS, page, "results")
    return page(query.cursor, query.limit)


@router.get("/measurements/{measurement_id}", responses=not_found())
def get_measurement(
    measurement_id: Annotated[int, Path(ge=1, lt=2**53)], caller: CallerDep, parts: PartsDep
) -> MeasurementView:
    """One measurement with its evidence and, while they are kept, its samples."""
    with parts.database.transaction(read_only=True) as tx:
        return results.get_measurement(tx, measurement_id, caller)
