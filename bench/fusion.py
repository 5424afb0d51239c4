"""What each engine of this host fuses, by times and by its profile, and where the two contradict each other.

python -m bench.fusion [--engines onnxruntime openvino ...] [--precisions fp32 ...]

Every pair of operators that networks have, on every platform of one thread. A pair counts as answered when its times
tell, or its profile does.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench.measuring import JOB_LIMIT_S
from bench.platforms import platform_keys
from bench.report import command_run, write_section
from benchfarm import Client
from benchfarm.fusions import FusionsFound, measure_fusions
from benchfarm_core.fusion import FusionView
from benchfarm_core.operator_pairs import OPERATOR_PAIRS
from benchfarm_core.platforms import parse_platform_key
from benchfarm_standalone.farm_process import FarmProcess

ANSWERED_SHARE = 0.9
VERDICTS = {True: "fused", False: "apart", None: "undecided"}
Row = dict[str, object]


def platforms_of(client: Client, engines: list[str] | None, precisions: list[str] | None) -> list[str]:
    """Keys of the platforms that fit."""
    parsed = {key: parse_platform_key(key) for key in platform_keys(client)}
    return [
        key
        for key, platform in parsed.items()
        if (not engines or platform.engine.name in engines) and (not precisions or platform.precision in precisions)
    ]


def search(client: Client, key: str) -> FusionsFound:
    """All pairs on one platform, measured anew."""
    return measure_fusions(client, key, wait=lambda job_id: client.wait(job_id, timeout_s=JOB_LIMIT_S), max_age_s=0)


def summary_row(key: str, found: FusionsFound, seconds: float) -> Row:
    """How many pairs each way told, and how often both agree."""
    views = found.view.measured
    both = [one for one in views if None not in (one.by_latency, one.by_profile)]
    answered = [one for one in views if (one.by_latency, one.by_profile) != (None, None)]
    missing = Counter(pair.reason.rpartition(": ")[2] for pair in found.pairs if pair.reason)
    return {
        "platform": key.partition("/")[2],
        "pairs": len(OPERATOR_PAIRS),
        "by times": _verdicts([one.by_latency for one in views if one.t12_ms is not None]),
        "by profile": _verdicts([one.by_profile for one in views if one.by_profile is not None]) or "no profiler",
        "both tell": len(both),
        "agree": len(both) - len(found.view.disagreements),
        "lacking": ", ".join(f"{reason} {count}" for reason, count in missing.most_common()),
        "seconds": round(seconds, 1),
        "goal": f">= {ANSWERED_SHARE:.0%} of those that run are answered",
        "met": len(answered) >= ANSWERED_SHARE * max(1, len(views)),
    }


def _verdicts(found: list[bool | None]) -> str:
    counts = Counter(VERDICTS[one] for one in found)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS.values() if counts[verdict])


def disagreement_row(key: str, one: FusionView) -> Row:
    """One pair of which times and profile say different things."""
    return {
        "platform": key.partition("/")[2],
        "pair": f"{one.first} + {one.second}",
        "t1 ms": one.t1_ms,
        "t2 ms": one.t2_ms,
        "t12 ms": one.t12_ms,
        "spread ms": one.spread_ms,
        "by times": VERDICTS[one.by_latency],
        "by profile": VERDICTS[one.by_profile],
    }


def main() -> int:
    """Measure, write both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+")
    parser.add_argument("--precisions", nargs="+")
    asked = parser.parse_args()
    rows: list[Row] = []
    disagreements: list[Row] = []
    with (
        tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as folder,
        FarmProcess(Path(folder)) as farm,
        Client(farm.url, farm.admin_token) as client,
    ):
        for key in platforms_of(client, asked.engines, asked.precisions):
            begun = time.monotonic()
            found = search(client, key)
            rows.append(summary_row(key, found, time.monotonic() - begun))
            disagreements += [disagreement_row(key, one) for one in found.view.disagreements]
            print(rows[-1], flush=True)
    write_section("Fusion by times and by profile", command_run(), rows)
    write_section("Fusion: where times and profile disagree", command_run(), disagreements)
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
