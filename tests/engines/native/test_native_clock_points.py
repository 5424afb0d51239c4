"""Where both runners sample the product alone between blocks: clock points, for which a protocol may ask."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest

from benchfarm_engines.blocks import CLOCK_RUNS_PER_ROW
from tests.engines.conftest import PROTOCOL
from tests.engines.native.test_native_runner import native_pair, samples_of, visits_of

pytestmark = pytest.mark.timeout(1200)  # the first test waits for the build

FULL_RUNS = 3
LONG_MS = 1000
SLOW_N = 256
"""Of a product a dozen of which take several milliseconds."""
SEVERAL = ("conv", "small", "two") * 3
"""On a busy machine a point may be missing, for the witness saw all its tries wait: one visit of these has them all."""


@pytest.fixture(params=["native", "python"])
def either(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A launch of either runner with ncnn: the Python runner does not wait for the other one's build."""
    if request.param == "native":
        built: Callable[..., Any] = request.getfixturevalue("native")
        return built
    launch = request.getfixturevalue("launch")
    return lambda visits, **changes: launch(visits, engine="ncnn", **changes)


def canaries(workloads: dict[str, Any], n: int) -> dict[str, Any]:
    """As every launch has them, with a product of n x n x n."""
    conv = workloads["conv"]
    return {"sgemm": {"n": n, "seed": 1}, "mobilenet": {"artifact": str(conv.artifact), "inputs": conv.inputs}}


def protocol(**changes: Any) -> dict[str, Any]:
    return {**PROTOCOL, **changes}


def places(line: dict[str, Any], canary: str) -> dict[int, int]:
    """Runs of a canary by the number of blocks timed before them."""
    found: dict[int, int] = {}
    for place, _ in line["canaries"][canary]:
        found[place] = found.get(place, 0) + 1
    return found


def row_ns(line: dict[str, Any], place: int, clock_every_ms: int) -> int:
    """How long the blocks behind a place run until the next point: never less than a dozen of the latest kept run."""
    kept_ns = [ns for at, ns in line["canaries"]["sgemm"] if at <= place]
    return max(clock_every_ms * 1_000_000, CLOCK_RUNS_PER_ROW * kept_ns[-1] if kept_ns else 0)


def expected(line: dict[str, Any], canary_every_ms: int, clock_every_ms: int) -> tuple[list[int], list[int]]:
    """Places of the full samples and of the clock points that belong between such blocks."""
    blocks_ns = samples_of(line).blocks_ns
    full, clock = [0], []
    stretch_end_ns, row_end_ns = canary_every_ms * 1_000_000, row_ns(line, 0, clock_every_ms)
    for number, timed_ns in enumerate(accumulate(blocks_ns[:-1]), 1):
        if timed_ns >= min(stretch_end_ns, row_end_ns):
            row_end_ns = timed_ns + row_ns(line, number, clock_every_ms)
            if timed_ns >= stretch_end_ns:
                stretch_end_ns = timed_ns + canary_every_ms * 1_000_000
                full.append(number)
            else:
                clock.append(number)
    (full if len(full) > 1 else clock).append(len(blocks_ns))
    return full, clock


def missing_points(line: dict[str, Any], canary_every_ms: int, clock_every_ms: int) -> int:
    """How many runs are missing; nothing may be where it does not belong."""
    full, clock = expected(line, canary_every_ms, clock_every_ms)
    wanted = dict.fromkeys(full, FULL_RUNS)
    for canary, of_canary in (("sgemm", wanted | dict.fromkeys(clock, 1)), ("mobilenet", wanted)):
        found = places(line, canary)
        assert all(runs <= of_canary.get(place, 0) for place, runs in found.items()), (canary, line)
        order = [place for place, _ in line["canaries"][canary]]
        assert order == sorted(order)
    return sum((wanted | dict.fromkeys(clock, 1)).values()) - len(line["canaries"]["sgemm"])


@pytest.mark.parametrize(
    ("canary_every_ms", "clock_every_ms", "changes"),
    [
        (LONG_MS, 1, {}),
        (3, 1, {}),
        (3, 3, {}),
        (1, 2, {}),  # a stretch ends before its first point
        (LONG_MS, 1, {"block_min_us": 2500}),  # behind each block
        (LONG_MS, 1, {"blocks_min": 1, "blocks_max": 1}),
        (LONG_MS, 1_000_000, {}),  # behind the last block alone
    ],
)
def test_points_stand_where_they_belong(
    either: Any, workloads: dict[str, Any], canary_every_ms: int, clock_every_ms: int, changes: dict[str, Any]
) -> None:
    every = {"canary_every_ms": canary_every_ms, "clock_every_ms": clock_every_ms}
    done = either(visits_of(workloads, *SEVERAL), protocol=protocol(**every, **changes)).done
    assert len(done) == len(SEVERAL)
    assert min(missing_points(line, **every) for line in done.values()) == 0
    if canary_every_ms == LONG_MS:
        assert all(places(line, "mobilenet").keys() <= {0} for line in done.values())


@pytest.mark.parametrize(("canary_every_ms", "visit_ms"), [(LONG_MS, 60), (3, 8)])
def test_a_slow_product_is_asked_less_often(
    either: Any, workloads: dict[str, Any], canary_every_ms: int, visit_ms: int
) -> None:
    """Rows last a dozen of its runs, but none beyond its stretch: one of 3 ms has no points, or few."""
    every = {"canary_every_ms": canary_every_ms, "clock_every_ms": 1}
    asked = protocol(**every, visit_ms=visit_ms, blocks_max=1000)
    done = either(visits_of(workloads, *SEVERAL), protocol=asked, canaries=canaries(workloads, SLOW_N)).done
    told = [line for line in done.values() if missing_points(line, **every) == 0]
    assert told
    for line in told:
        points = places(line, "sgemm").keys() - set(expected(line, **every)[0])
        row_ms = CLOCK_RUNS_PER_ROW * min(ns for _, ns in line["canaries"]["sgemm"]) / 1e6
        assert row_ms > 1, "the product is not slow here: the protocol's millisecond decides"
        assert len(points) <= line["timed_ms"] / row_ms + 1, "and one behind the last block"
        assert len(points) > 1 or canary_every_ms < LONG_MS


@pytest.mark.parametrize("absent", [{}, {"clock_every_ms": None}])
def test_nobody_who_does_not_ask_has_points(native: Any, workloads: dict[str, Any], absent: dict[str, Any]) -> None:
    long = native(visits_of(workloads, *SEVERAL), protocol=protocol(canary_every_ms=LONG_MS, **absent)).done
    assert all(places(line, "sgemm").keys() <= {0} for line in long.values())
    short = native(visits_of(workloads, *SEVERAL), protocol=protocol(**absent)).done
    for line in short.values():
        full, _ = expected(line, PROTOCOL["canary_every_ms"], 1)
        assert places(line, "sgemm").keys() <= set(full)


def test_points_count_as_time_of_the_canary(native: Any, workloads: dict[str, Any]) -> None:
    """Dozens of products, beside which the full sample's untimed runs are small."""
    asked = protocol(canary_every_ms=LONG_MS, clock_every_ms=1, visit_ms=100, blocks_max=1000)
    said = native(visits_of(workloads, "conv"), protocol=asked, canaries=canaries(workloads, 128))
    [line] = said.done.values()
    assert len(places(line, "sgemm")) > 8
    assert line["canary_ms"] >= sum(ns for runs in line["canaries"].values() for _, ns in runs) / 1e6
    assert said.lines[-1]["canary_ms"] >= line["canary_ms"] - 1e-6


def test_pairs_and_memory_have_no_points(native: Any, workloads: dict[str, Any]) -> None:
    asked = protocol(canary_every_ms=LONG_MS, clock_every_ms=1)
    pair = native([native_pair(workloads)], protocol=asked).done[0]
    assert places(pair, "sgemm").keys() == places(pair, "mobilenet").keys()
    assert (
        samples_of(native(visits_of(workloads, "conv"), protocol={**asked, "purpose": "memory"}).done[0]).canaries == {}
    )


@pytest.mark.parametrize("value", [0, -1, 1_000_001, 1.5, "5", True, []])
def test_other_values_are_a_bad_request(native: Any, value: object) -> None:
    said = native([], protocol=protocol(clock_every_ms=value))
    assert (said.returncode, said.lines[-1]["code"]) == (3, "bad_request")
    assert "clock_every_ms" in said.lines[-1]["detail"]
