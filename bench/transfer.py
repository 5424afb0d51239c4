"""How well each way to make a predictor does on recorded measurement sets: python -m bench.transfer

Every pair of sets that can learn from each other, and every pool. Writes the tables of docs/predictor.md. The full run
takes hours on one core, most of them for LitePred's network; `--keep FOLDER` keeps each evaluation, and another run
with the same folder goes on from there where plan, sets, code and packages are the same.
"""

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from statistics import fmean, stdev
from typing import Final

from pydantic import ValidationError

import benchfarm_predictor
import benchfarm_workloads
from bench.report import command_run, write_section
from benchfarm_core.measurement_sets import KernelRows, MeasurementSet, SetPlatform
from benchfarm_core.values import Value, digest
from benchfarm_predictor.evaluation.report import METHODS, SINGLE, Method, MethodScores, TransferEvaluation
from benchfarm_predictor.evaluation.transfer import NamedSet, Plan, Shelf, evaluate_transfer
from benchfarm_predictor.set_folders import read_folder
from benchfarm_predictor.training.absent import TORCH, TREES, why_absent

ROOT = Path(__file__).resolve().parents[1]
PREDICTOR = ROOT / "docs" / "predictor.md"
NAMES: Final = {
    "conv": "conv-bn-act:act=none",
    "dwconv": "dwconv-bn-act:act=none",
    "conv-bn-relu": "conv-bn-act:act=relu",
    "dwconv-bn-relu": "dwconv-bn-act:act=relu",
}
GRAPHICS: Final = ("neusight-p100", "neusight-p4", "neusight-v100")
PRECISIONS: Final = ("v100-tensorrt-fp32", "v100-tensorrt-fp16")
SMALL_BOARDS: Final = ("tophub-bcm2837", "tophub-rk3399", "tophub-pynq")
ENGINES: Final = ("ort", "ov", "ncnnd", "mnn", "litert")
FEW: Final = (30, 100)
MEAN_REGRET_MAX, WORST_REGRET_MAX = 0.01, 0.02
LITEPRED_LEAD_MIN = 0.05
DONOR_SAMPLES, SCRATCH_SAMPLES = 100, 1000
PACKAGES: Final = ("numpy", "scikit-learn", "torch")
Row = dict[str, object]


@dataclass(frozen=True)
class Task:
    """One target with one pool."""

    group: str
    target: str
    pool: tuple[str, ...]
    samples: tuple[int, ...] | None = None

    @property
    def file_name(self) -> str:
        """Where its evaluation is kept."""
        return f"{self.target}--from--{'--'.join(self.pool)}.json"


@dataclass(frozen=True)
class Cell:
    """All methods of one kernel type with so many samples."""

    task: Task
    kernel: str
    samples: int
    methods: Mapping[Method, MethodScores]

    @property
    def best_single(self) -> Method:
        """The single method with the largest mean share within 10 %: known only afterwards."""
        return max((name for name in SINGLE if name in self.methods), key=self.within_10)

    def within_10(self, method: Method) -> float:
        """The mean share within 10 %."""
        return self.methods[method].within_10.mean

    def behind(self) -> tuple[float, float]:
        """How far the automatic choice is behind the best single method, and that difference's standard error."""
        best, ours = (self.methods[name].runs for name in (self.best_single, "ours"))
        apart = [one.within_10 - other.within_10 for one, other in zip(best, ours, strict=True)]
        return fmean(apart), stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else 0.0


def tasks(groups: Sequence[str]) -> Iterator[Task]:
    """Every target with each donor alone and with all of them."""
    for group, names, samples in (
        ("graphics cards", GRAPHICS, None),
        ("precisions of one card", PRECISIONS, None),
        ("small boards", SMALL_BOARDS, FEW),
        ("engines of one host", tuple(f"host-{name}" for name in ENGINES), FEW),
    ):
        if group not in groups:
            continue
        for target in names:
            others = tuple(name for name in names if name != target)
            if group != "engines of one host" and len(others) > 1:
                yield from (Task(group, target, (other,), samples) for other in others)
            yield Task(group, target, others, samples)


GROUPS: Final = ("graphics cards", "precisions of one card", "small boards", "engines of one host")


def read_sets(folder: Path) -> Callable[[str], NamedSet]:
    """The sets by name, each read once."""
    known: dict[str, NamedSet] = {}

    def read(name: str) -> NamedSet:
        if name not in known:
            if name.startswith("host-"):
                known[name] = _host_set(folder / "host_engines" / "conv320_best_norm.csv", name)
            else:
                known[name] = NamedSet(name, read_folder(folder / "kernels" / name, NAMES))
        return known[name]

    return read


def _host_set(path: Path, name: str) -> NamedSet:
    """One engine's column of the host's own measurements."""
    columns, engine = ("hw", "cin", "cout", "k", "s"), name.removeprefix("host-")
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[engine] and isfinite(float(row[engine]))]
    platform = SetPlatform(
        board_model="host",
        engine=engine,
        precision="fp32",
        operating_point={"threads": 1},
        source=path.name,
        licence="ours",
    )
    kernel = KernelRows(
        type="conv-bn-act",
        given_as="conv-bn-relu",
        columns=columns,
        fixed={"act": "relu"},
        configs=tuple(tuple(int(row[column]) for column in columns) for row in rows),
        latency_ms=tuple(float(row[engine]) for row in rows),
    )
    return NamedSet(name, MeasurementSet(platform=platform, kernels={kernel.type: kernel}, rejected=()))


class Kept(Value):
    """An evaluation and a digest of all that it was made by."""

    made_by: str
    found: TransferEvaluation


def evaluated(
    task: Task, read: Callable[[str], NamedSet], plan: Plan, shelf: Shelf, keep: Path | None
) -> TransferEvaluation:
    """The task's evaluation; from the folder where it was kept before, if it would be made the same way again."""
    target, pool = read(task.target), [read(name) for name in task.pool]
    contents = [(one.name, one.content.content_hash) for one in (target, *pool)]
    made_by = digest({"plan": asdict(plan), "sets": contents, "code": code()})
    path = keep / task.file_name if keep else None
    kept = None if path is None else _kept(path)
    if kept is not None and kept.made_by == made_by:
        return kept.found
    begun = time.monotonic()
    found = evaluate_transfer(target, pool, plan, shelf=shelf)
    print(f"{task.target} from {', '.join(task.pool)}: {time.monotonic() - begun:.0f} s", flush=True)
    if path is not None:
        path.write_text(Kept(made_by=made_by, found=found).model_dump_json(indent=1))
    return found


def _kept(path: Path) -> Kept | None:
    """None where nothing was kept, or what is no such evaluation, as one that ended while it was written."""
    try:
        return Kept.model_validate_json(path.read_text()) if path.exists() else None
    except ValidationError:
        return None


@cache
def code() -> str:
    """A digest of the code that figures come from: of predictors and kernels, and which packages fit them."""
    folders = [Path(module.__file__ or "").parent for module in (benchfarm_predictor, benchfarm_workloads)]
    paths = [(folder, path) for folder in folders for path in sorted(folder.rglob("*.py"))]
    texts = [(str(path.relative_to(folder.parent)), path.read_text()) for folder, path in paths]
    return digest([texts, [_version(name) for name in PACKAGES]])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def cells_of(task: Task, found: TransferEvaluation) -> Iterator[Cell]:
    """Its cells."""
    for kernel in found.kernels:
        for samples in dict.fromkeys(each.samples for each in kernel.methods):
            methods = {each.method: each for each in kernel.methods if each.samples == samples}
            yield Cell(task, kernel.kernel, samples, methods)


# --- tables


def accuracy(cells: Sequence[Cell]) -> list[Row]:
    """Share within 10 % in percent, mean over repeats +- their standard deviation; of the automatic choice more."""
    rows: list[Row] = []
    for cell in cells:
        row = _of(cell) | {name: _percent(cell.methods.get(name)) for name in METHODS}
        ours = cell.methods["ours"]
        row |= {"ours: +-5 %": f"{100 * ours.within_5.mean:.1f}", "MAPE": f"{100 * ours.mape.mean:.1f}"}
        rows.append(row | {"in 90 %": f"{100 * ours.coverage.mean:.1f}" if ours.coverage else ""})
    return rows


def regrets(cells: Sequence[Cell]) -> list[Row]:
    """How far the automatic choice is behind the method that turned out best, in points of +-10 %."""
    rows: list[Row] = []
    for group in dict.fromkeys(cell.task.group for cell in cells):
        own = [cell for cell in cells if cell.task.group == group]
        rows.append({"sets": group} | _regret_row(own))
    return [*rows, {"sets": "all"} | _regret_row(cells)]


def _regret_row(cells: Sequence[Cell]) -> Row:
    behind = [cell.behind() for cell in cells]
    worst = max(range(len(cells)), key=lambda at: behind[at][0])
    leads = litepred_leads(cells)
    return {
        "cells": len(cells),
        "mean regret": f"{100 * fmean(points for points, _ in behind):+.2f}",
        "worst": f"{100 * behind[worst][0]:+.1f} (standard error {100 * behind[worst][1]:.1f})",
        "worst cell": f"{cells[worst].task.target}, {cells[worst].samples} samples, {cells[worst].best_single}",
        "lead on LitePred's network": f"{100 * fmean(leads):+.1f}" if leads else "not evaluated",
    }


def litepred_leads(cells: Sequence[Cell]) -> list[float]:
    """How far the automatic choice is ahead of LitePred's network, as shares within 10 %."""
    return [cell.within_10("ours") - cell.within_10("litepred") for cell in cells if "litepred" in cell.methods]


def savings(cells: Sequence[Cell]) -> list[Row]:
    """Few samples and donors against many samples alone, on the graphics cards."""
    own = [cell for cell in cells if cell.task.group == GROUPS[0]]
    rows: list[Row] = []
    for few in (cell for cell in own if cell.samples == DONOR_SAMPLES):
        many = [cell for cell in own if cell.task == few.task and cell.samples >= SCRATCH_SAMPLES]
        row: Row = {"target": few.task.target, "donors": ", ".join(few.task.pool)}
        row[f"ours, {few.samples} samples"] = _percent(few.methods["ours"])
        rows.append(row | {f"scratch, {cell.samples}": _percent(cell.methods["scratch"]) for cell in many})
    return rows


def goals_missed(cells: Sequence[Cell]) -> list[str]:
    """What issue and design ask for and these cells do not show, be it that it was not evaluated."""
    if not cells:
        return ["nothing was evaluated"]
    missed = []
    behind = [cell.behind() for cell in cells]
    mean = fmean(points for points, _ in behind)
    if mean > MEAN_REGRET_MAX:
        missed.append(f"mean regret {100 * mean:.2f} points")
    for cell, (points, error) in zip(cells, behind, strict=True):
        if points > max(WORST_REGRET_MAX, 2 * error):
            missed.append(f"{cell.task.file_name}, {cell.samples} samples: regret {100 * points:.1f} points")
    return [*missed, *_lead_missed(cells), *_savings_missed(cells)]


def _lead_missed(cells: Sequence[Cell]) -> list[str]:
    leads = litepred_leads(cells)
    missed = []
    if len(leads) < len(cells):
        missed.append(f"LitePred's network was not evaluated in {len(cells) - len(leads)} of {len(cells)} cells")
    if leads and fmean(leads) < LITEPRED_LEAD_MIN:
        missed.append(f"ahead of LitePred's network by {100 * fmean(leads):.1f} points")
    return missed


def _savings_missed(cells: Sequence[Cell]) -> list[str]:
    missed, compared = [], 0
    for few in cells:
        if few.task.group != GROUPS[0] or few.samples != DONOR_SAMPLES:
            continue
        many = [cell for cell in cells if cell.task == few.task and cell.samples == SCRATCH_SAMPLES]
        compared += len(many)
        if many and few.within_10("ours") < many[0].within_10("scratch"):
            missed.append(
                f"{few.task.file_name}: {DONOR_SAMPLES} samples and donors are behind {SCRATCH_SAMPLES} alone"
            )
    return missed if compared else ["few samples and donors were not compared with many samples alone"]


def _of(cell: Cell) -> Row:
    return {
        "target": cell.task.target,
        "donors": ", ".join(cell.task.pool),
        "kernel": cell.kernel,
        "samples": cell.samples,
    }


def _percent(scores: MethodScores | None) -> str:
    if scores is None:
        return ""
    spread = scores.within_10
    return f"{100 * spread.mean:.1f}" + (f" +-{100 * spread.deviation:.1f}" if spread.deviation is not None else "")


TABLES: Final[dict[str, Callable[[Sequence[Cell]], list[Row]]]] = {
    "Transfer on recorded sets": accuracy,
    "The automatic choice against the best single method": regrets,
    "Few samples and donors against many samples": savings,
}


def main() -> int:
    """Evaluate, write the tables, say which goals were missed."""
    given = _arguments()
    if not (given.sets / "kernels").is_dir():
        print(f"no recorded sets in {given.sets.name}: name their folder with --sets; nothing is evaluated")
        return 0
    for reason in filter(None, (why_absent(TORCH), why_absent(TREES))):
        print(f"{reason}; what needs it is left out")
    read, shelf, cells = read_sets(given.sets), Shelf(), []
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    for task in tasks(given.groups.split(",")):
        plan = Plan(task.samples or _sizes(given.samples), given.repeats, baselines=not given.no_baselines)
        cells += list(cells_of(task, evaluated(task, read, plan, shelf, given.keep)))
    for name, table in TABLES.items():
        rows = table(cells) if cells else []
        if rows:
            write_section(name, command_run(), rows, path=given.output)
    missed = goals_missed(cells)
    print("\n".join(missed) or "every goal is met")
    return 1 if missed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("BENCHFARM_MEASUREMENT_SETS") or ROOT.parent / "shared" / "data"
    parser.add_argument("--sets", type=Path, default=Path(default), help="the folder with kernels/ and host_engines/")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--samples", default="30,100,300,1000", help="small boards and engines of the host: 30,100")
    parser.add_argument("--groups", default=",".join(GROUPS))
    parser.add_argument("--no-baselines", action="store_true", help="without LitePred's network and nn-Meter's forest")
    parser.add_argument("--keep", type=Path, help="a folder for evaluations; those that lie there are not repeated")
    parser.add_argument("--output", type=Path, default=PREDICTOR)
    return parser.parse_args()


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
