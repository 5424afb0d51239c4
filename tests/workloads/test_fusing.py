"""A model cut into kernels: every operator in exactly one, and those of the catalogue found again by name."""

from collections import Counter

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchfarm_core.operator_families import FAMILIES, ONNX_OPERATORS, OWN_FAMILIES
from benchfarm_core.operator_pairs import OPERATOR_PAIRS, PAIR_MODEL
from benchfarm_workloads import onnx_reading
from benchfarm_workloads.columns import Config
from benchfarm_workloads.draws import draw
from benchfarm_workloads.fusing import DEFAULT_FUSIONS, FusionRules, fuse
from benchfarm_workloads.kernels import kernel_type, kernel_types
from benchfarm_workloads.models import model_recipe, model_recipes
from benchfarm_workloads.onnx_kernels import build_kernel
from benchfarm_workloads.onnx_models import build_model
from benchfarm_workloads.operators import (
    ACTIVATION_FAMILIES,
    CONVOLUTIONS,
    FREE,
    TYPE_FAMILIES,
    GraphIndex,
    graph_operators,
    layer_operators,
)
from benchfarm_workloads.recognition import Part, recognised
from benchfarm_workloads.verdicts import Graph, GraphNode, GraphValue

APART = FusionRules({("Linear", "Gelu"): False})
"""As the zoo lays transformers out: that activation is a kernel of its own."""
NAMES = [recipe.name for recipe in model_recipes() if recipe.name != PAIR_MODEL]


def graph_of(data: bytes) -> Graph:
    """A file as the inspection reads it."""
    model = onnx.load_from_string(data)
    weights = onnx_reading.weight_infos(model.graph)
    return onnx_reading.read(onnx_reading.with_shapes(model), weights).graph


def parts_of(graph: Graph, rules: FusionRules) -> list[Part]:
    index = GraphIndex(graph)
    return [part for chain in fuse(graph_operators(graph), rules).kernels for part in recognised(chain, index)]


def named(parts: list[Part]) -> list[tuple[str | None, Config | None]]:
    return [(part.type, part.config) for part in parts if not part.is_free]


def check_whole(graph: Graph, parts: list[Part]) -> None:
    """Every node of the graph is in exactly one part."""
    nodes = [id(node) for part in parts for operator in part.operators for node in operator.nodes]
    assert Counter(nodes) == Counter(map(id, graph.nodes))


def test_rules_can_name_every_family_that_a_model_can_have_and_no_other() -> None:
    assert {one.name for one in onnx.defs.get_all_schemas_with_history() if not one.domain} == ONNX_OPERATORS
    made = {*CONVOLUTIONS, *TYPE_FAMILIES.values(), *ACTIVATION_FAMILIES.values()}
    assert made - ONNX_OPERATORS == OWN_FAMILIES
    assert {family for pair in {*OPERATOR_PAIRS, *DEFAULT_FUSIONS} for family in pair} <= FAMILIES


@pytest.mark.parametrize("name", NAMES)
def test_the_kernels_of_a_known_network_are_found_again_in_its_file(name: str) -> None:
    graph = graph_of(build_model(name, {})[0])
    parts = parts_of(graph, APART)
    check_whole(graph, parts)
    layers = [(layer.type, layer.config) for layer in model_recipe(name).network({}).layers]
    assert sorted(map(str, named(parts))) == sorted(map(str, layers))


@pytest.mark.parametrize("name", NAMES)
def test_a_generated_network_is_cut_without_its_file(name: str) -> None:
    layers = model_recipe(name).network({}).layers
    chains = fuse(tuple(layer_operators(layers)), APART).kernels
    assert named([part for chain in chains for part in recognised(chain, None)]) == [
        (layer.type, layer.config) for layer in layers
    ]


@pytest.mark.parametrize("name", [kind.name for kind in kernel_types()])
def test_every_kernel_type_is_known_by_its_graph(name: str) -> None:
    for config in draw(name, 3, 3):
        graph = graph_of(build_kernel(name, config)[0])
        parts = parts_of(graph, FusionRules())
        check_whole(graph, parts)
        assert named(parts) == [(name, config)]
    assert name in TYPE_FAMILIES or name == "act"


def test_the_rules_of_an_engine_decide() -> None:
    config: Config = {"hw": 8, "cin": 4, "cout": 4, "k": 3, "s": 1, "act": "relu", "batch": 1}
    graph = graph_of(build_kernel("conv-bn-act", config)[0])
    apart = parts_of(graph, FusionRules({("Conv", "Relu"): False}))
    act = {"hw": 8, "cin": 4, "act": "relu", "batch": 1}
    assert named(apart) == [("conv-bn-act", config | {"act": "none"}), ("act", act)]
    [layer] = [layer for layer in model_recipe("squeezenet").network({}).layers if layer.config.get("k") == 3][:1]
    chains = fuse(tuple(layer_operators([layer])), FusionRules({("Conv", "Relu"): False})).kernels
    assert [part.type for chain in chains for part in recognised(chain, None)] == ["conv-bn-act", "act"]


def test_a_depthwise_convolution_goes_by_the_plain_one_until_it_is_measured() -> None:
    plain = FusionRules({("Conv", "Relu"): False})
    assert not plain.fuses("DepthwiseConv", "Relu")
    assert FusionRules({("Conv", "Relu"): False, ("DepthwiseConv", "Relu"): True}).fuses("DepthwiseConv", "Relu")
    assert FusionRules().fuses("DepthwiseConv", "Relu")
    assert not FusionRules().fuses("Conv", "Add")


def test_what_was_assumed_is_told() -> None:
    operators = graph_operators(graph_of(build_model("resnet18", {})[0]))
    assert fuse(operators, FusionRules()).assumed == (("Add", "Relu"), ("Conv", "Relu"))
    measured = FusionRules({("Conv", "Relu"): True, ("Add", "Relu"): False, ("Conv", "Add"): False})
    assert fuse(operators, measured).assumed == ()


def test_a_sum_is_fused_into_the_last_of_its_makers() -> None:
    graph = graph_of(build_model("resnet18", {})[0])
    chains = fuse(graph_operators(graph), FusionRules({("Conv", "Add"): True})).kernels
    fused = [chain for chain in chains if [one.family for one in chain] == ["Conv", "Add", "Relu"]]
    assert len(fused) == 8
    index = GraphIndex(graph)
    assert {tuple(part.type for part in recognised(chain, index)) for chain in fused} == {("conv-bn-act", "add-act")}
    order = {id(node): place for place, node in enumerate(graph.nodes)}
    for conv, added, _ in fused:
        makers = [index.makers[name] for name in added.inputs]
        assert order[id(conv.nodes[0])] == max(makers)


def node(op: str, inputs: list[str], output: str, **attributes: object) -> GraphNode:
    return GraphNode.model_validate(
        {"op": op, "name": output, "inputs": inputs, "outputs": [output], "attributes": attributes}
    )


def value(role: str, *shape: int) -> GraphValue:
    return GraphValue.model_validate({"role": role, "dtype": "float32", "shape": shape})


def test_a_value_that_is_used_twice_or_handed_out_ends_a_kernel() -> None:
    conv = node("Conv", ["x", "w"], "c", kernel_shape=[1, 1])
    shapes = {"x": value("input", 1, 4, 8, 8), "w": value("weight", 4, 4, 1, 1), "y": value("output", 1, 4, 8, 8)}
    for role, more in (("output", []), ("inner", [node("Relu", ["c"], "z")])):
        graph = Graph(nodes=(conv, node("Relu", ["c"], "y"), *more), values={**shapes, "c": value(role, 1, 4, 8, 8)})
        chains = fuse(graph_operators(graph), FusionRules()).kernels
        assert [len(chain) for chain in chains] == [1] * len(graph.nodes)


def test_a_batch_normalisation_belongs_to_its_convolution() -> None:
    values = {
        "x": value("input", 1, 4, 8, 8),
        "w": value("weight", 6, 4, 3, 3),
        **{name: value("inner", 1, 6, 8, 8) for name in "cb"},
        "y": value("output", 1, 6, 8, 8),
    }
    nodes = (
        node("Conv", ["x", "w"], "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]),
        node("BatchNormalization", ["c", "s", "o", "m", "v"], "b"),
        node("Relu", ["b"], "y"),
    )
    config = {"hw": 8, "cin": 4, "cout": 6, "k": 3, "s": 1, "act": "relu", "batch": 1}
    assert named(parts_of(Graph(nodes=nodes, values=values), FusionRules())) == [("conv-bn-act", config)]


@pytest.mark.parametrize(
    ("shape", "attributes", "told"),
    [
        ((1, 4, 8, 6), {}, "8 x 6 pixels"),
        ((1, 4, 8, 8), {"strides": [1, 2]}, "strides differs"),
        ((1, 4, 8, 8), {"dilations": [2, 2]}, "dilated"),
        ((1, 4, 8, 8), {"pads": [0, 0, 0, 0]}, "its output is 1x6x6x6, that of the catalogue's kernel 1x6x8x8"),
        ((1, 4, 600, 600), {"pads": [1, 1, 1, 1]}, "hw"),
        ((-1, 4, 8, 8), {}, "not known"),
    ],
)
def test_what_the_catalogue_has_not_keeps_its_type_or_says_why(shape, attributes, told) -> None:
    hw = shape[2] - (2 if attributes.get("pads") == [0, 0, 0, 0] else 0)
    values = {"x": value("input", *shape), "w": value("weight", 6, 4, 3, 3), "y": value("output", 1, 6, hw, hw)}
    conv = node("Conv", ["x", "w"], "y", **{"kernel_shape": [3, 3], **attributes})
    [part] = parts_of(Graph(nodes=(conv,), values=values), FusionRules())
    assert part.config is None
    assert told in part.reason


@pytest.mark.parametrize("sizes", [(), (4,), (4, 1)])
def test_a_grouped_convolution_whose_weight_has_too_few_axes_is_kept_with_the_reason(sizes: tuple[int, ...]) -> None:
    values = {"x": value("input", 1, 4, 8, 8), "w": value("weight", *sizes), "y": value("output", 1, 4, 8, 8)}
    graph = Graph(nodes=(node("Conv", ["x", "w"], "y", group=4),), values=values)
    [part] = parts_of(graph, FusionRules())
    assert part.config is None
    assert part.reason


OPS = sorted(
    {*FREE, "Conv", "Relu", "Add", "Mul", "MatMul", "Sigmoid", "HardSigmoid", "Softmax", "Erf", "Div", "Transpose"}
    | {"GlobalAveragePool", "Concat", "Split", "BatchNormalization", "NonZero", "LSTM", "Resize", "Gemm", "MaxPool"}
)


@st.composite
def graphs(draw_one: st.DrawFn) -> Graph:
    """Graphs of any shape, with sizes or without, that make no sense."""
    names = ["x"]
    nodes = []
    values = {"x": value("input", 1, 4, 8, 8), "w": value("weight", 4, 4, 1, 1)}
    for place in range(draw_one(st.integers(1, 12))):
        inputs = draw_one(st.lists(st.sampled_from([*names, "w"]), min_size=1, max_size=3))
        nodes.append(node(draw_one(st.sampled_from(OPS)), inputs, f"v{place}", perm=[0, 2, 1, 3, 4], group=4))
        names.append(f"v{place}")
        if draw_one(st.booleans()):
            sizes = draw_one(st.lists(st.integers(0, 9), max_size=5))
            values[f"v{place}"] = value(draw_one(st.sampled_from(["inner", "output"])), *sizes)
    return Graph(nodes=tuple(nodes), values=values)


@settings(deadline=None, max_examples=60)
@given(graphs(), st.booleans())
def test_nothing_is_dropped_or_broken_whatever_comes(graph: Graph, fuses_all: bool) -> None:
    every = {(first, second): True for first in [*OPS, "Swish", "Linear"] for second in [*OPS, "Swish", "Linear"]}
    parts = parts_of(graph, FusionRules(every if fuses_all else {}))
    check_whole(graph, parts)
    for part in parts:
        assert part.config is not None or part.reason
        if part.config is not None:
            assert part.type is not None
            kernel_type(part.type).validate(part.config)
