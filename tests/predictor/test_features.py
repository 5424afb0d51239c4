"""Features: what they show, that every type and view has them, and what is refused."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.features import KernelFeatures, View, general_features, kernel_features
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.kernels import Kernels
from benchfarm_workloads.columns import Config
from benchfarm_workloads.kernels import kernel_types
from tests.predictor.rows import drawn

TYPES = [kind.name for kind in kernel_types()]
VIEWS: tuple[View, ...] = get_args(View)
CONV: Config = {"hw": 14, "cin": 24, "cout": 40, "k": 3, "s": 1, "act": "relu6", "batch": 1}


def of(features: KernelFeatures, kernels: Kernels, row: int = 0) -> dict[str, float]:
    return dict(zip(features.names, features.matrix(kernels)[row].tolist(), strict=True))


def conv(**change: int) -> Kernels:
    return Kernels.of_configs("conv-bn-act", [{**CONV, **change}])


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("type_name", TYPES)
def test_every_type_has_every_view(type_name: str, view: View) -> None:
    kernels = drawn(type_name, 20)
    features = kernel_features(kernels, view)
    matrix = features.matrix(kernels)
    assert matrix.shape == (20, len(features.names))
    assert matrix.dtype == np.float64
    assert np.isfinite(matrix).all()
    assert len(set(features.names)) == len(features.names)


@pytest.mark.parametrize("view", VIEWS)
def test_rows_do_not_see_each_other(view: View) -> None:
    kernels = drawn("conv-bn-act", 20)
    features = kernel_features(kernels, view)
    alone = [features.matrix(kernels.take(slice(at, at + 1)))[0] for at in range(20)]
    assert np.array_equal(np.array(alone), features.matrix(kernels))


def test_the_sizes_and_costs_of_a_convolution() -> None:
    """14 x 14 x 40 dot products of 216 terms with relu6: 7,840 x (432 + 2) FLOPs; 40 x 217 parameters."""
    found = of(kernel_features(conv()), conv())
    assert found["log2_hw"] == pytest.approx(np.log2(14))
    assert found["log2_flops"] == pytest.approx(np.log2(7840 * 434 + 1))
    assert found["log2_parameters"] == pytest.approx(np.log2(40 * 217 + 1))
    assert found["log2_input_bytes"] == pytest.approx(np.log2(4 * 24 * 196))
    total = 4 * (24 * 196 + 7840 + 8680)
    assert found["log2_intensity"] == pytest.approx(np.log2(7840 * 434 + 1) - np.log2(total))
    assert (found["act_relu6"], found["act_relu"]) == (1, 0)
    assert [found[name] for name in ("k_is_1", "k_is_3", "s_is_1", "winograd")] == [0, 1, 1, 1]


def test_remainders_and_paddings_show_both_sides_of_a_step() -> None:
    """48 channels fill three lanes of 16; 49 leave one channel in a fourth, padded by 64/49."""
    at, behind = (of(kernel_features(conv()), conv(cout=cout)) for cout in (48, 49))
    assert (at["width_mod16"], at["width_pad16"]) == (0, 0)
    assert behind["width_mod16"] == 1 / 16
    assert behind["width_pad16"] == pytest.approx(np.log2(64 / 49))
    assert behind["log2_tiles8x16"] - at["log2_tiles8x16"] == pytest.approx(np.log2(4 / 3))
    assert behind["cin_mod16"] == at["cin_mod16"] == 8 / 16
    assert (at["side_mod4"], at["side_pad4"]) == (2 / 4, pytest.approx(np.log2(16 / 14)))


def test_lines_are_additive_in_the_work() -> None:
    found = of(kernel_features(conv(), "lines"), conv())
    assert found["mmacs"] == pytest.approx(7840 * 434 / 2e6)
    assert found["mmacs_pad16"] == pytest.approx(found["mmacs"] * 48 / 40)
    assert found["mmacs_k_is_3"] == found["mmacs"]
    assert found["mmacs_k_is_1"] == 0
    assert found["output_mb"] == pytest.approx(4 * 7840 / 1e6)


def test_the_published_view_has_litepreds_seven_inputs() -> None:
    """Its FLOPs are (hw/s)^2 for each parameter, bias included; the batch is ours."""
    found = of(kernel_features(conv(), "published"), conv())
    assert list(found) == ["hw", "cin", "cout", "k", "s", "batch", "mmacs", "m_parameters"]
    assert found["mmacs"] == pytest.approx(196 * 8680 / 1e6)
    assert found["m_parameters"] == pytest.approx(8680 / 1e6)
    depthwise = Kernels.of_configs("dwconv-bn-act", [{"hw": 14, "cin": 24, "k": 3, "s": 2, "act": "none"}])
    found = of(kernel_features(depthwise, "published"), depthwise)
    assert list(found) == ["hw", "cin", "cout", "k", "s", "batch", "mmacs", "m_parameters"]
    assert (found["cout"], found["mmacs"]) == (24, pytest.approx(49 * 24 * 10 / 1e6))


def test_the_quadratic_view_multiplies_its_smooth_features() -> None:
    features = kernel_features(conv(), "quadratic")
    found = of(features, conv())
    assert found["log2_cin*log2_cout"] == pytest.approx(np.log2(24) * np.log2(40))
    assert found["log2_cin*log2_cin"] == pytest.approx(np.log2(24) ** 2)
    smooth = 11
    assert sum("*" in name for name in features.names) == smooth * (smooth + 1) // 2


def test_foreign_columns_get_generic_features() -> None:
    kernels = Kernels.of_rows("their-conv", ["a", "b", "c"], [(5, -7, 0)])
    found = of(kernel_features(kernels), kernels)
    assert found["log2_a"] == pytest.approx(np.log2(6))
    assert found["log2_b"] == pytest.approx(3)
    assert found["a_mod4"] == 0.25
    assert found["b_mod4"] == 0.25  # -7 = -8 + 1
    assert found["log2_product"] == pytest.approx(np.log2(35))
    plain = of(kernel_features(kernels, "lines"), kernels)
    assert plain == {"a": 5, "b": -7, "c": 0, "product_m": pytest.approx(35e-6)}


def test_a_column_beyond_the_catalogue_is_a_feature_and_may_be_missing_later() -> None:
    rows = Kernels.of_rows("conv-bn-act", ["hw", "cin", "cout", "k", "fused"], [(14, 24, 40, 3, 1)])
    features = kernel_features(rows)
    assert of(features, rows)["log2_fused"] == 1
    assert of(features, conv())["log2_fused"] == 0
    assert "log2_fused" not in kernel_features(conv()).names


def test_some_features_can_be_selected() -> None:
    features = kernel_features(conv(), "published").select(("mmacs", "hw"))
    assert features.matrix(conv()).tolist() == [[pytest.approx(196 * 8680 / 1e6), 14]]
    assert features.names == ("mmacs", "hw")
    with pytest.raises(KeyError):
        features.select(("cin",))


def test_general_features_take_every_type_and_say_the_same_as_each_types_own() -> None:
    for type_name in TYPES:
        kernels = drawn(type_name, 5)
        own = kernel_features(kernels, "general")
        assert np.array_equal(general_features().matrix(kernels), own.matrix(kernels))
        assert own.names == general_features().names


def test_another_type_is_refused() -> None:
    features = kernel_features(conv())
    lists = KernelLists.of([[("conv-bn-act", CONV, 1)]])
    for batch in (drawn("fc", 1), lists):
        with pytest.raises(InvalidRequest) as caught:
            features.matrix(batch)
        assert caught.value.code == "kernel_unknown"
    with pytest.raises(InvalidRequest) as caught:
        general_features().matrix(Kernels.of_rows("their-conv", ["a"], [(1,)]))
    assert caught.value.code == "kernel_unknown"


def test_a_matrix_is_made_once_and_cannot_be_changed() -> None:
    kernels = drawn("conv-bn-act", 3)
    matrix = kernel_features(kernels).matrix(kernels)
    assert kernel_features(kernels).matrix(kernels) is matrix
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 1


@given(st.sampled_from(VIEWS), st.lists(st.integers(-(2**31), 2**31), min_size=7, max_size=7))
def test_features_are_finite_whatever_the_numbers(view: View, numbers: list[int]) -> None:
    """Rows of measurement sets are within no catalogue's ranges."""
    numbers[5] = abs(numbers[5]) % 6  # the place of an activation
    columns = ("hw", "cin", "cout", "k", "s", "act", "batch")
    for type_name in ("conv-bn-act", "their-conv"):
        kernels = Kernels.of_rows(type_name, columns, [numbers])
        assert np.isfinite(kernel_features(kernels, view).matrix(kernels)).all()
