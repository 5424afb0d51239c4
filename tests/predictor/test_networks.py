"""Networks forward: by hand, each activation, and what a file may not hold."""

import math

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.networks import Activation, Layer, Network
from benchfarm_predictor.registry import Registry

COLUMNS = ["a", "b"]


def rows(*values: tuple[int, int]) -> Kernels:
    return Kernels.of_rows("their-conv", COLUMNS, values)


def layer(weights: list[list[float]], biases: list[float], activation: Activation = "none") -> Layer:
    return Layer(np.array(weights, dtype=np.float32), np.array(biases, dtype=np.float32), activation)


def network(*layers: Layer, **fields: object) -> Network:
    features = kernel_features(rows(), "lines").select(tuple(COLUMNS))
    plain = {"centre": np.zeros(2), "scale": np.ones(2), "target": "ms", **fields}
    return Network(features, layers, **plain)  # type: ignore[arg-type]


def test_two_layers_by_hand() -> None:
    """(3, 4): hidden (3 + 8 + 1, 3 - 4) = (12, -1), relu (12, 0); output 0.5 x 12 + 9 x 0 + 2 = 8."""
    made = network(layer([[1, 2], [1, -1]], [1, 0], "relu"), layer([[0.5, 9]], [2]))
    assert made.predict(rows((3, 4))).tolist() == [8.0]


def test_inputs_and_the_output_are_scaled() -> None:
    """((7 - 1) / 2, (10 - 2) / 4) = (3, 2): sum 5, times 3, plus 0.5."""
    made = network(
        layer([[1, 1]], [0]),
        centre=np.array([1.0, 2.0]),
        scale=np.array([2.0, 4.0]),
        output_scale=3.0,
        output_centre=0.5,
    )
    assert made.predict(rows((7, 10))).tolist() == [15.5]


def test_a_logarithm_is_undone_and_a_floor_holds() -> None:
    assert network(layer([[1, 0]], [0]), target="log").predict(rows((2, 0))) == pytest.approx([math.exp(2)])
    assert network(layer([[1, 0]], [0]), floor_ms=0.125).predict(rows((-2, 0))).tolist() == [0.125]


@pytest.mark.parametrize(
    ("activation", "below", "above"),
    [
        ("none", -1, 2),
        ("relu", 0, 2),
        ("leaky_relu", -0.3, 2),
        ("silu", -1 / (1 + math.e), 2 / (1 + math.exp(-2))),
        ("gelu", -0.5 * (1 + math.erf(-1 / math.sqrt(2))), 1 + math.erf(2 / math.sqrt(2))),
        ("tanh", math.tanh(-1), math.tanh(2)),
    ],
)
def test_each_activation(activation: Activation, below: float, above: float) -> None:
    made = network(layer([[1, 0]], [0], activation), layer([[1]], [5]))
    assert made.predict(rows((-1, 0), (2, 0))) == pytest.approx([5 + below, 5 + above])


def test_numbers_beyond_all_bounds_stay_finite() -> None:
    made = network(*(layer([[1e30, 0], [0, 1e30]], [0, 0], "silu") for _ in range(12)), layer([[1, 1]], [0]))
    for target in ("log", "ms"):
        found = network(*made.layers, target=target).predict(rows((2**31, -(2**31)), (0, 0)))
        assert np.isfinite(found).all()
        assert (found > 0).all()


def test_from_arrays_undoes_to_arrays() -> None:
    made = network(layer([[1, 2], [1, -1]], [1, 0], "tanh"), layer([[0.5, 9]], [2]), target="log", output_scale=0.1)
    again = Registry().model(*made.to_arrays())
    batch = rows((3, 4), (-1, 2))
    assert again.predict(batch).tolist() == made.predict(batch).tolist()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights0", np.zeros((2, 3), dtype=np.float32)),
        ("weights0", np.zeros((2, 2))),
        ("biases0", np.zeros(3, dtype=np.float32)),
        ("weights1", np.zeros((2, 2), dtype=np.float32)),
        ("centre", np.zeros(3)),
        ("scale", np.array([1.0, 0.0])),
        ("scale", np.array([1.0, np.nan])),
        ("biases1", None),
    ],
)
def test_layers_that_do_not_fit_are_damaged(name: str, value: np.ndarray | None) -> None:
    arrays, meta = network(layer([[1, 2], [1, -1]], [1, 0], "relu"), layer([[0.5, 9]], [2])).to_arrays()
    changed = {key: found for key, found in arrays.items() if key != name} | ({} if value is None else {name: value})
    with pytest.raises(InvalidRequest) as caught:
        Registry().model(changed, meta)
    assert caught.value.code == "predictor_file_damaged"


def test_an_unknown_activation_is_damaged() -> None:
    arrays, meta = network(layer([[1, 2]], [1])).to_arrays()
    for activations in (["softplus"], [], ["none"] * 65):
        with pytest.raises(InvalidRequest) as caught:
            Registry().model(arrays, {**meta, "activations": activations})
        assert caught.value.code == "predictor_file_damaged"
