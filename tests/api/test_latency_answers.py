"""Answers as columns leave part by part: the same bytes, and nothing held twice."""

import tracemalloc
from typing import Any

import msgpack

from benchfarm_api.latency_answers import packed

COLUMN_BYTES = 2**20


def document() -> dict[str, Any]:
    return {
        "format": 1,
        "numbers": {f"n{at}": bytes([at]) * COLUMN_BYTES for at in range(12)},
        "coded": {},
        "values": {"platform": ["a", "ä"], "origin": [None]},
        "pin": {"predictors": ["pr_1"], "fusions": {"a": "b"}, "as_of": None},
        "measuring": None,
    }


def test_the_parts_are_the_whole() -> None:
    assert b"".join(packed(document())) == msgpack.packb(document())
    assert b"".join(packed({})) == msgpack.packb({})


def test_no_column_is_held_twice() -> None:
    """A question's largest answer was held three times: as columns, packed, and in pieces."""
    columns = document()
    tracemalloc.start()
    try:
        for _ in packed(columns):
            pass
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * COLUMN_BYTES
    assert columns == {}
