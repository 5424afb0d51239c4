"""Columns that are made platform by platform hold what columns made row by row hold."""

from math import inf, nan
from typing import Any

import pytest

from benchfarm_core.latency import unanswered
from benchfarm_core.latency_columns import ColumnPart, LatencyColumns, columns_of, columns_of_parts
from benchfarm_core.measurements import Timing

OWN: dict[str, list[Any]] = {
    "median_ms": [1.0, 2.5, nan],
    "low_ms": [0.5, 2.0, 0.0],
    "high_ms": [2.0, 3.0, inf],
    "normalised_ms": [1.0, 2.5, nan],
    "coverage": [0.9, 0.9, 0.0],
    "unknown_kernels": [(), ("fc",), ()],
    "outside": [(), (), ("conv", "fc")],
}


def part(key: str, own: dict[str, list[Any]], **common: Any) -> ColumnPart:
    like = {**vars(unanswered(0, key, Timing.ALONE, "", "")), "error": None, "detail": None, "source": "predicted"}
    return ColumnPart({**like, **common}, own.get)


def rows_of(parts: list[ColumnPart], count: int) -> list[dict[str, Any]]:
    return [
        {**part.like, "item_no": number, **{name: values[number] for name in OWN if (values := part.own(name))}}
        for number in range(count)
        for part in parts
    ]


@pytest.mark.parametrize("platforms", [1, 2, 3])
def test_they_are_the_columns_of_the_rows(platforms: int) -> None:
    parts = [
        part(f"p{number}", {name: values[number:] + values[:number] for name, values in OWN.items()},
             predictor_id=f"pr_{number}", predictor_version=number or None)
        for number in range(platforms)
    ]  # fmt: skip
    found = LatencyColumns.of(columns_of_parts(parts, 3))
    wanted = LatencyColumns.of(columns_of(rows_of(parts, 3)))
    assert found.platforms == wanted.platforms == tuple(f"p{number}" for number in range(platforms))
    assert [found.row(at) for at in range(found.count)] == [wanted.row(at) for at in range(wanted.count)]
    assert found.row(platforms)["low_ms"] == 2.0


def test_of_no_items_they_are_empty() -> None:
    assert LatencyColumns.of(columns_of_parts([part("p", {name: [] for name in OWN})], 0)).count == 0
