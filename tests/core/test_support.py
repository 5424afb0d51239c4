"""What a cell of the support matrix says."""

from datetime import UTC, datetime

import pytest

from benchfarm_core.support import SupportRow, computed_otherwise, fault_of_outcome, support_text


def row(code: str, subject: str = "", *, computed_in: str | None = "fp32", count: int = 1) -> SupportRow:
    return SupportRow.model_validate(
        {
            "family": "fc",
            "engine": "e",
            "version": "1",
            "options": "",
            "precision": "fp32",
            "board_model": "m",
            "outcome": "ok" if code == "ok" else "failed",
            "code": code,
            "fault": fault_of_outcome(code),
            "subject": subject,
            "count": count,
            "max_relative_l2": None,
            "last_relative_l2": None,
            "mean_s": None,
            "first_at": datetime(2026, 1, 1, tzinfo=UTC),
            "last_at": datetime(2026, 1, 1, tzinfo=UTC),
            "measurement_id": None,
            "effective_precision": computed_in if code == "ok" else None,
        }
    )


LACKS = row("unsupported_operator", "HardSwish")
LACKING = "unsupported_operator: HardSwish"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "-"),
        ([row("ok")], "ok"),
        ([LACKS], "unsupported_operator: HardSwish"),
        ([row("ok"), LACKS], "mixed: ok, unsupported_operator: HardSwish"),
        ([row("ok"), row("runner_died"), row("engine_error")], "ok"),
        ([row("runner_died")], "runner_died"),
        ([row("wrong_result"), row("out_of_memory"), row("lease_lost")], "out_of_memory, wrong_result"),
        ([row("ok", computed_in="int8")], "ok (1 of 1 in int8)"),
        ([row("ok", computed_in="other")], "ok (1 of 1 in another precision)"),
        ([row("ok", count=2), row("ok", computed_in="bf16", count=3), LACKS], f"mixed: ok (3 of 5 in bf16), {LACKING}"),
    ],
)
def test_what_passes_or_is_the_farm_s_says_nothing_of_the_engine(rows: list[SupportRow], said: str) -> None:
    assert support_text(rows) == said


def test_a_code_of_a_newer_farm_has_no_fault() -> None:
    assert fault_of_outcome("from_the_future") is None


def test_what_nobody_told_is_unknown_and_not_the_platforms() -> None:
    old = row("ok", computed_in=None, count=4)
    assert support_text([old]) == "ok (4 of 4 in an unknown precision)"
    assert computed_otherwise([old, row("ok"), row("ok", computed_in="bf16", count=7), row("wrong_result")]) == {
        "bf16": 7,
        "an unknown precision": 4,
    }
