"""Do both ways to time a kernel in situ say the same? On engines with a profiler: by it, and by difference.

The kernels of known models, in one process and in turn: carriers profiled, less what the profiler adds to each
operator, and each kernel's two carriers. Kernels that the profiler says are computed within another are left out, and
so are differences that are unclear.

python -m bench.in_situ_ways [--engines onnxruntime] [--models mobilenet_v2 resnet18]
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import Final

from bench.in_situ import ENGINES, MODELS, Row, differences, in_situ_times, quietest
from bench.in_situ_measure import CANARY, Answers, NotMeasured, measure
from bench.in_situ_plan import Plan, plan
from bench.report import command_run, write_section
from benchfarm_core.differences import Difference
from benchfarm_engines.attribution import SiteTime
from benchfarm_engines.engine import EngineFailure, EngineUnavailable
from benchfarm_workloads.carriers import KernelKey

KNOWN: Final = ("mobilenet_v2", "resnet18", "mobilenet_v3_large")
LONG_NS: Final = 100_000


def rows_of(engine: str, profiled: Mapping[KernelKey, SiteTime], doubled: Mapping[KernelKey, Difference]) -> list[Row]:
    """Long kernels and short ones: how far a difference is from the profiler's time."""
    standing = {kernel: site.total_ns for kernel, site in profiled.items() if site.total_ns > 0 and kernel in doubled}
    rows = []
    for name, long in (("0.1 ms and more", True), ("shorter", False)):
        here = [kernel for kernel, ns in standing.items() if (ns >= LONG_NS) == long]
        clear = [kernel for kernel in here if doubled[kernel].is_clear]
        row: Row = {"engine": engine, "kernels": f"{len(here)} of {name}", "unclear": len(here) - len(clear)}
        ratios = [doubled[kernel].floor_ns / standing[kernel] for kernel in clear]
        rows.append(row | _ratios(ratios) | _uncertainties([doubled[kernel].spread for kernel in clear]))
    return rows


def _ratios(ratios: Sequence[float]) -> Row:
    if len(ratios) < 2:
        return {}
    tenths = quantiles(ratios, n=10, method="inclusive")
    told: Row = {"difference / profiler, median": f"{median(ratios):.3f}"}
    return told | {"10th to 90th percentile": f"{tenths[0]:.3f}-{tenths[-1]:.3f}"}


def _uncertainties(spreads: Sequence[float]) -> Row:
    return {"standard error of a launch, median": f"{median(spreads):.1%}"} if spreads else {}


def compare(planned: Plan, engine: str, answers: Answers) -> list[Row]:
    """One round by both ways."""
    profiled = in_situ_times(planned, answers, answers[CANARY]["cost_ns"])
    return rows_of(engine, profiled, differences(planned, answers))


def main() -> int:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(KNOWN))
    parser.add_argument("--rounds", type=int, default=3, help="how often each file is opened and measured")
    parser.add_argument("--no-report", action="store_true", help="print the table and leave the document as it is")
    asked = parser.parse_args()
    planned = plan(asked.models)
    rows: list[Row] = []
    for engine in asked.engines:
        try:
            answers = measure(planned, engine, asked.rounds, floor=True, both_ways=True)
            rows += compare(planned, engine, quietest(answers))
        except (EngineUnavailable, EngineFailure, NotMeasured) as error:
            rows.append({"engine": engine, "kernels": f"not measured: {error}"})
    for row in rows:
        print("  ".join(f"{key}: {value}" for key, value in row.items()))
    if not asked.no_report:
        write_section("Kernels in situ, by profiler and by difference", command_run(), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
