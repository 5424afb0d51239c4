"""Small networks on log features, many at once: one for each fold and member, as one batch of matrices.

Shapes: `g` networks (subsets of rows x members), `n` rows, `b` rows of one step, `d` features.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss, silu

from benchfarm_predictor.combined import Residual, Stacked
from benchfarm_predictor.features import KernelFeatures, kernel_features
from benchfarm_predictor.kernels import Floats, Ints
from benchfarm_predictor.models import Features
from benchfarm_predictor.networks import Layer, Network
from benchfarm_predictor.training.candidates import Candidate, Problem
from benchfarm_predictor.training.donors import DonorView
from benchfarm_predictor.training.losses import losses

WIDTHS: Final = (64, 64)
MEMBERS: Final = 2
BATCH_ROWS: Final = 128
HUBER: Final = 0.05
"""Errors beyond it, in log ms, count linearly: what cannot be learnt must not lead."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. ``stops``: steps at which training may end; cross-validation says at which.

    Weights are drawn by ``decay`` to zero, or to where they started (``is_anchored``).
    """

    rate: float
    decay: float
    stops: tuple[int, ...]
    is_anchored: bool


SCRATCH: Final = Schedule(3e-3, 0.03, (150, 400), is_anchored=False)
FINE_TUNE: Final = Schedule(1e-3, 0.03, (25, 75, 250), is_anchored=True)


@dataclass(frozen=True, eq=False)
class _Task:
    """Rows to learn: ``x`` float32[n, d] standardised, ``want`` float32[subsets, n] in log ms, a row set per subset."""

    x: Tensor
    want: Tensor
    subsets: tuple[Ints, ...]
    output_centre: float
    output_scale: float


@dataclass(frozen=True, eq=False)
class _Stop:
    """Training after so many steps: what each subset says of all rows, float64[subsets, n], and the last one's layers
    as (weights float32[members, in, out], biases float32[members, 1, out]).
    """

    said: Floats
    layers: tuple[tuple[Tensor, Tensor], ...]


@contextmanager
def one_thread() -> Iterator[None]:
    """More threads add in another order, and gain nothing on matrices of this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def network_candidate(problem: Problem, schedule: Schedule = SCRATCH) -> Candidate:
    """Networks that correct a ridge: started by chance, fitted to the rows alone."""
    base, features = problem.ridge, kernel_features(problem.kernels)
    matrix = features.matrix(problem.kernels)
    centre, scale = matrix.mean(axis=0), _scale(matrix)
    want = problem.target - np.stack([*base.by_fold, base.full])
    task = _task(problem, (matrix - centre) / scale, want, 0.0, max(float(np.std(want[-1])), 0.01))
    with one_thread():
        generator = torch.Generator().manual_seed(problem.seed % 2**63)
        layers = _drawn((len(features.names), *WIDTHS, 1), len(task.subsets) * MEMBERS, generator)
        stop, said = _best(problem, task, layers, schedule, generator, np.stack([*base.by_fold, base.full]))
    networks = Stacked(_members(stop, task, features, centre, scale), (1 / MEMBERS,) * MEMBERS, 0.0)
    return Candidate("ridge+network", "scratch", Residual(base.model, networks), said)


def fine_tuned_candidate(problem: Problem, view: DonorView, schedule: Schedule = FINE_TUNE) -> Candidate | None:
    """A donor's networks, all weights trained on; None when the donor has none."""
    start = view.donor.networks
    if start is None:
        return None
    base, networks = start.base, _networks_of(start)
    first = networks[0]
    known = np.log(base.predict(problem.kernels)) + view.memorised
    x = (first.features.matrix(problem.kernels) - first.centre) / first.scale
    want = np.tile(problem.target - known, (len(problem.folds) + 1, 1))
    task = _task(problem, x, want, first.output_centre, first.output_scale)
    with one_thread():
        generator = torch.Generator().manual_seed(problem.seed % 2**63)
        layers = _shifted(_copied(networks, len(task.subsets)), task)
        stop, said = _best(problem, task, layers, schedule, generator, np.tile(known, (len(want), 1)))
    tuned = _members(stop, task, first.features, first.centre, first.scale)
    model = Residual(base, Stacked(tuned, (1 / len(tuned),) * len(tuned), 0.0))
    return Candidate(f"{view.donor.name} fine-tuned", "fine-tune", model, said)


def _scale(matrix: Floats) -> Floats:
    """Standard deviations, 1 where there is none."""
    deviation = matrix.std(axis=0)
    return np.where(deviation > 1e-6, deviation, 1.0)


def _task(problem: Problem, x: Floats, want: Floats, centre: float, scale: float) -> _Task:
    subsets = (*(fold.train for fold in problem.folds), np.arange(len(x)))
    wide = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    return _Task(wide, torch.from_numpy(want.astype(np.float32)), subsets, centre, scale)


def _networks_of(model: Residual) -> tuple[Network, ...]:
    assert isinstance(model.correction, Stacked), "made by network_candidate or fine_tuned_candidate"
    return tuple(member for member in model.correction.members if isinstance(member, Network))


def _drawn(widths: Sequence[int], count: int, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Layers of so many networks; the last one small, so that training starts near the base."""
    layers = []
    for at, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        gain = 0.1 if at == len(widths) - 2 else math.sqrt(2)
        weights = torch.randn((count, inputs, outputs), generator=generator) * (gain / math.sqrt(inputs))
        layers.append((weights, torch.zeros((count, 1, outputs))))
    return layers


def _copied(networks: Sequence[Network], subsets: int) -> list[tuple[Tensor, Tensor]]:
    """The same networks once for each subset; network ``s * members + m`` is member m of subset s."""
    layers = []
    for at in range(len(networks[0].layers)):
        weights = np.stack([network.layers[at].weights.T for network in networks])
        biases = np.stack([network.layers[at].biases[None, :] for network in networks])
        layers.append(
            (torch.from_numpy(np.tile(weights, (subsets, 1, 1))), torch.from_numpy(np.tile(biases, (subsets, 1, 1))))
        )
    return layers


def _shifted(layers: list[tuple[Tensor, Tensor]], task: _Task) -> list[tuple[Tensor, Tensor]]:
    """The last biases moved so that each subset's median error is zero: the donor's speed is no news."""
    members = len(layers[0][0]) // len(task.subsets)
    said = _forward(layers, task.x.expand(len(layers[0][0]), *task.x.shape)) * task.output_scale + task.output_centre
    weights, biases = layers[-1]
    moved = biases.clone()
    for network in range(len(moved)):
        subset = network // members
        rows = torch.from_numpy(task.subsets[subset])
        moved[network] += (task.want[subset] - said[network])[rows].median() / task.output_scale
    return [*layers[:-1], (weights, moved)]


def _forward(layers: Sequence[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """float32[g, b, d] to float32[g, b], in units of the output's scale."""
    for weights, biases in layers[:-1]:
        x = silu(torch.baddbmm(biases, x, weights))
    weights, biases = layers[-1]
    out: Tensor = torch.baddbmm(biases, x, weights)
    return out[:, :, 0]


def _best(
    problem: Problem,
    task: _Task,
    layers: list[tuple[Tensor, Tensor]],
    schedule: Schedule,
    generator: torch.Generator,
    starts: Floats,
) -> tuple[_Stop, Floats]:
    """The stop at which rows that were held back are predicted best, and what is said of them: float64[n].

    What is said of a fold is of the stop that is best for the others: it was not chosen by the fold's own rows.
    ``starts``: float64[subsets, n], the base's log ms that networks correct.
    """
    stops: list[_Stop] = []
    tried = []
    for stop in _train(task, layers, schedule, generator):
        said = np.empty(len(problem.measured))
        for at, fold in enumerate(problem.folds):
            said[fold.held] = (starts[at] + stop.said[at])[fold.held]
        stops.append(stop)
        tried.append(said)
    lost = np.stack([losses(said - problem.target) for said in tried])
    unseen = np.empty(len(problem.measured))
    for fold in problem.folds:
        unseen[fold.held] = tried[int(lost[:, fold.train].mean(axis=1).argmin())][fold.held]
    return stops[int(lost.mean(axis=1).argmin())], unseen


def _train(
    task: _Task, layers: list[tuple[Tensor, Tensor]], schedule: Schedule, generator: torch.Generator
) -> Iterator[_Stop]:
    """Adam on all networks at once; their losses are added, so that each learns as if it were alone."""
    starts = [tensor.clone() for layer in layers for tensor in layer]
    homes = starts if schedule.is_anchored else [torch.zeros_like(tensor) for tensor in starts]
    parameters = [tensor.clone().requires_grad_() for tensor in starts]
    optimiser = torch.optim.Adam(parameters, lr=schedule.rate, foreach=True)
    draw = _Rows(task, len(layers[0][0]), generator)
    last = schedule.stops[-1]
    for step in range(1, last + 1):
        rate = schedule.rate * 0.5 * (1 + math.cos(math.pi * step / (last + 1)))
        optimiser.param_groups[0]["lr"] = rate
        x, want, weights = draw.next()
        said = _forward(_paired(parameters), x) * task.output_scale + task.output_centre
        loss = (huber_loss(said, want, reduction="none", delta=HUBER) * weights).sum() / HUBER
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for tensor, home in zip(parameters, homes, strict=True):
                tensor.lerp_(home, rate * schedule.decay)
        if step in schedule.stops:
            yield _stop(task, parameters)


def _paired(parameters: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(parameters[::2], parameters[1::2], strict=True))


class _Rows:
    """The rows of each step: all of a network's own where they are few, else some of them by chance."""

    def __init__(self, task: _Task, count: int, generator: torch.Generator) -> None:
        self.task, self.generator = task, generator
        members = count // len(task.subsets)
        self.subset = torch.arange(len(task.subsets)).repeat_interleave(members)
        self.sizes = torch.tensor([len(task.subsets[at]) for at in self.subset.tolist()])
        self.whole: tuple[Tensor, Tensor, Tensor] | None = None
        if len(task.x) <= BATCH_ROWS:
            mask = torch.zeros((count, len(task.x)))
            for at, subset in enumerate(self.subset.tolist()):
                mask[at, torch.from_numpy(task.subsets[subset])] = 1 / len(task.subsets[subset])
            self.whole = (task.x.expand(count, *task.x.shape), task.want[self.subset], mask)
        longest = int(self.sizes.max())
        self.table = torch.stack([_padded(task.subsets[at], longest) for at in self.subset.tolist()])

    def next(self) -> tuple[Tensor, Tensor, Tensor]:
        """x float32[g, b, d], what is wanted float32[g, b], and each row's weight, which sum to 1 for each network."""
        if self.whole is not None:
            return self.whole
        chance = torch.rand((len(self.subset), BATCH_ROWS), generator=self.generator)
        rows = self.table.gather(1, (chance * self.sizes[:, None]).long())
        want = self.task.want[self.subset[:, None], rows]
        return self.task.x[rows], want, torch.full_like(want, 1 / BATCH_ROWS)


def _padded(rows: Ints, length: int) -> Tensor:
    return torch.from_numpy(np.resize(rows, length))


def _stop(task: _Task, parameters: Sequence[Tensor]) -> _Stop:
    with torch.no_grad():
        layers = _paired([tensor.detach().clone() for tensor in parameters])
        count = len(layers[0][0])
        members = count // len(task.subsets)
        said = _forward(layers, task.x.expand(count, *task.x.shape)) * task.output_scale + task.output_centre
        said = said.reshape(len(task.subsets), members, -1).mean(dim=1)
        last = tuple((weights[-members:], biases[-members:]) for weights, biases in layers)
        return _Stop(said.numpy().astype(np.float64), last)


def _members(
    stop: _Stop, task: _Task, features: Features | KernelFeatures, centre: Floats, scale: Floats
) -> tuple[Network, ...]:
    """The networks that were fitted to all rows, as arrays."""
    made = []
    for member in range(len(stop.layers[0][0])):
        layers = tuple(
            _layer(weights[member], biases[member], at == len(stop.layers) - 1)
            for at, (weights, biases) in enumerate(stop.layers)
        )
        made.append(
            Network(features, layers, centre, scale, output_centre=task.output_centre, output_scale=task.output_scale)
        )
    return tuple(made)


def _layer(weights: Any, biases: Any, is_last: bool) -> Layer:
    return Layer(np.ascontiguousarray(weights.T.numpy()), biases[0].numpy().copy(), "none" if is_last else "silu")
