"""Generated models and the canary as real ONNX files in a real engine."""

import hashlib
import math
import time

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from benchfarm_workloads.artifacts import build
from benchfarm_workloads.models import model_recipe, model_recipes
from benchfarm_workloads.onnx_canary import build_canary, canary_inputs, canary_network

MODELS = [recipe.name for recipe in model_recipes()]


def session_of(onnx_bytes: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])


def image(shape: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
    return {"x": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_runs_and_gives_ordinary_numbers(name: str) -> None:
    artifact = build(model_recipe(name).workload({"hw": 96, "batch": 2, "classes": 10}))
    onnx.checker.check_model(artifact.onnx_bytes, full_check=True)
    [output] = session_of(artifact.onnx_bytes).run(None, image(artifact.inputs[0].shape))
    assert output.shape == (2, 10)
    assert np.isfinite(output).all()
    assert 1e-2 < output.std() < 1e3


@pytest.mark.parametrize("name", MODELS)
def test_costs_equal_what_the_file_holds(name: str) -> None:
    config = {"hw": 64, "classes": 10}
    graph = onnx.load_from_string(build(model_recipe(name).workload(config)).onnx_bytes).graph
    cost = model_recipe(name).cost(config)
    assert cost.parameters == sum(math.prod(tensor.dims) for tensor in graph.initializer if tensor.dims)


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
