"""What a job's table shows: times, sizes or sums of operators, by its protocol."""

from datetime import UTC, datetime

import pytest
from rich.console import Console

from benchfarm import Results
from benchfarm.commands.results_table import results_tables
from benchfarm_core.jobs import ItemView
from benchfarm_core.platforms import ClockProof
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.summaries import Grade, Summary
from benchfarm_core.workloads import KernelWorkload

MIB = 2**20


def item(**more: object) -> ItemView:
    kernel = KernelWorkload(type="relu", config={"hw": 8, "cin": 8, "batch": 1}, catalogue_version=1)
    summary = Summary(
        rule_version=3, median_ms=7.125, normalised_ms=6.5, canary="sgemm", low_ms=7, high_ms=8, interval_coverage=0.9,
        spread=0.01, grade=Grade.A, clock_proof=ClockProof.UNPINNED, launches=3, blocks=30, clean_share=1,
    )  # fmt: skip
    return ItemView.model_validate({
        "item_no": 0, "workload_id": "w", "workload": kernel, "label": "relu", "platform_id": "p", "platform": "here",
        "repeat": 0, "state": "succeeded", "source": "new", "reason": "", "failure": None, "measurement_id": 1,
        "origin": "measured", "board_id": "b", "measured_at": datetime.now(UTC),
        "summary": summary.model_copy(update=more),
    })  # fmt: skip


def shown(one: ItemView, protocol: str) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(results_tables(Results([one]), PROTOCOLS[protocol]))
    return capture.get()


def test_memory_shows_sizes_and_cold_times_and_no_median() -> None:
    one = item(peak_pss_bytes=120 * MIB, model_pss_bytes=20 * MIB, load_ms=30.5, first_ms=4.25)
    text = shown(one, "memory")
    for word in ("peak MiB", "120.0", "20.0", "load ms", "30.50", "first ms", "4.250", "A, unpinned"):
        assert word in text
    assert "median" not in text
    assert "7.125" not in text


def test_a_memory_tables_last_column_says_where_a_result_is_from_or_why_there_is_none() -> None:
    done, failed = item(peak_pss_bytes=MIB), item().model_copy(update={"summary": None, "reason": "no memory"})
    for one, last in ((done, "new"), (failed, "no memory")):
        lines = shown(one, "memory").splitlines()
        head = next(line for line in lines if "peak MiB" in line)
        row = next(line for line in lines if line.strip().startswith("relu"))
        assert row.index(last) == head.index("from, or why not")


@pytest.mark.parametrize("noisy", [False, True])
def test_a_noisy_result_is_marked_beside_its_grade(noisy: bool) -> None:
    text = shown(item(noisy=noisy, grade=Grade.D), "kernel")
    assert "D, unpinned" in text
    assert ("D, unpinned, noisy" in text) == noisy
    assert ("1 D, 1 of them noisy" in text) == noisy


@pytest.mark.parametrize("protocol", ["kernel", "memory"])
@pytest.mark.parametrize(("told", "marked"), [("fp32", True), ("int8", False), (None, False)])
def test_another_precision_than_the_platforms_is_told(protocol: str, told: str | None, marked: bool) -> None:
    one = ItemView.model_validate(
        {**item().model_dump(), "platform": "host/c0.t1.free/ncnn-1.0/int8", "effective_precision": told}
    )
    text = shown(one, protocol)
    assert ("new, in fp32" in text) == marked
    assert ("1 A, 1 of them in fp32" in text) == marked


@pytest.mark.parametrize(
    ("protocol", "words"), [("profile", ("profiled sum ms", "normalised sum ms")), ("kernel", ("median ms",))]
)
def test_a_profiles_times_are_called_sums(protocol: str, words: tuple[str, ...]) -> None:
    text = shown(item(), protocol)
    for word in (*words, "7.125"):
        assert word in text
    assert ("median" in text) == (protocol == "kernel")
