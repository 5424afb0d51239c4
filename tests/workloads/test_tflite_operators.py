"""Operators of .tflite files are known as those of ONNX are: by the kernels of the catalogue that they compute."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from ai_edge_litert import schema_py_generated as schema

from benchfarm_engines.litert_writer import Quant, TfliteWriter
from benchfarm_workloads.columns import Config
from benchfarm_workloads.draws import draw
from benchfarm_workloads.fusing import FusionRules, fuse
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.onnx_kernels import build_kernel
from benchfarm_workloads.onnx_models import build_model
from benchfarm_workloads.operators import GraphIndex, graph_operators
from benchfarm_workloads.recognition import Part, recognised
from benchfarm_workloads.tflite_file import read_file
from benchfarm_workloads.tflite_operators import in_onnx_words
from benchfarm_workloads.tflite_reading import read
from benchfarm_workloads.tflite_reference import operator_names
from benchfarm_workloads.verdicts import Graph
from tests.engines.catalogue import KERNELS
from tests.engines.test_litert_convert import as_read, converted

Code = schema.BuiltinOperator
IN_PARTS = {"attention": "MatMul", "layernorm": "ReduceMean"}
"""Kernels that such files write as many operators, each with one of those."""


def graph_of(content: bytes) -> Graph:
    """As the inspection describes it; every size is in the file."""
    return read(read_file(content, max_nodes=10_000), operator_names(), {}).graph


def chains_of(graph: Graph, rules: FusionRules | None = None) -> list[list[Part]]:
    """The kernels with their parts; what computes nothing left out."""
    words, joined = in_onnx_words(graph)
    index = GraphIndex(words)
    chains = fuse(graph_operators(words), rules or FusionRules(), joined).kernels
    parts = [[part for part in recognised(chain, index) if not part.is_free] for chain in chains]
    return [chain for chain in parts if chain]


def found_in(content: bytes) -> list[tuple[str | None, Config | None]]:
    return [(part.type, part.config) for chain in chains_of(graph_of(content)) for part in chain]


def is_in_one_word(kind: str, config: Config) -> bool:
    """Whether LiteRT has the kernel in a form of its own: others are written with a sum or a correction more."""
    if kind == "avgpool":
        return config["s"] == 1 and config["k"] in (3, 5, 7)
    return not (kind == "matmul" and config["form"] == "weight")


@pytest.mark.parametrize("kind", [kind for kind in KERNELS if kind not in IN_PARTS])
def test_the_files_of_the_catalogues_kernels_are_known_as_those(kind: str) -> None:
    drawn = [config for config in draw(kind, 3, 12) if is_in_one_word(kind, config)][:4]
    assert drawn
    for config in drawn:
        content = converted(as_read(build_kernel(kind, config))).content
        assert found_in(content) == [(kind, kernel_type(kind).validate(config))], config


@pytest.mark.parametrize(("kind", "op"), sorted(IN_PARTS.items()))
def test_what_is_written_as_many_operators_is_listed_as_those(kind: str, op: str) -> None:
    [config] = draw(kind, 3, 1)
    chains = chains_of(graph_of(converted(as_read(build_kernel(kind, config))).content))
    operators = [one for chain in chains for part in chain for each in part.operators for one in each.ops]
    assert op in operators or op.upper() in operators
    assert kind not in [part.type for chain in chains for part in chain]


@pytest.mark.parametrize("name", ["squeezenet", "mobilenet_v2", "resnet18"])
def test_a_whole_model_has_the_kernels_of_its_onnx(name: str) -> None:
    found = found_in(converted(as_read(build_model(name, {"hw": 64}))).content)
    assert len(found) > 15
    assert [each for each in found if each[0] is None] == []
    assert sum(config is not None for _, config in found) >= 0.9 * len(found)


def window(code: int, options: Any, *, padding: int, stride: int, size: int = 8, dtype: str = "float32") -> bytes:
    """A window of 3 x 3 on 1 x size x size x 4, with ReLU in the same operator."""
    writer, steps = TfliteWriter(), Quant((0.1,), 0) if dtype == "int8" else None
    out = -(-size // stride) if padding == schema.Padding.SAME else (size - 3) // stride + 1
    x, y = writer.tensor((1, size, size, 4), dtype, "x", steps), writer.tensor((1, out, out, 4), dtype, "y", steps)
    options.padding, options.strideH, options.strideW = padding, stride, stride
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    shape = (1, 3, 3, 4) if code == Code.DEPTHWISE_CONV_2D else (4, 3, 3, 4)
    w = writer.constant(np.ones(shape, dtype), Quant((0.1,)) if steps else None)
    b = writer.constant(np.ones(4, "int32" if steps else "float32"), Quant((0.01,)) if steps else None)
    writer.operator(code, [x, w, b], [y], options)
    return writer.to_bytes([x], [y])


SAME, VALID = schema.Padding.SAME, schema.Padding.VALID


def test_a_file_says_its_options_and_small_numbers() -> None:
    graph = graph_of(window(Code.CONV_2D, schema.Conv2DOptionsT(), padding=SAME, stride=2))
    [node] = graph.nodes
    told = {"padding": 0, "stride_w": 2, "stride_h": 2, "activation": 1, "dilation_w": 1, "dilation_h": 1}
    assert (node.op, node.attributes) == ("CONV_2D", told)
    assert graph.numbers == {node.inputs[2]: (1.0,) * 4}


def test_an_activation_within_an_operator_belongs_to_it_whatever_the_rules_say() -> None:
    apart = FusionRules({("Conv", "Relu"): False, ("DepthwiseConv", "Relu"): False})
    for code, options, kind in (
        (Code.CONV_2D, schema.Conv2DOptionsT(), "conv-bn-act"),
        (Code.DEPTHWISE_CONV_2D, schema.DepthwiseConv2DOptionsT(), "dwconv-bn-act"),
    ):
        [[part]] = chains_of(graph_of(window(code, options, padding=SAME, stride=1)), apart)
        assert part.config is not None
        assert (part.type, part.config["act"], part.config["k"]) == (kind, "relu", 3)
        assert [name for one in part.operators for name in one.names] == [part.operators[0].names[0]] * 2


@pytest.mark.parametrize(("padding", "stride", "size"), [(VALID, 1, 8), (SAME, 2, 8)])
def test_a_window_laid_otherwise_is_another_kernel(padding: int, stride: int, size: int) -> None:
    """SAME of an even size begins without a border, so that sizes alone would be those of the catalogue's."""
    content = window(Code.CONV_2D, schema.Conv2DOptionsT(), padding=padding, stride=stride, size=size)
    [[part]] = chains_of(graph_of(content))
    assert (part.config, part.reason != "") == (None, True)
    assert found_in(window(Code.CONV_2D, schema.Conv2DOptionsT(), padding=SAME, stride=2, size=9))[0][1] is not None


def test_numbers_in_8_bits_stand_for_real_ones() -> None:
    content = window(Code.CONV_2D, schema.Conv2DOptionsT(), padding=SAME, stride=1, dtype="int8")
    assert [kind for kind, _ in found_in(content)] == ["conv-bn-act"]


def test_what_has_no_word_in_onnx_keeps_its_own() -> None:
    writer = TfliteWriter()
    x, y, z = (writer.tensor((1, 4), "float32", name) for name in "xyz")
    writer.operator(Code.SQUARE, [x], [y])
    writer.operator(Code.ADD, [y, y], [z])  # without options, so that nobody knows with which activation
    graph = graph_of(writer.to_bytes([x], [z]))
    assert [part.operators[0].ops for chain in chains_of(graph) for part in chain] == [("SQUARE",), ("ADD",)]


def test_a_border_that_a_maximum_may_see_is_no_part_of_its_window() -> None:
    def pooled(code: int, options: Any, *numbers: Any) -> list[str]:
        writer = TfliteWriter()
        x, y = writer.tensor((1, 8, 8, 4), "float32", "x"), writer.tensor((1, 8, 8, 4), "float32", "y")
        wide = writer.tensor((1, 10, 10, 4), "float32", "wide")
        widths = writer.constant(np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
        writer.operator(code, [x, widths, *map(writer.constant, numbers)], [wide], options)
        pool = schema.Pool2DOptionsT(padding=VALID, strideW=1, strideH=1, filterWidth=3, filterHeight=3)
        writer.operator(Code.MAX_POOL_2D, [wide], [y], pool)
        chains = chains_of(graph_of(writer.to_bytes([x], [y])))
        return [" ".join(part.operators[0].names) for chain in chains for part in chain if part.config is not None]

    lowest = np.array([np.finfo(np.float32).min], np.float32)
    assert pooled(Code.PADV2, schema.PadV2OptionsT(), lowest) == ["PADV2 MAX_POOL_2D"]
    assert pooled(Code.PADV2, schema.PadV2OptionsT(), lowest * 0) == []
    assert pooled(Code.PAD, schema.PadOptionsT()) == []
