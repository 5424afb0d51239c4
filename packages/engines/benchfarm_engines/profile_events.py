"""ONNX Runtime's profile: a JSON file of events in the order in which they ended."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from benchfarm_core.failures import FailureCode
from benchfarm_engines.engine import EngineFailure, NodeTime

_KERNEL: Final = "_kernel_time"
_INFERENCE: Final = "model_run"
_NS_PER_US: Final = 1000


def read_inferences(content: bytes, runs: int) -> list[list[NodeTime]]:
    """The latest `runs` inferences of a profile. Times are whole microseconds, cut off. Raises EngineFailure."""
    try:
        inferences = _inferences(json.loads(content))
    except (ValueError, TypeError, KeyError) as error:
        raise _unreadable("the profile is no list of events") from error
    if len(inferences) < runs:
        raise _unreadable(f"the profile holds {len(inferences)} inferences, not {runs}")
    return inferences[-runs:]


def _inferences(events: Iterable[Mapping[str, Any]]) -> list[list[NodeTime]]:
    inferences: list[list[NodeTime]] = []
    nodes: list[NodeTime] = []
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            name, kind = event["name"].removesuffix(_KERNEL), str(event["args"]["op_name"])
            nodes.append(NodeTime(name, kind, int(event["dur"]) * _NS_PER_US))
        elif event["cat"] == "Session" and event["name"] == _INFERENCE:
            inferences.append(nodes)
            nodes = []
    return inferences


def _unreadable(detail: str) -> EngineFailure:
    return EngineFailure(FailureCode.ENGINE_ERROR, detail)
