"""Predictors: which versions there are and how good they are, their files, and the way back to the version before."""

from typing import Annotated

from fastapi import Path, Query, Response

from benchfarm_api.access import CallerDep
from benchfarm_api.parts import PartsDep
from benchfarm_api.problems import binary_answer, conflict, not_found
from benchfarm_api.routes import PageQuery, new_router
from benchfarm_api.routes.platforms import PlatformName
from benchfarm_core.jobs import Page
from benchfarm_core.predictors import PredictorsWanted, PredictorView, RollbackRequest
from benchfarm_store import predictors

router = new_router("predictors")

PredictorId = Annotated[str, Path(max_length=40)]
SubjectName = Annotated[str, Path(max_length=60, description="a kernel type, or `model`")]


class PredictorsQuery(PredictorsWanted, PageQuery):
    """Every given field must match."""


@router.get("/predictors")
def list_predictors(parts: PartsDep, query: Annotated[PredictorsQuery, Query()]) -> Page[PredictorView]:
    """Versions of predictors, newest first. `state=active`: those that answer."""
    wanted = PredictorsWanted.model_validate(query.model_dump(include=set(PredictorsWanted.model_fields)))
    with parts.database.transaction(read_only=True) as tx:
        return predictors.list_predictors(tx, wanted, cursor=query.cursor, limit=query.limit)


@router.get("/predictors/{predictor_id}", responses=not_found())
def get_predictor(predictor_id: PredictorId, parts: PartsDep) -> PredictorView:
    """One version: where it comes from, what it was made of, and how near it came to what it had not seen."""
    with parts.database.transaction(read_only=True) as tx:
        return predictors.get_predictor(tx, predictor_id)


@router.get("/predictors/{predictor_id}/file", response_class=Response, responses=not_found() | binary_answer())
def get_predictor_file(predictor_id: PredictorId, parts: PartsDep) -> Response:
    """The file of a version, whose SHA-256 the version tells: safetensors, JSON. Only the newest versions keep it."""
    with parts.database.transaction(read_only=True) as tx:
        file = predictors.file(tx, predictor_id)
    return Response(file, media_type="application/octet-stream")


@router.post("/platforms/{platform:path}/predictors/{subject}/rollback", responses=not_found() | conflict())
def rollback_predictor(
    platform: PlatformName, subject: SubjectName, request: RollbackRequest, caller: CallerDep, parts: PartsDep
) -> PredictorView:
    """Let the version before the active one answer again, at once. With `version`: only if that one answers now."""
    with parts.database.transaction() as tx:
        return predictors.rollback(tx, platform, subject, by=caller, reason=request.reason, version=request.version)
