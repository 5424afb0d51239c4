"""Records: groups, and CSV that other programs read."""

import csv
import io
from datetime import UTC, datetime
from pathlib import Path

from benchfarm import Grade, ItemState, ItemView, Results, Summary
from benchfarm_core.csv_rows import ITEM_COLUMNS
from benchfarm_core.jobs import ItemSource
from benchfarm_core.platforms import ClockProof
from benchfarm_core.workloads import KernelWorkload

SUMMARY = Summary(
    rule_version=1,
    median_ms=1.25,
    normalised_ms=None,
    canary="sgemm",
    low_ms=1.2,
    high_ms=1.3,
    interval_coverage=0.75,
    spread=0.01,
    grade=Grade.B,
    clock_proof=ClockProof.UNPINNED,
    launches=3,
    blocks=30,
    clean_share=1.0,
)


def item(number: int, platform: str = "p/one", **changes: object) -> ItemView:
    whole = ItemView(
        item_no=number,
        workload_id="w_1",
        workload=KernelWorkload(catalogue_version=1, type="fc", config={"cin": 8}),
        label="fc cin=8",
        platform_id="p_1",
        platform=platform,
        repeat=0,
        state=ItemState.SUCCEEDED,
        source=ItemSource.NEW,
        reason="",
        failure=None,
        measurement_id=2**40,
        origin="here",
        board_id="b_1",
        measured_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        summary=SUMMARY,
    )
    return whole.model_copy(update=changes)


def failed(number: int, **changes: object) -> ItemView:
    gone = {"summary": None, "state": ItemState.FAILED, "failure": "timeout", "reason": "too slow"}
    return item(number).model_copy(update={**gone, **changes})


def test_groups_keep_the_order_of_the_job() -> None:
    results = Results([item(0, "p/two"), item(1), failed(2, platform="p/two"), failed(3, state=ItemState.PENDING)])
    assert list(results.by_platform) == ["p/two", "p/one"]
    assert [found.item_no for found in results.measured] == [0, 1]
    assert [found.item_no for found in results.unmeasured] == [2]


def test_csv_reads_back(tmp_path: Path) -> None:
    results = Results([item(0), failed(1)])
    text = results.to_csv(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes().decode() == text
    first, second = csv.DictReader(io.StringIO(text, newline=""))
    assert tuple(first) == ITEM_COLUMNS
    assert float(first["median_ms"]) == 1.25
    assert (first["grade"], first["clock_proof"], first["normalised_ms"]) == ("B", "unpinned", "")
    assert datetime.fromisoformat(first["measured_at"]) == results[0].measured_at
    assert (second["median_ms"], second["failure"], second["reason"]) == ("", "timeout", "too slow")


def test_csv_cells_cannot_become_formulas() -> None:
    text = Results([failed(0, reason="=cmd|' /C calc'!A0", label='a,"b"\nc')]).to_csv()
    [row] = csv.DictReader(io.StringIO(text, newline=""))
    assert row["reason"].startswith("'=")
    assert row["label"] == 'a,"b"\nc'


def test_an_empty_job_is_a_header() -> None:
    assert Results().to_csv().strip() == ",".join(ITEM_COLUMNS)
