"""One launch of the fixed protocol that nn-Meter and LitePred publish: 10 warm-ups, 50 runs, their mean."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

WARM_UPS = 10
RUNS = 50


def main() -> None:
    """Reads a request from stdin, prints the mean of each visit in ms."""
    request = json.loads(sys.stdin.read())
    os.sched_setaffinity(0, {request["core"]})
    from benchfarm_engines.engine_options import check_options
    from benchfarm_engines.registry import load_engine

    engine = load_engine(request["engine"])
    options = check_options({}, engine.options)
    print(json.dumps([_visit(engine, visit, request["precision"], options) for visit in request["visits"]]))


def _visit(engine: Any, visit: dict[str, Any], precision: str, options: Any) -> float:
    from benchfarm_engines.engine import OpenRequest
    from benchfarm_engines.launch_request import read_edges, read_inputs
    from benchfarm_engines.visit import artifact_inputs

    inputs = artifact_inputs(read_inputs(visit["inputs"]), read_edges(visit["edges"]))
    session = engine.open(OpenRequest(Path(visit["artifact"]), inputs, precision, 1, options))
    for _ in range(WARM_UPS):
        session.run()
    times_ns = []
    for _ in range(RUNS):
        begun = time.perf_counter_ns()
        session.run()
        times_ns.append(time.perf_counter_ns() - begun)
    session.close()
    return sum(times_ns) / RUNS / 1e6
