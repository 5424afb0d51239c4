"""Architectures as real ONNX files: they run, and their graphs have the kernels that their genes say."""

import hashlib
import math
from collections import Counter
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest

from benchfarm_core.architectures import Architecture
from benchfarm_workloads import onnx_reading
from benchfarm_workloads.artifacts import build
from benchfarm_workloads.fusing import DEFAULT_FUSIONS, FusionRules, fuse
from benchfarm_workloads.onnx_models import build_architecture
from benchfarm_workloads.operators import GraphIndex, graph_operators
from benchfarm_workloads.recognition import recognised
from benchfarm_workloads.spaces import kernels, space
from benchfarm_workloads.verdicts import Graph
from tests.workloads.architectures import NAMES, extreme, light

RULES = {
    "default": FusionRules(),
    "nothing": FusionRules(dict.fromkeys(DEFAULT_FUSIONS, False)),
    "sums": FusionRules({("Conv", "Add"): True, ("Linear", "Add"): True, ("Add", "LayerNormalization"): True}),
    "pools": FusionRules({("AveragePool", "Conv"): True, ("Conv", "HardSwish"): False, ("Swish", "Conv"): True}),
    "chains": FusionRules({("Conv", "DepthwiseConv"): True, ("Clip", "DepthwiseConv"): True, ("Linear", "Gelu"): True}),
}

FILES = {
    "ofa_mobilenet_v3": "2a28d651e1a4",
    "proxylessnas": "3be140b44ead",
    "ofa_resnet": "33ed0ad5da18",
    "bignas": "d099c0383c28",
    "fbnet_v3": "e7d75515ebc5",
    "autoformer": "909ec6c73166",
    "bert": "4b778f05dcc0",
}
"""Of the smallest architectures: a change of a file is a new version of its space."""


@cache
def graph_of(name: str, seed: str) -> tuple[Architecture, Graph]:
    """A light architecture and its file as the inspection reads it."""
    drawn = light(space(name), seed)
    model = onnx.load_from_string(build_architecture(drawn)[0])
    weights = onnx_reading.weight_infos(model.graph)
    return drawn, onnx_reading.read(onnx_reading.with_shapes(model), weights).graph


def found_kernels(graph: Graph, rules: FusionRules) -> Counter[tuple[str | None, str]]:
    index = GraphIndex(graph)
    parts = [part for chain in fuse(graph_operators(graph), rules).kernels for part in recognised(chain, index)]
    return Counter((part.type, str(part.config)) for part in parts if not part.is_free)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", NAMES)
def test_the_kernels_of_an_architecture_are_those_of_its_file(name: str, rules: str) -> None:
    for seed in ("a", "b"):
        drawn, graph = graph_of(name, seed)
        listed = Counter({(kind, str(config)): count for kind, config, count in kernels(drawn, RULES[rules])})
        assert listed == found_kernels(graph, RULES[rules])


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_runs_and_gives_ordinary_numbers(name: str) -> None:
    drawn = extreme(space(name), min)
    artifact = build(space(name).workload(drawn.genes))
    onnx.checker.check_model(artifact.onnx_bytes, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(artifact.onnx_bytes, options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal(artifact.inputs[0].shape, dtype=np.float32)
    [output] = session.run(None, {"x": image})
    assert np.isfinite(output).all()
    assert 1e-2 < output.std() < 1e2
    assert hashlib.sha256(artifact.onnx_bytes).hexdigest()[:12] == FILES[name]
    assert not ((output != 0) & (np.abs(output) < np.finfo(np.float32).tiny)).any()
    graph = onnx.load_from_string(artifact.onnx_bytes).graph
    weights = [tensor for tensor in graph.initializer if tensor.dims and tensor.data_type == onnx.TensorProto.FLOAT]
    assert space(name).cost(drawn).parameters == sum(math.prod(tensor.dims) for tensor in weights)
    layers = {layer.name for layer in space(name).network(drawn).layers}
    assert {node.name.split("/")[0] for node in graph.node} == layers


def test_numbers_stay_small_in_the_deepest_network() -> None:
    """Sums of many blocks would leave the range of 16-bit numbers."""
    model = onnx.load_from_string(build_architecture(extreme(space("fbnet_v3"), max))[0])
    sums = [node.output[0] for node in model.graph.node if node.op_type == "Add"]
    model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in sums)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal(session.get_inputs()[0].shape, dtype=np.float32)
    assert max(np.abs(value).max() for value in session.run(None, {"x": image})) < 1e3


def test_bytes_follow_the_genes_alone() -> None:
    one = space("bert").validate({"layers": 1, "hidden": 128, "seq": 64, "intermediate": 512, "heads": 2})
    more_heads = one.model_copy(update={"genes": {**one.genes, "heads": 4}})
    assert build_architecture(one)[0] == build_architecture(one)[0]
    assert build_architecture(one)[0] != build_architecture(more_heads)[0]
