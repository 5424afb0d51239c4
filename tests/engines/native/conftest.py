"""The native runner, built once into the repository's ignored cache, and requests that the Python runner gets too."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ncnn", reason="ncnn is not installed")

from benchfarm_engines.launch import launch_environment
from benchfarm_engines.native_build import BuiltRunner, build_runner, find_runner
from benchfarm_engines.native_packages import CannotBuild, has_zig
from tests.engines.catalogue import Graph, reference
from tests.engines.conftest import Workload
from tests.engines.native.cache import CACHE
from tests.peers.need import PeerMissing, skipped_where_missing


def built(target: str) -> BuiltRunner:
    """The runner of the present sources; a build takes minutes of all cores, so it has to be asked for."""
    found = find_runner(CACHE, target)
    if found is not None:
        return found
    if os.environ.get("BENCHFARM_NATIVE") == "0":
        pytest.skip("no native runner here: BENCHFARM_NATIVE=1 builds it, where its sources can be had")
    if os.environ.get("BENCHFARM_NATIVE") == "1":
        with skipped_where_missing("the native runner"):
            return _build(target)
    reason = f"no native runner for {target} in .benchfarm/native: BENCHFARM_NATIVE=1 builds it"
    if target != platform.machine():  # CI builds its own processor's alone
        pytest.skip(reason)
    with skipped_where_missing("the native runner"):
        raise PeerMissing(reason)


def _build(target: str) -> BuiltRunner:
    """By zig where it is here or every peer has to run: it takes half of g++'s time. Else without fetching it."""
    zig = has_zig(CACHE) or os.environ.get("BENCHFARM_CI") == "1"
    host = target == platform.machine() and shutil.which("g++") is not None and not zig
    if not (zig or host):
        raise PeerMissing(f"no compiler for {target} here: `benchfarm agent runner build` fetches one")
    try:
        return build_runner(target, CACHE, compiler="host" if host else "zig")
    except CannotBuild as error:
        raise PeerMissing(str(error)) from error


@pytest.fixture(scope="session")
def runner() -> BuiltRunner:
    """For this machine."""
    return built(platform.machine())


@pytest.fixture
def native(launch: Callable[..., Any], runner: BuiltRunner) -> Callable[..., Any]:
    """`launch` with the native runner and ncnn."""
    return lambda visits, **changes: launch(visits, **{"engine": "ncnn", "argv": [str(runner.path)], **changes})


@pytest.fixture(scope="session")
def write_graph(batch_folder: Path) -> Callable[[str, Graph], Workload]:
    """A graph as a workload with its reference."""

    def write(name: str, graph: Graph) -> Workload:
        inputs = [
            {"name": one.name, "dtype": one.dtype, "shape": list(one.shape), "fill": dict(one.fill)} for one in graph[1]
        ]
        made = Workload(batch_folder / f"{name}.onnx", inputs, batch_folder / f"{name}.npz")
        made.artifact.write_bytes(graph[0])
        arrays: dict[str, Any] = {f"out{n}": output for n, output in enumerate(reference(graph))}
        np.savez(made.reference, **arrays)
        return made

    return write


def answered(argv: Sequence[str], folder: Path, text: str = "") -> tuple[int, list[dict[str, Any]]]:
    """Exit status and lines of a runner that is given any text."""
    done = subprocess.run(
        argv, input=text.encode(), env=launch_environment(str(folder)), capture_output=True, timeout=60
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]
