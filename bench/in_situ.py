"""Do a model's kernels add up to the model? Kernel times from carriers, alone, and from the model's own profile.

For each engine with a profiler, all in one process and in turn: the models as they are and profiled, carriers of
their kernels, and each kernel alone. A carrier shares nothing larger than one kernel with a model. What is judged is
the plain sum of what the farm stores: in-situ times with the conversions that each kernel makes necessary, less what
the profiler adds to each operator, which the canary tells; floors over several openings, for the same file runs up to a
fifth slower where an engine has found worse memory for it. Beside it the sum by someone who knows the model's layouts:
conversions only where one of two neighbours needs them.
Of engines without a profiler each kernel's two carriers, which hold it once and twice, take the place of carriers and
profiles; no goal was set for them.

Known models are one portion and the architectures of each search space another; each has carriers and a process of its
own. With --minutes no portion is begun later, those to come share what is left, and the last one is ended where it runs
over; each gets one round at least. With --keep what is measured lies in a folder, and the same command adds what is
missing to it.

python -m bench.in_situ [--engines onnxruntime openvino] [--spaces bignas fbnet_v3] [--minutes 10 --keep FOLDER]
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final, NamedTuple

from bench.architectures import FAMILIES
from bench.in_situ_measure import CANARY, Answers, Kept, NotMeasured, identity_of, is_profiling, measure
from bench.in_situ_plan import Plan, kernel_of, portions
from bench.report import command_run, write_section
from benchfarm_core.differences import Difference, difference_of
from benchfarm_core.measurements import LaunchSamples
from benchfarm_core.quality import clean_blocks
from benchfarm_engines.attribution import SiteTime, attribute
from benchfarm_engines.engine import EngineFailure, EngineUnavailable, NodeTime
from benchfarm_engines.profile_cost import without_cost
from benchfarm_workloads.carriers import KernelKey
from benchfarm_workloads.layers import Network

ENGINES: Final = ("onnxruntime", "openvino", "mnn")
BY_DIFFERENCE: Final = ("litert", "ncnn")
OFF_BY_DEFAULT: Final = ("torch",)
MODELS: Final = ("resnet18", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "squeezenet", "shufflenet_v2")
MEDIAN_RANGE: Final = (0.95, 1.05)
P90_RANGE: Final = (0.88, 1.12)
GOAL: Final = f"median {MEDIAN_RANGE[0]}-{MEDIAN_RANGE[1]}, 90 % in {P90_RANGE[0]}-{P90_RANGE[1]}"
DELIVERED: Final = "in situ, the sum of what the farm stores"
COMPOSED: Final = "conversions only where layouts meet"
PROFILED: Final = "the same with the profiler's cost"
DIFFERENCE: Final = "in situ, by difference"
SECTION: Final = "Kernels in situ, alone and in the model"
DIFFERENCE_SECTION: Final = "Kernels in situ by difference, alone and in the model"
UNCLEAR: Final = "kernels whose difference is unclear"
TENTHS: Final = "10th to 90th percentile"
LEFT_OUT: Final = "models left out, for a kernel without a time"
"""Of the row of all models: by column how many, since its medians and tenths are of the others."""
NO_LIMIT_MINUTES: Final = 1e6

Row = dict[str, object]


@dataclass(frozen=True)
class Sums:
    """A model in one round: the model itself, and ways to add up its kernels; not finite where one of them is missing.

    stored_ns: of what the farm stores, less the profiler's cost. in_situ_ns: conversions only where layouts meet.
    profiled_ns: the same with the profiler's cost. unclear: the share of layers whose kernel's difference is within its
    uncertainty.
    """

    model_ns: float
    stored_ns: float
    in_situ_ns: float
    profiled_ns: float
    alone_ns: float
    profile_ns: float
    unclear: float = 0.0


def in_situ_times(planned: Plan, answers: Answers, cost_ns: float = 0.0) -> dict[KernelKey, SiteTime]:
    """Every kernel's time in its carrier, less `cost_ns` for each operator."""
    kernels = list(planned.kernels)
    times: dict[KernelKey, SiteTime] = {}
    for number, carrier in enumerate(planned.carriers):
        nodes = without_cost(_nodes(answers[f"carrier{number}"]), cost_ns)
        found = attribute(nodes, [layer.name for layer in carrier.layers])
        times |= {kernels[place]: found.sites[site] for place, site in carrier.sites.items()}
    return times


def composed_ns(network: Network, times: Mapping[KernelKey, SiteTime]) -> int:
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
    alone_ns = alone_times(planned, answers)
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
    times = differences(planned, answers)
    stored_ns = {kernel: max(0.0, time.floor_ns) for kernel, time in times.items()}
    alone_ns = alone_times(planned, answers)
    found = {}
    for name, network in planned.models.items():
        here = [kernel_of(layer) for layer in network.layers]
        found[name] = Sums(
            model_ns=answers[name]["plain_ns"],
            stored_ns=sum(stored_ns.get(kernel, math.inf) for kernel in here),
            in_situ_ns=math.nan,
            profiled_ns=math.nan,
            alone_ns=sum(alone_ns.get(kernel, math.inf) for kernel in here),
            profile_ns=math.nan,
            unclear=sum(kernel in times and not times[kernel].is_clear for kernel in here) / len(here),
        )
    return found


def alone_times(planned: Plan, answers: Answers) -> dict[KernelKey, float]:
    """In ns, of every kernel that the engine opens alone."""
    named = ((kernel, f"alone{number}") for number, kernel in enumerate(planned.kernels))
    return {kernel: answers[name]["plain_ns"] for kernel, name in named if name in answers}


def differences(planned: Plan, answers: Answers) -> dict[KernelKey, Difference]:
    """The time by difference of every kernel that has neighbours of its size."""
    named = ((kernel, f"doubled{number}") for number, kernel in enumerate(planned.kernels))
    return {kernel: _difference(answers[name]) for kernel, name in named if name in answers}


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
    plain_ns = [visit["plain_ns"] for visit in visits if "plain_ns" in visit]
    fastest: dict[str, Any] = {"plain_ns": min(plain_ns)} if plain_ns else {}
    if profiles:
        fastest["nodes"] = min(profiles, key=lambda nodes: sum(ns for _, _, ns, _ in nodes))
    return fastest


def _nodes(answer: Mapping[str, Any]) -> list[NodeTime]:
    return [NodeTime(name, kind, round(ns), tuple(origins)) for name, kind, ns, origins in answer["nodes"]]


class Ratios(NamedTuple):
    """A model's sums over the model itself, each the median of its rounds; not finite where a kernel is missing."""

    model_ms: float
    stored: float
    composed: float
    with_cost: float
    alone: float
    profile: float
    unclear: float
    rounds: int


def ratios_of(planned: Plan, engine: str, rounds: Sequence[Answers], *, floor: bool) -> dict[str, Ratios]:
    """By model: ratios within a round, the median of the rounds; with `floor` those of the floors of all rounds."""
    taken = [quietest(rounds)] if floor else rounds
    found = [(sums if is_profiling(engine) else difference_sums)(planned, answers) for answers in taken]
    return {name: _ratios([each[name] for each in found], len(rounds)) for name in planned.models}


def _ratios(here: Sequence[Sums], rounds: int) -> Ratios:
    return Ratios(
        model_ms=median(one.model_ns for one in here) / 1e6,
        stored=_ratio(here, lambda one: one.stored_ns),
        composed=_ratio(here, lambda one: one.in_situ_ns),
        with_cost=_ratio(here, lambda one: one.profiled_ns),
        alone=_ratio(here, lambda one: one.alone_ns),
        profile=_ratio(here, lambda one: one.profile_ns),
        unclear=median(one.unclear for one in here),
        rounds=rounds,
    )


def _ratio(here: Sequence[Sums], part: Callable[[Sums], float]) -> float:
    return median(part(one) / one.model_ns for one in here)


def rows_of(engine: str, found: Mapping[str, Ratios], missing: Mapping[str, str]) -> list[Row]:
    """A row for each model, one for each portion that is `missing` with the reason, and one for all."""
    profiles = is_profiling(engine)
    rows = [_model_row(engine, name, one, profiles=profiles) for name, one in found.items()]
    rows += [{"engine": engine, "model": f"{name}: not measured: {why}"} for name, why in missing.items()]
    if not found:
        return [*rows, {"engine": engine, "model": "all 0", "goal": GOAL, "met": False}] if profiles else rows
    told = list(found.values())
    return [*rows, _verdict(engine, told, whole=not missing) if profiles else _without_goal(engine, told)]


def _model_row(engine: str, name: str, one: Ratios, *, profiles: bool) -> Row:
    row: Row = {"engine": engine, "model": name, "model ms": round(one.model_ms, 3), "rounds": one.rounds}
    if not profiles:
        told = {DIFFERENCE: _told(one.stored), "alone": _told(one.alone)}
        return row | told | {UNCLEAR: f"{one.unclear:.0%}"}
    row |= {DELIVERED: _told(one.stored), COMPOSED: _told(one.composed), PROFILED: _told(one.with_cost)}
    return row | {"alone": _told(one.alone), "own profile": _told(one.profile)}


def _told(ratio: float) -> str:
    return f"{ratio:.3f}" if math.isfinite(ratio) else ""


def _verdict(engine: str, found: Sequence[Ratios], *, whole: bool) -> Row:
    """What all models of an engine come to; the goal is for all of them, so it is missed where not all are there."""
    stored = [one.stored for one in found]
    middle = median(stored)
    inside = sum(P90_RANGE[0] <= ratio <= P90_RANGE[1] for ratio in stored) / len(stored)
    row: Row = {"engine": engine, "model": f"all {len(found)}"}
    row |= _of_all(DELIVERED, TENTHS, stored) | _of_all(COMPOSED, "composed, 10th to 90th", (o.composed for o in found))
    row |= _of_all("alone", "alone, 10th to 90th", (one.alone for one in found))
    row |= _of_all("own profile", "own profile, 10th to 90th", (one.profile for one in found))
    row |= _left_out({"in situ": stored, "alone": [o.alone for o in found], "profile": [o.profile for o in found]})
    return row | {
        "goal": GOAL,
        "met": whole and MEDIAN_RANGE[0] <= middle <= MEDIAN_RANGE[1] and inside >= 0.9,
    }


def _without_goal(engine: str, found: Sequence[Ratios]) -> Row:
    row: Row = {"engine": engine, "model": f"all {len(found)}"}
    row |= _of_all(DIFFERENCE, TENTHS, (one.stored for one in found))
    row |= _of_all("alone", "alone, 10th to 90th", (one.alone for one in found))
    return row | _left_out({"in situ": [one.stored for one in found], "alone": [one.alone for one in found]})


def _of_all(middle: str, tenths: str, ratios: Iterable[float]) -> Row:
    """The median and the tenths of what is there, by the names of their columns."""
    known = [ratio for ratio in ratios if math.isfinite(ratio)]
    return {middle: _told(median(known)) if known else "", tenths: _spread(known)}


def _left_out(ratios: Mapping[str, Sequence[float]]) -> Row:
    """By the name of a sum, of how many models it lacks a kernel: ``alone 12 of 56``, or ``none``."""
    lacking = {name: sum(not math.isfinite(ratio) for ratio in here) for name, here in ratios.items()}
    told = (f"{name} {count} of {len(ratios[name])}" for name, count in lacking.items() if count)
    return {LEFT_OUT: ", ".join(told) or "none"}


def _spread(ratios: Sequence[float]) -> str:
    if len(ratios) < 2:
        return ""
    tenths = quantiles(ratios, n=10, method="inclusive")
    return f"{tenths[0]:.3f}-{tenths[-1]:.3f}"


class Asked(NamedTuple):
    """How each portion is measured: so many rounds in all, floors or medians, until a moment of `time.monotonic`."""

    rounds: int
    floor: bool
    until_s: float


def measure_portions(
    engines: Sequence[str], plans: Mapping[str, Plan], kept: Kept, asked: Asked
) -> dict[str, dict[str, str]]:
    """Adds rounds to what is kept, first where fewest are. By engine: why portions without a round have none.

    Raises ValueError as `Kept.rounds`.
    """
    missing: dict[str, dict[str, str]] = {engine: {} for engine in engines}
    identities: dict[tuple[str, str], str] = {}
    for engine in engines:
        try:
            found = {(engine, name): identity_of(planned, engine, floor=asked.floor) for name, planned in plans.items()}
        except (EngineUnavailable, EngineFailure) as error:
            missing[engine] = dict.fromkeys(plans, str(error))
        else:
            identities |= found
    counts = {key: len(kept.rounds(*key, identity)) for key, identity in identities.items()}
    waiting = sorted((key for key in identities if counts[key] < asked.rounds), key=lambda key: counts[key])
    for begun, (engine, name) in enumerate(waiting):
        left_s = asked.until_s - time.monotonic()
        try:
            if left_s <= 0:
                raise NotMeasured("no time was left")
            rounds = measure(
                plans[name], engine, asked.rounds - counts[engine, name], floor=asked.floor,
                limit_s=left_s / (len(waiting) - begun), end_s=left_s,
            )  # fmt: skip
            kept.add(engine, name, identities[engine, name], rounds)
        except (EngineUnavailable, EngineFailure, NotMeasured) as error:
            if not counts[engine, name]:
                missing[engine][name] = str(error)
        print(engine, name, missing[engine].get(name, "measured"), file=sys.stderr, flush=True)
    return missing


def main() -> int:
    """Measure, print and write the table; the exit status says whether every engine met the goal."""
    asked = _arguments()
    begun_s, floor = time.monotonic(), not asked.typical
    plans = portions(asked.models, asked.spaces, asked.architectures)
    if asked.keep is not None:
        asked.keep.mkdir(parents=True, exist_ok=True)
    kept = Kept(asked.keep)
    try:
        missing = measure_portions(asked.engines, plans, kept, Asked(asked.rounds, floor, begun_s + 60 * asked.minutes))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    rows = [row for engine in asked.engines for row in _kept_rows(engine, plans, kept, missing[engine], floor=floor)]
    for row in rows:
        print("  ".join(f"{key}: {value}" for key, value in row.items()))
    if not asked.no_report:
        _report(rows, kept.by())
    return 0 if all(row.get("met", True) for row in rows) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = (*ENGINES, *BY_DIFFERENCE)
    parser.add_argument("--engines", nargs="+", choices=(*known, *OFF_BY_DEFAULT), default=list(known))
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--spaces", nargs="*", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--architectures", type=int, default=10, help="of each space")
    parser.add_argument("--rounds", type=int, default=3, help="how often each file is opened and measured, in all")
    parser.add_argument("--minutes", type=float, default=NO_LIMIT_MINUTES, help="of all engines together")
    parser.add_argument("--keep", type=Path, help="a folder for what is measured; the same command goes on there")
    parser.add_argument("--typical", action="store_true", help="medians of a round, not floors of all rounds")
    parser.add_argument("--no-report", action="store_true", help="print the table and leave the document as it is")
    return parser.parse_args()


def _kept_rows(
    engine: str, plans: Mapping[str, Plan], kept: Kept, missing: Mapping[str, str], *, floor: bool
) -> list[Row]:
    found: dict[str, Ratios] = {}
    for name, planned in plans.items():
        rounds = [] if name in missing else kept.rounds(engine, name, identity_of(planned, engine, floor=floor))
        if rounds:
            found |= ratios_of(planned, engine, rounds, floor=floor)
    return rows_of(engine, found, missing)


def _report(rows: Sequence[Row], by: str) -> None:
    """A section for either way that was measured; the other one stays as it is."""
    for name, profiles in ((SECTION, True), (DIFFERENCE_SECTION, False)):
        told = [row for row in rows if is_profiling(str(row["engine"])) == profiles]
        if told:
            write_section(name, command_run(), told, by=by)


if __name__ == "__main__":
    sys.exit(main())
