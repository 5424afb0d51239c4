"""Launches of the real runner without a farm around them: what an experiment on the measurement itself needs."""

import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchfarm_core.correctness import GATE_LIMITS, INT8_TWIN_LIMIT, NAMED_LIMITS
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.platforms import Precision
from benchfarm_core.protocols import Protocol
from benchfarm_core.quality import CanaryGolden, lease_canaries, wants_more_launches
from benchfarm_core.quiet_blocks import patience_ms
from benchfarm_core.workloads import AnySingle, workload_id, workload_label
from benchfarm_engines.conversion import ConversionRequest, Converted, activations_for, load_converter
from benchfarm_engines.edges import Edges
from benchfarm_engines.engine_options import INT8_OPTIONS, check_options
from benchfarm_engines.launch import launch_environment, runner_argv
from benchfarm_engines.launch_request import InputSpec, read_inputs
from benchfarm_engines.reference import compute_reference
from benchfarm_engines.registry import load_engine
from benchfarm_workloads.artifacts import build
from benchfarm_workloads.onnx_canary import build_canary, canary_inputs

CORES = sorted(os.sched_getaffinity(0))
TWIN_ENGINE = "onnxruntime"
_PARAMETERS = (
    "block_min_us", "visit_ms", "blocks_min", "blocks_max", "warmup_min_runs", "warmup_min_ms", "canary_every_ms",
    "clock_every_ms", "quiet_wait_ms", "visit_timeout_s",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One engine as an experiment uses it."""

    engine: str
    precision: str = "fp32"
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For tables."""
        options = "".join(f"~{key}={value}" for key, value in self.options.items())
        return f"{self.engine}{options}/{self.precision}/t{self.threads}"


@dataclass(frozen=True)
class Ready:
    """A workload whose files are there; `visit` is its part of a launch request, less its number."""

    workload: AnySingle
    visit: dict[str, Any]

    @property
    def label(self) -> str:
        """For people."""
        return workload_label(self.workload)


@dataclass(frozen=True)
class LaunchRun:
    """What one launch answered: samples and failures by position in the batch, and its time from start to exit."""

    samples: dict[int, LaunchSamples]
    failures: dict[int, str]
    wall_s: float
    end: dict[str, Any]


class Files:
    """Builds, converts and keeps the files of workloads in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ready(self, workload: AnySingle, target: Target) -> Ready:
        """A workload for a target. Raises EngineFailure where the engine cannot express it."""
        artifact = build(workload)
        inputs = [spec.model_dump(mode="json") for spec in artifact.inputs]
        name = workload_id(workload)
        onnx_file = self._put(f"{name}.onnx", artifact.onnx_bytes)
        reference = self.folder / f"{name}.npz"
        if not reference.exists():
            compute_reference(onnx_file, read_inputs(inputs), reference)
        gates = [{"reference": str(reference), "max_relative_l2": gate_limit(target)}]
        visit = self._converted(name, artifact.onnx_bytes, inputs, target)
        if target.precision == Precision.INT8 and target.engine != TWIN_ENGINE:
            twin = self._twin(name, artifact.onnx_bytes, inputs, target)
            gates.append({"reference": str(twin), "max_relative_l2": INT8_TWIN_LIMIT})
        return Ready(workload, visit | {"gates": gates})

    def canary(self, target: Target) -> dict[str, Any]:
        """The MobileNet canary for a target, as a launch request has it."""
        inputs = [spec.model_dump(mode="json") for spec in canary_inputs()]
        visit = self._converted("canary", build_canary(), inputs, target)
        return {key: visit[key] for key in ("artifact", "inputs", "edges")}

    def _converted(self, name: str, onnx_bytes: bytes, inputs: list[dict[str, Any]], target: Target) -> dict[str, Any]:
        done = convert(onnx_bytes, inputs, target)
        path = self._put(f"{name}.{_suffix(target)}.{done.format}", done.content)
        edges = done.edges.document() if done.edges is not None else None
        return {"artifact": str(path), "format": done.format, "inputs": inputs, "edges": edges}

    def _twin(self, name: str, onnx_bytes: bytes, inputs: list[dict[str, Any]], target: Target) -> Path:
        """What ONNX Runtime makes of the same quantised graph."""
        specs = read_inputs(inputs)
        content, edges = quantised(onnx_bytes, specs, target)
        graph = self._put(f"{name}.{_suffix(target)}.quantised.onnx", content)
        twin = graph.with_suffix(".npz")
        if not twin.exists():
            compute_reference(graph, specs, twin, edges)
        return twin

    def _put(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        if not path.exists():
            path.write_bytes(content)
        return path


def gate_limit(target: Target) -> float:
    """What the farm's own gate allows this engine in this precision."""
    precision = Precision(target.precision)
    return NAMED_LIMITS.get((target.engine, precision), GATE_LIMITS[precision])


def quantised(onnx_bytes: bytes, specs: tuple[InputSpec, ...], target: Target) -> tuple[bytes, Edges | None]:
    """The graph of 8 bits that an engine's int8 is made from, and its edges."""
    from benchfarm_engines.quantise import quantise

    names = {option.name for option in INT8_OPTIONS}
    given = {name: value for name, value in target.options.items() if name in names}
    return quantise(onnx_bytes, specs, check_options(given, INT8_OPTIONS), activations_for(target.engine))


def convert(onnx_bytes: bytes, inputs: Sequence[Mapping[str, Any]], target: Target) -> Converted:
    """The file that a target opens, made in this process."""
    specs = read_inputs(list(inputs))
    edges: Edges | None = None
    if target.precision == Precision.INT8:
        onnx_bytes, edges = quantised(onnx_bytes, specs, target)
    converter = load_converter(target.engine)
    if converter is None:
        return Converted(onnx_bytes, "onnx", edges)
    known = getattr(converter, "options", None)  # where the engine itself cannot be opened in this process
    options = check_options(target.options, load_engine(target.engine).options if known is None else known)
    return converter.convert(ConversionRequest(onnx_bytes, target.precision, options, specs, edges))


def _suffix(target: Target) -> str:
    return f"{target.engine}-{target.precision}-" + "-".join(f"{k}{v}" for k, v in target.options.items())


def launch(
    files: Files,
    batch: Sequence[Ready],
    target: Target,
    protocol: Protocol,
    *,
    launch_no: int,
    order: Sequence[int],
    runner: Sequence[str] | None = None,
    fastest_canary_ns: int | None = None,
    wait_ms: int = 0,
) -> LaunchRun:
    """One fresh runner that visits the batch in `order`. runner: another command than the Python runner's.
    fastest_canary_ns: what the clock's canary is known to take. wait_ms: how long it may wait for quiet moments."""
    request = request_of(files, batch, target, protocol, order=order)
    request["canaries"]["sgemm"]["patience_ms"] = wait_ms
    if fastest_canary_ns is not None:
        request["canaries"]["sgemm"]["fastest_ns"] = fastest_canary_ns
    with _scratch() as home:
        request["limits"] = {
            "memory_bytes": 16 * 1024**3, "cpu_s": 3600, "readable": [str(files.folder)], "writable": [home],
            "network": False, "uid": None, "gid": None,
        }  # fmt: skip
        begun = time.monotonic()
        done = subprocess.run(
            runner or runner_argv(),
            check=False,
            input=json.dumps(request),
            env=launch_environment(home),
            capture_output=True,
            text=True,
        )
        wall_s = time.monotonic() - begun
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if not lines or lines[-1]["event"] != "end":
        raise RuntimeError(f"a launch ended with code {done.returncode}: {lines[-1:]} {done.stderr[-500:]}")
    return run_of(lines, wall_s, launch_no)


def request_of(
    files: Files, batch: Sequence[Ready], target: Target, protocol: Protocol, *, order: Sequence[int]
) -> dict[str, Any]:
    """The launch request, less the limits."""
    return {
        "contract": 2,
        "engine": target.engine,
        "precision": target.precision,
        "threads": target.threads,
        "cores": CORES[-target.threads :],
        "options": dict(target.options),
        "protocol": {name: ask for name in _PARAMETERS if (ask := getattr(protocol, name)) is not None},
        "canaries": {"sgemm": {"n": 192, "seed": 1}, "mobilenet": files.canary(target)},
        "visits": [{"visit": number, **batch[number].visit} for number in order],
    }


@dataclass
class Lease:
    """A batch under way, as an agent measures it: launches by position, their time from starts to exits, failures."""

    files: Files
    batch: Sequence[Ready]
    target: Target
    protocol: Protocol
    seed: object
    found: dict[int, list[LaunchSamples]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    launches: int = 0
    wall_s: float = 0.0
    waited_ms: float = 0.0

    def __post_init__(self) -> None:
        self.found = {number: [] for number in range(len(self.batch))}

    def next_launch(self) -> bool:
        """One launch more, of what wants one; False where nothing does."""
        order = self._wanted()
        if not order:
            return False
        random.Random(f"{self.seed}:{self.launches}").shuffle(order)
        run = launch(
            self.files,
            self.batch,
            self.target,
            self.protocol,
            launch_no=self.launches,
            order=order,
            fastest_canary_ns=self.canaries.sgemm_ns,
            wait_ms=patience_ms(self.protocol, len(self.batch), self.waited_ms),
        )
        self.launches += 1
        self.wall_s += run.wall_s
        self.waited_ms += run.end["waited_ms"]
        self.failures.update(run.failures)
        for number, samples in run.samples.items():
            self.found[number].append(samples)
        return True

    @property
    def canaries(self) -> CanaryGolden:
        """The canaries' floors so far."""
        return lease_canaries(launch for samples in self.found.values() for launch in samples)

    def _wanted(self) -> list[int]:
        if self.launches >= self.protocol.launches_max:
            return []
        lease, open_ = self.canaries, [number for number in self.found if number not in self.failures]
        return [number for number in open_ if wants_more_launches(self.found[number], self.protocol, lease=lease)]


def measure(
    files: Files, batch: Sequence[Ready], target: Target, protocol: Protocol, *, seed: object
) -> tuple[dict[int, list[LaunchSamples]], float, dict[int, str]]:
    """A batch as an agent measures it: launches by position, their time from starts to exits in s, and failures."""
    lease = Lease(files, batch, target, protocol, seed)
    while lease.next_launch():
        pass
    return lease.found, lease.wall_s, lease.failures


def run_of(lines: Sequence[Mapping[str, Any]], wall_s: float, launch_no: int) -> LaunchRun:
    """What a whole launch's lines say."""
    samples: dict[int, LaunchSamples] = {}
    failures: dict[int, str] = {}
    for line in lines:
        if line["event"] != "done":
            continue
        if line["outcome"] == "ok":
            known = {name: line[name] for name in LaunchSamples.model_fields if name in line}
            samples[line["visit"]] = LaunchSamples.model_validate({**known, "launch_no": launch_no})
        else:
            failures[line["visit"]] = f"{line['code']}: {line.get('subject') or line['detail']}"
    return LaunchRun(samples, failures, wall_s, dict(lines[-1]))


@contextmanager
def _scratch() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="benchfarm-launch-") as home:
        yield home
