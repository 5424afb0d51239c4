"""Do a model's kernels add up to the model? Kernel times from carriers, alone, and from the model's own profile.

For each engine with a profiler, all in one process and in turn: the models as they are and profiled, carriers of
their kernels, and each kernel alone. A carrier shares nothing larger than one kernel with a model. What is judged is
the plain sum of what the farm stores: in-situ times with the conversions that each kernel makes necessary, less what
the profiler adds to each operator, which the canary tells; floors over several openings, for the same file runs up to a
fifth slower where an engine has found worse memory for it. Beside it the sum by someone who knows the model's layouts:
conversions only where one of two neighbours needs them.
Of engines without a profiler each kernel's two carriers, which hold it once and twice, take the place of carriers and
profiles; no goal was set for them.

python -m bench.in_situ [--engines onnxruntime openvino] [--models resnet18 mobilenet_v2] [--architectures 10]
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from bench.architectures import draw_architectures
from bench.in_situ_child import File, Task
from bench.launching import CORES, Target, convert
from bench.report import command_run, write_section
from benchfarm_core.differences import Difference, difference_of
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.profilers import in_situ_by
from benchfarm_core.quality import clean_blocks
from benchfarm_core.workloads import InputSpec
from benchfarm_engines.attribution import SiteTime, attribute
from benchfarm_engines.engine import EngineFailure, EngineUnavailable, NodeTime
from benchfarm_engines.launch import launch_environment
from benchfarm_engines.profile_cost import without_cost
from benchfarm_engines.registry import load_engine
from benchfarm_workloads.carriers import Carrier, pack
from benchfarm_workloads.doubled_carriers import double
from benchfarm_workloads.layers import Layer, Network
from benchfarm_workloads.models import model_recipe
from benchfarm_workloads.onnx_canary import build_canary, canary_inputs
from benchfarm_workloads.onnx_carriers import build_carrier
from benchfarm_workloads.onnx_kernels import build_kernel
from benchfarm_workloads.onnx_models import build_network, network_inputs

ENGINES: Final = ("onnxruntime", "openvino", "mnn")
BY_DIFFERENCE: Final = ("litert", "ncnn")
OFF_BY_DEFAULT: Final = ("torch",)
MODELS: Final = ("resnet18", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "squeezenet", "shufflenet_v2")
MEDIAN_RANGE: Final = (0.95, 1.05)
P90_RANGE: Final = (0.88, 1.12)
CHILD_LIMIT_S: Final = 3600
SEED: Final = 30
CHILD: Final = "from bench.in_situ_child import main; main()"
CANARY: Final = "canary"
DELIVERED: Final = "in situ, the sum of what the farm stores"
COMPOSED: Final = "conversions only where layouts meet"
PROFILED: Final = "the same with the profiler's cost"
DIFFERENCE: Final = "in situ, by difference"
SECTION: Final = "Kernels in situ, alone and in the model"
DIFFERENCE_SECTION: Final = "Kernels in situ by difference, alone and in the model"
UNCLEAR: Final = "kernels whose difference is unclear"
ROOT: Final = Path(__file__).resolve().parents[1]

Row = dict[str, object]
Kernel = tuple[object, ...]
"""A kernel type and its columns: layers that are alike are one kernel."""

Answers = Mapping[str, Mapping[str, Any]]
"""What the child measured in one round, by file; see ``in_situ_child``."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    kernels: each that is in any model, with a layer that it is; carriers keep that order. The first so many of them,
    those of the known models, are measured alone too.
    """

    models: Mapping[str, Network]
    kernels: Mapping[Kernel, Layer]
    carriers: tuple[Carrier, ...]
    alone: int


@dataclass(frozen=True)
class Sums:
    """A model in one round: the model itself, and ways to add up its kernels.

    stored_ns: of what the farm stores, less the profiler's cost. in_situ_ns: conversions only where layouts meet.
    profiled_ns: the same with the profiler's cost. alone_ns: infinite where not every kernel was measured alone.
    unclear: the share of layers whose kernel's difference is within its uncertainty.
    """

    model_ns: float
    stored_ns: float
    in_situ_ns: float
    profiled_ns: float
    alone_ns: float
    profile_ns: float
    unclear: float = 0.0


def plan(names: Iterable[str], architectures: int = 0) -> Plan:
    """The models at their defaults, so many architectures of each family, and carriers of all their kernels."""
    models = {name: model_recipe(name).network({}) for name in names}
    alone = len({kernel_of(layer) for network in models.values() for layer in network.layers})
    models |= draw_architectures(architectures, SEED)
    layers = {kernel_of(layer): layer for network in models.values() for layer in network.layers}
    carriers = pack([(layer.type, layer.config) for layer in layers.values()])
    return Plan(models, layers, tuple(carriers), alone)


def kernel_of(layer: Layer) -> Kernel:
    """What a layer is, wherever it stands."""
    return (layer.type, *layer.config.items())


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
            files.append(written(f"carrier{number}", *build_carrier(carrier), plain=True, profiled=True))
    if both_ways or not profiles:
        files += [_doubled(number, layer, written) for number, layer in enumerate(planned.kernels.values())]
    for number, layer in enumerate(list(planned.kernels.values())[: planned.alone]):
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


def _doubled(number: int, layer: Layer, written: Callable[..., File]) -> File:
    """Both carriers of a kernel as one file of the child's."""
    both = double(layer.type, layer.config)
    once, twice = (
        written(f"doubled{number}-{copies}", *build_carrier(carrier), plain=False, profiled=False)
        for copies, carrier in enumerate((both.once, both.twice), start=1)
    )
    opened = {"artifact": twice.artifact, "inputs": twice.inputs, "edges": twice.edges}
    return replace(once, name=f"doubled{number}", twice=opened)


def is_profiling(engine: str) -> bool:
    """Whether an engine times kernels in situ by its profiler."""
    return in_situ_by(engine, "fp32") == "profiler"


def measure(planned: Plan, engine: str, rounds: int, *, floor: bool, both_ways: bool = False) -> list[Answers]:
    """The rounds of one fresh child, `both_ways` as `write_files` has it.

    Raises EngineFailure, EngineUnavailable, CalledProcessError.
    """
    load_engine(engine)
    with tempfile.TemporaryDirectory(prefix="benchfarm-in-situ-") as name:
        folder = Path(name)
        (folder / "home").mkdir()
        (folder / "cache").mkdir()
        files = write_files(planned, engine, folder, both_ways=both_ways)
        task = Task(engine, CORES[-1], str(folder / "cache"), rounds, floor, files)
        (folder / "task.json").write_text(json.dumps(asdict(task)))
        argv = [sys.executable, "-c", CHILD, str(folder / "task.json"), str(folder / "answer.json")]
        environment = launch_environment(str(folder / "home"))
        subprocess.run(argv, cwd=ROOT, env=environment, check=True, timeout=CHILD_LIMIT_S, stdout=sys.stderr)
        answers: list[Answers] = json.loads((folder / "answer.json").read_text())
    return answers


def in_situ_times(planned: Plan, answers: Answers, cost_ns: float = 0.0) -> dict[Kernel, SiteTime]:
    """Every kernel's time in its carrier, less `cost_ns` for each operator."""
    kernels = list(planned.kernels)
    times: dict[Kernel, SiteTime] = {}
    for number, carrier in enumerate(planned.carriers):
        nodes = without_cost(_nodes(answers[f"carrier{number}"]), cost_ns)
        found = attribute(nodes, [layer.name for layer in carrier.layers])
        times |= {kernels[place]: found.sites[site] for place, site in carrier.sites.items()}
    return times


def composed_ns(network: Network, times: Mapping[Kernel, SiteTime]) -> int:
    """The sum over the layers of a network.

    Conversions count where a kernel that needs them meets one that does not: between two that keep the same layout
    the engine has none. What the engine computes within another kernel costs nothing in the carrier either.
    """
    layers = network.layers
    keeps_plain = {layer.name: _converts(times[kernel_of(layer)]) for layer in layers}
    makers = {output: layer.name for layer in layers for output in layer.outputs}
    readers: dict[str, list[str]] = {layer.name: [] for layer in layers}
    total_ns = 0
    for layer in layers:
        for source in layer.sources:
            if source in makers:
                readers[makers[source]].append(layer.name)
    for layer in layers:
        time = times[kernel_of(layer)]
        from_other = [source for source in layer.sources if not keeps_plain.get(makers.get(source, ""), False)]
        to_other = [reader for reader in readers[layer.name] if not keeps_plain[reader]]
        total_ns += time.own_ns + (time.entry_ns if from_other else 0) + (time.exit_ns if to_other else 0)
    return total_ns


def _converts(time: SiteTime) -> bool:
    return time.entry_ns + time.exit_ns > 0


def sums(planned: Plan, answers: Answers) -> dict[str, Sums]:
    """One round, by model. Alone, kernels that the engine computes within another in the model cost nothing."""
    times = in_situ_times(planned, answers)
    delivered = in_situ_times(planned, answers, answers[CANARY]["cost_ns"])
    kernels = list(planned.kernels)[: planned.alone]
    alone_ns = {kernel: answers[f"alone{number}"]["plain_ns"] for number, kernel in enumerate(kernels)}
    found = {}
    for name, network in planned.models.items():
        profile = attribute(_nodes(answers[name]), [layer.name for layer in network.layers])
        standing = [layer for layer in network.layers if layer.name not in profile.fused]
        found[name] = Sums(
            model_ns=answers[name]["plain_ns"],
            stored_ns=sum(delivered[kernel_of(layer)].total_ns for layer in network.layers),
            in_situ_ns=composed_ns(network, delivered),
            profiled_ns=composed_ns(network, times),
            alone_ns=sum(alone_ns.get(kernel_of(layer), math.inf) for layer in standing),
            profile_ns=profile.total_ns,
        )
    return found


def difference_sums(planned: Plan, answers: Answers) -> dict[str, Sums]:
    """One round by model, of an engine without a profiler: nobody tells what it computes within another kernel."""
    kernels = list(planned.kernels)
    times = differences(planned, answers)
    alone_ns = {kernel: answers[f"alone{n}"]["plain_ns"] for n, kernel in enumerate(kernels[: planned.alone])}
    found = {}
    for name, network in planned.models.items():
        here = [kernel_of(layer) for layer in network.layers]
        stored_ns = sum(max(0.0, times[kernel].floor_ns) for kernel in here)
        found[name] = Sums(
            model_ns=answers[name]["plain_ns"],
            stored_ns=stored_ns,
            in_situ_ns=math.nan,
            profiled_ns=math.nan,
            alone_ns=sum(alone_ns.get(kernel, math.inf) for kernel in here),
            profile_ns=math.nan,
            unclear=sum(not times[kernel].is_clear for kernel in here) / len(here),
        )
    return found


def differences(planned: Plan, answers: Answers) -> dict[Kernel, Difference]:
    """Every kernel's time by difference."""
    return {kernel: _difference(answers[f"doubled{number}"]) for number, kernel in enumerate(planned.kernels)}


def _difference(answer: Mapping[str, Any]) -> Difference:
    """The median of some visits, each by the rule of a launch; of a disturbed one all pairs count."""
    launches = [LaunchSamples.model_validate(each) for each in answer["samples"]]
    found = [
        difference_of(one, clean_blocks(one)) or difference_of(one, [True] * len(one.blocks_ns)) for one in launches
    ]
    seen = [each for each in found if each is not None]
    return Difference(*(median(values) for values in zip(*seen, strict=True)))


def quietest(rounds: Sequence[Answers]) -> Answers:
    """Of every file its fastest plain time and its fastest profiled inference.

    The profiler's cost, a difference of two floors, is the median of the rounds.
    """
    return {name: _fastest([answers[name] for answers in rounds]) for name in rounds[0]}


def _fastest(visits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if "cost_ns" in visits[0]:
        return {"cost_ns": median(visit["cost_ns"] for visit in visits)}
    if "samples" in visits[0]:
        return {"samples": [launch for visit in visits for launch in visit["samples"]]}
    profiles = [visit["nodes"] for visit in visits if "nodes" in visit]
    fastest: dict[str, Any] = {"plain_ns": min(visit["plain_ns"] for visit in visits)}
    if profiles:
        fastest["nodes"] = min(profiles, key=lambda nodes: sum(ns for _, _, ns, _ in nodes))
    return fastest


def _nodes(answer: Mapping[str, Any]) -> list[NodeTime]:
    return [NodeTime(name, kind, round(ns), tuple(origins)) for name, kind, ns, origins in answer["nodes"]]


def rows_of(planned: Plan, engine: str, rounds: Sequence[Answers]) -> list[Row]:
    """A row for each model and one for all: ratios within a round, the median of the rounds."""
    profiles = is_profiling(engine)
    found = [(sums if profiles else difference_sums)(planned, answers) for answers in rounds]
    rows: list[Row] = []
    stored: list[float] = []
    composed: list[float] = []
    for name in planned.models:
        here = [each[name] for each in found]
        stored.append(_ratio(here, lambda one: one.stored_ns))
        composed.append(_ratio(here, lambda one: one.in_situ_ns))
        row: Row = {"engine": engine, "model": name, "model ms": round(median(one.model_ns for one in here) / 1e6, 3)}
        if profiles:
            with_cost = _ratio(here, lambda one: one.profiled_ns)
            row |= {DELIVERED: _told(stored[-1]), COMPOSED: _told(composed[-1]), PROFILED: _told(with_cost)}
        else:
            row |= {DIFFERENCE: _told(stored[-1])}
        rows.append(row | _beside(here, profiles=profiles))
    return [*rows, _verdict(engine, stored, composed) if profiles else _without_goal(engine, stored)]


def _beside(here: Sequence[Sums], *, profiles: bool) -> Row:
    """What else a model's kernels add up to."""
    alone: Row = {"alone": _told(_ratio(here, lambda one: one.alone_ns))}
    if profiles:
        return alone | {"own profile": _told(_ratio(here, lambda one: one.profile_ns))}
    return alone | {UNCLEAR: f"{median(one.unclear for one in here):.0%}"}


def _told(ratio: float) -> str:
    return f"{ratio:.3f}" if math.isfinite(ratio) else ""


def _ratio(here: Sequence[Sums], part: Callable[[Sums], float]) -> float:
    return median(part(one) / one.model_ns for one in here)


def _verdict(engine: str, stored: Sequence[float], composed: Sequence[float]) -> Row:
    middle = median(stored)
    inside = sum(P90_RANGE[0] <= ratio <= P90_RANGE[1] for ratio in stored) / len(stored)
    return {
        "engine": engine,
        "model": f"all {len(stored)}",
        DELIVERED: f"{middle:.3f}",
        COMPOSED: f"{median(composed):.3f}",
        "10th to 90th percentile": _spread(stored),
        "composed, 10th to 90th": _spread(composed),
        "goal": f"median {MEDIAN_RANGE[0]}-{MEDIAN_RANGE[1]}, 90 % in {P90_RANGE[0]}-{P90_RANGE[1]}",
        "met": MEDIAN_RANGE[0] <= middle <= MEDIAN_RANGE[1] and inside >= 0.9,
    }


def _without_goal(engine: str, in_situ: Sequence[float]) -> Row:
    return {
        "engine": engine,
        "model": f"all {len(in_situ)}",
        DIFFERENCE: f"{median(in_situ):.3f}",
        "10th to 90th percentile": _spread(in_situ),
    }


def _spread(ratios: Sequence[float]) -> str:
    if len(ratios) < 2:
        return ""
    tenths = quantiles(ratios, n=10, method="inclusive")
    return f"{tenths[0]:.3f}-{tenths[-1]:.3f}"


def main() -> int:
    """Measure, print and write the table; the exit status says whether every engine met the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = (*ENGINES, *BY_DIFFERENCE)
    parser.add_argument("--engines", nargs="+", choices=(*known, *OFF_BY_DEFAULT), default=list(known))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--architectures", type=int, default=10, help="of each family of networks")
    parser.add_argument("--rounds", type=int, default=3, help="how often each file is opened and measured")
    parser.add_argument("--typical", action="store_true", help="medians of a round, not floors of all rounds")
    parser.add_argument("--no-report", action="store_true", help="print the table and leave the document as it is")
    asked = parser.parse_args()
    planned = plan(asked.models, asked.architectures)
    rows: list[Row] = []
    for engine in asked.engines:
        try:
            answers = measure(planned, engine, asked.rounds, floor=not asked.typical)
            rows += rows_of(planned, engine, answers if asked.typical else [quietest(answers)])
        except (EngineUnavailable, EngineFailure) as error:
            rows.append({"engine": engine, "model": f"not measured: {error}"})
    for row in rows:
        print("  ".join(f"{key}: {value}" for key, value in row.items()))
    if not asked.no_report:
        _report(rows)
    return 0 if all(row.get("met", True) for row in rows) else 1


def _report(rows: Sequence[Row]) -> None:
    """A section for either way that was measured; the other one stays as it is."""
    for name, profiles in ((SECTION, True), (DIFFERENCE_SECTION, False)):
        told = [row for row in rows if is_profiling(str(row["engine"])) == profiles]
        if told:
            write_section(name, command_run(), told)


if __name__ == "__main__":
    sys.exit(main())
