"""LitePred's network as published, in the environment that has PyTorch."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from torch import nn

from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.networks import Network
from benchfarm_predictor.training.litepred_network import BASE, FINE_TUNE, Recipe, fine_tune, fit_base
from benchfarm_predictor.training.measured import Measured
from tests.predictor.rows import drawn
from tests.predictor.training.platforms import TYPE, measured

QUICK = Recipe(epochs=3, rate=1e-3)
PARAMETERS = 497_601
"""Of the released network with 7 inputs."""


@pytest.fixture(scope="module")
def network() -> Network:
    return fit_base(measured(64, seed=1), seed=1, recipe=QUICK)


def test_its_size_is_the_published_one() -> None:
    """hw, cin, cout, k, s, FLOPs and parameters, as in the released code: batch left out."""
    kernels = drawn(TYPE, 20, seed=1)
    five = Kernels("their-conv", ("hw", "cin", "cout", "k", "s", "mmacs"), np.abs(kernels.values[:, :6]) + 1)
    rows = Measured(five, np.linspace(1, 2, 20))
    assert len(kernel_features(five, "published").names) == 7
    made = fit_base(rows, seed=0, recipe=Recipe(1, 1e-3))
    assert sum(layer.weights.size + layer.biases.size for layer in made.layers) == PARAMETERS
    assert len(made.layers) == 16


def test_it_is_what_torch_makes_of_the_published_layers(network: Network) -> None:
    modules: list[nn.Module] = []
    for number, layer in enumerate(network.layers, start=1):
        linear = nn.Linear(*reversed(layer.weights.shape))
        linear.weight.data, linear.bias.data = torch.from_numpy(layer.weights), torch.from_numpy(layer.biases)
        modules.append(linear)
        if number < 16:
            modules.append(nn.LeakyReLU(0.3) if number in (13, 14) else nn.ReLU())
    kernels = drawn(TYPE, 50, seed=3)
    x = torch.from_numpy(network.features.matrix(kernels).astype(np.float32))
    theirs = nn.Sequential(*modules)(x)[:, 0].detach().numpy()
    assert network.predict(kernels) == pytest.approx(np.maximum(theirs, network.floor_ms), rel=1e-5, abs=1e-6)


def test_the_same_seed_gives_the_same_network(network: Network) -> None:
    other = drawn(TYPE, 30, seed=9)
    again = fit_base(measured(64, seed=1), seed=1, recipe=QUICK)
    assert again.predict(other).tolist() == network.predict(other).tolist()


def test_fine_tuning_trains_every_layer_and_leaves_the_donor_alone(network: Network) -> None:
    before = [layer.weights.copy() for layer in network.layers]
    tuned = fine_tune(network, measured(40, seed=2), seed=1, recipe=QUICK)
    for layer, kept, new in zip(network.layers, before, tuned.layers, strict=True):
        assert (layer.weights == kept).all()
        assert (new.weights != kept).any()


def test_it_learns() -> None:
    rows = measured(200, seed=1)
    off = [
        np.abs(fit_base(rows, seed=1, recipe=Recipe(epochs, 1e-3)).predict(rows.kernels) / rows.latency_ms - 1).mean()
        for epochs in (1, 60)
    ]
    assert off[1] < 0.7 * off[0]


def test_its_schedules_are_the_published_ones() -> None:
    assert (Recipe(350, 1e-3), Recipe(300, 5e-4)) == (BASE, FINE_TUNE)
