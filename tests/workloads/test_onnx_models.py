"""Generated models and the canary as real ONNX files in a real engine."""

import hashlib
import math
import time

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray

from benchfarm_core.operator_pairs import PAIR_MODEL
from benchfarm_workloads.artifacts import build
from benchfarm_workloads.columns import Config
from benchfarm_workloads.models import model_recipe, model_recipes
from benchfarm_workloads.onnx_canary import build_canary, canary_inputs, canary_network

MODELS = [recipe.name for recipe in model_recipes() if recipe.name != PAIR_MODEL]
FILES = {
    "mobilenet_v2": "15e74129eaa8",
    "resnet18": "6d0384110df0",
    "mobilenet_v3_large": "e907c8657fa1",
    "efficientnet_b0": "74c3aff95425",
    "squeezenet": "77e9db1c18f3",
    "shufflenet_v2": "60afce044267",
    "vit_tiny": "a79da01aa179",
    "bert_tiny": "af9b6583fab6",
}


def session_of(onnx_bytes: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])


def image(shape: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
    return {"x": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}


def config_of(name: str, **more: int) -> Config:
    """A quick configuration with ten classes."""
    size = {"seq": 32} if name == "bert_tiny" else {"hw": 80}
    return {**size, "classes": 10, **more}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_runs_and_gives_ordinary_numbers(name: str) -> None:
    artifact = build(model_recipe(name).workload(config_of(name, batch=2)))
    onnx.checker.check_model(artifact.onnx_bytes, full_check=True)
    feeds = image(artifact.inputs[0].shape)
    [output] = session_of(artifact.onnx_bytes).run(None, feeds)
    assert output.reshape(2, -1).shape == (2, 10)
    assert np.isfinite(output).all()
    assert 1e-2 < output.std() < 1e3
    assert not np.array_equal(output[0], output[1])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.compile_model(openvino.Core().read_model(artifact.onnx_bytes), "CPU", options)
    np.testing.assert_allclose(compiled(feeds)[0], output, rtol=1e-3, atol=1e-3 * float(output.std()))


@pytest.mark.parametrize("name", MODELS)
def test_no_value_inside_a_model_is_denormal(name: str) -> None:
    """They slow some engines down by a hundred times, and only some."""
    artifact = build(model_recipe(name).workload(config_of(name)))
    model = onnx.load_from_string(artifact.onnx_bytes)
    outputs = {output.name for output in model.graph.output}
    inner = [name for node in model.graph.node for name in node.output if name not in outputs]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    for value in session_of(model.SerializeToString()).run(None, image(artifact.inputs[0].shape)):
        assert np.isfinite(value).all()
        assert not ((value != 0) & (np.abs(value) < np.finfo(np.float32).tiny)).any()


@pytest.mark.parametrize("name", MODELS)
def test_costs_equal_what_the_file_holds(name: str) -> None:
    graph = onnx.load_from_string(build(model_recipe(name).workload(config_of(name))).onnx_bytes).graph
    cost = model_recipe(name).cost(config_of(name))
    weights = [tensor for tensor in graph.initializer if tensor.dims and tensor.data_type == onnx.TensorProto.FLOAT]
    assert cost.parameters == sum(math.prod(tensor.dims) for tensor in weights)


@pytest.mark.parametrize("name", MODELS)
def test_every_operator_carries_its_layers_name(name: str) -> None:
    """A profile is read by it: each time belongs to one layer."""
    layers = {layer.name for layer in model_recipe(name).network(config_of(name)).layers}
    graph = onnx.load_from_string(build(model_recipe(name).workload(config_of(name))).onnx_bytes).graph
    assert {node.name.split("/")[0] for node in graph.node} == layers
    assert {tensor.name.split("/")[0] for tensor in graph.initializer} <= layers


@pytest.mark.parametrize("name", MODELS)
def test_a_models_file_never_changes(name: str) -> None:
    """References and times are stored by the workload's name: a change of its file is a new zoo version."""
    onnx_bytes = build(model_recipe(name).workload(config_of(name))).onnx_bytes
    assert hashlib.sha256(onnx_bytes).hexdigest()[:12] == FILES[name]


def test_bytes_follow_the_configuration_alone() -> None:
    workload = model_recipe("mobilenet_v2").workload({"hw": 64})
    assert build(workload).onnx_bytes == build(workload).onnx_bytes
    reseeded = model_recipe("mobilenet_v2").workload({"hw": 64, "seed": 1})
    assert build(reseeded).onnx_bytes != build(workload).onnx_bytes


def test_the_canary_is_small_and_repeatable() -> None:
    onnx_bytes = build_canary()
    onnx.checker.check_model(onnx_bytes, full_check=True)
    assert len(onnx_bytes) < 1_000_000
    assert 15_000_000 < canary_network().cost().flops < 30_000_000


def test_the_canary_never_changes() -> None:
    """Golden times are of this very file: with another one, stored and new normalised numbers would not compare."""
    assert (
        hashlib.sha256(build_canary()).hexdigest() == "a68152f42404a0012a1a0189a13217a619730af1b94574ca94786212b2aa7055"
    )


def test_the_canary_takes_a_fraction_of_a_millisecond() -> None:
    """Between two blocks of 200 us it must stay cheap. The bounds are wide: other tests share the machine."""
    session, feeds = session_of(build_canary()), image(canary_inputs()[0].shape)
    session.run(None, feeds)
    durations_ms = []
    for _ in range(50):
        start = time.perf_counter()
        session.run(None, feeds)
        durations_ms.append((time.perf_counter() - start) * 1e3)
    assert 0.05 < min(durations_ms) < 2.0
