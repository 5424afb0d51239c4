"""What the engines of this host can: random kernels on every platform of one thread, and the support matrix.

python -m bench.platforms [--kernels 300]

A kernel counts as answered when it was measured, or refused with a typed reason that is the workload's: an operator
that the engine lacks, or a result outside the gate, which decides what is right. Anything else that an ordinary kernel
meets (a failed conversion, a timeout, no memory) is no answer. All are told apart, nothing is left out.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench.measuring import JOB_LIMIT_S, kernels
from bench.report import command_run, write_section
from benchfarm import Client
from benchfarm_core.failures import FailureCode
from benchfarm_core.jobs import ItemView, JobRequest
from benchfarm_core.platforms import Precision
from benchfarm_core.protocols import ProtocolRequest
from benchfarm_standalone.farm_process import FarmProcess

SEED = 61
PLATFORMS_WANTED = 10
ANSWERED_SHARE = 0.95
VARIANTS = {("litert", Precision.FP32): "~delegate=none"}
"""Options that make a platform of their own, by engine and precision."""
REFUSALS = (FailureCode.UNSUPPORTED_OPERATOR, FailureCode.WRONG_RESULT)
Row = dict[str, object]


def every_platform(client: Client, count: int) -> list[Row]:
    """One row per platform with one thread, the last one says whether there are enough of them."""
    wanted = kernels(SEED, count)
    rows = [_row(client, key, wanted) for key in platform_keys(client)]
    good = sum(bool(row["met"]) for row in rows)
    rows.append({
        "platform": f"{good} platforms of {len(rows)}",
        "goal": f">= {PLATFORMS_WANTED} platforms, each >= {ANSWERED_SHARE:.0%} answered",
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


def _row(client: Client, key: str, wanted: object) -> Row:
    request = JobRequest.model_validate(
        {"workloads": wanted, "platforms": (key,), "protocol": ProtocolRequest(name="kernel"), "max_age_s": 0}
    )
    begun = time.monotonic()
    job = client.wait(client.submit(request).id, timeout_s=JOB_LIMIT_S)
    seconds = time.monotonic() - begun
    items = list(client.items(job.id))
    failures = Counter(item.failure for item in items if item.failure)
    measured = sum(item.summary is not None for item in items)
    refused = {str(code): failures.pop(code, 0) for code in REFUSALS}
    answered = measured + sum(refused.values())
    print(key, measured, refused, dict(failures), round(seconds, 1), flush=True)
    return {
        "platform": key.partition("/")[2],
        "measured": measured,
        **refused,
        "unanswered": len(items) - answered,
        "of these": ", ".join(f"{code} {count}" for code, count in failures.most_common()),
        "grades": _grades(items),
        "seconds": round(seconds, 1),
        "per minute": round(60 * measured / seconds),
        "goal": f">= {ANSWERED_SHARE:.0%} answered",
        "met": measured > 0 and answered >= ANSWERED_SHARE * len(items),
    }


def _grades(items: list[ItemView]) -> str:
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
        for one in client.support():
            print(one.model_dump_json(exclude_none=True))
    write_section("Engines and precisions of one host", command_run(), rows)
    return 0 if rows[-1]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
