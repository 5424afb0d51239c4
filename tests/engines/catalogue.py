"""Catalogue kernels and zoo models through an engine's own converter and session, held against ONNX Runtime."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import onnxruntime as ort
import pytest

from benchfarm_core.operator_pairs import PAIR_MODEL
from benchfarm_core.workloads import InputSpec as CoreInputSpec
from benchfarm_engines.conversion import ConversionRequest, Converted, load_converter
from benchfarm_engines.edges import Edges
from benchfarm_engines.engine import Engine, EngineFailure, OpenRequest, Session
from benchfarm_engines.engine_options import check_options
from benchfarm_engines.gate import relative_l2
from benchfarm_engines.inputs import make_inputs
from benchfarm_engines.launch_request import InputSpec, read_inputs
from benchfarm_engines.translation import to_workload
from benchfarm_engines.visit import artifact_inputs
from benchfarm_workloads.draws import draw
from benchfarm_workloads.kernels import kernel_types
from benchfarm_workloads.models import model_recipe, model_recipes
from benchfarm_workloads.onnx_kernels import build_kernel
from benchfarm_workloads.onnx_models import build_model
from tests.engines.conftest import conv_graph

KERNELS = [kind.name for kind in kernel_types()]
MODELS = [recipe.name for recipe in model_recipes() if recipe.name != PAIR_MODEL]

Graph = tuple[bytes, tuple[InputSpec, ...]]


def normal(shape: Sequence[int], *, name: str = "x", seed: int = 0) -> InputSpec:
    return InputSpec(name, "float32", tuple(shape), {"kind": "normal", "seed": seed})


CONV: Graph = (conv_graph(32, 28), (normal([1, 32, 28, 28]),))
SMALL: Graph = (conv_graph(8, 4), (normal([1, 8, 4, 4], seed=5),))


def drawn_kernels(name: str, count: int, seed: int = 3) -> list[Graph]:
    return [_as_read(*build_kernel(name, config)) for config in draw(name, seed, count)]


def model(name: str) -> Graph:
    return _as_read(*build_model(name, {}))


def small_model(name: str) -> Graph:
    """On smaller images, where it takes images."""
    small = {"hw": 96} if any(column.name == "hw" for column in model_recipe(name).columns) else {}
    return _as_read(*build_model(name, small))


def _as_read(content: bytes, inputs: Sequence[CoreInputSpec]) -> Graph:
    return content, read_inputs([each.model_dump(mode="json") for each in inputs])


def convert(engine: Engine, graph: Graph, precision: str = "fp32") -> Converted:
    converter = load_converter(engine.name)
    assert converter is not None
    options = check_options({}, engine.options)
    return converter.convert(ConversionRequest(graph[0], precision, options, graph[1]))


@contextmanager
def opened(engine: Engine, graph: Graph, folder: Path, **changes: Any) -> Iterator[Session]:
    """A session on the graph's own file. changes: of the open request."""
    precision = changes.get("precision", "fp32")
    made = convert(engine, graph, precision)
    artifact = folder / f"{len(list(folder.iterdir()))}.{made.format}"
    artifact.write_bytes(made.content)
    fields = {"precision": precision, "threads": 1, "options": check_options({}, engine.options)}
    session = engine.open(OpenRequest(artifact, artifact_inputs(graph[1], made.edges), **{**fields, **changes}))
    _edges[session] = made.edges
    try:
        yield session
    finally:
        session.close()


_edges: WeakKeyDictionary[Session, Edges | None] = WeakKeyDictionary()
"""Of what `opened` has opened."""


def distance(session: Session, graph: Graph) -> float:
    """Of the latest run from the reference."""
    wanted, edges, outputs = reference(graph), _edges.get(session), session.outputs()
    if edges is not None:
        outputs = to_workload(outputs, edges.outputs, [each.shape for each in wanted])
    return relative_l2(outputs, wanted)


def reference(graph: Graph) -> list[np.ndarray[Any, Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph[0], options, providers=["CPUExecutionProvider"])
    return list(session.run(None, make_inputs(graph[1])))


def distance_after(runs: int, engine: Engine, graph: Graph, folder: Path, **changes: Any) -> float:
    with opened(engine, graph, folder, **changes) as session:
        for _ in range(runs):
            session.run()
        return distance(session, graph)


def refusal(engine: Engine, graph: Graph, folder: Path) -> EngineFailure:
    """What converting, opening or running the graph is refused with."""
    with pytest.raises(EngineFailure) as caught, opened(engine, graph, folder) as session:
        session.run()
    assert "\n" not in caught.value.detail
    assert str(folder) not in caught.value.detail
    return caught.value
