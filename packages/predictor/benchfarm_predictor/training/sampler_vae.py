"""Trains a sampler: a variational autoencoder on the frequencies of one kernel type. Needs torch.

LitePred's idea (NSDI 2024, section 4.1): columns depend on each other, channels on sizes and windows on both, so that
drawing each column by itself leaves the distribution, and drawing from the spaces gives away what is evaluated. What
is different here: choices are drawn from odds instead of being rounded, the spread of sizes is learnt (Rybkin et al.
2021, arXiv 2006.13202) instead of a weight between the two losses, and both losses are the textbook's.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.training.sampler import generator
from benchfarm_predictor.training.sampler_decoder import Decoder, Origin
from benchfarm_predictor.training.sampler_encoding import Encoding
from benchfarm_workloads.kernel_frequencies import KernelFrequencies

LARGE_KERNELS: Final = ("conv-bn-act", "dwconv-bn-act", "linear")
"""Types with so many configurations that networks never show them all; the others are drawn as they occur."""
LEAST_CONFIGS: Final = 50
LEAST_SPREAD: Final = 0.002
"""Of sizes, in the encoding's scale: below it the loss would only count decimals."""
FIRST_SPREAD: Final = 0.1
_TORCH_SEEDS: Final = 2**63


@dataclass(frozen=True, slots=True)
class Training:
    """How a sampler is trained. ``steps`` draws of ``batch`` configurations, each as often as its share says."""

    hidden: int = 64
    code: int = 8
    steps: int = 2000
    batch: int = 128
    rate: float = 3e-3


class _Autoencoder(nn.Module):  # type: ignore[misc]  # PyTorch is not there when types are checked
    def __init__(self, width: int, sizes: int, training: Training) -> None:
        super().__init__()
        hidden, code = training.hidden, training.code
        self.encoder = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2 * code)
        )
        self.decoder = nn.Sequential(
            nn.Linear(code, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, width)
        )
        self.log_spread = nn.Parameter(torch.full((sizes,), math.log(FIRST_SPREAD)))


def train_sampler(frequencies: KernelFrequencies, *, seed: str, training: Training = Training()) -> Decoder:
    """A sampler of the frequencies' kernel type. The same for the same arguments on the same build of torch.

    Raises:
        InvalidRequest: ``training_rows_invalid``: too few configurations, or none of their columns differs.
    """
    encoding = Encoding.of(frequencies)
    if len(frequencies.configs) < LEAST_CONFIGS or encoding.width == 0:
        detail = (
            f"{frequencies.type} has {len(frequencies.configs)} configurations; a sampler learns from {LEAST_CONFIGS}"
        )
        raise InvalidRequest(detail, code="training_rows_invalid", field="frequencies")
    chance = generator(f"train/{frequencies.type}/{seed}")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(int(chance.integers(_TORCH_SEEDS)))
        model = _Autoencoder(encoding.width, int(encoding.is_size.sum()), training)
        _fit(model, encoding, frequencies, chance, training)
    return _decoder(model, encoding, Origin(frequencies.content_hash, seed, training.steps))


def _fit(
    model: _Autoencoder,
    encoding: Encoding,
    frequencies: KernelFrequencies,
    chance: np.random.Generator,
    training: Training,
) -> None:
    vectors = torch.from_numpy(encoding.encode(frequencies.configs).astype(np.float32))
    odds = np.array(frequencies.shares) / sum(frequencies.shares)
    optimiser = torch.optim.Adam(model.parameters(), lr=training.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, training.steps)
    for _ in range(training.steps):
        batch = vectors[torch.from_numpy(chance.choice(len(odds), size=training.batch, p=odds))]
        loss = _loss(model, encoding, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _loss(model: _Autoencoder, encoding: Encoding, batch: Tensor) -> Tensor:
    """The negative evidence lower bound, mean over the batch; ``batch``: float32[n, width]."""
    mean, log_variance = model.encoder(batch).chunk(2, dim=1)
    log_variance = log_variance.clamp(-12.0, 4.0)
    code = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
    decoded = model.decoder(code)
    is_size = torch.from_numpy(encoding.is_size)
    log_spread = model.log_spread.clamp(min=math.log(LEAST_SPREAD))
    errors = (torch.sigmoid(decoded[:, is_size]) - batch[:, is_size]) / torch.exp(log_spread)
    loss = (errors**2 / 2 + log_spread).sum(dim=1)
    for begin, end in encoding.choices:
        loss = loss + nn.functional.cross_entropy(decoded[:, begin:end], batch[:, begin:end], reduction="none")
    divergence = (mean**2 + torch.exp(log_variance) - log_variance - 1).sum(dim=1) / 2
    return (loss + divergence).mean()


def _decoder(model: _Autoencoder, encoding: Encoding, origin: Origin) -> Decoder:
    layers = tuple(
        (_numbers(layer.weight), _numbers(layer.bias)) for layer in model.decoder if isinstance(layer, nn.Linear)
    )
    noise = np.zeros(encoding.width)
    spread = torch.exp(model.log_spread).clamp(min=LEAST_SPREAD)
    noise[encoding.is_size] = _numbers(spread)
    return Decoder(encoding, layers, noise, origin)


def _numbers(tensor: Tensor) -> Floats:
    """As a file keeps them: float32's values, so that a sampler draws the same before it is written and after."""
    numbers: Floats = tensor.detach().numpy().astype(np.float32).astype(np.float64)
    return numbers
