"""Networks on log features, in the environment that has PyTorch."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import torch

from benchfarm_predictor.registry import Registry
from benchfarm_predictor.training.candidates import Problem, problem_of
from benchfarm_predictor.training.choice import all_candidates
from benchfarm_predictor.training.donor_fits import fit_donor
from benchfarm_predictor.training.donors import Donor
from benchfarm_predictor.training.networks import (
    MEMBERS,
    Schedule,
    fine_tuned_candidate,
    network_candidate,
    one_thread,
)
from tests.predictor.rows import drawn
from tests.predictor.training.platforms import TYPE, measured

SHORT = Schedule(3e-3, 0.03, (5, 40), is_anchored=False)
SHORT_TUNING = Schedule(1e-3, 0.03, (5, 40), is_anchored=True)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return problem_of(measured(60, seed=1), (), seed=3)


@pytest.fixture(scope="module")
def donor() -> Donor:
    return fit_donor("donor", measured(120, seed=2, speed=0.8, bandwidth=1.2), seed=1)


def test_the_arrays_say_what_torch_said(problem: Problem) -> None:
    """What is said of the training rows by torch, at the stop that was chosen, against the converted networks."""
    from benchfarm_predictor.training import networks

    kept = []
    made = network_candidate(problem, replace(SHORT, stops=(40,)))
    with one_thread():
        for stop in networks_stops(networks, problem):
            kept.append(stop.said[-1])
    ours = np.log(made.model.correction.predict(problem.kernels))  # type: ignore[attr-defined]
    assert ours == pytest.approx(kept[-1], rel=1e-4, abs=1e-5)


def networks_stops(networks, problem):
    """Training as the candidate's, stop by stop."""
    from benchfarm_predictor.features import kernel_features

    base, features = problem.ridge, kernel_features(problem.kernels)
    matrix = features.matrix(problem.kernels)
    want = problem.target - np.stack([*base.by_fold, base.full])
    x = (matrix - matrix.mean(axis=0)) / networks._scale(matrix)
    task = networks._task(problem, x, want, 0.0, max(float(np.std(want[-1])), 0.01))
    generator = torch.Generator().manual_seed(problem.seed)
    layers = networks._drawn((len(features.names), *networks.WIDTHS, 1), len(task.subsets) * MEMBERS, generator)
    return networks._train(task, layers, replace(SHORT, stops=(40,)), generator)


def test_the_same_seed_gives_the_same_network(problem: Problem) -> None:
    other = drawn(TYPE, 30, seed=9)
    one, again = (network_candidate(problem, SHORT).model.predict(other) for _ in range(2))
    assert one.tolist() == again.tolist()


def test_a_network_learns_what_a_ridge_cannot() -> None:
    """Slower where one of input and output channels is large and the other is not."""
    rows = measured(300, seed=1)
    large = [rows.kernels.column(name) > 64 for name in ("cin", "cout")]
    odd = replace(rows, latency_ms=rows.latency_ms * np.where(large[0] != large[1], 3.0, 1.0))
    problem = problem_of(odd, (), seed=3)
    models = (network_candidate(problem).model, problem.ridge.model)
    off = [np.abs(np.log(model.predict(odd.kernels)) - odd.log_ms).mean() for model in models]
    assert off[0] < 0.7 * off[1]


def test_fine_tuning_begins_at_the_donor(donor: Donor) -> None:
    """A step of length zero leaves the donor's shape and takes the target's speed, each member for itself."""
    rows = measured(30, seed=5)
    slower = replace(rows, latency_ms=donor.networks.predict(rows.kernels) * 7)  # type: ignore[union-attr]
    problem = problem_of(slower, (donor.over(rows.kernels),), seed=0)
    tuned = fine_tuned_candidate(problem, problem.donors[0], Schedule(0.0, 0.0, (1,), is_anchored=True))
    other = drawn(TYPE, 40, seed=6)
    assert tuned is not None
    assert tuned.model.predict(other) == pytest.approx(donor.networks.predict(other) * 7, rel=0.02)  # type: ignore[union-attr]


def test_fine_tuning_needs_fewer_rows_than_a_network_from_scratch(donor: Donor) -> None:
    rows, new = measured(30, seed=5), measured(300, seed=8)
    problem = problem_of(rows, (donor.over(rows.kernels),), seed=0)
    tuned, scratch = fine_tuned_candidate(problem, problem.donors[0]), network_candidate(problem)
    assert tuned is not None
    off = [np.abs(np.log(each.model.predict(new.kernels)) - new.log_ms).mean() for each in (tuned, scratch)]
    assert off[0] < off[1]


def test_a_donor_without_networks_is_not_tuned(donor: Donor, problem: Problem) -> None:
    assert fine_tuned_candidate(problem, replace(donor, networks=None).over(problem.kernels)) is None


def test_each_network_learns_from_its_own_rows_alone(problem: Problem) -> None:
    """What is said of a fold cannot depend on its rows; at which stop is chosen by the other folds."""
    held = problem.folds[1].held
    latency_ms = problem.measured.latency_ms.copy()
    latency_ms[held] *= 10
    other = Problem(replace(problem.measured, latency_ms=latency_ms), (), problem.folds, problem.seed)
    before, after = (network_candidate(each, SHORT).unseen for each in (problem, other))
    # the spread of all rows is the unit of the output: rows of a fold change it, and with it the last digits
    assert after[held] == pytest.approx(before[held], abs=0.5), "ten times as long is 2.3"
    assert np.abs(after - before).max() > 1


def test_all_candidates_have_networks_and_files_of_them(donor: Donor) -> None:
    rows, other = measured(30, seed=5), drawn(TYPE, 20, seed=6)
    found = all_candidates(problem_of(rows, (donor.over(rows.kernels),), seed=0))
    assert {"ridge+network", "donor fine-tuned"} <= {candidate.name for candidate in found}
    for candidate in found:
        arrays, meta = candidate.model.to_arrays()
        assert Registry().model(arrays, meta).predict(other) == pytest.approx(candidate.model.predict(other))
