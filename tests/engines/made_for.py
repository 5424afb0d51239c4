"""A workload as each engine opens it, and its session in the workload's own numbers: what interface tests compare."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchfarm_engines.conversion import ONNX, ConversionRequest, Converted, activations_for, load_converter
from benchfarm_engines.edges import Edges
from benchfarm_engines.engine import Engine, EngineUnavailable, OpenRequest, Session
from benchfarm_engines.engine_options import INT8_OPTIONS, OptionValue, check_options
from benchfarm_engines.gate import Array, load_reference
from benchfarm_engines.inputs import aligned, make_inputs
from benchfarm_engines.launch_request import read_inputs
from benchfarm_engines.quantise import quantise
from benchfarm_engines.registry import load_engine
from benchfarm_engines.translation import to_artifact, to_workload

_INT8 = {option.name for option in INT8_OPTIONS}


OFF_BY_DEFAULT = {"torch", "torch_cuda", "onnxruntime_cuda"}
"""Engines that the tests' environment has not; where they are, they are tested."""


def installed(name: str) -> Engine:
    """The engine; skips the test where it is one that is off by default."""
    try:
        return load_engine(name)
    except EngineUnavailable as reason:
        if name not in OFF_BY_DEFAULT:
            raise
        pytest.skip(str(reason))


@dataclass(frozen=True)
class MadeFor:
    """One engine's file. inputs: as documents, the workload's."""

    artifact: Path
    format: str
    edges: Edges | None
    inputs: Any

    def part_of_visit(self) -> dict[str, Any]:
        """The fields of a visit that the engine decides."""
        edges = None if self.edges is None else self.edges.document()
        return {"artifact": str(self.artifact), "format": self.format, "edges": edges}


def made_for(engine: Engine, workload: Any, precision: str = "fp32", **options: OptionValue) -> MadeFor:
    """The workload's file for this engine. Raises EngineFailure."""
    complete = check_options(options, engine.options)
    content, specs, edges = workload.artifact.read_bytes(), read_inputs(workload.inputs), None
    converter = load_converter(engine.name)
    if precision == "int8":
        chosen = {name: value for name, value in complete.items() if name in _INT8}
        content, edges = quantise(content, specs, chosen, activations_for(engine.name))
    made = Converted(content, ONNX, edges)
    if converter is not None:
        made = converter.convert(ConversionRequest(content, precision, complete, specs, edges))
    artifact = workload.artifact.with_suffix(f".{engine.name}.{precision}")
    artifact.write_bytes(made.content)
    return MadeFor(artifact, made.format, made.edges, workload.inputs)


class InItsOwnNumbers:
    """A session whose outputs are the workload's."""

    def __init__(self, session: Session, edges: Edges | None, shapes: list[tuple[int, ...]]) -> None:
        self._session = session
        self._edges = edges
        self._shapes = shapes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def outputs(self) -> list[Array]:
        found = self._session.outputs()
        return found if self._edges is None else to_workload(found, self._edges.outputs, self._shapes)


def opened(engine: Engine, workload: Any, *, precision: str = "fp32", threads: int = 1, **changes: Any) -> Any:
    """A session on the workload, in its own numbers. changes: of the OpenRequest. Raises EngineFailure."""
    made = made_for(engine, workload, precision)
    inputs = make_inputs(read_inputs(workload.inputs))
    if made.edges is not None:
        inputs = {name: aligned(array) for name, array in to_artifact(inputs, made.edges.inputs).items()}
    options = check_options({}, engine.options)
    session = engine.open(OpenRequest(made.artifact, inputs, precision, threads, options, **changes))
    shapes = [each.shape for each in load_reference(workload.reference)] if workload.reference.exists() else []
    return InItsOwnNumbers(session, made.edges, shapes)
