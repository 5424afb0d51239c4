"""Kernels by difference in the real runner, in engines that do not tell the time of operators."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchfarm_core.differences import Difference, difference_of
from benchfarm_core.measurements import LaunchSamples, MeasurementResult, SideSamples
from benchfarm_core.profilers import DIFFERENCE_ENGINES
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.result_checks import check_result
from benchfarm_engines.difference_visit import ROUND_PAIRS, ROUNDS, ROUNDS_MIN, time_round, wants_round
from benchfarm_engines.displacement import DISPLACED_BYTES, Displacement
from benchfarm_engines.in_situ_visit import WALL_SHARE
from benchfarm_engines.launch_request import ProtocolParameters
from benchfarm_engines.pair_visit import PairSamples
from benchfarm_engines.witness import Reading, Witness
from benchfarm_workloads.doubled_carriers import double
from benchfarm_workloads.onnx_carriers import build_carrier
from tests.engines.conftest import CORES, PROTOCOL
from tests.engines.made_for import installed

CONV = ("conv-bn-act", {"hw": 28, "cin": 32, "cout": 32, "k": 3, "s": 1, "act": "relu"})
WIDE = ("conv-bn-act", {"hw": 28, "cin": 32, "cout": 256, "k": 3, "s": 1, "act": "relu"})
POOL = ("maxpool", {"hw": 56, "cin": 32, "k": 3, "s": 2})
SPLIT = ("split", {"hw": 28, "cin": 64, "parts": 2})
NUMBER = 7


@pytest.fixture(scope="session")
def doubled_visit(write_model: Callable[..., Any], references: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """The visit of a kernel by difference, with number 7."""
    known: dict[str, dict[str, Any]] = {}

    def make(kernel: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        both = double(*kernel)
        name = "-".join(map(str, (kernel[0], *kernel[1].values())))
        if name not in known:
            sides = []
            for copies, carrier in (("once", both.once), ("twice", both.twice)):
                content, specs = build_carrier(carrier)
                inputs = [spec.model_dump(mode="json") for spec in specs]
                sides.append(write_model(f"{name}-{copies}", content, inputs))
            answers = references([(side.artifact, side.inputs, side.reference) for side in sides])
            assert all(answer["ok"] for answer in answers), answers
            once, twice = (side.visit(NUMBER) for side in sides)
            known[name] = once | {"twice": twice, "sites": [{"name": "k0", "visit": NUMBER}]}
        return known[name]

    return make


def samples_of(line: dict[str, Any]) -> LaunchSamples:
    assert line["outcome"] == "ok", line
    known = {name: line[name] for name in LaunchSamples.model_fields if name in line}
    return LaunchSamples.model_validate({**known, "launch_no": 0})


def told(samples: LaunchSamples) -> Difference:
    """Of all pairs: other tests run beside."""
    found = difference_of(samples, [True] * len(samples.blocks_ns))
    assert found is not None
    return found


@pytest.mark.parametrize("engine", sorted(DIFFERENCE_ENGINES))
def test_a_kernel_takes_as_long_as_its_work(launch: Any, doubled_visit: Any, engine: str) -> None:
    installed(engine)
    times = {}
    for name, kernel in (("conv", CONV), ("wide", WIDE)):
        said = launch([doubled_visit(kernel)], engine=engine, asks_precision=True)
        assert said.returncode == 0, said.stderr
        assert said.done[NUMBER]["effective_precision"] == "fp32"
        times[name] = told(samples_of(said.done[NUMBER])).floor_ns
    assert times["conv"] > 0
    assert 2 < times["wide"] / times["conv"] < 18  # quiet, it is about 8


@pytest.mark.parametrize("kernel", [POOL, SPLIT])
@pytest.mark.parametrize("engine", ["litert", "ncnn"])
def test_what_a_visit_brings_is_a_result_of_its_timing(
    launch: Any, doubled_visit: Any, engine: str, kernel: tuple[str, dict[str, Any]]
) -> None:
    line = launch([doubled_visit(kernel)], engine=engine).done[NUMBER]
    samples = samples_of(line)
    result = MeasurementResult(measurement_id=1, outcome="ok", launches=(samples,))
    check_result(result, PROTOCOLS["kernel"], "difference")
    assert isinstance(samples.beside, SideSamples)
    assert all(ROUND_PAIRS <= pairs <= WALL_SHARE * ROUND_PAIRS for pairs in samples.beside.rounds)
    assert ROUNDS_MIN <= len(samples.beside.rounds) <= ROUNDS
    assert max(samples.gate_relative_l2 or 0, samples.beside.gate_relative_l2 or 0) < 1e-3
    assert {at for at, _ in samples.canaries["sgemm"]} >= {0, len(samples.blocks_ns)}
    both_ms = (sum(samples.blocks_ns) + sum(samples.beside.blocks_ns)) / 1e6
    assert both_ms < samples.timed_ms < 20_000


def test_either_carrier_that_computes_something_else_fails_the_kernel(launch: Any, doubled_visit: Any) -> None:
    visit = doubled_visit(POOL)
    for side in (visit, visit["twice"]):
        gate = side["gates"][0]
        with np.load(gate["reference"]) as archive:
            arrays = dict(archive)
        smallest = min(arrays, key=lambda name: float(np.linalg.norm(arrays[name])))
        wrong = Path(gate["reference"]).with_name(f"wrong-{Path(gate['reference']).name}")
        np.savez(wrong, **{**arrays, smallest: arrays[smallest] * 1.1})
        gates = {"gates": [{**gate, "reference": str(wrong)}]}
        changed = visit | gates if side is visit else visit | {"twice": side | gates}
        line = launch([changed], engine="litert").done[NUMBER]
        assert (line["outcome"], line["code"]) == ("failed", "wrong_result")


def test_a_runner_that_knows_no_second_carrier_refuses_the_first(launch: Any, doubled_visit: Any) -> None:
    known_before = {name: value for name, value in doubled_visit(POOL).items() if name != "twice"}
    line = launch([known_before], engine="ncnn").done[NUMBER]
    assert (line["outcome"], line["code"], line["subject"]) == ("failed", "unsupported_operator", "profile")


@pytest.mark.parametrize(
    "change",
    [
        {"sites": []},
        {"sites": [{"name": "k0", "visit": NUMBER}, {"name": "k1", "visit": 8}]},
        {"beside": True},
        {"twice": {"nested": True}},
        {"twice": {}},
    ],
)
def test_a_second_carrier_stands_beside_one_kernel(launch: Any, doubled_visit: Any, change: dict[str, Any]) -> None:
    visit = doubled_visit(POOL)
    plain = {name: value for name, value in visit["twice"].items() if name != "visit"}
    if change == {"beside": True}:
        change = {"beside": plain | {"opens_first": False}}
    if change == {"twice": {"nested": True}}:
        change = {"twice": plain | {"twice": plain, "sites": [{"name": "k0", "visit": NUMBER}]}}
    said = launch([visit | change])
    assert (said.returncode, said.lines[-1]["code"]) == (3, "bad_request")


def parameters(**changes: Any) -> ProtocolParameters:
    return ProtocolParameters(**{**PROTOCOL, "warmup_min_runs": 2, "warmup_min_ms": 0, **changes})


class Counted:
    """A session that only counts its runs, or takes a time."""

    def __init__(self) -> None:
        self.runs, self.takes_ns = 0, 0

    def run(self) -> None:
        self.runs += 1
        begun = time.perf_counter_ns()
        while time.perf_counter_ns() - begun < self.takes_ns:
            pass


def test_every_timed_run_of_both_sides_begins_without_its_caches() -> None:
    once, twice, samples, order = Counted(), Counted(), PairSamples(), []
    witness = PlantedWitness(within=False)
    time_round([once, twice], samples, parameters(), witness, lambda: order.append((once.runs, twice.runs)))  # type: ignore[list-item]
    witness.close()
    timed = [ROUND_PAIRS * side.blocks.iterations for side in (samples.a, samples.b)]
    assert len(order) == sum(timed)
    assert (once.runs - timed[0], twice.runs - timed[1]) == (2, 2)
    assert samples.rounds == [ROUND_PAIRS]
    assert len(samples.a.blocks.blocks_ns) == len(samples.b.blocks.blocks_ns) == ROUND_PAIRS


class PlantedWitness(Witness):
    """Sees a wait of 1 us in every second reading: between the readings around a run, or before it."""

    def __init__(self, *, within: bool) -> None:
        super().__init__()
        self.reads, self.waited_ns, self.within = 0, 0, within

    def read(self) -> Reading:
        self.waited_ns += 1000 * (self.reads % 2 == self.within)
        self.reads += 1
        return Reading(self.waited_ns, 0)


class SwitchingWitness(Witness):
    """Sees a switch in every pair but each `calm`-th: of four readings one more than before."""

    def __init__(self, calm: int) -> None:
        super().__init__()
        self.reads, self.switches, self.calm = 0, 0, calm

    def read(self) -> Reading:
        pair, place = divmod(self.reads, 4)
        self.switches += place == 1 and pair % self.calm != self.calm - 1
        self.reads += 1
        return Reading(0, self.switches)


@pytest.mark.parametrize("within", [True, False])
def test_only_what_was_waited_in_a_run_counts(within: bool) -> None:
    samples, witness = PairSamples(), PlantedWitness(within=within)
    time_round([Counted(), Counted()], samples, parameters(block_min_us=1), witness, lambda: None)  # type: ignore[list-item]
    witness.close()
    waits = {delay / side.blocks.iterations for side in (samples.a, samples.b) for delay in side.blocks.delays_ns}
    assert waits == ({1000} if within else {0})


@pytest.mark.parametrize(("calm", "pairs"), [(1, ROUND_PAIRS), (3, 3 * ROUND_PAIRS), (9, ROUND_PAIRS)])
def test_a_round_goes_on_until_enough_was_undisturbed(calm: int, pairs: int) -> None:
    samples, witness = PairSamples(), SwitchingWitness(calm)
    sides: list[Any] = [Counted(), Counted()]
    for side in sides:
        side.takes_ns = 1_000_000  # blocks of one run
    time_round(sides, samples, parameters(), witness, lambda: None)
    witness.close()
    assert samples.a.blocks.iterations == 1
    assert samples.rounds == [pairs]


@pytest.mark.parametrize("blocks_min", [5, 100, 1000])
def test_where_nobody_leaves_the_board_alone_a_visit_keeps_to_its_blocks(blocks_min: int) -> None:
    """What a line carries is bounded by `blocks_max`; so is what the farm reads of it."""
    samples, protocol, witness = PairSamples(), parameters(blocks_min=blocks_min, blocks_max=1000), SwitchingWitness(3)
    sides: list[Any] = [Counted(), Counted()]
    for side in sides:
        side.takes_ns = 200_000  # blocks of one run
    while wants_round(samples, protocol):
        time_round(sides, samples, protocol, witness, lambda: None)
    witness.close()
    assert ROUNDS_MIN <= len(samples.rounds) <= ROUNDS
    assert sum(samples.rounds) <= protocol.blocks_max


@pytest.mark.parametrize(
    ("changes", "block_ns", "rounds"),
    [
        ({}, 200_000, ROUNDS),
        ({}, 50_000_000, ROUNDS_MIN),
        ({"blocks_max": 42}, 200_000, 7),
        ({"blocks_max": 3}, 200_000, ROUNDS_MIN),
        ({"blocks_min": 100, "blocks_max": 200}, 50_000_000, ROUNDS),
    ],
)
def test_long_blocks_need_fewer_rounds(changes: dict[str, int], block_ns: int, rounds: int) -> None:
    samples, protocol = PairSamples(), parameters(**changes)
    pairs = max(ROUND_PAIRS, -(-protocol.blocks_min // ROUNDS))
    while wants_round(samples, protocol):
        for side in (samples.a, samples.b):
            side.blocks.blocks_ns += [block_ns] * pairs
        samples.rounds.append(pairs)
    assert len(samples.rounds) == rounds


def test_displacing_leaves_the_thread_on_its_cores() -> None:
    before = os.sched_getaffinity(0)
    displace = Displacement(CORES)
    displace()
    assert os.sched_getaffinity(0) == before
    assert DISPLACED_BYTES >= 4 * 1024**2
