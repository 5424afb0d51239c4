"""The kernel catalogue: what it accepts, how it says no, and that its costs behave."""

import subprocess
import sys
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import workload_id
from benchfarm_workloads.columns import Column, Config, names
from benchfarm_workloads.draws import draw
from benchfarm_workloads.kernels import KernelType, kernel_type, kernel_types

TYPES = [kind.name for kind in kernel_types()]
CONV = {"hw": 56, "cin": 24, "cout": 40, "k": 3, "s": 2, "act": "relu6", "batch": 1}


@st.composite
def valid_kernels(draw_value: st.DrawFn) -> tuple[KernelType, Config]:
    """Any drawn kernel: the draws cover every type."""
    name = draw_value(st.sampled_from(TYPES))
    [config] = draw(name, draw_value(st.integers(0, 2**32)), 1)
    return kernel_type(name), config


def refusal(kind: str, config: Mapping[str, object]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        kernel_type(kind).validate(config)
    return caught.value


def test_the_catalogue_has_the_promised_types() -> None:
    assert TYPES == [
        "conv-bn-act",
        "dwconv-bn-act",
        "fc",
        "maxpool",
        "avgpool",
        "global-avgpool",
        "add-act",
        "se",
        "act",
        "concat",
    ]


@given(valid_kernels())
def test_canonicalisation_is_idempotent_and_forgets_spelling(kernel: tuple[KernelType, Config]) -> None:
    kind, config = kernel
    shuffled = dict(reversed(config.items()))
    assert kind.validate(config) == config
    assert list(kind.validate(shuffled)) == list(names(kind.columns))
    without_defaults = {
        column.name: config[column.name] for column in kind.columns if config[column.name] != column.default
    }
    assert workload_id(kind.workload(without_defaults)) == workload_id(kind.workload(config))


@given(valid_kernels())
def test_costs_are_positive(kernel: tuple[KernelType, Config]) -> None:
    kind, config = kernel
    cost = kind.cost(config)
    assert cost.input_bytes > 0
    assert cost.output_bytes > 0
    assert cost.flops > 0 or kind.name == "concat"
    assert cost.weight_bytes == 4 * cost.parameters


@given(valid_kernels())
def test_costs_grow_with_every_channel_column(kernel: tuple[KernelType, Config]) -> None:
    kind, config = kernel
    before = kind.cost(config)
    for column in kind.columns:
        if column.unit == "channels" and config[column.name] != 0:
            after = kind.cost({**config, column.name: int(config[column.name]) + 1} | _room_for_cmid(kind, config))
            assert after.flops >= before.flops
            assert after.total_bytes > before.total_bytes


def _room_for_cmid(kind: KernelType, config: Config) -> Config:
    """cmid may not exceed cin, so cin grows with it."""
    return {"cin": int(config["cin"]) + 1} if kind.name == "se" else {}


@given(valid_kernels(), st.integers(2, 8))
def test_activations_scale_with_the_batch_and_weights_do_not(kernel: tuple[KernelType, Config], batch: int) -> None:
    kind, config = kernel
    one, many = kind.cost(config), kind.cost({**config, "batch": batch})
    assert many.flops == batch * one.flops
    assert many.output_bytes == batch * one.output_bytes
    assert many.parameters == one.parameters


@given(st.sampled_from(TYPES), st.data())
@settings(max_examples=200)
def test_one_column_out_of_range_is_named(name: str, data: st.DataObject) -> None:
    kind = kernel_type(name)
    [config] = draw(name, 5, 1)
    column = data.draw(st.sampled_from(kind.columns))
    bad = data.draw(_outside(column))
    error = refusal(name, {**config, column.name: bad})
    assert error.code == "kernel_out_of_range"
    assert error.field == f"config.{column.name}"
    assert column.name in error.detail
    assert column.allowed in error.detail


def _outside(column: Column) -> st.SearchStrategy[object]:
    wrong_type = st.sampled_from([True, 1.0, [], "1 "])
    if column.choices:
        return wrong_type | st.integers(100) | st.just("tanh")
    return wrong_type | st.integers(max_value=column.low - 1) | st.integers(min_value=column.high + 1)


def test_missing_and_unknown_columns_are_named() -> None:
    assert "cout is missing" in refusal("conv-bn-act", {"hw": 8, "cin": 8, "k": 1}).detail
    error = refusal("conv-bn-act", {**CONV, "groups": 2})
    assert "'groups'" in error.detail
    assert "hw, cin, cout" in error.detail


def test_a_window_that_never_meets_data_is_refused() -> None:
    assert refusal("dwconv-bn-act", {"hw": 3, "cin": 8, "k": 7}).field == "config.k"
    kernel_type("dwconv-bn-act").validate({"hw": 4, "cin": 8, "k": 7})  # the last stages of small images


def test_what_does_not_fit_a_small_board_is_refused() -> None:
    assert "total_bytes" in refusal("act", {"hw": 512, "cin": 8192, "act": "relu"}).detail
    assert "flops" in refusal("conv-bn-act", {"hw": 112, "cin": 1024, "cout": 1024, "k": 7}).detail


def test_the_largest_weights_are_built_within_600_mib() -> None:
    """In a process of its own, as in an agent, which must not die of a kernel that the farm takes."""
    assert "weight_bytes" in refusal("fc", {"cin": 5610, "cout": 5610}).detail
    assert "take smaller sizes" in refusal("se", {"hw": 1, "cin": 5610, "cmid": 2805}).detail
    program = (
        "from pathlib import Path; from benchfarm_workloads.onnx_kernels import build_kernel;"
        "build_kernel('fc', {'cin': 5600, 'cout': 5600}); print(Path('/proc/self/status').read_text())"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    [peak_kib] = [int(line.split()[1]) for line in said.splitlines() if line.startswith("VmHWM")]
    assert peak_kib < 600 * 1024


def test_concat_has_no_gaps() -> None:
    assert refusal("concat", {"hw": 8, "cin1": 8, "cin2": 8, "cin4": 8}).field == "config.cin4"


def test_se_does_not_widen() -> None:
    assert refusal("se", {"hw": 8, "cin": 8, "cmid": 9}).field == "config.cmid"


def test_an_unknown_type_lists_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match="conv-bn-act") as caught:
        kernel_type("conv-bn-rellu")
    assert caught.value.code == "kernel_unknown"


def test_known_costs() -> None:
    cost = kernel_type("conv-bn-act").cost(CONV)
    outputs = 40 * 28 * 28
    assert cost.flops == outputs * (2 * 9 * 24 + 2)
    assert cost.parameters == 40 * 24 * 9 + 40
    assert cost.input_bytes == 4 * 24 * 56 * 56
    assert cost.output_bytes == 4 * outputs
    assert kernel_type("fc").cost({"cin": 1280, "cout": 1000}).flops == 2 * 1280 * 1000
    assert kernel_type("maxpool").cost({"hw": 112, "cin": 64, "k": 3, "s": 2}).flops == 64 * 56 * 56 * 8


def test_the_catalogue_imports_neither_onnx_nor_numpy() -> None:
    program = (
        "import sys, benchfarm_workloads.draws, benchfarm_workloads.models, benchfarm_workloads.inspection\n"
        "sys.exit(any(name in sys.modules for name in ('onnx', 'numpy', 'onnxruntime')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
