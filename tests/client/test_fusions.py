"""Fusion measured from the client's side: two jobs, the verdicts, what is told and how the command ends."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from benchfarm import Client, Results
from benchfarm.exit_codes import ExitCode
from benchfarm.fusions import NOT_PLANNED, _found, measure_fusions
from benchfarm_core.errors import Forbidden, InvalidRequest
from benchfarm_core.jobs import JobState
from benchfarm_core.operator_pairs import OPERATOR_PAIRS
from tests.client.test_results_table import item

PLATFORM = "sim-1/c0.t1.free/onnxruntime-1.31.1/fp32"
JOBS = 2
FUSED = [{"name": "l0_nchwc", "kind": "Conv", "ns": 9000}, {"name": "ReorderOutput", "kind": "ReorderOutput", "ns": 9}]
APART = [{"name": "l0", "kind": "Conv", "ns": 9000}, {"name": "l1", "kind": "Relu", "ns": 900}]


@contextmanager
def lab(farm: Any, nodes: list[dict[str, Any]], failing: str | None = None) -> Iterator[None]:
    """Plans and measures the account's next jobs while somebody waits for them."""
    farm.nodes = nodes

    def work() -> None:
        done: set[str] = set()
        end = time.monotonic() + 30
        with farm.client(account=farm.account) as client:
            while time.monotonic() < end and len(done) < JOBS:
                for job in client.jobs(state=JobState.QUEUED):
                    farm.measure(job.id, failing=failing)
                    done.add(job.id)
                time.sleep(0.02)  # wait: for the jobs that the test submits

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        worker.join()


def test_both_verdicts_are_told_and_disagreements_stand_out(farm: Any, logged_in: Any) -> None:
    """Every time of this lab is the same, so that a pair costs as much as one of its parts."""
    never_wanted = PLATFORM.replace("1.31.1", "1.31.1~graph=none")
    with lab(farm, FUSED):
        ended = logged_in("fusion", "measure", "--platform", never_wanted, "--pair", "Conv+Relu", "--json")
    assert ended.document["view"]["platform"] == never_wanted
    with lab(farm, FUSED):
        ended = logged_in("fusion", "measure", "--platform", PLATFORM, "--pair", "Conv+Relu", "--json")
    assert ended.code == 0, ended.err
    [row] = ended.document["view"]["measured"]
    assert row["t1_ms"] == row["t2_ms"] == row["t12_ms"] == pytest.approx(0.04, rel=0.01)
    assert (row["by_latency"], row["by_profile"], row["fused"], row["disagree"]) == (True, True, True, False)
    with lab(farm, APART):
        shown = logged_in("fusion", "measure", "--platform", PLATFORM, "--pair", "Conv+Clip", "--pair", "Conv+Relu")
    assert shown.code == 0, shown.err
    clip, relu = (line for line in shown.out.splitlines() if "Conv" in line)
    assert ("Clip" in clip, "the two disagree" in clip) == (True, True)
    assert ("Relu" in relu, "the two disagree" in relu) == (True, False)
    with farm.client() as client:
        view = client.platform_fusion(PLATFORM)
        assert [(one.second, one.fused) for one in view.disagreements] == [("Clip", False)]
        assert client.model_kernels("squeezenet", PLATFORM).rules == "measured"


def test_what_cannot_be_measured_is_named_and_the_rest_is_told(farm: Any, logged_in: Any) -> None:
    with lab(farm, APART, failing='"Sigmoid", "part": "first"'):
        ended = logged_in("fusion", "measure", "--platform", PLATFORM, "--pair", "Add+Relu", "--pair", "Add+Sigmoid")
    assert ended.code == ExitCode.PARTIAL, ended.err
    assert "out_of_memory" in ended.out
    with farm.client() as client:
        known = {(one.first, one.second): one for one in client.platform_fusion(PLATFORM).measured}
    assert (known["Add", "Sigmoid"].t1_ms, known["Add", "Sigmoid"].by_profile) == (None, False)
    assert known["Add", "Relu"].by_latency is True


@pytest.mark.parametrize("noisy", [False, True])
def test_times_of_which_one_is_noisy_are_left_out_and_named(noisy: bool) -> None:
    parts = [item(noisy=noisy and number == 1).model_copy(update={"item_no": number}) for number in range(3)]
    with Client("http://127.0.0.1:1", None) as never_asked:
        (found,) = _found(never_asked, [("Add", "Relu")], Results(parts), None)
    assert (found.row is None, found.reason) == (noisy, "relu: noisy" if noisy else "")


def test_a_pair_that_is_named_twice_counts_once(farm: Any, logged_in: Any) -> None:
    with lab(farm, FUSED):
        ended = logged_in("fusion", "measure", "--platform", PLATFORM, "--pair", "Add+Relu", "--pair", "Add+Relu")
    assert ended.code == 0, ended.err


def test_what_was_never_planned_is_named_and_the_rest_is_told(farm: Any) -> None:
    """The first job is measured, the profiles' job is cancelled before anybody plans it."""
    farm.nodes = FUSED
    with farm.client("operator") as client:

        def wait(job_id: str) -> Any:
            job = client.job(job_id)
            if job.protocol.name == "profile":
                return client.cancel(job_id)
            farm.measure(job_id)
            return client.job(job_id)

        found = measure_fusions(client, PLATFORM, [("Conv", "HardSwish")], wait=wait, max_age_s=0)
    [pair] = found.pairs
    assert (pair.reason, found.complete) == (NOT_PLANNED, 0)
    assert pair.row is not None
    assert (pair.row.by_profile, pair.row.t12_ms) == (None, pytest.approx(0.04, rel=0.01))


@pytest.mark.parametrize("pairs", [("Conv",), ("Conv+",), ("Conv+Softmax",), ("Conv+Relu", "Nothing+Relu")])
def test_bad_pairs_are_refused_before_anything_is_measured(logged_in: Any, pairs: tuple[str, ...]) -> None:
    before = logged_in("jobs", "list", "--json").document
    options = [word for pair in pairs for word in ("--pair", pair)]
    ended = logged_in("fusion", "measure", "--platform", PLATFORM, *options)
    assert (ended.code, ended.out) == (ExitCode.USAGE, "")
    assert logged_in("jobs", "list", "--json").document == before
    assert logged_in("fusion", "measure", "--platform", "nowhere").code == ExitCode.USAGE


def test_who_may_not_tell_measures_nothing(farm: Any) -> None:
    with farm.client() as client:
        with pytest.raises(Forbidden, match="operators"):
            measure_fusions(client, PLATFORM)
        assert list(client.jobs()) == []
    with farm.client("operator") as operator:
        for pairs in ([], [(f"Conv{number}", "Relu") for number in range(501)]):
            with pytest.raises(InvalidRequest, match="pairs"):
                measure_fusions(operator, PLATFORM, pairs)


def test_the_pairs_of_networks_are_distinct() -> None:
    assert len(set(OPERATOR_PAIRS)) == len(OPERATOR_PAIRS) > 80
