"""Open dimensions are bound in the file's bytes, held against the package that boards have not, and opened once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from benchfarm_engines.engine import OpenRequest
from benchfarm_engines.engine_options import check_options
from benchfarm_engines.onnx_dimensions import with_sizes
from benchfarm_engines.onnx_fields import varint
from benchfarm_engines.onnxruntime_engine import ENGINE
from tests.engines.conftest import conv_graph, graph

Dims = Sequence[int | str | None]


def sizes(content: bytes) -> dict[str, list[int | str | None]]:
    """Of the inputs: a number, a label, or None."""
    return {
        each.name: [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in each.type.tensor_type.shape.dim
        ]
        for each in onnx.load_from_string(content).graph.input
    }


def added(*shapes: Dims) -> bytes:
    """The sum of two inputs x and z."""
    return graph([helper.make_node("Add", ["x", "z"], ["y"])], {"x": list(shapes[0]), "z": list(shapes[1])}, ["y"])


@pytest.mark.parametrize(
    ("x", "z", "shape"),
    [
        (["N", 4], ["N", 4], (3, 4)),
        ([None, 4], [3, None], (3, 4)),
        (["N", "M"], [None, "M"], (200, 40_000)),
    ],
)
def test_every_open_dimension_is_bound_and_nothing_else_changes(x: Dims, z: Dims, shape: tuple[int, ...]) -> None:
    content = added(x, z)
    bound = with_sizes(content, {"x": shape, "z": shape})
    assert sizes(bound) == {"x": list(shape), "z": list(shape)}
    assert with_sizes(bound, {"x": shape, "z": shape}) is bound
    before, after = onnx.load_from_string(content), onnx.load_from_string(bound)
    for model in (before, after):
        del model.graph.input[:]
    assert after == before


def test_a_large_file_keeps_its_weights() -> None:
    content = conv_graph(64, 8, "N")
    assert len(content) > 2**17  # lengths of three bytes
    bound = onnx.load_from_string(with_sizes(content, {"x": (5, 64, 8, 8)}))
    assert bound.graph.initializer == onnx.load_from_string(content).graph.initializer
    assert bound.graph.node == onnx.load_from_string(content).graph.node


@pytest.mark.parametrize(
    ("shapes", "left"),
    [
        ({"x": (3, 4), "other": (3, 4)}, {"x": [3, 4], "z": ["N", 4]}),
        ({"x": (3, 4, 5), "z": (3, 4)}, {"x": ["N", 4], "z": [3, 4]}),
        ({"x": (3,), "z": (3, 9)}, {"x": ["N", 4], "z": [3, 4]}),  # the second axis is another: the engine says so
        ({}, {"x": ["N", 4], "z": ["N", 4]}),
    ],
)
def test_inputs_that_do_not_fit_are_left_to_the_engine(shapes: dict[str, Any], left: dict[str, Any]) -> None:
    assert sizes(with_sizes(added(["N", 4], ["N", 4]), shapes)) == left


def test_a_dimension_with_a_label_and_a_size_has_the_later_of_both() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [7])
    [dimension] = value.type.tensor_type.shape.dim
    size, label = dimension.SerializeToString(), helper.make_tensor_value_info("x", 1, ["N"])
    label_bytes = label.type.tensor_type.shape.dim[0].SerializeToString()
    for said, found in ((size + label_bytes, 9), (label_bytes + size, 7)):
        assert sizes(with_sizes(model_of(said), {"x": (9,)})) == {"x": [found]}


def model_of(dimension: bytes) -> bytes:
    """A model of one input x with one dimension, as these bytes say it."""
    message = dimension
    for number in (1, 2, 1):  # dimension, shape, tensor
        message = field(number, message)
    return field(7, field(11, field(1, b"x") + field(2, message)))


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(content)) + content


@pytest.mark.parametrize("cut", [b"\x3a\x7f", b"\x3a", b"\x3b", b"\x3a" + b"\xff" * 99, b"\x09\x01\x01"])
def test_what_cannot_be_read_stays_as_it_is(cut: bytes) -> None:
    content = added(["N", 4], ["N", 4]) + cut
    assert with_sizes(content, {"x": (3, 4), "z": (3, 4)}) is content


class Counted(ort.InferenceSession):  # type: ignore[misc]
    opened = 0

    def __init__(self, *args: Any, **named: Any) -> None:
        Counted.opened += 1
        super().__init__(*args, **named)


@pytest.mark.parametrize("batch", ["N", None, 2])
@pytest.mark.parametrize("profiled", [False, True])
def test_a_session_is_opened_once_and_knows_every_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: Any, profiled: bool
) -> None:
    monkeypatch.setattr(Counted, "opened", 0)
    monkeypatch.setattr(ort, "InferenceSession", Counted)
    artifact = tmp_path / "model.onnx"
    artifact.write_bytes(conv_graph(8, 8, batch))
    inputs = {"x": np.random.default_rng(0).standard_normal((2, 8, 8, 8), dtype=np.float32)}
    request = OpenRequest(artifact, inputs, "fp32", 1, check_options({}, ENGINE.options), profiled=profiled)
    session = ENGINE.open(request)
    try:
        session.run()
        assert Counted.opened == 1
        assert [each.shape for each in session._session.get_inputs()] == [[2, 8, 8, 8]]  # type: ignore[attr-defined]
    finally:
        session.close()
