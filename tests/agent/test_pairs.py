"""A pair at the agent: both sides' files, what the runner is asked, what it may answer, and how long launches go on."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from benchfarm_agent.launch_requests import launch_request
from benchfarm_agent.launches import LeaseLaunches
from benchfarm_agent.prepared import PreparedItem
from benchfarm_agent.runner_lines import LaunchRecord
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import BatchItem, BesideFiles, LeaseGrant
from benchfarm_core.comparing import SILENT_MAX
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import MeasurementResult
from benchfarm_core.platforms import Precision
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.workloads import PairWorkload
from tests.agent.conftest import canary_in
from tests.agent.test_artifacts import cache_in, prepare
from tests.agent.test_runner_lines import DONE, END, READY, STARTED, read

Grant = Callable[..., LeaseGrant]
Run = Callable[[Any], Any]
COMPARE = PROTOCOLS["compare"]
SIDE = {
    "iterations": 3,
    "blocks_ns": [7, 8],
    "delays_ns": [0, 0],
    "switches": [0, 0],
    "open_ms": 1.0,
    "first_ms": 1.0,
    "warmup_runs": 3,
    "gate_relative_l2": 0.0,
    "timed_ms": 1.0,
    "rounds": [2],
    "threads": 1,
}


def pair_item(grant: LeaseGrant, **changes: Any) -> BatchItem:
    """The first two workloads of a grant as a pair."""
    a, b = grant.items[:2]
    assert not isinstance(a.workload, PairWorkload)
    assert not isinstance(b.workload, PairWorkload)
    pair = PairWorkload(a=a.workload, b=b.workload, **changes)
    files = BesideFiles(file_sha256=None, reference_sha256=None, max_relative_l2=5e-2)
    return a.model_copy(update={"workload": pair, "beside": files})


def prepared_pair(state: StateDir, item: BatchItem, running: Run) -> PreparedItem:
    async def make() -> tuple[dict[int, PreparedItem], list[MeasurementResult]]:
        async with cache_in(state) as (cache, _):
            return await prepare(cache, [item])

    outcome: tuple[dict[int, PreparedItem], list[MeasurementResult]] = running(make())
    assert outcome[1] == []
    return outcome[0][item.measurement_id]


def test_both_sides_have_files_and_the_runner_is_asked_for_both(state: StateDir, grant: Grant, running: Run) -> None:
    granted = grant(2, COMPARE)
    made = prepared_pair(state, pair_item(granted), running)
    assert made.beside is not None
    assert set(made.beside.item.files) < set(made.files)
    assert all(path.is_file() for path in made.files)
    for launch_no in (0, 1):
        request = launch_request(granted, [made], canary_in(state.cache), launch_no=launch_no)
        (visit,) = request["visits"]
        assert visit["artifact"] != visit["beside"]["artifact"]
        assert visit["beside"]["gates"][0]["max_relative_l2"] == 5e-2
        assert (visit["beside"]["precision"], visit["beside"]["options"]) == (None, None)
        assert visit["beside"]["opens_first"] is (launch_no == 1)


def test_the_b_side_is_made_for_its_own_precision(state: StateDir, grant: Grant, running: Run) -> None:
    granted = grant(2, COMPARE)
    same = pair_item(granted).model_copy(
        update={"workload": PairWorkload(a=_single(granted), b=_single(granted), b_precision=Precision.INT8)}
    )
    made = prepared_pair(state, same, running)
    assert made.beside is not None
    assert made.beside.precision == "int8"
    assert made.artifact != made.beside.item.artifact


def _single(granted: LeaseGrant) -> Any:
    return granted.items[0].workload


def test_a_pair_without_the_b_sides_files_fails_alone(state: StateDir, grant: Grant, running: Run) -> None:
    item = pair_item(grant(2, COMPARE)).model_copy(update={"beside": None})

    async def make() -> list[MeasurementResult]:
        async with cache_in(state) as (cache, _):
            return (await prepare(cache, [item]))[1]

    assert [one.failure for one in running(make())] == [FailureCode.INVALID_WORKLOAD]


def said(**changes: Any) -> LaunchRecord:
    return read(READY, STARTED, {**DONE, "beside": {**SIDE, **changes}}, END)


def test_both_sides_of_a_pair_are_read() -> None:
    samples = said(something_new=1).samples[4]
    assert samples.beside is not None
    assert (samples.blocks_ns, samples.beside.blocks_ns, samples.beside.rounds) == ((5, 6), (7, 8), (2,))


@pytest.mark.parametrize(
    "changes",
    [
        {"blocks_ns": [7]},
        {"switches": [0, 0, 0]},
        {"rounds": [1]},
        {"rounds": [2, 1]},
        {"rounds": []},
        {"iterations": 0},
        {"blocks_ns": [7, -8]},
        {"open_ms": "soon"},
    ],
)
def test_a_b_side_that_contradicts_itself_is_garbage(changes: dict[str, Any]) -> None:
    record = said(**changes)
    assert record.garbage is not None
    assert record.samples == {}
    assert json.dumps(record.garbage)


def test_launches_go_on_while_the_pairs_say_nothing(launches: Callable[..., LeaseLaunches], running: Run) -> None:
    """The stand-in runner knows no pairs: what it says answers nothing, and six such launches are enough."""
    work = launches(count=1, protocol=COMPARE)
    running(work.run())
    assert len(work.evidence) == SILENT_MAX > COMPARE.launches_min
    (result,) = work.results()
    assert (result.outcome, len(result.launches)) == ("ok", SILENT_MAX)
