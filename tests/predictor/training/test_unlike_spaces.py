"""Spaces that are unlike anything measured: all of OFA-ResNet held back on made-up platforms.

By a ridge on whole-model sums, and by ratios that left what they were taught on, the mean error was 480 % and no
interval held. The bounds here have headroom over what is measured now, which stands beside them.
"""

from functools import cache

import pytest

from benchfarm_core.predictors import HoldoutScore
from benchfarm_predictor.training.platform_fit import PlatformFit, fit_model, judge
from benchfarm_predictor.training.platform_rows import PlatformRows
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
MEASURED = (MOBILE, PROXYLESS, BIGNAS, FBNET, TOKENS, BERT)
SEEDS = (1, 2, 3)


@cache
def fitted(seed: int, spaces: tuple[str, ...], per_space: int) -> PlatformFit:
    """From architectures and kernels in situ of these spaces alone."""
    platform = Platform(seed)
    models = [row for space in spaces for row in model_rows(platform, space, per_space)]
    kernels = [row for space in spaces for row in in_situ_rows(platform, space, per_space, 20)]
    unlike = {row.workload_id: row for row in kernels}
    return fit_model(PlatformRows.of(training_rows(platform, models, list(unlike.values()))))


def judged(seed: int, spaces: tuple[str, ...], per_space: int = 16) -> HoldoutScore:
    platform = Platform(seed)
    return judge(fitted(seed, spaces, per_space).predictor, training_rows(platform, model_rows(platform, RESNET, 30)))


@pytest.mark.parametrize("seed", SEEDS)
def test_residual_networks_are_predicted_by_what_six_other_spaces_teach(seed: int) -> None:
    score = judged(seed, MEASURED)
    assert score.mape < 0.5
    assert score.coverage >= 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_mobile_spaces_alone_are_enough_to_be_honest(seed: int) -> None:
    score = judged(seed, (MOBILE, PROXYLESS))
    assert score.mape < 1.0
    assert score.coverage >= 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_strangers_are_sums_of_kernels_and_no_ridge(seed: int) -> None:
    chosen = [name for name in fitted(seed, MEASURED, 16).chosen if name.startswith("elsewhere: ")]
    assert chosen
    assert all(name.startswith("elsewhere: kernels ") and " & " not in name for name in chosen)
