"""LitePred's network as its authors released it (NSDI 2024): the baseline, kept as it is.

Sixteen layers on plain columns, a mean relative error as loss, Adam, and a cosine over all epochs: 350 from scratch on
the donor, 300 at half the rate on the target. Nothing is scaled, no layer is frozen.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, linear, relu

from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.models import Features
from benchfarm_predictor.networks import Layer, Network
from benchfarm_predictor.training.litepred_layers import SLOPE, WIDTHS, activation_of
from benchfarm_predictor.training.measured import Measured
from benchfarm_predictor.training.networks import one_thread

BATCH_ROWS: Final = 32
MAX_ROWS: Final = 10_000
LEAST_MS: Final = 1.17e-6
"""Smaller latencies are taken to be this one where the loss divides by them."""


@dataclass(frozen=True)
class Recipe:
    """Epochs and the first rate."""

    epochs: int
    rate: float


BASE: Final = Recipe(350, 1e-3)
FINE_TUNE: Final = Recipe(300, 5e-4)


def fit_base(measured: Measured, seed: int, recipe: Recipe = BASE) -> Network:
    """The network from scratch, on at most ``MAX_ROWS`` rows."""
    chance = np.random.default_rng(seed)
    rows = np.sort(chance.permutation(len(measured))[:MAX_ROWS])
    features = kernel_features(measured.kernels, "published")
    generator = torch.Generator().manual_seed(seed % 2**63)
    start = _drawn((len(features.names), *WIDTHS), generator)
    return _fitted(features, measured.take(rows), start, recipe, generator)


def fine_tune(network: Network, measured: Measured, seed: int, recipe: Recipe = FINE_TUNE) -> Network:
    """All weights trained on, by the rows of another platform."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    start = [torch.from_numpy(part.copy()) for layer in network.layers for part in (layer.weights, layer.biases)]
    return _fitted(network.features, measured, start, recipe, generator)


def _drawn(widths: tuple[int, ...], generator: torch.Generator) -> list[Tensor]:
    """As torch starts a linear layer: uniform within 1 / sqrt(inputs)."""
    parameters: list[Tensor] = []
    for inputs, outputs in itertools.pairwise(widths):
        drawn = [torch.rand(shape, generator=generator) for shape in ((outputs, inputs), (outputs,))]
        parameters += [(2 * each - 1) / math.sqrt(inputs) for each in drawn]
    return parameters


def _fitted(
    features: Features, measured: Measured, start: list[Tensor], recipe: Recipe, generator: torch.Generator
) -> Network:
    x = torch.from_numpy(features.matrix(measured.kernels).astype(np.float32))
    want = torch.from_numpy(measured.latency_ms.astype(np.float32))
    parameters = [tensor.requires_grad_() for tensor in start]
    optimiser = torch.optim.Adam(parameters, lr=recipe.rate, foreach=True)
    with one_thread():
        for epoch in range(recipe.epochs):
            optimiser.param_groups[0]["lr"] = recipe.rate * 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))
            for rows in _batches(len(want), generator):
                said, true = forward(parameters, x[rows]), want[rows]
                loss = ((said - true).abs() / true.clamp(min=LEAST_MS)).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return _network(features, [tensor.detach() for tensor in parameters])


def _batches(count: int, generator: torch.Generator) -> Iterator[Tensor]:
    order = torch.randperm(count, generator=generator)
    yield from order.split(BATCH_ROWS)


def forward(parameters: list[Tensor], x: Tensor) -> Tensor:
    """The weights and biases of each layer on float32[b, d]: float32[b] in ms."""
    for layer in range(1, len(parameters) // 2 + 1):
        x = linear(x, parameters[2 * layer - 2], parameters[2 * layer - 1])
        match activation_of(layer):
            case "relu":
                x = relu(x)
            case "leaky_relu":
                x = leaky_relu(x, SLOPE)
    return x[:, 0]


def _network(features: Features, parameters: list[Any]) -> Network:
    layers = tuple(
        Layer(weights.numpy().copy(), biases.numpy().copy(), activation_of(number))
        for number, (weights, biases) in enumerate(zip(parameters[::2], parameters[1::2], strict=True), start=1)
    )
    count = len(features.names)
    return Network(features, layers, np.zeros(count), np.ones(count), target="ms")
