"""The stored description equals the application's."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI

from benchfarm_api import openapi
from benchfarm_api.errors import PROBLEM_TYPE
from benchfarm_core.access import ACCESS, PUBLIC

STORED = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_the_stored_description_is_current(app: FastAPI) -> None:
    assert STORED.read_text() == openapi.text(app), "run: python -m benchfarm_api.openapi"


def test_every_error_is_a_problem(app: FastAPI) -> None:
    for path in app.openapi()["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == [PROBLEM_TYPE], operation["operationId"]


def test_a_token_is_asked_where_one_is_needed(app: FastAPI) -> None:
    for path in app.openapi()["paths"].values():
        for operation in path.values():
            public = ACCESS[operation["operationId"]] == PUBLIC
            assert ("security" in operation) is not public
            assert ("403" in operation["responses"]) is not public


def test_everything_is_described(app: FastAPI) -> None:
    for path in app.openapi()["paths"].values():
        for operation in path.values():
            assert operation["description"], operation["operationId"]


def test_a_request_s_texts_hold_no_nul(app: FastAPI, alice: httpx2.Client) -> None:
    document = app.openapi()
    schemas = document["components"]["schemas"]
    job = schemas["JobRequest"]["properties"]
    (model_id,) = document["paths"]["/v1/models/{model_id}"]["get"]["parameters"]
    labels = job["labels"]
    for described in (job["name"], labels["propertyNames"], labels["additionalProperties"], model_id["schema"]):
        assert re.search(described["pattern"], "m_1")
        assert re.search(described["pattern"], "m_\0") is None
    body = {"workloads": [{"kind": "kernel", "type": "fc", "config": {"cin": 1, "cout": 8}}]}
    for refused in ({"name": "a\0"}, {"labels": {"a\0": "b"}}, {"labels": {"a": "b\0"}}):
        assert alice.post("/v1/jobs", json=body | refused).status_code == 422
    assert alice.get("/v1/models/m_%00").status_code == 422
    assert "pattern" not in schemas["JobView"]["properties"]["name"]  # answers promise nothing of the kind


def test_every_list_of_a_request_has_a_limit(app: FastAPI) -> None:
    document = app.openapi()
    schemas = document["components"]["schemas"]

    def parts(part: Any, seen: set[str]) -> Iterator[dict[str, Any]]:
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from parts(inner, seen)
        if isinstance(part, dict):
            yield part
            name = part.get("$ref", "").rpartition("/")[2]
            if name and name not in seen:
                seen.add(name)
                yield from parts(schemas[name], seen)

    operations = [operation for path in document["paths"].values() for operation in path.values()]
    requests = [[one.get("parameters"), one.get("requestBody")] for one in operations]
    found = list(parts(requests, set()))
    lists = [part for part in found if part.get("type") == "array"]
    maps = [part for part in found if isinstance(part.get("additionalProperties"), dict)]
    assert len(lists) > 20
    assert [part for part in lists if "maxItems" not in part] == []
    assert [part for part in maps if "maxProperties" not in part and "enum" not in part.get("propertyNames", {})] == []


def test_every_number_is_exact_for_readers_that_keep_doubles(app: FastAPI) -> None:
    def numbers(part: Any) -> Iterator[float]:
        if isinstance(part, int | float):
            yield part
        elif isinstance(part, dict | list):
            for inner in part.values() if isinstance(part, dict) else part:
                yield from numbers(inner)

    assert max(numbers(app.openapi())) <= 2**53
