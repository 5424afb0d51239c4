"""A network of every search space through LiteRT's own writer."""

from pathlib import Path

import pytest

from benchfarm_core.correctness import GATE_LIMITS
from benchfarm_core.platforms import Precision
from benchfarm_engines.launch_request import read_inputs
from benchfarm_engines.litert_engine import ENGINE
from benchfarm_workloads.onnx_models import build_architecture
from benchfarm_workloads.spaces import space
from tests.engines.catalogue import distance_after
from tests.workloads.architectures import NAMES, extreme


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_architecture_passes_the_gate(name: str, tmp_path: Path) -> None:
    content, inputs = build_architecture(extreme(space(name), min))
    graph = content, read_inputs([each.model_dump(mode="json") for each in inputs])
    assert distance_after(2, ENGINE, graph, tmp_path) < GATE_LIMITS[Precision.FP32]
