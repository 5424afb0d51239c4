"""What the table of engines counts as an answer, and what the matrix beside it says."""

from datetime import UTC, datetime
from typing import Any

import pytest

from bench.platforms import farthest_twin, platform_row, support_rows
from benchfarm_core.failures import FailureCode
from benchfarm_core.jobs import ItemState, ItemView
from benchfarm_core.platforms import ClockProof, parse_platform_key
from benchfarm_core.summaries import Grade, Summary
from benchfarm_core.support import OK, SupportRow, fault_of_outcome
from benchfarm_core.views import AttemptView, MeasurementView
from benchfarm_core.workloads import KernelWorkload

MNN = parse_platform_key("host/c1.t1.free/mnn-3.6.1/fp32")
SUMMARY = Summary(
    rule_version=1, median_ms=1.0, normalised_ms=1.0, canary="sgemm", low_ms=0.9, high_ms=1.1, interval_coverage=0.9,
    spread=0.001, grade=Grade.A, clock_proof=ClockProof.UNPINNED, launches=3, blocks=60, clean_share=1.0,
)  # fmt: skip


def items(measured: int, **failed: int) -> list[ItemView]:
    """So many measured items, and so many of each failure."""
    failures = [None] * measured + [code for code, count in failed.items() for _ in range(count)]
    return [_item(number, failure) for number, failure in enumerate(failures)]


def _item(number: int, failure: str | None) -> ItemView:
    return ItemView(
        item_no=number,
        workload_id=str(number),
        workload=KernelWorkload(catalogue_version=1, type="fc", config={}),
        label="",
        platform_id="",
        platform=MNN.key,
        repeat=0,
        state=ItemState.FAILED if failure else ItemState.SUCCEEDED,
        source=None,
        reason="",
        failure=failure,
        measurement_id=number,
        origin=None,
        board_id=None,
        measured_at=None,
        summary=None if failure else SUMMARY,
    )


def test_an_operator_that_an_engine_lacks_is_an_answer_and_a_wrong_result_is_none() -> None:
    row = platform_row(MNN, items(90, unsupported_operator=5, wrong_result=3, timeout=2), [1e-6] * 90, 60.0)
    assert (row["measured"], row["unsupported_operator"], row["wrong_result"], row["unanswered"]) == (90, 5, 3, 2)
    assert (row["of these"], row["answered"], row["met"]) == ("timeout 2", "95.0%", True)
    worse = platform_row(MNN, items(90, unsupported_operator=4, wrong_result=6), [1e-6] * 90, 60.0)
    assert (worse["answered"], worse["met"]) == ("94.0%", False)


@pytest.mark.parametrize(
    ("errors", "met"),
    [([1e-3, 9e-3], True), ([1e-3, 1.1e-2], False), ([1e-3], False)],
    ids=["within MNN's own limit", "beyond it", "not known of every kernel"],
)
def test_every_error_is_held_to_its_engines_gate(errors: list[float], met: bool) -> None:
    row = platform_row(MNN, items(2), errors, 1.0)
    assert (row["gate"], row["largest error"], row["met"]) == (1e-2, max(errors), met)


def test_the_farthest_twin_is_that_of_all_launches() -> None:
    def view(*distances: float | None) -> MeasurementView:
        launches = [{"launch_no": n} | ({"twin_relative_l2": one} if one else {}) for n, one in enumerate(distances)]
        made: dict[str, Any] = {"launches": launches}
        whole: dict[str, Any] = {"evidence": AttemptView.model_construct(**made) if distances else None}
        return MeasurementView.model_construct(**whole)

    unknown = view()
    assert farthest_twin([view(1e-3, None), unknown, view(2e-2, 4e-3)]) == 2e-2
    assert farthest_twin([view(None), unknown]) is None
    assert platform_row(MNN, items(1), [1e-3], 1.0, 2e-2)["farthest twin"] == 2e-2
    assert platform_row(MNN, items(1), [1e-3], 1.0)["farthest twin"] == ""


def test_a_platform_that_only_refuses_is_none() -> None:
    row = platform_row(MNN, items(0, unsupported_operator=2), [], 1.0)
    assert (row["answered"], row["median error"], row["largest error"], row["met"]) == ("100.0%", "", "", False)


def outcome(
    family: str,
    engine: str,
    code: str,
    count: int,
    error: float | None = None,
    subject: str = "",
    computed_in: str | None = "int8",
) -> SupportRow:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return SupportRow.model_validate({
        "family": family, "engine": engine, "version": "1", "options": "~edges=int8", "precision": "int8",
        "board_model": "m", "outcome": "ok" if code == OK else "failed", "code": code,
        "fault": fault_of_outcome(code), "subject": subject, "count": count, "max_relative_l2": error,
        "last_relative_l2": error, "mean_s": None, "first_at": at, "last_at": at, "measurement_id": None,
        "effective_precision": computed_in if code == OK else None,
    })  # fmt: skip


def test_the_matrix_says_how_many_were_ok_how_far_off_and_why_not() -> None:
    lacks = FailureCode.UNSUPPORTED_OPERATOR
    found = [
        outcome("fc", "mnn", OK, 3, 1e-3), outcome("act", "mnn", OK, 2, 2e-3), outcome("act", "ncnn", OK, 1),
        outcome("act", "mnn", lacks, 2, subject="HardSwish"), outcome("act", "mnn", lacks, 3, subject="Gelu"),
    ]  # fmt: skip
    act, fc, every = support_rows(found)
    mnn, ncnn = "mnn~edges=int8/int8", "ncnn~edges=int8/int8"
    lacking = "3 unsupported_operator: Gelu; 2 unsupported_operator: HardSwish"
    assert act == {"family": "act", mnn: f"2 ok (2.0e-03); {lacking}", ncnn: "1 ok"}
    assert fc == {"family": "fc", mnn: "3 ok (1.0e-03)", ncnn: "-"}
    assert every == {"family": "all", mnn: f"5 ok (2.0e-03); {lacking}", ncnn: "1 ok"}


def test_ok_in_another_precision_is_counted_beside_the_ok() -> None:
    found = [
        outcome("softmax", "ncnn", OK, 4, computed_in="fp32"), outcome("fc", "ncnn", OK, 5),
        outcome("fc", "ncnn", OK, 1, computed_in=None),
    ]  # fmt: skip
    cells = {row["family"]: row["ncnn~edges=int8/int8"] for row in support_rows(found)}
    assert cells == {
        "softmax": "4 ok; 4 of these in fp32",
        "fc": "6 ok; 1 of these in an unknown precision",
        "all": "10 ok; 4 of these in fp32; 1 of these in an unknown precision",
    }


def test_a_platform_says_what_its_kernels_were_computed_in() -> None:
    said = ["int8", "fp32", "int8", None]
    told = [one.model_copy(update={"effective_precision": word}) for one, word in zip(items(4), said, strict=True)]
    row = platform_row(MNN, [*told, *items(0, timeout=1)], [], 1.0)
    assert row["computed in"] == "2 int8, 1 fp32, 1 an unknown precision"
