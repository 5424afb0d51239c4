"""What the engines of this host can: random kernels on every platform of one thread, and the support matrix.

python -m bench.platforms [--kernels 300]

A kernel counts as answered when it was measured, or refused for an operator that the engine lacks. A wrong result is
no answer, and neither is anything else that an ordinary kernel meets (a failed conversion, a timeout, no memory). All
are told apart, nothing is left out. Errors are those of the correctness gate, of what was measured, as they are stored
with its samples; the support matrix is what the farm serves of the same run.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from bench.measuring import JOB_LIMIT_S, kernels
from bench.report import command_run, write_section
from benchfarm import Client
from benchfarm_core.correctness import gate_limit
from benchfarm_core.failures import FailureCode
from benchfarm_core.jobs import ItemView, JobRequest
from benchfarm_core.platforms import Platform, Precision, parse_platform_key
from benchfarm_core.protocols import ProtocolRequest
from benchfarm_core.support import (
    OK,
    SupportRow,
    computed_otherwise,
    failure_text,
    largest_relative_l2,
    precision_text,
)
from benchfarm_core.views import MeasurementView
from benchfarm_core.workloads import KernelRequest
from benchfarm_standalone.farm_process import FarmProcess

SEED = 61
PLATFORMS_WANTED = 10
ANSWERED_SHARE = 0.95
VARIANTS = {("litert", Precision.FP32): "~delegate=none"}
"""Options that make a platform of their own, by engine and precision."""
REFUSALS = (FailureCode.UNSUPPORTED_OPERATOR,)
"""Typed reasons that are the workload's and its engine's: they count as answers."""
LASTING = (*REFUSALS, FailureCode.WRONG_RESULT)
"""Reasons that another hour would not change."""
ALL_FAMILIES = "all"
Row = dict[str, object]


def every_platform(client: Client, count: int) -> list[Row]:
    """One row per platform with one thread, the last one says whether there are enough of them."""
    wanted = kernels(SEED, count)
    rows = [_row(client, key, wanted) for key in platform_keys(client)]
    good = sum(bool(row["met"]) for row in rows)
    rows.append({
        "platform": f"{good} platforms of {len(rows)}",
        "goal": f">= {PLATFORMS_WANTED} platforms, each >= {ANSWERED_SHARE:.0%} answered within its gate",
        "met": good >= PLATFORMS_WANTED,
    })  # fmt: skip
    return rows


def platform_keys(client: Client) -> list[str]:
    """The platforms of one thread that this host offers, and the variants of engines that are worth a row.

    Not those of uploads that run as they are: no kernel runs there.
    """
    single = (platform for platform in client.platforms() if platform.operating_point.threads == 1)
    offered = [platform for platform in single if platform.precision != Precision.AS_GIVEN]
    keys = [platform.key for platform in offered]
    for platform in offered:
        option = VARIANTS.get((platform.engine.name, platform.precision))
        if option:
            keys.append(platform.key.replace(platform.engine.key, platform.engine.key + option))
    return sorted(keys)


def _row(client: Client, key: str, wanted: Sequence[KernelRequest]) -> Row:
    request = JobRequest.model_validate(
        {"workloads": wanted, "platforms": (key,), "protocol": ProtocolRequest(name="kernel"), "max_age_s": 0}
    )
    begun = time.monotonic()
    job = client.wait(client.submit(request).id, timeout_s=JOB_LIMIT_S)
    seconds = time.monotonic() - begun
    items = list(client.items(job.id))
    known = [item.measurement_id for item in items if item.summary and item.measurement_id is not None]
    views = [client.measurement(one) for one in known]
    row = platform_row(parse_platform_key(key), items, errors_of(views), seconds, farthest_twin(views))
    print({name: value for name, value in row.items() if value != ""}, flush=True)
    return row


def errors_of(views: Iterable[MeasurementView]) -> list[float]:
    """The error (relative L2) that the gate saw of each measurement, the largest of its launches."""
    errors = (largest_relative_l2(view.samples) for view in views)
    return [error for error in errors if error is not None]


def farthest_twin(views: Iterable[MeasurementView]) -> float | None:
    """How far the farthest output lay from its twin (relative L2), by the launches of the measurements' leases."""
    launches = (launch for view in views if view.evidence is not None for launch in view.evidence.launches)
    told = (launch.get("twin_relative_l2") for launch in launches)
    return max((distance for distance in told if distance is not None), default=None)


def platform_row(
    platform: Platform, items: Sequence[ItemView], errors: Sequence[float], seconds: float, twin: float | None = None
) -> Row:
    """What came of a job's items on one platform.

    errors: relative L2 of what was measured, one each. seconds: from the job's submission to its end. twin: the largest
    distance from a twin, of int8; it may be above its gate where an output is nearer to the reference than its twin.
    """
    failures = Counter(item.failure or "no failure told" for item in items if item.summary is None)
    measured = sum(item.summary is not None for item in items)
    refused = {str(code): failures.pop(str(code), 0) for code in REFUSALS}
    wrong = failures.pop(str(FailureCode.WRONG_RESULT), 0)
    answered = measured + sum(refused.values())
    limit = gate_limit(platform)
    return {
        "platform": platform.key.partition("/")[2],
        "measured": measured,
        **refused,
        "wrong_result": wrong,
        "unanswered": len(items) - answered - wrong,
        "of these": ", ".join(f"{code} {count}" for code, count in failures.most_common()),
        "computed in": _computed_in(items),
        "answered": f"{answered / len(items):.1%}",
        "median error": median(errors) if errors else "",
        "largest error": max(errors, default=""),
        "gate": limit,
        "farthest twin": "" if twin is None else twin,
        "grades": _grades(items),
        "seconds": round(seconds, 1),
        "per minute": round(60 * measured / seconds),
        "goal": f">= {ANSWERED_SHARE:.0%} answered, every error known and <= its gate",
        # a number whose error nobody knows is not within the gate
        "met": measured > 0
        and answered >= ANSWERED_SHARE * len(items)
        and len(errors) == measured
        and max(errors, default=limit) <= limit,
    }


def support_rows(found: Iterable[SupportRow]) -> list[Row]:
    """The matrix as a table: workload families down, engines with options and precision across, `all` at the end.

    A cell says how many attempts were ok with their largest error (relative L2), how many of these were not computed in
    the platform's precision, and how many ended in each typed failure. Attempts that were repeated for passing reasons
    are among them: every attempt is counted.
    """
    cells: dict[tuple[str, str], list[SupportRow]] = defaultdict(list)
    for one in found:
        column = f"{one.engine}{one.options}/{one.precision}"
        cells[one.family, column].append(one)
        cells[ALL_FAMILIES, column].append(one)
    columns = sorted({column for _, column in cells})
    families = [*sorted({family for family, _ in cells} - {ALL_FAMILIES}), ALL_FAMILIES]
    return [
        {"family": family, **{column: _support_cell(cells.get((family, column), ())) for column in columns}}
        for family in families
    ]


def _support_cell(rows: Sequence[SupportRow]) -> str:
    good = [row for row in rows if row.code == OK]
    errors = [row.max_relative_l2 for row in good if row.max_relative_l2 is not None]
    told = [f"{sum(row.count for row in good)} ok" + (f" ({max(errors):.1e})" if errors else "")] if good else []
    told += [f"{count} of these in {name}" for name, count in computed_otherwise(good).items()]
    failures: Counter[str] = Counter()
    for row in rows:
        if row.code != OK:
            failures[failure_text(row.code, row.subject)] += row.count
    return "; ".join([*told, *(f"{count} {name}" for name, count in failures.most_common())]) or "-"


def _computed_in(items: Iterable[ItemView]) -> str:
    """What the measured ones were computed in, as far as their engine told."""
    counts = Counter(precision_text(item.effective_precision) for item in items if item.summary)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _grades(items: Sequence[ItemView]) -> str:
    counts = Counter(str(item.summary.grade) for item in items if item.summary)
    return " ".join(f"{counts[grade]}{grade}" for grade in "ABCD" if counts[grade])


def main() -> int:
    """Measure, print the support matrix, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", type=int, default=300)
    count = parser.parse_args().kernels
    with (
        tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as folder,
        FarmProcess(Path(folder)) as farm,
        Client(farm.url, farm.admin_token) as client,
    ):
        rows = every_platform(client, count)
        found = list(client.support())
    for one in found:
        print(one.model_dump_json(exclude_none=True))
    write_section("Engines and precisions of one host", command_run(), rows)
    write_section("Support matrix of one host", command_run(), support_rows(found))
    return 0 if rows[-1]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
