"""Nothing that a runner says gets past the reader unchecked, and nothing it says can break it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchfarm_agent.runner_lines import LaunchRecord, read_lines, started_visit
from benchfarm_core.failures import FailureCode

READY = {
    "event": "ready",
    "contract": 1,
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
}
STARTED = {"event": "started", "visit": 4}
END = {"event": "end", "wall_ms": 1.0, "peak_rss_bytes": 5, "first_block_unix_s": 2.0}


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
        ({**READY, "contract": 2},),
    ],
)
def test_lines_out_of_their_order_are_garbage(lines: tuple[object, ...]) -> None:
    assert read(*lines).garbage is not None


def test_failures_of_visits_and_of_launches_are_typed() -> None:
    refused = {"event": "done", "visit": 4, "outcome": "failed", "code": "wrong_result", "detail": "x" * 5000}
    record = read(READY, STARTED, refused, END)
    assert record.failures[4][0] is FailureCode.WRONG_RESULT
    assert len(record.failures[4][1]) == 300
    assert read({"event": "failed", "code": "threads_not_obeyed"}).failed == (FailureCode.THREADS_NOT_OBEYED, "")


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


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.sampled_from([READY, STARTED, DONE, END]), st.data())
def test_no_value_in_any_field_breaks_the_reader(line: dict[str, object], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(line)))
    changed = {**line, field: data.draw(_JSON)}
    record = read(READY, STARTED, changed) if line is not READY else read(changed)
    assert record.garbage is None or isinstance(record.garbage, str)
