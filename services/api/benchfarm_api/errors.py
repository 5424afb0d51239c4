"""Errors as HTTP answers: one table from class to status, one shape (problem+json, RFC 9457)."""

import logging
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from benchfarm_api.bodies import is_json
from benchfarm_core import errors
from benchfarm_core.error_codes import ERROR_CODES
from benchfarm_core.refusals import refusal_of

logger = logging.getLogger(__name__)

STATUS: Final[dict[type[errors.BenchfarmError], int]] = {
    errors.BenchfarmError: 500,
    errors.InvalidRequest: 422,
    errors.TooLarge: 413,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.LeaseLost: 409,
    errors.QuotaExceeded: 429,
    errors.UpgradeRequired: 426,
    errors.Unavailable: 503,
    errors.DeviceError: 500,
    errors.TransientDeviceError: 500,
    errors.PermanentDeviceError: 500,
}
"""One line per class; a test fails for a class without one."""

PROBLEM_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 2
MESSAGE_LENGTH: Final = 500


class Problem(BaseModel):
    """The body of every answer with a status from 400 on."""

    type: str = Field(description="`urn:benchfarm:error:` and the code")
    title: str = Field(description="what the code means")
    status: int
    detail: str = Field(description="what is wrong here, and what to do")
    code: str = Field(description="stable, for programs")
    field: str | None = Field(description="the offending part of the request, dotted")
    request_id: str
    limit: int | None = Field(description="the quota's limit, when a quota is used up")
    retry_after_s: int | None = Field(description="when asking again makes sense")


def install(app: FastAPI) -> None:
    """Answer every known error with a problem; `edge.Edge` answers the unknown ones."""
    app.add_exception_handler(errors.BenchfarmError, _answer_known)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)


def answer(error: errors.BenchfarmError, request_id: str) -> Response:
    """The response for an error."""
    problem = _problem(error, request_id)
    return Response(
        problem.model_dump_json(), status_code=problem.status, media_type=PROBLEM_TYPE, headers=_headers(problem)
    )


def _problem(error: errors.BenchfarmError, request_id: str) -> Problem:
    quota = error if isinstance(error, errors.QuotaExceeded) else None
    status = STATUS[type(error)]
    return Problem(
        type=f"urn:benchfarm:error:{error.code}",
        title=ERROR_CODES[error.code],
        status=status,
        detail=error.detail,
        code=error.code,
        field=error.field,
        request_id=request_id,
        limit=quota.limit if quota else None,
        retry_after_s=quota.retry_after_s if quota else RETRY_AFTER_S if status == STATUS[errors.Unavailable] else None,
    )


def _headers(problem: Problem) -> dict[str, str]:
    headers: dict[str, str] = {}
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(problem.retry_after_s)
    if problem.status == STATUS[errors.Unauthenticated]:
        headers["WWW-Authenticate"] = 'Bearer realm="benchfarm"'
    if problem.status == STATUS[errors.UpgradeRequired]:
        headers["Upgrade"] = "benchfarm-agent"
    return headers


async def _answer_known(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.BenchfarmError)
    if STATUS[type(error)] >= STATUS[errors.BenchfarmError]:
        logger.warning("answered with an error of the farm", extra={"code": error.code, "detail": error.detail})
    return answer(error, request.state.request_id)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    first = problems[0]
    # The first part says where FastAPI looked (body, query, path, header); the rest names the field.
    found = refusal_of(problems, skip=1)
    field = "" if first["type"] == "json_invalid" else found.field  # there the place is a number of characters
    others = f" (and {found.others} more)" if found.others else ""
    detail = _told_in_our_words(request, first) or f"{field or first['loc'][0]}: {found.detail}{others}"
    invalid = errors.InvalidRequest(detail[:MESSAGE_LENGTH], field=field[:MESSAGE_LENGTH] or None)
    return answer(invalid, request.state.request_id)


def _told_in_our_words(request: Request, first: Mapping[str, Any]) -> str | None:
    """What the framework tells in words of its own, which say nothing to the caller; None for all the rest."""
    loc, kind = first["loc"], first["type"]
    if loc[0] == "path" and kind == "uuid_parsing":
        return f"{str(first['input'])[:60]!r} is no {str(loc[-1]).replace('_', ' ')}"
    # without a type that says JSON the framework hands the body on as bytes, which are never what is wanted
    if tuple(loc) == ("body",) and kind != "missing" and not is_json(request):
        return "the body was not read as JSON: send Content-Type: application/json"
    return None


async def _answer_http(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: no such path, not this method, a body that is no JSON."""
    assert isinstance(error, HTTPException)
    if error.status_code == STATUS[errors.NotFound]:
        return answer(errors.NotFound(f"there is no {request.url.path[:200]}"), request.state.request_id)
    if error.status_code != 405:
        return answer(errors.InvalidRequest(str(error.detail)[:MESSAGE_LENGTH]), request.state.request_id)
    refused = errors.InvalidRequest(f"{request.method} is not possible here", code="method_not_allowed")
    problem = _problem(refused, request.state.request_id).model_copy(update={"status": 405})
    headers = {"Allow": ", ".join(sorted(_methods(request)))}
    return Response(problem.model_dump_json(), status_code=405, media_type=PROBLEM_TYPE, headers=headers)


def _methods(request: Request) -> set[str]:
    """What the path of a request can be called with; the framework names the methods of one route only."""
    path = request.scope["route"].path
    routes = [context.original_route for context in iter_route_contexts(request.app.routes)]
    same = [route for route in routes if isinstance(route, APIRoute) and route.path == path]
    return {method for route in same for method in route.methods or ()}
