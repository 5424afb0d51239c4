"""The API's description: what FastAPI derives, with our errors and the token on every operation.

`python -m benchfarm_api.openapi` writes `docs/openapi.json`; a test compares it.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from benchfarm_api import problems
from benchfarm_api.errors import Problem
from benchfarm_core.access import ACCESS, PUBLIC

WITHOUT_NUL: Final = r"^[^\u0000]*$"
"""What `bodies` lets through of every text; more exact patterns say it already."""
_SAID_ELSEWHERE: Final = frozenset({"enum", "const", "pattern", "format", "contentMediaType"})


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of an application."""
    document = get_openapi(
        title="Benchfarm",
        version="1",
        description="A measurement farm for edge inference.",
        routes=app.routes,
    )
    schemas = document["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema(mode="serialization")
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path in document["paths"].values():
        for operation in path.values():
            _complete(operation)
            _refuse_nul([operation.get("parameters"), operation.get("requestBody")], schemas)
    return document


def _complete(operation: dict[str, Any]) -> None:
    """Answers that every operation can give, beside those that its route declares."""
    shared = problems.invalid() | problems.unavailable()
    if ACCESS[operation["operationId"]] != PUBLIC:
        operation["security"] = [{"token": []}]
        shared |= problems.unauthenticated() | problems.forbidden()
    if "requestBody" in operation:
        shared |= problems.too_large()
    responses = operation["responses"] | {str(status): answer for status, answer in shared.items()}
    operation["responses"] = dict(sorted(responses.items()))


def _refuse_nul(request: Any, schemas: dict[str, Any]) -> None:
    """Say of every text of a request that it holds no NUL."""
    for schema in _texts(request, schemas, set()):
        schema["pattern"] = WITHOUT_NUL


def _texts(part: Any, schemas: dict[str, Any], seen: set[str]) -> Iterator[dict[str, Any]]:
    """The schemas of plain texts and of names in a part of the document, and in the shared ones that it names."""
    if isinstance(part, list):
        for inner in part:
            yield from _texts(inner, schemas, seen)
    if not isinstance(part, dict):
        return
    names = part.get("propertyNames")
    for schema in (part if part.get("type") == "string" else None, names):
        if schema is not None and not _SAID_ELSEWHERE & schema.keys():
            yield schema
    for inner in part.values():
        yield from _texts(inner, schemas, seen)
    name = str(part.get("$ref", "")).rpartition("/")[2]
    if name and name not in seen:
        seen.add(name)
        yield from _texts(schemas[name], schemas, seen)


def text(app: FastAPI) -> str:
    """The document as it is stored."""
    return json.dumps(describe(app), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the document to the given file, by default docs/openapi.json."""
    from benchfarm_api.main import create_app
    from benchfarm_api.settings import Settings

    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/openapi.json")
    with TemporaryDirectory() as folder:
        # Nothing is connected to: an application connects when it starts, and this one does not.
        settings = Settings(
            database_url="postgresql://nowhere", redis_url="redis://nowhere", benchfarm_data_dir=Path(folder)
        )
        target.write_text(text(create_app(settings)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
