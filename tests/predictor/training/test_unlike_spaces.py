"""Spaces of which nothing was measured: all of one held back on made-up platforms, above all OFA-ResNet.

By a ridge on whole-model sums, and by ratios that left what they were taught on, the mean error of OFA-ResNet was 480 %
and no interval held. The bounds have headroom over what these platforms gave when they were chosen, which stands beside
them.
"""

from functools import cache

import numpy as np
import pytest

from benchfarm_core.predictors import HoldoutScore
from benchfarm_predictor.bounded import Boxes
from benchfarm_predictor.training.platform_fit import PlatformFit, fit_model, judge
from benchfarm_predictor.training.platform_rows import PlatformRows, measured_models
from tests.predictor.training.farm_rows import (
    MOBILE,
    RESNET,
    TOKENS,
    Platform,
    in_situ_rows,
    model_rows,
    training_rows,
)

PROXYLESS, BIGNAS, FBNET, BERT = "proxylessnas", "bignas", "fbnet_v3", "bert"
SPACES = (MOBILE, PROXYLESS, BIGNAS, FBNET, RESNET, TOKENS, BERT)
SEEDS = (1, 2, 3)


@cache
def fitted(seed: int, spaces: tuple[str, ...], per_space: int) -> PlatformFit:
    """From architectures and kernels in situ of these spaces alone."""
    platform = Platform(seed)
    models = [row for space in spaces for row in model_rows(platform, space, per_space)]
    kernels = [row for space in spaces for row in in_situ_rows(platform, space, per_space, 20)]
    unlike = {row.workload_id: row for row in kernels}
    return fit_model(PlatformRows.of(training_rows(platform, models, list(unlike.values()))))


def judged(seed: int, spaces: tuple[str, ...], held: str) -> HoldoutScore:
    platform = Platform(seed)
    return judge(fitted(seed, spaces, 16).predictor, training_rows(platform, model_rows(platform, held, 30)))


def without(held: str) -> tuple[str, ...]:
    return tuple(space for space in SPACES if space != held)


def outside(space: str, of: str) -> np.ndarray:
    """How far new architectures of a space lie outside the box of 16 of another one, or of its own."""
    own, new = measured_models(model_rows(Platform(1), of, 16)), model_rows(Platform(1), space, 30, start=16)
    return Boxes.around(own.lists, own.spaces).outside(measured_models(new).lists)


def test_boxes_tell_a_space_from_its_neighbours() -> None:
    for space in SPACES:
        assert (outside(space, space) == 0).mean() >= 0.9, space
    for space, neighbour in ((FBNET, BIGNAS), (BIGNAS, FBNET), (PROXYLESS, MOBILE), (MOBILE, PROXYLESS)):
        assert np.median(outside(space, neighbour)) > 0.2, space


@pytest.mark.parametrize("seed", SEEDS)
def test_residual_networks_are_predicted_by_what_six_other_spaces_teach(seed: int) -> None:
    score = judged(seed, without(RESNET), RESNET)
    assert score.mape < 0.4  # 0.17 to 0.25
    assert score.coverage == 1  # 0 before


@pytest.mark.parametrize("seed", SEEDS)
def test_mobile_spaces_alone_are_enough_to_be_honest(seed: int) -> None:
    score = judged(seed, (MOBILE, PROXYLESS), RESNET)
    assert score.mape < 0.4  # 0.26 to 0.27
    assert score.coverage == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_space_like_others_is_near_and_its_interval_holds(seed: int) -> None:
    score = judged(seed, without(FBNET), FBNET)
    assert score.mape < 0.15  # 0.03 to 0.10
    assert score.coverage >= 0.9  # 0.43 to 0.87 before


def test_transformers_are_sums_of_the_kernels_of_others() -> None:
    score = judged(3, without(BERT), BERT)
    assert score.mape < 0.45  # 0.29, of three seeds the worst
    assert score.coverage == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_strangers_are_sums_of_kernels_and_no_ridge(seed: int) -> None:
    chosen = [name for name in fitted(seed, without(RESNET), 16).chosen if name.startswith("elsewhere: ")]
    assert chosen
    assert all(name.startswith("elsewhere: kernels ") and " & " not in name for name in chosen)
