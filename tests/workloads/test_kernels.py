"""The kernel catalogue: what it accepts, how it says no, and that its costs behave."""

import contextlib
import subprocess
import sys
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import workload_id
from benchfarm_workloads.columns import Column, Config, integer, names
from benchfarm_workloads.draws import draw
from benchfarm_workloads.kernels import KernelType, kernel_type, kernel_types

TYPES = [kind.name for kind in kernel_types()]
MOVERS = ("concat", "split", "channel-shuffle", "resize")
"""Types that only move data, or may."""
SIZES = ("channels", "features", "tokens", "heads", "rows")
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
        "group-conv",
        "deconv-bn-act",
        "mul",
        "split",
        "channel-shuffle",
        "resize",
        "linear",
        "matmul",
        "attention",
        "layernorm",
        "gelu",
        "softmax",
        "token-add",
        "pos-embed",
        "reduce-mean",
        "patch-embed",
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
    assert cost.flops > 0 or kind.name in MOVERS
    assert cost.weight_bytes == 4 * cost.parameters


@given(valid_kernels())
def test_costs_grow_with_every_size(kernel: tuple[KernelType, Config]) -> None:
    kind, config = kernel
    before = kind.cost(config)
    for column in kind.columns:
        if column.unit in SIZES and config[column.name] != 0:
            after = kind.cost(larger(kind, config, column.name))
            assert after.flops >= before.flops
            assert after.total_bytes > before.total_bytes


def larger(kind: KernelType, config: Config, column: str) -> Config:
    """The next configuration with more of one column: groups divide some, and cmid may not exceed cin."""
    room = {"cin": integer(config, "cin") + 1} if kind.name == "se" else {}
    for more in range(1, 65):
        with contextlib.suppress(InvalidRequest):
            return kind.validate({**config, **room, column: integer(config, column) + more})
    raise AssertionError(f"{kind.name} has nothing above {config}")


@given(valid_kernels(), st.integers(2, 8))
def test_activations_scale_with_the_batch_and_weights_do_not(kernel: tuple[KernelType, Config], batch: int) -> None:
    kind, config = kernel
    one, many = kind.cost({**config, "batch": 1}), kind.cost({**config, "batch": batch})
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


def test_groups_and_parts_are_equal() -> None:
    grouped = {"hw": 8, "cin": 12, "cout": 12, "k": 3}
    assert refusal("group-conv", {**grouped, "groups": 5}).field == "config.groups"
    assert "at most cin/2" in refusal("group-conv", {**grouped, "groups": 12}).detail  # that is dwconv-bn-act
    assert "divide cout" in refusal("group-conv", {**grouped, "cout": 9, "groups": 2}).detail
    assert refusal("split", {"hw": 8, "cin": 9, "parts": 2}).field == "config.parts"
    assert refusal("channel-shuffle", {"hw": 8, "cin": 9, "groups": 2}).field == "config.groups"


def test_windows_that_engines_would_read_differently_are_refused() -> None:
    """An uneven rim: some cut the odd row off at the top, others at the bottom."""
    assert refusal("deconv-bn-act", {"hw": 8, "cin": 8, "cout": 8, "k": 3, "s": 2}).field == "config.k"
    assert refusal("deconv-bn-act", {"hw": 8, "cin": 8, "cout": 8, "k": 2, "s": 4}).field == "config.k"
    assert refusal("patch-embed", {"hw": 30, "cin": 3, "dim": 8, "k": 16}).field == "config.k"


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


def test_known_costs_of_tokens() -> None:
    """BERT-base at 128 tokens: 12 heads of 64."""
    attention = kernel_type("attention").cost({"seq": 128, "heads": 12, "head_dim": 64})
    assert attention.flops == 2 * 2 * 128 * 128 * 768 + 12 * 128 * (128 + 5 * 128 - 2)
    assert (attention.input_bytes, attention.output_bytes) == (3 * 4 * 128 * 768, 4 * 128 * 768)
    linear = kernel_type("linear").cost({"seq": 128, "cin": 768, "cout": 3072, "act": "gelu"})
    assert linear.flops == 128 * 3072 * (2 * 768 + 5)
    assert linear.parameters == 768 * 3072 + 3072
    assert kernel_type("layernorm").cost({"seq": 128, "dim": 768}).flops == 128 * (7 * 768 + 2)
    assert kernel_type("softmax").cost({"seq": 1, "dim": 1000}).flops == 4998
    product = {"m": 3, "k": 5, "n": 7, "batch": 2}
    assert kernel_type("matmul").cost({**product, "form": "weight"}).parameters == 35
    assert kernel_type("matmul").cost({**product, "form": "input"}).input_bytes == 4 * 2 * (15 + 35)
    assert kernel_type("patch-embed").cost({"hw": 224, "cin": 3, "dim": 192, "k": 16}).flops == 2 * 196 * 192 * 768


def test_known_costs_of_new_image_types() -> None:
    deconv = kernel_type("deconv-bn-act").cost({"hw": 14, "cin": 64, "cout": 32, "k": 4, "s": 2, "act": "relu"})
    assert deconv.flops == 2 * 14 * 14 * 64 * 32 * 16 + 32 * 28 * 28
    assert deconv.output_bytes == 4 * 32 * 28 * 28
    grouped = kernel_type("group-conv").cost({"hw": 14, "cin": 64, "cout": 64, "k": 3, "groups": 32})
    assert grouped.flops == 64 * 14 * 14 * 2 * 9 * 2
    assert grouped.parameters == 64 * 2 * 9 + 64
    split = kernel_type("split").cost({"hw": 4, "cin": 6, "parts": 3})
    assert (split.flops, split.input_bytes, split.output_bytes) == (0, 4 * 96, 4 * 96)
    assert kernel_type("mul").cost({"hw": 4, "cin": 6, "form": "channel"}).input_bytes == 4 * (96 + 6)


def test_the_catalogue_imports_neither_onnx_nor_numpy() -> None:
    program = (
        "import sys, benchfarm_workloads.draws, benchfarm_workloads.models, benchfarm_workloads.inspection\n"
        "sys.exit(any(name in sys.modules for name in ('onnx', 'numpy', 'onnxruntime')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
