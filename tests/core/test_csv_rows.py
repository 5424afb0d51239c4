"""CSV as the farm and the SDK write it: every field has its column, and no cell is a formula."""

import pytest

from benchfarm_core.comparing import Comparison
from benchfarm_core.csv_rows import ITEM_COLUMNS, RESULT_COLUMNS, csv_header, csv_rows
from benchfarm_core.jobs import ItemState, ItemView
from benchfarm_core.platforms import ClockProof
from benchfarm_core.summaries import Grade, Summary
from benchfarm_core.views import ResultView
from benchfarm_core.workloads import KernelWorkload


def item(label: str) -> ItemView:
    return ItemView(
        item_no=0,
        workload_id="w_1",
        workload=KernelWorkload(catalogue_version=1, type="fc", config={"cin": 8}),
        label=label,
        platform_id="p_1",
        platform="p",
        repeat=0,
        state=ItemState.PENDING,
        source=None,
        reason="",
        failure=None,
        measurement_id=None,
        origin=None,
        board_id=None,
        measured_at=None,
        summary=None,
    )


@pytest.mark.parametrize(("columns", "kind"), [(ITEM_COLUMNS, ItemView), (RESULT_COLUMNS, ResultView)])
def test_every_field_has_one_column(columns: tuple[str, ...], kind: type[ItemView | ResultView]) -> None:
    assert len(set(columns)) == len(columns)
    answers = set(Summary.model_fields) | (set(Comparison.model_fields) if "comparison" in kind.model_fields else set())
    assert set(columns) == (set(kind.model_fields) - {"summary", "comparison"}) | answers


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_text_that_a_spreadsheet_would_run_gets_a_quote(start: str) -> None:
    assert f"'{start}1" in csv_rows(("label",), [item(f"{start}1")])


def test_a_mark_is_a_word_and_moves_no_column() -> None:
    assert RESULT_COLUMNS[-3:] == ("noisy", "effective_precision", "protocol_parameters")
    assert ITEM_COLUMNS[-4:] == (*RESULT_COLUMNS[-3:], "b_effective_precision")
    summary = Summary(
        rule_version=1, median_ms=1, normalised_ms=1, canary=None, low_ms=1, high_ms=1, interval_coverage=0, spread=0,
        grade=Grade.D, clock_proof=ClockProof.UNPINNED, launches=1, blocks=1, clean_share=1, noisy=True,
    )  # fmt: skip
    marked = item("x").model_copy(update={"summary": summary})
    assert csv_rows(("grade", "noisy"), [marked, item("y")]) == "D,true\r\n,\r\n"


def test_a_protocols_changed_parameters_are_one_cell() -> None:
    changed = item("x").model_copy(update={"protocol_parameters": {"visit_ms": 50, "half_width_target": None}})
    told = csv_rows(("item_no", "protocol_parameters"), [changed, item("y")])
    assert told == "0,visit_ms=50 half_width_target=none\r\n0,\r\n"


def test_lines_have_the_cells_of_the_header() -> None:
    assert csv_header(("item_no", "workload", "median_ms")) == "item_no,workload,median_ms\r\n"
    assert csv_rows(("item_no", "workload", "median_ms"), [item("x")]) == "0,fc cin=8,\r\n"
