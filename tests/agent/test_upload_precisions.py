"""Uploads whose products a platform does not compute in its precision: a typed end before any board is touched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchfarm_agent.artifacts import ArtifactCache
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import BatchItem, LeaseGrant
from benchfarm_core.platforms import EngineSpec, Platform, Precision
from benchfarm_core.workloads import UploadedWorkload
from benchfarm_engines.launch_request import read_inputs
from benchfarm_engines.quantise import quantise
from benchfarm_workloads.inspection import inspect_upload
from tests.agent.test_artifacts import PLATFORM, cache_in, prepare

Run = Callable[[Any], Any]
Grant = Callable[..., LeaseGrant]
FLOAT = TensorProto.FLOAT


def product(dtype: int) -> bytes:
    """x times a weight, in a type."""
    array = np.eye(8, dtype=helper.tensor_dtype_to_np_dtype(dtype))
    return model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": array}, dtype)


def branching() -> bytes:
    """A model with the one operator that most exporters write for control flow."""
    value = helper.make_tensor_value_info("t", FLOAT, [8, 8])
    bodies = {
        name: helper.make_graph([helper.make_node(op, ["x"], ["t"])], name, [], [value])
        for name, op in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Greater", ["top", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["i"], **bodies),
        helper.make_node("MatMul", ["i", "w"], ["y"]),
    ]
    return model(nodes, {"zero": np.array(0, np.float32), "w": np.eye(8, dtype=np.float32)}, FLOAT)


def model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray[Any, Any]], dtype: int) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, [8, 8])],
        [helper.make_tensor_value_info("y", dtype, [8, 8])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


def quantised() -> bytes:
    """A product between steps of 8 bits, as somebody else's tool may have left it."""
    specs = read_inputs([{"name": "x", "dtype": "float32", "shape": [8, 8], "fill": {"kind": "normal", "seed": 0}}])
    return quantise(product(FLOAT), specs, {"edges": "fp32", "calibration_seed": 0})[0]


def on(engine: str, precision: str, edges: str = "") -> Platform:
    spec = EngineSpec(name=engine, version="1", options={"edges": edges} if edges else {})
    return PLATFORM.model_copy(update={"engine": spec, "precision": Precision(precision)})


def uploaded(cache: ArtifactCache, item: BatchItem, content: bytes, folder: Path) -> BatchItem:
    """The content as the farm would hand it out after its inspection."""
    path = folder / "model.onnx"
    path.write_bytes(content)
    found = inspect_upload(path, out_dir=folder)
    names = [cache._files.put(each).name for each in (content, found.reference_path.read_bytes())]
    workload = UploadedWorkload(sha256=names[0], format="onnx", dims={}, inputs=found.inputs)
    files = {"file_sha256": names[0], "reference_sha256": names[1], "workload": workload}
    return item.model_copy(update=files)


@pytest.mark.parametrize(
    ("content", "platforms", "outcome"),
    [
        (product(TensorProto.DOUBLE), ["onnxruntime fp32", "onnxruntime int8"], ("precision_not_obeyed", "MatMul")),
        (product(TensorProto.FLOAT16), ["onnxruntime fp32", "litert int8"], ("precision_not_obeyed", "MatMul")),
        (branching(), ["openvino int8"], ("unsupported_operator", "If")),
        (product(FLOAT), ["onnxruntime fp32", "onnxruntime int8"], None),
        (branching(), ["onnxruntime fp32"], None),
        (quantised(), ["onnxruntime fp32", "openvino bf16"], ("precision_not_obeyed", "MatMul")),
        (quantised(), ["onnxruntime int8"], ("conversion_failed", "")),
        (quantised(), ["onnxruntime int8 fp32", "litert int8 fp32"], None),
    ],
)
def test_what_cannot_be_brought_to_the_precision_ends_typed(
    content: bytes,
    platforms: list[str],
    outcome: tuple[str, str] | None,
    state: StateDir,
    grant: Grant,
    running: Run,
    tmp_path: Path,
) -> None:
    async def prepare_each() -> list[Any]:
        found: list[Any] = []
        async with cache_in(state) as (cache, _):
            item = uploaded(cache, grant(1).items[0], content, tmp_path)
            for platform in platforms:
                ready, failed = await prepare(cache, [item], on(*platform.split()))
                found += [(one.failure, one.subject) for one in failed] or [None]
                assert len(ready) == (not failed)
        return found

    assert running(prepare_each()) == [outcome] * len(platforms)
