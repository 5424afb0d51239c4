"""Whole-model sums: by family, additive, the same whatever the batch."""

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import KNOWN
from benchfarm_predictor.sums import FAMILIES, SumFeatures
from benchfarm_workloads.columns import Config
from benchfarm_workloads.draws import draw
from tests.predictor.rows import architectures, drawn

POINT: Config = {"hw": 14, "cin": 24, "cout": 40, "k": 1, "s": 1, "act": "none", "batch": 1}
WINDOW: Config = {**POINT, "k": 3, "hw": 28}
DEPTHWISE: Config = {"hw": 14, "cin": 40, "k": 5, "s": 1, "act": "none", "batch": 1}
TOKENS: Config = {"seq": 64, "dim": 8, "batch": 1}


def of(lists: KernelLists, row: int = 0) -> dict[str, float]:
    return dict(zip(SumFeatures().names, SumFeatures().matrix(lists)[row].tolist(), strict=True))


def test_the_sums_of_a_small_model() -> None:
    found = of(
        KernelLists.of([[("conv-bn-act", POINT, 2), ("conv-bn-act", WINDOW, 1), ("dwconv-bn-act", DEPTHWISE, 1)]])
    )
    assert found["conv1_count"] == 2
    assert found["conv1_mmacs"] == pytest.approx(2 * 196 * 40 * 24 / 1e6)
    assert found["conv1_activation_mb"] == pytest.approx(2 * 4 * 196 * 64 / 1e6)
    assert found["conv1_weight_mb"] == pytest.approx(2 * 4 * 40 * 25 / 1e6)
    assert found["conv_mmacs"] == pytest.approx(784 * 40 * 24 * 9 / 1e6)
    assert found["dwconv_mmacs"] == found["dwconv_mmacs_k5"] == pytest.approx(196 * 40 * 25 / 1e6)
    assert found["dwconv_mmacs_k3"] == 0
    assert (found["resolution"], found["resolution_squared"], found["kernels"], found["tokens"]) == (28, 784, 4, 0)
    assert found["fc_count"] == 0


def test_every_type_of_the_catalogue_has_a_family() -> None:
    for type_name in KNOWN:
        found = of(KernelLists.of([[(type_name, config, 1) for config in draw(type_name, 1, 3)]]))
        assert sum(found[f"{family}_count"] for family in FAMILIES) == 3
        assert found["foreign_count"] == 0


def test_foreign_kernels_are_counted() -> None:
    found = of(KernelLists.of([[("their-conv", {"a": 3}, 2), ("token-add", TOKENS, 1)]]))
    assert (found["foreign_count"], found["kernels"], found["tokens"], found["resolution"]) == (2, 3, 64, 0)


def test_models_in_a_row_add_up() -> None:
    """But for shapes, which are largest values."""
    one, other = architectures(2, seed=4)
    matrix = SumFeatures().matrix(KernelLists.of([one, other, [*one, *other]]))
    additive = [at for at, name in enumerate(SumFeatures().names) if not name.startswith(("resolution", "tokens"))]
    assert matrix[2, additive] == pytest.approx((matrix[0] + matrix[1])[additive])


def test_a_model_without_kernels_is_all_zeros() -> None:
    assert not SumFeatures().matrix(KernelLists.of([[], [("conv-bn-act", POINT, 1)]]))[0].any()
    assert SumFeatures().matrix(KernelLists.of([])).shape == (0, len(SumFeatures().names))


def test_models_do_not_see_each_other() -> None:
    lists = KernelLists.of(architectures(5))
    alone = [SumFeatures().matrix(lists.take(slice(at, at + 1)))[0] for at in range(5)]
    assert np.array(alone) == pytest.approx(SumFeatures().matrix(lists))


def test_single_kernels_are_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        SumFeatures().matrix(drawn("fc", 1))
    assert caught.value.code == "kernel_unknown"
