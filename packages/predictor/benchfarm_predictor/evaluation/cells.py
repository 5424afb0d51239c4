"""One cell: the predictors that every method makes of the same n samples, and what they say of the test rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchfarm_predictor.conformal import Intervals, calibrate
from benchfarm_predictor.evaluation.report import Method
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.models import Model
from benchfarm_predictor.networks import Network
from benchfarm_predictor.similarity import rank_donors
from benchfarm_predictor.training.absent import TORCH, TREES, why_absent
from benchfarm_predictor.training.candidates import Candidate, Family, Problem
from benchfarm_predictor.training.choice import all_candidates, choose, of_families
from benchfarm_predictor.training.measured import Measured

SEVERAL: Final = 2
FAMILIES: Final[dict[Method, tuple[Family, ...]]] = {
    "scratch": ("scratch",),
    "scale-only": ("scale-only",),
    "residual": ("residual",),
    "stacked": ("stacked",),
    "fine-tune": ("fine-tune",),
    "ours": ("scratch", "scale-only", "residual", "stacked", "fine-tune"),
}
"""Among which candidates a method chooses."""


@dataclass(frozen=True, eq=False)
class Made:
    """What a method made: its prediction float64[rows] in ms, the candidates in it, and 90 % intervals, if any."""

    predicted_ms: Floats
    members: tuple[str, ...]
    intervals: Intervals | None = None

    def coverage(self, measured_ms: Floats) -> float | None:
        """The share of measured latencies within their intervals."""
        if self.intervals is None:
            return None
        low, high = self.intervals.bounds(self.predicted_ms)
        return float(np.mean((low <= measured_ms) & (measured_ms <= high)))


def methods_without(donors: int, baselines: bool = True) -> dict[Method, str]:
    """Methods that are left out with so many donors, and why."""
    reasons: dict[Method, str] = {}
    torch, trees = why_absent(TORCH), why_absent(TREES)
    if torch is not None:
        reasons |= {"fine-tune": torch, "litepred": torch}
    if trees is not None:
        reasons["random-forest"] = trees
    if donors < SEVERAL:
        reasons["stacked"] = "it needs several donors"
    if not baselines:
        reasons |= {"litepred": "baselines were not asked for", "random-forest": "baselines were not asked for"}
    return reasons


def cell(
    problem: Problem, test: Kernels, published: Mapping[str, Network], baselines: bool = True
) -> dict[Method, Made]:
    """What each method that can be used here makes of the samples.

    Args:
        problem: the samples and the donors.
        test: configurations to predict; how long they took is not known here.
        published: LitePred's network of each donor, by the donor's name.
        baselines: whether those are wanted that are not ours.
    """
    without = methods_without(len(problem.donors), baselines)
    found = all_candidates(problem)
    said = {candidate.name: candidate.model.predict(test) for candidate in found}
    made: dict[Method, Made] = {"ridge": Made(said["ridge"], ("ridge",))}
    for method, families in FAMILIES.items():
        among = of_families(found, *families)
        if among and method not in without:
            made[method] = _chosen(problem, among, said)
    if "litepred" not in without and published:
        made["litepred"] = _litepred(problem, test, published)
    if "random-forest" not in without:
        made["random-forest"] = _forest(problem.measured, test, problem.seed)
    return made


def _chosen(problem: Problem, among: Sequence[Candidate], said: Mapping[str, Floats]) -> Made:
    """The choice's prediction from those of its members: the same as its model's, without computing them again."""
    choice = choose(problem.target, among)
    logs = np.stack([np.log(said[name]) for name in choice.names])
    intervals = calibrate(np.exp(choice.unseen), problem.measured.latency_ms)
    return Made(np.exp(np.array(choice.weights) @ logs), choice.names, intervals)


def _litepred(problem: Problem, test: Kernels, published: Mapping[str, Network]) -> Made:
    """The network of the donor whose predictions have the least divergence from the samples, trained on."""
    from benchfarm_predictor.training.litepred_network import fine_tune

    measured = problem.measured
    ranked = rank_donors(
        measured.latency_ms, {name: network.predict(measured.kernels) for name, network in published.items()}
    )
    donor = ranked[0].donor if ranked else min(published)
    return Made(fine_tune(published[donor], measured, problem.seed).predict(test), (donor,))


def _forest(measured: Measured, test: Kernels, seed: int) -> Made:
    from benchfarm_predictor.training.trees import random_forest

    model: Model = random_forest(measured, seed)
    return Made(model.predict(test), ())
