"""Pairs of operators as networks: each part alone is what it is in the pair, and what cannot follow is refused."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.operator_pairs import OPERATOR_PAIRS, PAIR_MODEL, PAIR_PARTS, Pair, pair_request
from benchfarm_core.workloads import InputSpec
from benchfarm_workloads.artifacts import build
from benchfarm_workloads.layers import Network
from benchfarm_workloads.models import model_recipe
from benchfarm_workloads.operators import layer_operators

SMALL = {"hw": 8, "cin": 8}


def network(pair: Pair, part: str, **more: object) -> Network:
    return model_recipe(PAIR_MODEL).network({"first": pair[0], "second": pair[1], "part": part, **more})


@pytest.mark.parametrize("pair", OPERATOR_PAIRS, ids="-".join)
def test_the_parts_alone_are_those_of_the_pair(pair: Pair) -> None:
    both = network(pair, "both")
    assert [operator.family for operator in layer_operators(both.layers)] == list(pair)
    shapes = both.shapes()
    for part, layer, given in zip(("first", "second"), both.layers, ("x", "l0"), strict=False):
        alone = network(pair, part)
        assert [(one.name, one.type, one.config) for one in alone.layers] == [(layer.name, layer.type, layer.config)]
        assert alone.input_shape == shapes[given]
        assert alone.shapes()[layer.name] == shapes[layer.name]
        assert set(alone.side_inputs) <= set(both.side_inputs)


def test_no_part_is_hidden_by_the_call_of_an_engine() -> None:
    """Half a million numbers, unless the operator itself makes them few."""
    few = {"GlobalAveragePool", "ReduceMean"}
    for pair in OPERATOR_PAIRS:
        for part in ("first", "second"):
            if part == "first" or pair[0] not in few:
                alone = network(pair, part)
                numbers = [math.prod(alone.input_shape), math.prod(alone.shapes()[alone.layers[0].name])]
                assert max(numbers) >= 2**19, (pair, part)


@pytest.mark.parametrize("pair", OPERATOR_PAIRS, ids="-".join)
def test_a_pair_s_files_run(pair: Pair) -> None:
    for part in PAIR_PARTS:
        workload = model_recipe(PAIR_MODEL).workload({**pair_request(pair, part).config, **SMALL})
        artifact = build(workload)
        onnx.checker.check_model(artifact.onnx_bytes, full_check=True)
        session = onnxruntime.InferenceSession(artifact.onnx_bytes, providers=["CPUExecutionProvider"])
        [output] = session.run(None, {spec.name: numbers(spec) for spec in artifact.inputs})
        laid_out = network(pair, part, **SMALL)
        assert output.shape == laid_out.shapes()[laid_out.layers[-1].name]
        assert np.isfinite(output).all()
        assert build(workload) == artifact


def numbers(spec: InputSpec) -> np.ndarray:
    return np.random.default_rng(len(spec.name)).standard_normal(spec.shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"first": "Conv", "second": "Softmax"}, "config.second"),
        ({"first": "Conv", "second": "Gemm"}, "config.second"),
        ({"first": "GlobalAveragePool", "second": "MaxPool"}, "config.second"),
        ({"first": "Linear", "second": "Conv"}, "config.second"),
        ({"first": "Linear", "second": "Relu", "hw": 512}, "config.second"),
        ({"first": "Convolution"}, "config.first"),
        ({"part": "third"}, "config.part"),
        ({"hw": 0}, "config.hw"),
        ({"batch": 1}, "config.batch"),
    ],
)
def test_what_cannot_follow_is_refused(config, field) -> None:
    with pytest.raises(InvalidRequest) as refused:
        model_recipe(PAIR_MODEL).workload(config)
    assert (refused.value.code, refused.value.field) == ("model_out_of_range", field)
