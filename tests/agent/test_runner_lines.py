"""Nothing that a runner says gets past the reader unchecked, and nothing it says can break it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchfarm_agent.boards.interface import Conditions, LaunchExit, LaunchOrder
from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.launches import LeaseLaunches
from benchfarm_agent.prepared import Canary, PreparedItem
from benchfarm_agent.runner_lines import LaunchRecord, read_lines, started_visit
from benchfarm_core.agent_protocol import ResultsRequest
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import MeasurementResult, SideSamples
from benchfarm_core.platforms import OperatingPoint
from benchfarm_core.protocols import PROTOCOLS
from tests.agent.conftest import grant_of

READY = {
    "event": "ready",
    "contract": 2,
    "engine": "onnxruntime",
    "engine_version": "1",
    "precision": "fp32",
    "threads": 1,
    "threads_observed": 1,
    "affinity": [1],
    "confinement": ["rlimits"],
    "witness_cost_ns": 10,
    "import_ms": 1.0,
    "canary_open_ms": 1.0,
}
DONE = {
    "event": "done",
    "visit": 4,
    "outcome": "ok",
    "iterations": 2,
    "blocks_ns": [5, 6],
    "delays_ns": [0, 0],
    "switches": [0, 1],
    "canaries": {"sgemm": [[0, 7]], "mobilenet": []},
    "open_ms": 1.0,
    "first_ms": 1.0,
    "warmup_runs": 3,
    "gate_relative_l2": 0.0,
    "timed_ms": 1.0,
    "canary_ms": 0.1,
    "effective_precision": "int8",
}
STARTED = {"event": "started", "visit": 4}
END = {"event": "end", "wall_ms": 1.0, "peak_rss_bytes": 5, "first_block_unix_s": 2.0, "twin_relative_l2": 0.01}


def read(*lines: object, visits: tuple[int, ...] = (4, 9)) -> LaunchRecord:
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return read_lines(raw, visits=visits, launch_no=2)


def test_a_good_launch_is_read_whole() -> None:
    record = read(READY, STARTED, DONE, END)
    assert record.garbage is None
    assert record.running is None
    assert record.end is not None
    assert record.samples[4].blocks_ns == (5, 6)
    assert record.samples[4].launch_no == 2


def test_what_ran_when_the_lines_stop_is_known() -> None:
    assert read(READY, STARTED).running == 4
    assert read(READY).running is None


GPU = {
    "name": "A GPU",
    "driver": "570.1",
    "sm_clock_khz": 1_980_000,
    "memory_clock_khz": None,
    "power_mw": 310_000,
    "temperature_c": 61,
    "throttle_reasons": 4,
}


def test_what_a_gpu_did_is_kept() -> None:
    end = read(READY, STARTED, DONE, {**END, "gpu": GPU}).end
    assert end is not None
    assert end.gpu is not None
    assert end.gpu.model_dump() == GPU
    for value in (None, {**GPU, "power_mw": -1}, {**GPU, "name": "\0"}, {"name": "no more"}):
        record = read(READY, STARTED, DONE, {**END, "gpu": value})
        assert (record.garbage is None) is (value is None)


def test_lines_gain_fields_without_harm() -> None:
    assert read({**READY, "new": 1}, STARTED, {**DONE, "new": [1]}, END).garbage is None


@pytest.mark.parametrize(
    "bad",
    [
        b"Hello",
        b"[]",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        {"event": "dance"},
        {**STARTED, "visit": 5},
        {**STARTED, "visit": "4"},
        {**STARTED, "visit": None},
        {**DONE, "visit": 9},
        {**DONE, "blocks_ns": [-5, 6]},
        {**DONE, "blocks_ns": [0, 6]},
        {**DONE, "blocks_ns": [5]},
        {**DONE, "blocks_ns": [5.5, 6]},
        {**DONE, "blocks_ns": [1] * 5000},
        {**DONE, "open_ms": float("nan")},
        {**DONE, "open_ms": float("inf")},
        {**DONE, "canaries": {"mine": [[0, 1]]}},
        {**DONE, "canaries": {"sgemm": [[0, 7], [3, 7]], "mobilenet": []}},
        {"event": "done", "visit": 4, "outcome": "failed", "code": "lease_lost"},
        {"event": "done", "visit": 4, "outcome": "failed", "code": "; drop table"},
        {"event": "failed", "code": "because"},
        END,
    ],
)
def test_garbage_is_named_and_blames_the_visit_that_ran(bad: object) -> None:
    record = read(READY, STARTED, bad, DONE, END)
    assert record.garbage is not None
    assert record.running == 4
    assert not record.samples


@pytest.mark.parametrize(
    "lines",
    [
        (STARTED, READY),
        (READY, STARTED, DONE, STARTED),
        (READY, DONE),
        (READY, STARTED, DONE, END, END),
        (READY, STARTED, {**STARTED, "visit": 9}),
        ({**READY, "contract": 1},),
    ],
)
def test_lines_out_of_their_order_are_garbage(lines: tuple[object, ...]) -> None:
    assert read(*lines).garbage is not None


def test_failures_of_visits_and_of_launches_are_typed() -> None:
    refused = {"event": "done", "visit": 4, "outcome": "failed", "code": "wrong_result", "detail": "x" * 5000}
    record = read(READY, STARTED, refused, END)
    assert record.failures[4][0] is FailureCode.WRONG_RESULT
    assert len(record.failures[4][1]) == 300
    assert record.failures[4].subject == ""
    assert read({"event": "failed", "code": "threads_not_obeyed"}).failed == (FailureCode.THREADS_NOT_OBEYED, "")


@pytest.mark.parametrize(
    ("said", "kept"),
    [("HardSwish", "HardSwish"), ("a\0b\n\u00e9\x7f c", "ab c"), ("x" * 500, "x" * 60), (7, "7"), (None, "None")],
)
def test_what_a_failure_is_about_is_plain(said: object, kept: str) -> None:
    refused = {"event": "done", "visit": 4, "outcome": "failed", "code": "unsupported_operator", "subject": said}
    failure = read(READY, STARTED, refused, END).failures[4]
    assert failure.subject == kept
    MeasurementResult(measurement_id=4, outcome="failed", failure=failure.code, subject=failure.subject)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("bf16", "bf16"),
        ("as_given", "as_given"),
        ("fp32+fp16", "other"),
        ("x" * 5000, "other"),
        (7, "other"),
        (["int8"], "other"),
    ],
)
def test_what_a_visit_was_computed_in_is_one_of_the_farms_words(said: object, kept: str) -> None:
    record = read(READY, STARTED, {**DONE, "effective_precision": said}, END)
    assert (record.garbage, record.precisions) == (None, {4: kept})
    MeasurementResult(measurement_id=4, outcome="ok", effective_precision=record.precisions[4])


def test_a_pair_was_computed_in_two_precisions() -> None:
    beside = {name: DONE[name] for name in SideSamples.model_fields if name in DONE}
    beside |= {"rounds": [2], "threads": 1, "effective_precision": "bf16"}
    record = read(READY, STARTED, {**DONE, "beside": beside}, END)
    assert (record.garbage, record.precisions, record.b_precisions) == (None, {4: "int8"}, {4: "bf16"})


def test_a_runner_that_does_not_say_what_it_computed_in_leaves_it_unknown() -> None:
    for silent in (
        {**DONE, "effective_precision": None},
        {k: v for k, v in DONE.items() if k != "effective_precision"},
    ):
        record = read(READY, STARTED, silent, END)
        assert (set(record.samples), record.precisions) == ({4}, {})


@pytest.mark.parametrize(("said", "kept"), [(0.01, 0.01), (None, None), (-1, "garbage"), ("far", "garbage")])
def test_the_farthest_twin_stands_in_the_last_line(said: object, kept: object) -> None:
    record = read(READY, STARTED, DONE, {**END, "twin_relative_l2": said})
    assert (record.end.twin_relative_l2 if record.end else "garbage") == kept


def test_only_started_lines_name_a_visit_during_a_launch() -> None:
    assert started_visit(json.dumps(STARTED).encode(), [4]) == 4
    assert started_visit(json.dumps(DONE).encode(), [4]) is None
    assert started_visit(b'{"event":"started","visit":"x"}', [4]) is None
    assert started_visit(b'"started"', [4]) is None


@pytest.mark.parametrize("visit", ["5", "true", "1.0", "99999999999999999999"])
def test_a_visit_that_was_not_ordered_is_not_believed_during_a_launch(visit: str) -> None:
    assert started_visit(f'{{"event":"started","visit":{visit}}}'.encode(), [1, 4]) is None


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=6))
def test_no_bytes_break_the_reader(lines: list[bytes]) -> None:
    record = read_lines(lines, visits=(1,), launch_no=0)
    assert record.garbage is not None or not lines


REFUSED = {"event": "done", "visit": 4, "outcome": "failed", "code": "engine_error", "detail": "so"}
GAVE_UP: dict[str, object] = {"event": "failed", "code": "engine_unavailable", "detail": "so"}
ODD = (4.0, 9.0, 1e9, 1e12, 1e300, 10**18, 10**400, -0.0, "\ud800", "\0", "a\0b", "\udfff" * 500)
_ODD = st.sampled_from(ODD)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | _ODD,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("\ud800"), inner, max_size=3)
    ),
    max_leaves=8,
)
LINES: list[dict[str, object]] = [READY, STARTED, DONE, REFUSED, GAVE_UP, END]
_CHANGES = st.sampled_from(LINES).flatmap(lambda line: st.tuples(st.just(line), st.sampled_from(sorted(line)), _JSON))
GRANT = grant_of(4, PROTOCOLS["quick"])


class Saying(LocalBoard):
    """A board whose runner says these lines."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines

    async def evidence(self, point: OperatingPoint) -> Conditions:
        return Conditions()

    async def launch(self, order: LaunchOrder, on_line: Callable[[bytes], None]) -> LaunchExit:
        for line in self._lines:
            on_line(line)
        return LaunchExit(returncode=0, cut=None, out_of_memory=False, wall_ms=1.0, began_unix_s=1.0, ended_unix_s=2.0)


def lines_with(line: dict[str, object], changed: dict[str, object]) -> list[bytes]:
    """A launch of one visit in which one line is another; it stops there where nothing may follow."""
    before = {"ready": [], "started": [READY], "end": [READY, STARTED, DONE]}.get(str(line["event"]), [READY, STARTED])
    after = {"ready": [STARTED, DONE, END], "started": [DONE, END], "done": [END]}.get(str(line["event"]), [])
    return [json.dumps(one).encode() for one in (*before, changed, *after)]


@settings(deadline=None)
@example((DONE, "visit", 4.0))
@example((REFUSED, "visit", 4.0))
@example((REFUSED, "detail", "\ud800"))
@example((REFUSED, "detail", "\0"))
@example((GAVE_UP, "detail", "\ud800"))
@example((READY, "import_ms", 1e12))
@example((READY, "canary_open_ms", 1e12))
@example((READY, "engine_version", "\0"))
@example((DONE, "canaries", {"\0": []}))
@given(_CHANGES)
def test_no_value_in_any_field_breaks_the_reader_or_what_follows(change: tuple[dict[str, object], str, Any]) -> None:
    """Whatever a runner says: its measurement comes to an outcome, and the farm can be told."""
    line, field, value = change
    board = Saying(lines_with(line, {**line, field: value}))
    item = PreparedItem(4, Path("artifact"), "0" * 64, (), Path("reference"), 1e-3)
    work = LeaseLaunches(board, GRANT, [item], Canary(Path("canary"), ()), lambda _: None)
    asyncio.run(work.run())
    told = ResultsRequest(results=tuple(work.results()), launches=tuple(work.evidence))
    assert [result.measurement_id for result in told.results] == [4]
    content = told.model_dump_json()
    assert "\\u0000" not in content
    assert ResultsRequest.model_validate_json(content) == told
