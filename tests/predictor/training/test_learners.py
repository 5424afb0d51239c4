"""Learners: each becomes arrays that say the same, and learns what it is for."""

import numpy as np
import pytest

from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.registry import Registry
from benchfarm_predictor.smooth import Smooth
from benchfarm_predictor.training.learners import CORRECTIONS, Learner, SmoothLearner
from tests.predictor.rows import costs, drawn
from tests.predictor.training.platforms import TYPE, measured

sklearn_ensemble = pytest.importorskip("sklearn.ensemble", reason="scikit-learn is not installed")

NAMES = [learner.name for learner in CORRECTIONS]


@pytest.mark.parametrize("learner", CORRECTIONS, ids=NAMES)
def test_what_is_learnt_survives_its_arrays(learner: Learner) -> None:
    rows = measured(80)
    model = learner.fit(rows.kernels, rows.log_ms, seed=1)
    arrays, meta = model.to_arrays()
    again = Registry().model(arrays, meta)
    other = drawn(TYPE, 50, seed=9)
    assert again.predict(other) == pytest.approx(model.predict(other), rel=1e-6)


@pytest.mark.parametrize("learner", CORRECTIONS, ids=NAMES)
def test_the_same_seed_gives_the_same_model(learner: Learner) -> None:
    rows, other = measured(60), drawn(TYPE, 30, seed=9)
    said = [learner.fit(rows.kernels, rows.log_ms, seed=4).predict(other).tolist() for _ in range(2)]
    assert said[0] == said[1]


@pytest.mark.parametrize("learner", CORRECTIONS, ids=NAMES)
def test_a_ratio_that_follows_from_the_configuration_is_learnt(learner: Learner) -> None:
    """Twice as slow where the kernel is 1 x 1, and slower with more channels."""
    kernels, other = drawn(TYPE, 300, seed=1), drawn(TYPE, 200, seed=2)

    def ratio(some: Kernels) -> Floats:
        found: Floats = np.log(2) * (some.column("k") == 1) + 0.2 * np.log2(some.column("cin"))
        return found

    off = np.log(learner.fit(kernels, ratio(kernels), seed=1).predict(other)) - ratio(other)
    assert np.abs(off).mean() < 0.4 * np.abs(ratio(other) - ratio(other).mean()).mean()


def test_extra_trees_say_what_scikit_learn_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_equal_to_sklearn(monkeypatch, "ExtraTreesRegressor", "extra-trees")


def test_boosted_trees_say_what_scikit_learn_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_equal_to_sklearn(monkeypatch, "GradientBoostingRegressor", "boosted-trees")


def assert_equal_to_sklearn(monkeypatch: pytest.MonkeyPatch, kind: str, name: str) -> None:
    """The learner's model against the very estimator that it was made of."""
    kept = []

    class Kept(getattr(sklearn_ensemble, kind)):  # type: ignore[misc]
        def fit(self, x, y):
            kept.append((super().fit(x, y), float(np.median(rows.log_ms)) if self.__dict__.get("init") else 0.0))
            return kept[-1][0]

    rows, other = measured(120), drawn(TYPE, 300, seed=5)
    monkeypatch.setattr(sklearn_ensemble, kind, Kept)
    learner = next(each for each in CORRECTIONS if each.name == name)
    said = learner.fit(rows.kernels, rows.log_ms, seed=2).predict(other)
    estimator, middle = kept[0]
    x = kernel_features(other).matrix(other).astype(np.float32)
    assert said == pytest.approx(np.exp(estimator.predict(x) + middle), rel=1e-5)


def test_the_random_forest_says_what_scikit_learn_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchfarm_predictor.training.trees import FOREST_DEPTH, random_forest

    rows, other = measured(120), drawn(TYPE, 300, seed=5)
    forest = random_forest(rows, seed=7)
    features = kernel_features(rows.kernels, "published")
    theirs = sklearn_ensemble.RandomForestRegressor(320, max_depth=FOREST_DEPTH, max_features=6, random_state=7)
    theirs.fit(features.matrix(rows.kernels).astype(np.float32), rows.latency_ms)
    assert forest.predict(other) == pytest.approx(theirs.predict(features.matrix(other).astype(np.float32)), rel=1e-5)
    assert len(forest.forest.roots) == 320


def test_a_surface_goes_through_rows_without_noise() -> None:
    kernels = drawn(TYPE, 60, seed=3)
    target = 0.3 * np.log2(costs(kernels).flops)
    model = SmoothLearner().fit(kernels, target, seed=0)
    assert np.log(model.predict(kernels)) == pytest.approx(target, abs=0.05)


def test_far_from_its_rows_a_surface_says_its_offset() -> None:
    near = Kernels.of_configs(TYPE, [{"hw": hw, "cin": 16, "cout": 16, "k": 1} for hw in range(1, 21)])
    far = Kernels.of_configs(TYPE, [{"hw": 512, "cin": 8192, "cout": 8192, "k": 11}])
    features = kernel_features(near)
    model = Smooth(features, np.array(features.matrix(near)), np.linspace(-1, 1, 20), reach=0.5, offset=0.25)
    assert np.log(model.predict(far)) == pytest.approx([0.25], abs=1e-6)
    assert abs(np.log(model.predict(near)) - 0.25).max() > 0.5
