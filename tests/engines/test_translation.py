"""Edges: a tensor goes to an artifact and back unchanged, up to the steps of its quantisation."""

import numpy as np
import pytest

from benchfarm_engines.edges import Edge
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.gate import relative_l2
from benchfarm_engines.launch_request import Gate, Visit
from benchfarm_engines.translation import to_artifact, to_workload
from benchfarm_engines.visit import check_session

X = np.random.default_rng(0).standard_normal((1, 3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize(
    "edge",
    [
        Edge("a"),
        Edge("a", axes=(0, 2, 3, 1)),
        Edge("a", axes=(0, 2, 3, 1), shape=(4, 5, 3)),
        Edge("a", shape=(3, 4, 5)),
    ],
)
def test_layout_comes_back(edge: Edge) -> None:
    inside = to_artifact({"x": X}, [edge])["a"]
    assert inside.flags.c_contiguous
    assert inside.shape == (edge.shape or tuple(X.shape[axis] for axis in edge.axes or range(4)))
    np.testing.assert_array_equal(to_workload([inside], [edge], [X.shape])[0], X)


def test_a_scalar_stays_one() -> None:
    scalar = np.array(2.5, np.float32)
    inside = to_artifact({"s": scalar}, [Edge("a")])["a"]
    assert inside.shape == to_workload([inside], [Edge("a")], [()])[0].shape == ()


def test_channels_last_moves_the_channels() -> None:
    inside = to_artifact({"x": X}, [Edge("a", axes=(0, 2, 3, 1))])["a"]
    assert inside[0, 2, 4, 1] == X[0, 1, 2, 4]


def test_eight_bits_keep_half_a_step_and_saturate() -> None:
    edge = Edge("a", dtype="int8", scale=0.01, zero_point=5)
    inside = to_artifact({"x": X}, [edge])["a"]
    assert inside.dtype == np.int8
    back = to_workload([inside], [edge], [X.shape])[0]
    inner = np.abs(X) < 1.2
    assert np.abs(back - X)[inner].max() <= 0.0051
    assert back.max() == pytest.approx((127 - 5) * 0.01)


def test_a_wrong_number_of_edges_is_refused() -> None:
    with pytest.raises(ValueError, match="columns of different lengths"):
        to_artifact({"x": X}, [])


class Answering:
    """A session whose latest outputs are given."""

    def __init__(self, output: float) -> None:
        self.threads = 1
        self._output = output

    def outputs(self) -> list[np.ndarray]:
        return [np.full(4, self._output, np.float32)]


@pytest.mark.parametrize(
    ("output", "passes"),
    [(1.03, True), (1.045, True), (0.99, True), (1.02, True), (0.965, False), (1.055, False)],
)
def test_a_twin_judges_only_what_is_farther_from_the_truth(output: float, passes: bool) -> None:
    """The truth is 1, its twin 1.03: nearer to the truth, or within 2 % of the twin, is right."""
    gates = (Gate("truth", 0.05), Gate("twin", 0.02))
    visit = Visit(visit=0, artifact="", format="", inputs=(), edges=None, gates=gates)
    references = [[np.ones(4, np.float32)], [np.full(4, 1.03, np.float32)]]
    if passes:
        assert check_session(Answering(output), visit, references)[0] == pytest.approx(abs(output - 1), rel=1e-3)  # type: ignore[arg-type]
    else:
        with pytest.raises(EngineFailure, match="relative L2"):
            check_session(Answering(output), visit, references)  # type: ignore[arg-type]


class AnsweringAll(Answering):
    """A session whose latest outputs are all given."""

    def __init__(self, *outputs: np.ndarray) -> None:
        self.threads = 1
        self._outputs = outputs

    def outputs(self) -> list[np.ndarray]:
        return list(self._outputs)


FAR = np.full(1000, 100, np.float32)
CODES = np.arange(120, 136, dtype=np.uint8)


@pytest.mark.parametrize(
    ("outputs", "reference", "detail"),
    [
        ([FAR, FAR / 100 * 2], [FAR, FAR / 100], "output 1 by itself is 1"),
        ([CODES[::-1]], [CODES], "is 2, allowed"),  # 7 % as they stand
        ([FAR, CODES[::-1]], [FAR, CODES], "output 1 by itself is 2"),
    ],
)
def test_the_worst_output_decides_and_a_zero_point_is_no_value(
    outputs: list[np.ndarray], reference: list[np.ndarray], detail: str
) -> None:
    visit = Visit(visit=0, artifact="", format="", inputs=(), edges=None, gates=(Gate("truth", 0.1),))
    assert check_session(AnsweringAll(*reference), visit, [reference]) == [0]  # type: ignore[arg-type]
    assert relative_l2(outputs, reference) < 0.1
    with pytest.raises(EngineFailure, match=detail):
        check_session(AnsweringAll(*outputs), visit, [reference])  # type: ignore[arg-type]
    with pytest.raises(EngineFailure, match=detail):
        check_session(AnsweringAll(*outputs), visit, [reference], each=0.9)  # type: ignore[arg-type]
