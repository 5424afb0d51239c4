"""Costs of many kernels at once are those of the catalogue, one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.quantities import quantities
from benchfarm_workloads.columns import Config
from benchfarm_workloads.draws import draw
from benchfarm_workloads.kernels import kernel_type, kernel_types
from tests.predictor.rows import costs

TYPES = [kind.name for kind in kernel_types()]


@pytest.mark.parametrize("type_name", TYPES)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), batch=st.integers(1, 8))
def test_costs_are_the_catalogues(type_name: str, seed: int, batch: int) -> None:
    configs = [{**config, "batch": batch} for config in draw(type_name, seed, 5)]
    found = costs(Kernels.of_configs(type_name, configs))
    single = [kernel_type(type_name).cost_rule(config) for config in configs]
    assert found.flops.tolist() == [cost.flops for cost in single]
    assert found.parameters.tolist() == [cost.parameters for cost in single]
    assert found.input_bytes.tolist() == [cost.input_bytes for cost in single]
    assert found.output_bytes.tolist() == [cost.output_bytes for cost in single]
    assert found.total_bytes.tolist() == [cost.total_bytes for cost in single]


@pytest.mark.parametrize("type_name", TYPES)
def test_shapes_are_those_of_the_output(type_name: str) -> None:
    """Rows x width are the output's elements, but for transposed convolutions, attention and what has parts."""
    kernels = Kernels.of_configs(type_name, draw(type_name, 3, 20))
    found = costs(kernels)
    assert (np.minimum(np.minimum(found.rows, found.width), np.minimum(found.depth, found.side)) >= 1).all()
    if type_name not in ("deconv-bn-act", "attention"):
        assert (found.rows * found.width).tolist() == found.outputs.tolist()


def test_the_matrix_product_of_a_convolution() -> None:
    """14 x 14 outputs of 24 maps, each a dot product of 3 x 3 x 16 terms."""
    found = costs(Kernels.of_configs("conv-bn-act", [{"hw": 28, "cin": 16, "cout": 24, "k": 3, "s": 2}]))
    assert [found.rows[0], found.width[0], found.depth[0], found.side[0]] == [196, 24, 144, 14]
    assert found.flops[0] == 2 * 196 * 24 * 144


def test_depth_explains_the_work_of_dot_products() -> None:
    for type_name in ("conv-bn-act", "group-conv", "fc", "linear", "matmul", "patch-embed"):
        configs: list[Config] = [{**config} for config in draw(type_name, 5, 20)]
        for config in configs:
            config.update({"act": "none"} if "act" in config else {})
        found = costs(Kernels.of_configs(type_name, configs))
        assert found.flops.tolist() == (2 * found.rows * found.width * found.depth).tolist()


def test_costs_of_a_foreign_type_are_not_known() -> None:
    assert quantities(Kernels.of_rows("their-conv", ["hw"], [(3,)])) is None


def test_a_batch_multiplies_work() -> None:
    [one, many] = (
        costs(Kernels.of_configs("se", [{**config, "batch": batch} for config in draw("se", 1, 5)])).flops
        for batch in (1, 7)
    )
    assert (7 * one).tolist() == many.tolist()
