"""Optuna and pymoo led by latencies of a farm."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from benchfarm import ArchitectureRequest, InvalidRequest, LatencyConstraint, Search
from benchfarm.optuna_search import optimise
from benchfarm.pymoo_search import latency_problem
from benchfarm_workloads import spaces
from tests.client.test_predictions import made, published
from tests.predictor.predictors import PLATFORM

__all__ = ["made", "published"]

pytestmark = pytest.mark.usefixtures("published")
HIDDEN = (128, 256, 384, 512, 640, 768)


def bert(layers: int, hidden: int) -> ArchitectureRequest:
    genes = {"layers": layers, "hidden": hidden, "seq": 64, "intermediate": 4 * hidden, "heads": hidden // 64}
    return ArchitectureRequest(space="bert", genes=spaces.space("bert").validate(genes).genes)


def accuracy(items: Sequence[Any]) -> list[float]:
    """Larger networks are better ones, the less so the larger they are."""
    return [float(one.genes["layers"]) ** 0.5 * float(one.genes["hidden"]) ** 0.5 for one in items]


@pytest.fixture
def search(farm: Any) -> Any:
    with farm.client() as sdk:
        middle_ms = sdk.latency([bert(6, 384)], [PLATFORM])[0].median_ms
        yield Search(sdk, [LatencyConstraint(PLATFORM, middle_ms, probability=0.6)])


@pytest.fixture
def optuna() -> Any:
    import optuna  # here, because it takes a second

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def suggested(trial: Any) -> ArchitectureRequest:
    return bert(trial.suggest_int("layers", 1, 12), trial.suggest_categorical("hidden", HIDDEN))


def test_optuna_finds_the_best_within_a_limit(search: Search, optuna: Any) -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
    optimise(study, search, suggested, accuracy, trials=60, together=20)
    assert (len(study.trials), search.questions) == (60, 60)
    best = search.judge([bert(study.best_params["layers"], study.best_params["hidden"])])[0]
    assert best.is_met
    judged = search.judge([bert(layers, hidden) for layers in range(1, 13) for hidden in HIDDEN])
    possible = max(accuracy([one.item for one in judged if one.is_met]))
    assert 0.8 * possible <= study.best_value <= possible
    assert study.best_trial.user_attrs["latencies_ms"] == [best.latencies_ms[0]]


def test_optuna_trades_accuracy_for_latency(search: Search, optuna: Any) -> None:
    sampler = optuna.samplers.NSGAIISampler(population_size=20, seed=1)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    optimise(study, search, suggested, accuracy, trials=60, together=20)
    front = sorted(trial.values for trial in study.best_trials)
    assert len(front) > 1
    assert [latency_ms for _, latency_ms in front] == sorted(latency_ms for _, latency_ms in front)
    assert max(latency_ms for _, latency_ms in front) <= search.constraints[0].limit_ms


def test_optuna_is_told_what_the_farm_cannot_answer(search: Search, optuna: Any) -> None:
    study = optuna.create_study(direction="maximize")
    foreign = ArchitectureRequest(space="bert", genes={"layers": 1})
    optimise(study, search, lambda _: foreign, lambda items: [1.0] * len(items), trials=2)
    assert {trial.state.name for trial in study.trials} == {"FAIL"}
    assert "hidden" in study.trials[0].user_attrs["error"]
    with pytest.raises(InvalidRequest, match="maximize"):
        optimise(optuna.create_study(direction="minimize"), search, suggested, accuracy, trials=1)


def at_the_third() -> Any:
    """Suggestions of which the third raises."""
    number = itertools.count(1)

    def architecture(trial: Any) -> ArchitectureRequest:
        if next(number) == 3:
            raise ZeroDivisionError
        return suggested(trial)

    return architecture


def interrupted(_: Sequence[Any]) -> list[float]:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("architecture", "accurate", "platform", "raised", "left"),
    [
        (at_the_third, accuracy, PLATFORM, ZeroDivisionError, {"FAIL": 10}),
        (lambda: suggested, accuracy, "nowhere", InvalidRequest, {"FAIL": 10}),
        (lambda: suggested, interrupted, PLATFORM, KeyboardInterrupt, {"FAIL": 10}),
        (lambda: suggested, lambda _: [1.0], PLATFORM, ValueError, {"COMPLETE": 1, "FAIL": 9}),
    ],
)
def test_optuna_has_no_trial_that_runs_for_ever(
    search: Search, optuna: Any, architecture: Any, accurate: Any, platform: str, raised: type[BaseException], left: Any
) -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1, constant_liar=True))
    asked = search if platform == PLATFORM else Search(search._farm, [LatencyConstraint(platform, 1.0)])
    with pytest.raises(raised):
        optimise(study, asked, architecture(), accurate, trials=20, together=10)
    assert Counter(trial.state.name for trial in study.trials) == left
    optimise(study, search, suggested, accuracy, trials=5)
    assert Counter(trial.state.name for trial in study.trials) == Counter(left) + Counter(COMPLETE=5)


@pytest.mark.filterwarnings("default")
def test_pymoo_finds_a_front_within_a_limit(search: Search) -> None:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    problem = latency_problem(
        search, lambda row: bert(row[0], HIDDEN[row[1]]), accuracy, lowest=[1, 0], highest=[12, len(HIDDEN) - 1]
    )
    algorithm = NSGA2(
        pop_size=20,
        sampling=IntegerRandomSampling(),
        crossover=SBX(vtype=float, repair=RoundingRepair()),
        mutation=PM(vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    found = minimize(problem, algorithm, ("n_gen", 5), seed=1)
    assert len(found.F) > 1
    assert search.questions <= 100
    front = search.judge([bert(row[0], HIDDEN[row[1]]) for row in found.X.astype(int).tolist()])
    assert all(one.is_met for one in front)
    assert [one.latencies_ms[0] for one in front] == pytest.approx(found.F[:, 1].tolist())
    with pytest.raises(InvalidRequest, match="lowest"):
        latency_problem(search, lambda row: bert(1, 128), accuracy, lowest=[1], highest=[])
