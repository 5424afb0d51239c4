"""What the tables of comparisons count, and how sure their shares are."""

from pathlib import Path

import pytest

from bench.comparing import INTERVAL, Found, Pair, Place, aa_row, planted_row, planted_rows
from bench.launching import Files, Ready, Target
from benchfarm_core.comparing import Comparison, ComparisonVerdict
from benchfarm_core.failures import FailureCode
from benchfarm_core.workloads import KernelWorkload

SIDE = Ready(KernelWorkload(catalogue_version=1, type="fc", config={}), {})


def found(verdict: ComparisonVerdict | FailureCode, count: int) -> list[Found]:
    """So many trials that came to the same."""
    answer = verdict if isinstance(verdict, FailureCode) else compared(verdict)
    return [Found(Pair(SIDE, SIDE), answer, launches=3, device_s=1.0)] * count


def compared(verdict: ComparisonVerdict) -> Comparison:
    return Comparison(
        rule_version=1, verdict=verdict, change_percent=0.1, low_percent=-0.2, high_percent=0.4, coverage=0.95,
        tolerance_percent=1.0, a_ms=1.0, b_ms=1.0, pairs=30, rounds=3, launches=3, clean_share=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("slower", "faster", "crowded", "met"), [(2, 2, 10, True), (3, 2, 0, False), (0, 0, 11, False)]
)
def test_either_side_called_faster_is_false_and_no_verdict_is_inconclusive(
    slower: int, faster: int, crowded: int, met: bool
) -> None:
    verdicts = [*found(ComparisonVerdict.A_FASTER, slower), *found(ComparisonVerdict.B_FASTER, faster)]
    verdicts += found(FailureCode.CONTENDED, crowded)
    row = aa_row([*verdicts, *found(ComparisonVerdict.NO_DIFFERENCE, 200 - len(verdicts))])
    assert row["met"] is met
    assert row["contended"] == f"{crowded / 2:.1f}%"


def test_false_differences_are_told_with_their_interval() -> None:
    # 3 of 200: 0.31 to 4.32 % by Clopper and Pearson
    row = aa_row([*found(ComparisonVerdict.B_FASTER, 3), *found(ComparisonVerdict.NO_DIFFERENCE, 197)])
    assert row[f"false, {INTERVAL}"] == "1.5 % (0.3 to 4.3)"
    assert row[f"no verdict, {INTERVAL}"] == "0.0 % (0.0 to 1.8)"


@pytest.mark.parametrize(("right", "met"), [(95, True), (94, False)])
def test_a_slowdown_that_is_called_a_gain_is_not_found(right: int, met: bool) -> None:
    wrong = found(ComparisonVerdict.B_FASTER, 100 - right)
    row = planted_row(3.0, 8, [*found(ComparisonVerdict.A_FASTER, right), *wrong])
    assert str(row[f"found, {INTERVAL}"]).startswith(f"{right}.0 % (")
    assert (row["workloads"], row["met"]) == (8, met)


def test_where_no_chain_can_be_planted_the_goal_is_missed_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = planted_rows(Place(Files(tmp_path), Target("onnxruntime")), [], trials=100)
    assert [(row["planted"], row["trials"], row["met"]) for row in rows] == [("+3.0 %", 0, False), ("+1.0 %", 0, False)]
    assert "no chain can be told" in capsys.readouterr().err
