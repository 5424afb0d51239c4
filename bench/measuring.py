"""How well the farm measures: time to the first block, busy shares, repeatability. On a farm of its own.

python -m bench.measuring latency|busy|repeat|batching|all
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median, quantiles

from bench.kinds import compare
from bench.report import write_section
from benchfarm import Client
from benchfarm_core.jobs import ItemView, JobRequest
from benchfarm_core.platforms import PlatformFilter, Precision
from benchfarm_core.protocols import ProtocolRequest
from benchfarm_core.workloads import GeneratedModelRequest, KernelRequest
from benchfarm_standalone.farm_process import FarmProcess
from benchfarm_workloads.draws import draw_mixed

SEED = 20
ENGINES = ("onnxruntime", "openvino")
JOB_LIMIT_S = 1800.0
FIRST_BLOCK_S = 1.0
BUSY_SHARE, TIMING_SHARE = 0.90, 0.50
CANARY_SHARE = 0.30
"""Of the time of the timed blocks, what the canaries between them may take."""
REPEAT_MEDIAN, REPEAT_P90 = 0.02, 0.06
Row = dict[str, object]


def kernels(seed: int, count: int) -> tuple[KernelRequest, ...]:
    """Distinct kernels drawn by seed."""
    return tuple(KernelRequest(type=one.type, config=one.config) for one in draw_mixed(seed, count))


def measure(
    client: Client, wanted: Sequence[KernelRequest | GeneratedModelRequest], engine: str, threads: int, **more: object
) -> list[ItemView]:
    """The items of a job that measures everything anew on one fp32 platform of this host."""
    request = JobRequest.model_validate(
        {
            "name": f"bench {engine} {threads}",
            "workloads": wanted,
            "platforms": PlatformFilter(engine=(engine,), threads=(threads,), precision=(Precision.FP32,)),
            "protocol": ProtocolRequest(name="kernel"),
            "max_age_s": 0,
            **more,
        }
    )
    job = client.wait(client.submit(request).id, timeout_s=JOB_LIMIT_S)
    items = list(client.items(job.id))
    failed = [item for item in items if item.summary is None]
    for item in failed[:5]:
        print(f"not measured: {item.label}: {item.failure} {item.reason}", file=sys.stderr)
    return items


def first_block(client: Client) -> list[Row]:
    """Submit to first timed block on an idle farm, one kernel at a time."""
    waits_s = []
    for wanted in kernels(SEED + 1, 20):
        job = client.submit(JobRequest(
            workloads=(wanted,),
            platforms=PlatformFilter(engine=("onnxruntime",), threads=(1,), precision=(Precision.FP32,)),
            max_age_s=0,
        ))  # fmt: skip
        client.wait(job.id, timeout_s=60)
        launches = [launch for item in client.items(job.id) for launch in _launches(client, [item])]
        waits_s.append(min(launch["first_block_unix_s"] for launch in launches) - job.created_at.timestamp())
    row: Row = {"kernels": len(waits_s), "median_s": round(median(waits_s), 3), "max_s": round(max(waits_s), 3)}
    return [row | {"goal": "median < 1 s", "met": median(waits_s) < FIRST_BLOCK_S}]


def busy(client: Client) -> list[Row]:
    """Of the wall time of a 300-kernel job: how long a runner was alive, and what it did."""
    rows: list[Row] = []
    for engine in ENGINES:
        for threads in (1, 2):
            items = measure(client, kernels(SEED + 2, 300), engine, threads)
            rows.append({"engine": engine, "threads": threads} | _shares(_launches(client, items)))
    return rows


def repeat(client: Client) -> list[Row]:
    """Two runs of the same 60 kernels: how far the two normalised values of each lie apart."""
    rows: list[Row] = []
    for engine in ENGINES:
        for threads in (1, 2):
            one, other = (measure(client, kernels(SEED, 60), engine, threads) for _ in range(2))
            rows.append({"engine": engine, "threads": threads} | _compared(one, other))
    return rows


def batching(client: Client) -> list[Row]:
    """One process per kernel and one batch, each twice and in turn: no farther apart than two runs of the same kind."""
    wanted = kernels(SEED, 60)
    rows: list[Row] = []
    for engine in ENGINES:
        batches, singles = [], []
        for _ in range(2):
            batches.append(_normalised(measure(client, wanted, engine, 1)))
            singles.append(_normalised(item for one in wanted for item in measure(client, (one,), engine, 1)))
        rows.append({"engine": engine} | compare((batches[0], batches[1]), (singles[0], singles[1])))
    return rows


def _normalised(items: Iterable[ItemView]) -> dict[str, float]:
    found = ((item.workload_id, item.summary) for item in items)
    return {name: summary.normalised_ms for name, summary in found if summary and summary.normalised_ms}


def _launches(client: Client, items: Iterable[ItemView]) -> list[dict[str, float]]:
    """The evidence of every launch that served the items, each once, in order of time."""
    seen: dict[tuple[str, int], dict[str, float]] = {}
    for item in items:
        if item.measurement_id is None:
            continue
        evidence = client.measurement(item.measurement_id).evidence
        if evidence is None or (evidence.lease_id, int(evidence.launches[0]["launch_no"])) in seen:
            continue
        seen |= {(evidence.lease_id, int(launch["launch_no"])): launch for launch in evidence.launches}
    return sorted(seen.values(), key=lambda launch: launch["began_unix_s"])


def _shares(launches: Sequence[dict[str, float]]) -> Row:
    wall_ms = 1000 * (max(one["ended_unix_s"] for one in launches) - min(one["began_unix_s"] for one in launches))
    alive_ms = sum(1000 * (one["ended_unix_s"] - one["began_unix_s"]) for one in launches)
    total = {name: sum(one[name] for one in launches) for name in ("timed_ms", "canary_ms", "open_ms")}
    start_ms = sum(one["import_ms"] + one["canary_open_ms"] for one in launches)
    return {
        "launches": len(launches),
        "wall_s": round(wall_ms / 1000, 1),
        "goal": f"busy >= {BUSY_SHARE:.0%}, timing >= {TIMING_SHARE:.0%}, canary < {CANARY_SHARE:.0%} of timing",
        "met": alive_ms >= BUSY_SHARE * wall_ms
        and total["timed_ms"] >= TIMING_SHARE * wall_ms
        and total["canary_ms"] < CANARY_SHARE * total["timed_ms"],
        "busy": _share(alive_ms, wall_ms),
        "timing": _share(total["timed_ms"], wall_ms),
        "canary": _share(total["canary_ms"], wall_ms),
        "canary of timing": _share(total["canary_ms"], total["timed_ms"]),
        "launch start": _share(start_ms, wall_ms),
        "conversion (open)": _share(total["open_ms"], wall_ms),
        "between launches": _share(wall_ms - alive_ms, wall_ms),
    }


def _compared(one: Sequence[ItemView], other: Sequence[ItemView]) -> Row:
    pairs = [
        (a.summary, b.summary)
        for a, b in zip(
            sorted(one, key=lambda item: item.workload_id),
            sorted(other, key=lambda item: item.workload_id),
            strict=True,
        )
        if a.summary and b.summary
    ]
    normalised = [abs(a.normalised_ms / b.normalised_ms - 1) for a, b in pairs if a.normalised_ms and b.normalised_ms]
    raw = [abs(a.median_ms / b.median_ms - 1) for a, b in pairs]
    middle, high = median(normalised), quantiles(normalised, n=10)[-1]
    grades = "".join(sorted(str(a.grade) for a, _ in pairs))
    return {
        "pairs": len(normalised),
        "normalised median": f"{middle:.2%}",
        "normalised p90": f"{high:.2%}",
        "raw median": f"{median(raw):.2%}",
        "raw p90": f"{quantiles(raw, n=10)[-1]:.2%}",
        "grades": " ".join(f"{grades.count(grade)}{grade}" for grade in "ABCD" if grade in grades),
        "goal": f"median <= {REPEAT_MEDIAN:.0%}, p90 <= {REPEAT_P90:.0%}",
        "met": middle <= REPEAT_MEDIAN and high <= REPEAT_P90,
    }


def _share(part_ms: float, whole_ms: float) -> str:
    return f"{part_ms / whole_ms:.1%}"


BENCHES: dict[str, tuple[str, Callable[[Client], list[Row]]]] = {
    "latency": ("Submit to first timed block", first_block),
    "busy": ("Board busy during a 300-kernel job", busy),
    "repeat": ("Two runs of the same 60 kernels", repeat),
    "batching": ("One process per kernel or one batch", batching),
}


def main() -> int:
    """Run the named benches and write their tables; the exit status says whether every goal was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*BENCHES, "all"), nargs="?", default="all")
    what = parser.parse_args().what
    chosen = list(BENCHES) if what == "all" else [what]
    missed = 0
    with (
        tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as folder,
        FarmProcess(Path(folder)) as farm,
        Client(farm.url, farm.admin_token) as client,
    ):
        for name in chosen:
            title, bench = BENCHES[name]
            rows = bench(client)
            missed += sum(not row["met"] for row in rows)
            write_section(title, f"python -m bench.measuring {name}", rows)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
