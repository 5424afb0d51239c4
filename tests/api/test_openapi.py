"""The stored description equals the application's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def test_every_number_is_exact_for_readers_that_keep_doubles(app: FastAPI) -> None:
    def numbers(part: Any) -> Iterator[float]:
        if isinstance(part, int | float):
            yield part
        elif isinstance(part, dict | list):
            for inner in part.values() if isinstance(part, dict) else part:
                yield from numbers(inner)

    assert max(numbers(app.openapi())) <= 2**53
