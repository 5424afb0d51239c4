"""How ``bench.in_situ`` measures a plan in one engine, and where it keeps what it measured.

Files are made here; a child of its own opens and times them (``in_situ_child``). What is kept lies in one file for each
engine and portion, and further rounds are added to it.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.in_situ_child import File, Task
from bench.in_situ_plan import Plan, refuse_shared
from bench.launching import CORES, Target, convert
from bench.report import machine, measured_by
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.profilers import in_situ_by
from benchfarm_core.workloads import InputSpec
from benchfarm_engines.engine import EngineFailure
from benchfarm_engines.launch import launch_environment
from benchfarm_engines.registry import load_engine
from benchfarm_workloads.doubled_carriers import DoubledCarrier, double
from benchfarm_workloads.onnx_canary import build_canary, canary_inputs
from benchfarm_workloads.onnx_carriers import build_carrier
from benchfarm_workloads.onnx_kernels import build_kernel
from benchfarm_workloads.onnx_models import build_network, network_inputs

CHILD_LIMIT_S: Final = 3600.0
MIN_CHILD_S: Final = 1.0
CHILD: Final = "from bench.in_situ_child import main; main()"
CANARY: Final = "canary"
ROOT: Final = Path(__file__).resolve().parents[1]

Answers = Mapping[str, Mapping[str, Any]]
"""What the child measured in one round, by file; see ``in_situ_child``."""


class NotMeasured(Exception):
    """No round of a portion was whole; the text says why."""


def write_files(planned: Plan, engine: str, folder: Path, *, both_ways: bool = False) -> list[File]:
    """Every file of the plan in the engine's format. Raises EngineFailure, EngineUnavailable.

    both_ways: what times by difference too, where the engine has a profiler.
    """
    profiles, written = is_profiling(engine), partial(_written, engine, folder)
    files = [
        written(name, build_network(network, seed=1), network_inputs(network), plain=True, profiled=profiles)
        for name, network in planned.models.items()
    ]
    if profiles:
        files.append(written(CANARY, build_canary(), canary_inputs(), plain=False, profiled=False, cost=True))
        for number, carrier in enumerate(planned.carriers):
            files.append(written(f"carrier{number}", *build_carrier(carrier), plain=False, profiled=True))
    if both_ways or not profiles:
        files += _doubled_files(planned, written)
    for number, layer in enumerate(planned.kernels.values()):
        with suppress(EngineFailure):  # a kernel that the engine has in a network only is in no sum of kernels alone
            alone = build_kernel(layer.type, layer.config)
            files.append(written(f"alone{number}", *alone, plain=True, profiled=False))
    return files


def _written(engine: str, folder: Path, name: str, content: bytes, inputs: Sequence[InputSpec], **wanted: Any) -> File:
    specs = [spec.model_dump(mode="json") for spec in inputs]
    made = convert(content, specs, Target(engine))
    path = folder / f"{name}.{made.format}"
    path.write_bytes(made.content)
    edges = None if made.edges is None else made.edges.document()
    return File(name, str(path), specs, edges, **wanted)


def _doubled_files(planned: Plan, written: Callable[..., File]) -> list[File]:
    """Both carriers of every kernel that has neighbours of its size. Raises ValueError as `refuse_shared`."""
    taken = frozenset(planned.kernels)
    doubled: dict[int, DoubledCarrier] = {}
    for number, layer in enumerate(planned.kernels.values()):
        with suppress(InvalidRequest):
            doubled[number] = double(layer.type, layer.config, taken)
    refuse_shared(
        (carrier for both in doubled.values() for carrier in (both.once, both.twice)), planned.models.values()
    )
    return [_doubled(number, both, written) for number, both in doubled.items()]


def _doubled(number: int, both: DoubledCarrier, written: Callable[..., File]) -> File:
    """Both carriers of a kernel as one file of the child's."""
    once, twice = (
        written(f"doubled{number}-{copies}", *build_carrier(carrier), plain=False, profiled=False)
        for copies, carrier in enumerate((both.once, both.twice), start=1)
    )
    opened = {"artifact": twice.artifact, "inputs": twice.inputs, "edges": twice.edges}
    return replace(once, name=f"doubled{number}", twice=opened)


def is_profiling(engine: str) -> bool:
    """Whether an engine times kernels in situ by its profiler."""
    return in_situ_by(engine, "fp32") == "profiler"


def measure(
    planned: Plan,
    engine: str,
    rounds: int,
    *,
    floor: bool,
    both_ways: bool = False,
    limit_s: float = CHILD_LIMIT_S,
    end_s: float = CHILD_LIMIT_S,
) -> list[Answers]:
    """The rounds of one fresh child, `both_ways` as `write_files` has it.

    limit_s: no round but the first is begun that would probably end later. end_s: then the child is ended, and the
    rounds that are whole count. Both in seconds from now.

    Raises EngineFailure, EngineUnavailable, NotMeasured.
    """
    load_engine(engine)
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="benchfarm-in-situ-") as name:
        folder = Path(name)
        (folder / "home").mkdir()
        (folder / "cache").mkdir()
        files = write_files(planned, engine, folder, both_ways=both_ways)
        spent_s = time.monotonic() - begun_s
        task = Task(engine, CORES[-1], str(folder / "cache"), rounds, floor, limit_s - spent_s, files)
        (folder / "task.json").write_text(json.dumps(asdict(task)))
        why = _why_ended(folder, max(MIN_CHILD_S, min(end_s - spent_s, CHILD_LIMIT_S)))
        answer = folder / "answer.json"
        answers: list[Answers] = json.loads(answer.read_text()) if answer.exists() else []
    if not answers:
        raise NotMeasured(f"no round was whole: {why}")
    if why:
        print(f"{engine}: {len(answers)} of {rounds} rounds: {why}", file=sys.stderr)
    return answers


def _why_ended(folder: Path, timeout_s: float) -> str:
    """Runs the child; why it ended before its last round, or nothing. What it says of itself goes to stderr."""
    argv = [sys.executable, "-c", CHILD, str(folder / "task.json"), str(folder / "answer.json")]
    environment = launch_environment(str(folder / "home"))
    try:
        subprocess.run(argv, cwd=ROOT, env=environment, check=True, timeout=timeout_s, stdout=sys.stderr)
    except subprocess.TimeoutExpired as error:
        return f"the child was ended after {error.timeout:.0f} s"
    except subprocess.CalledProcessError as error:
        return f"the child ended with code {error.returncode}"
    return ""


class Kept:
    """Rounds by engine and portion, in a folder; without one they are kept for as long as the program runs.

    A file is for one plan, one way to read rounds, one version of the engine and one machine.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._known: dict[str, dict[str, Any]] = {}

    def rounds(self, engine: str, portion: str, identity: str) -> list[Answers]:
        """What is there. Raises ValueError where it is of something else."""
        found = self._read(f"{engine}.{portion}")
        if found is not None and found["of"] != identity:
            raise ValueError(f"{engine}.{portion}.json is of {found['of']}, not of {identity}: take another folder")
        rounds: list[Answers] = [] if found is None else found["rounds"]
        return rounds

    def add(self, engine: str, portion: str, identity: str, rounds: Sequence[Answers]) -> None:
        """More rounds. Raises ValueError as `rounds`."""
        name, before = f"{engine}.{portion}", self.rounds(engine, portion, identity)
        by = [*(self._known.get(name) or {"by": []})["by"], measured_by()]
        self._known[name] = {"of": identity, "by": list(dict.fromkeys(by)), "rounds": [*before, *rounds]}
        if self.folder is not None:
            part = self.folder / f"{name}.part"
            part.write_text(json.dumps(self._known[name]))
            part.replace(self.folder / f"{name}.json")

    def by(self) -> str:
        """Rules and commits of all that was read or added."""
        return "; ".join(dict.fromkeys(said for found in self._known.values() for said in found["by"]))

    def _read(self, name: str) -> dict[str, Any] | None:
        path = None if self.folder is None else self.folder / f"{name}.json"
        if name not in self._known and path is not None and path.exists():
            self._known[name] = json.loads(path.read_text())
        return self._known.get(name)


def identity_of(planned: Plan, engine: str, *, floor: bool) -> str:
    """What rounds must share to be taken together. Raises EngineUnavailable."""
    read = "floors" if floor else "medians"
    return f"plan {planned.digest}, {read}, {engine} {load_engine(engine).version()}, {machine()}"
