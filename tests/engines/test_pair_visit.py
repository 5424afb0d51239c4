"""The visit of a pair as the agent sees it: a real process, real engines, what it finds judged by the rule."""

import time
from itertools import accumulate, pairwise
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchfarm_core.comparing import round_changes
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.protocols import PAIR_ROUNDS, PAIR_ROUNDS_MIN
from benchfarm_core.protocols import ROUND_PAIRS_MIN as PAIRS_OF_A_ROUND
from benchfarm_engines.launch_request import ProtocolParameters
from benchfarm_engines.pair_visit import (
    ROUND_PAIRS_MIN,
    ROUNDS,
    ROUNDS_MIN,
    PairSamples,
    pair_iterations,
    time_round,
)
from benchfarm_engines.registry import engine_names
from benchfarm_engines.visit import Bench
from benchfarm_engines.witness import Witness
from tests.engines.conftest import PROTOCOL

CHAINS = {"one": 1, "two": 2}
"""Convolutions in a row."""
FIELDS = set(LaunchSamples.model_fields) - {"launch_no"}


def chain(convolutions: int) -> bytes:
    weights = np.random.default_rng(3).standard_normal((32, 32, 3, 3)).astype(np.float32) * 0.05
    conv: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [helper.make_node("Conv", [f"x{n}" if n else "x", "w"], [f"x{n + 1}"], **conv) for n in range(convolutions)]
    shape = [1, 32, 28, 28]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", f"x{convolutions}"))
    made = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weights, "w")])
    content: bytes = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    return content


def pair_of(workloads: dict[str, Any], a: str, b: str, **changes: Any) -> dict[str, Any]:
    beside = {key: value for key, value in workloads[b].visit(0).items() if key != "visit"}
    visit: dict[str, Any] = workloads[a].visit(0)
    return visit | {"beside": {**beside, "opens_first": False, **changes}}


@pytest.fixture(params=[name for name in engine_names() if name in ("onnxruntime", "openvino")])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def both(workloads: dict[str, Any], write_model: Any, references: Any) -> dict[str, Any]:
    """one: a convolution of about 0.1 ms; two: the same twice in a row."""
    x = {"name": "x", "dtype": "float32", "shape": [1, 32, 28, 28], "fill": {"kind": "normal", "seed": 0}}
    made = {name: write_model(f"chain-{name}", chain(n), [x]) for name, n in CHAINS.items()}
    answers = references([(each.artifact, each.inputs, each.reference) for each in made.values()])
    assert [answer["ok"] for answer in answers] == [True] * len(made)
    return workloads | made


def test_the_farm_expects_the_rounds_that_a_visit_has() -> None:
    """The board side of engines imports nothing of the protocols: what both say is held together here."""
    assert (PAIR_ROUNDS, PAIR_ROUNDS_MIN, PAIRS_OF_A_ROUND) == (ROUNDS, ROUNDS_MIN, ROUND_PAIRS_MIN)


def test_a_workload_beside_itself_takes_as_long(launch: Any, both: dict[str, Any], engine: str) -> None:
    said = launch([pair_of(both, "one", "one")], engine=engine)
    line = said.done[0]
    assert line["outcome"] == "ok", line
    samples = LaunchSamples.model_validate({"launch_no": 0, **{name: line[name] for name in FIELDS & set(line)}})
    changes = round_changes(samples)
    assert abs(sorted(changes)[len(changes) // 2]) < 0.2  # beside other tests; quiet, it is about 0.01


def test_twice_the_work_is_found(launch: Any, both: dict[str, Any], engine: str) -> None:
    line = launch([pair_of(both, "one", "two")], engine=engine).done[0]
    samples = LaunchSamples.model_validate({"launch_no": 0, **{name: line[name] for name in FIELDS & set(line)}})
    changes = sorted(round_changes(samples))
    assert 0.2 < changes[len(changes) // 2] < 1.0  # log 2 = 0.69, less what every call costs
    assert samples.beside is not None
    assert samples.iterations == pytest.approx(2 * samples.beside.iterations, rel=0.5)


def test_rounds_hold_all_pairs_and_each_has_both_orders(launch: Any, both: dict[str, Any]) -> None:
    line = launch([pair_of(both, "one", "small", opens_first=True)]).done[0]
    beside = line["beside"]
    assert ROUNDS_MIN <= len(beside["rounds"]) <= ROUNDS
    assert min(beside["rounds"]) >= ROUND_PAIRS_MIN
    names = ("blocks_ns", "delays_ns", "switches")
    assert {len(side[name]) for side in (line, beside) for name in names} == {sum(beside["rounds"])}
    bounds = list(accumulate(beside["rounds"], initial=0))
    assert all(end - begin >= 2 for begin, end in pairwise(bounds))
    assert line["gate_relative_l2"] < 1e-3
    assert beside["gate_relative_l2"] < 1e-3
    assert all(0 <= at <= bounds[-1] for samples in line["canaries"].values() for at, _ in samples)


@pytest.mark.parametrize("limits", [{"blocks_min": 90}, {"blocks_min": 90, "blocks_max": 90}, {"blocks_max": 6}])
def test_many_pairs_make_longer_rounds_and_not_more(launch: Any, both: dict[str, Any], limits: dict[str, int]) -> None:
    protocol = {**PROTOCOL, "blocks_max": 200, "visit_ms": 5, **limits}
    beside = launch([pair_of(both, "small", "small")], protocol=protocol).done[0]["beside"]
    assert 1 <= len(beside["rounds"]) <= ROUNDS
    assert min(beside["rounds"]) >= 1
    assert min(protocol["blocks_min"], protocol["blocks_max"]) <= sum(beside["rounds"]) <= protocol["blocks_max"]


class Logged:
    """A side that writes its name down whenever it runs, and takes a fixed time."""

    def __init__(self, name: str, log: list[str], takes_ns: int) -> None:
        self.name, self.log, self.takes_ns = name, log, takes_ns

    def __call__(self) -> None:
        self.log.append(self.name)
        end = time.perf_counter_ns() + self.takes_ns
        while time.perf_counter_ns() < end:
            pass


def rounds_of_runs(takes_ns: int) -> list[str]:
    """Who ran when in two rounds, of which b begins the second; `|` stands for a canary."""
    samples, found = PairSamples(), []
    limits: dict[str, Any] = {
        **PROTOCOL,
        "warmup_min_runs": 2,
        "warmup_min_ms": 0,
        "visit_ms": 1,
        "blocks_min": 12,
        "blocks_max": 100,
    }
    limits["canary_every_ms"] = 10_000
    for order in ("ab", "ba"):
        log: list[str] = []
        canaries = SimpleNamespace(sample=lambda *_, log=log: log.append("|"))
        sides = {"a": samples.a.blocks, "b": samples.b.blocks}
        ways = [(Logged(name, log, takes_ns), sides[name]) for name in order]
        witness = Witness()
        bench = cast(Bench, SimpleNamespace(canaries=canaries, witness=witness))
        time_round(ways, samples, ProtocolParameters(**limits), bench)
        witness.close()
        found.append("".join(log))
    return found


@pytest.mark.parametrize(("takes_ns", "runs"), [(1_000_000, "aabb|aaabbbaaabbbaa"), (6_000_000, "aabb|aabbaabba")])
def test_rounds_are_mirror_images(takes_ns: int, runs: str) -> None:
    """What one side pays for its place, the other one pays in the next round: a model beside itself takes as long.

    Behind a canary the first block has as many runs of its side before it as any other first one.
    """
    first, second = rounds_of_runs(takes_ns)
    assert second == first.translate(str.maketrans("ab", "ba"))
    assert first == runs


def test_sides_may_differ_in_precision_and_options(launch: Any, both: dict[str, Any]) -> None:
    line = launch([pair_of(both, "one", "one", options={"graph_optimization": "none"})]).done[0]
    assert line["outcome"] == "ok", line
    line = launch([pair_of(both, "one", "one", options={"nothing": 1})]).done[0]
    assert (line["outcome"], line["code"]) == ("failed", "engine_error")
    line = launch([pair_of(both, "one", "one", precision="fp64")]).done[0]
    assert (line["outcome"], line["code"]) == ("failed", "precision_not_obeyed")


def test_a_wrong_b_side_fails_the_pair(launch: Any, both: dict[str, Any]) -> None:
    wrong = both["one"].visit(0)["gates"]
    line = launch([pair_of(both, "one", "two", gates=wrong)]).done[0]
    assert (line["outcome"], line["code"]) == ("failed", "wrong_result")


def test_a_pair_does_not_nest(launch: Any, both: dict[str, Any]) -> None:
    visit = pair_of(both, "one", "one")
    nested = visit | {"beside": visit["beside"] | {"beside": visit["beside"]}}
    said = launch([nested])
    assert (said.returncode, said.lines[-1]["code"]) == (3, "bad_request")


@pytest.mark.parametrize(
    ("a_ns", "b_ns", "expected"),
    [
        (20_000, 20_000, (11, 11)),
        (20_000, 200_000, (11, 1)),
        (250_000, 1_000_000, (4, 1)),
        (30_000_000, 30_000_000, (1, 1)),
    ],
)
def test_blocks_of_both_sides_last_about_equally_long(a_ns: int, b_ns: int, expected: tuple[int, int]) -> None:
    assert pair_iterations(a_ns, b_ns, 200) == expected
