"""How a route declares the answers beside its own: errors by status, other media types, raw bodies."""

from typing import Any, Final

from benchfarm_api.errors import PROBLEM_TYPE, STATUS
from benchfarm_core import errors

Responses = dict[int | str, dict[str, Any]]

PROBLEM_SCHEMA: Final = {"$ref": "#/components/schemas/Problem"}
_BINARY: Final = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def problem(kind: type[errors.BenchfarmError], meaning: str) -> Responses:
    """The answer for a class of errors."""
    content = {PROBLEM_TYPE: {"schema": PROBLEM_SCHEMA}}
    return {STATUS[kind]: {"description": meaning, "content": content}}


def not_found() -> Responses:
    """No such thing, or not the caller's to see."""
    return problem(errors.NotFound, "No such thing, or not yours to see")


def conflict() -> Responses:
    """The state does not allow it."""
    return problem(errors.Conflict, "The present state does not allow this")


def lease_lost() -> Responses:
    """The lease is over."""
    return problem(errors.LeaseLost, "The lease ended or belongs to somebody else")


def quota() -> Responses:
    """A quota is used up."""
    return problem(errors.QuotaExceeded, "A quota of the account is used up")


def too_large() -> Responses:
    """Above a limit."""
    return problem(errors.TooLarge, "Above a stated limit")


def upgrade_required() -> Responses:
    """The agent's protocol version is not served."""
    return problem(errors.UpgradeRequired, "The agent's protocol version is not served")


def unauthenticated() -> Responses:
    """No valid token."""
    return problem(errors.Unauthenticated, "The token is missing, unknown, used, expired or revoked")


def forbidden() -> Responses:
    """A token without the right."""
    return problem(errors.Forbidden, "The token's role has no right to this")


def invalid() -> Responses:
    """The request cannot be served as it stands."""
    return problem(errors.InvalidRequest, "The request cannot be served as it stands; `field` names the part")


def unavailable() -> Responses:
    """A part of the farm is away."""
    return problem(errors.Unavailable, "A part of the farm is away; try again shortly")


def csv_too() -> Responses:
    """The answer can be CSV as well."""
    return {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}


def event_stream() -> Responses:
    """The answer is a stream of server-sent events, each with an Event as JSON in `data`."""
    parts = {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}}
    return {200: {"content": {"text/event-stream": {"schema": {"type": "object", "properties": parts}}}}}


def binary_answer() -> Responses:
    """The answer is a file."""
    return {200: {"content": _BINARY}}


def binary_body() -> dict[str, Any]:
    """The request's body is a file."""
    return {"requestBody": {"required": True, "content": _BINARY}}


def columns_too() -> Responses:
    """The answer can be columns as MessagePack as well."""
    return {200: {"content": {"application/vnd.msgpack": {"schema": {"type": "string", "format": "binary"}}}}}
