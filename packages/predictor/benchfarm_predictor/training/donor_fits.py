"""Makes a donor of a platform's rows: the automatic choice without donors of its own, and a start for fine-tuning."""

from dataclasses import replace
from typing import Final

import numpy as np

from benchfarm_predictor.combined import Residual
from benchfarm_predictor.training.candidates import problem_of
from benchfarm_predictor.training.choice import all_candidates, choose
from benchfarm_predictor.training.donors import Donor
from benchfarm_predictor.training.measured import Measured

MAX_ROWS: Final = 10_000
NETWORK: Final = "ridge+network"


def fit_donor(name: str, measured: Measured, seed: int) -> Donor:
    """A donor from at most ``MAX_ROWS`` of its rows, drawn by the seed.

    Raises:
        InvalidRequest: ``training_rows_invalid``: nothing can be learnt from the rows.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(measured))[:MAX_ROWS])
    used = measured.take(rows)
    problem = problem_of(used, (), seed)
    found = all_candidates(problem)
    choice = choose(problem.target, found)
    donor = Donor(name, choice.model, used, np.exp(choice.unseen))
    network = next((candidate for candidate in found if candidate.name == NETWORK), None)
    if network is None or not isinstance(network.model, Residual):
        return donor
    return replace(donor, networks=network.model, networks_unseen_ms=np.exp(network.unseen))
