"""What a search waits for: thousands of architectures asked of one API process, whose kernels are new to it or known.

python -m bench.asking [--architectures 5000 20000] [--platforms 4] [--resident 100] [--print]

Cold is the first question of a process, warm the next one of other architectures. Times are from the first byte sent
to the last one received; the client's own JSON is made before and read after. The predictors are made up: a mean of a
ridge on sums and of a sum of kernels, of which nothing is measured.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx2

from bench.api_load import VERSIONS, Load
from bench.predicting import HEADER, a_ridge, costs_ms, kernel_lists, some_trees
from bench.report import command_run, write_section
from benchfarm_core.predictors import WHOLE_MODEL, PredictorEvidence
from benchfarm_predictor.combined import Mean
from benchfarm_predictor.composition import KernelSum, fit_whole_model
from benchfarm_predictor.conformal import calibrate
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.predictor_file import Predictor, write
from benchfarm_predictor.trained_range import TrainedRange
from benchfarm_standalone.farm_process import FarmProcess
from benchfarm_store import platforms, predictors
from benchfarm_store.database import Database
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.spaces import MAX_DRAWS, draws, kernels

Row = dict[str, object]
SPACE: Final = "ofa_mobilenet_v3"
GOALS_S: Final = {(5_000, 1, "cold"): 0.5, (5_000, 1, "warm"): 0.15, (20_000, 4, "warm"): 4.0}
GOAL_GROWN_MB: Final = 60.0
REPEATS: Final = 3
APART_S: Final = 16.0
"""Between two starts of the API: a farm in which a process dies five times within a minute gives up."""
LAID_OUT: Final = 200
"""Architectures whose whole networks are looked at, for comparison."""


class Asking:
    """A farm without boards that measure, and its one API process."""

    def __init__(self, farm: FarmProcess, count: int) -> None:
        self._farm, self._load, self._drawn = farm, Load(farm.url, farm.admin_token), 0
        headers, _ = self._load.agent("asked", "asked-0")
        boards = {**VERSIONS, "boards": [board(number) for number in range(count)]}
        self._restarted_s = 0.0
        self._client = self._connected()
        self._client.post("/v1/agent/boards", json=boards, headers=headers).raise_for_status()
        self.keys = [f"asked-{number}/c0.t1.free/onnxruntime-1.31.1/fp32" for number in range(count)]

    def _connected(self) -> httpx2.Client:
        return httpx2.Client(base_url=self._farm.url, headers=self._load.client, timeout=120)

    def publish(self, predictor: Predictor, keys: Sequence[str]) -> int:
        """Let it answer on some platforms; returns the bytes of its file."""
        database = Database(self._farm.database_url, pool_size=1)
        for key in keys:
            file = write(replace(predictor, header=HEADER.model_copy(update={"platform": key})))
            with database.transaction() as tx:
                predictors.publish(
                    tx,
                    platform_id=platforms.find(tx, key).id,
                    subject=WHOLE_MODEL,
                    file=file,
                    evidence=PredictorEvidence(),
                    reason="made up",
                    activate=True,
                )
        database.dispose()
        return len(file)

    def restart(self) -> None:
        """Another API process, with a connection and the predictors loaded, that knows no kernel of the space."""
        self._client.close()
        time.sleep(max(self._restarted_s + APART_S - time.monotonic(), 0))
        self._restarted_s = time.monotonic()
        self._farm.wait_until_back("api", self._farm.kill("api"))
        self._client = self._connected()
        self.ask([next(iter(draws("bert", "asking", 1)))], self.keys[:4])

    def fresh(self, count: int) -> list[Any]:
        """Architectures that nobody asked for yet."""
        self._drawn += 1
        parts = [(f"{self._drawn}/{start}", min(count - start, MAX_DRAWS)) for start in range(0, count, MAX_DRAWS)]
        return [one for seed, size in parts for one in draws(SPACE, f"asking/{seed}", size)]

    def ask(self, asked: Sequence[Any], keys: Sequence[str]) -> tuple[float, float]:
        """Wall seconds, and CPU seconds of the API process."""
        items = [{"kind": "architecture", "space": one.space, "genes": one.genes} for one in asked]
        body = json.dumps({"platforms": list(keys), "items": items}).encode()
        pid = self._farm.pid("api")
        before_s, began_s = cpu_s(pid), time.perf_counter()
        answer = self._client.post("/v1/latency", content=body, headers={"content-type": "application/json"})
        wall_s = time.perf_counter() - began_s
        answers = answer.raise_for_status().json()["answers"]
        assert len(answers) == len(asked) * len(keys)
        assert {one["source"] for one in answers} == {"predicted"}, answers[0]
        return wall_s, cpu_s(pid) - before_s

    def resident_mb(self) -> float:
        """What the API process holds."""
        status = Path(f"/proc/{self._farm.pid('api')}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024

    def held_mb(self) -> float:
        """What it says that predictors take."""
        return self._load.gauge("benchfarm_api_predictors_bytes") / 1e6


def board(number: int) -> dict[str, object]:
    """A board of a model of its own."""
    engine = {"name": "onnxruntime", "available": True, "version": "1.31.1", "precisions": ["fp32"]}
    return {
        "kind": "simulated", "serial": f"asked-{number}", "hardware_id": "asked", "board_model": f"asked-{number}",
        "model_name": "Simulated board", "generation": "g1", "facts": {}, "engines": [engine],
        "operating_points": [{"mode": "free", "cores": [0], "threads": 1}], "clock_proof": "unpinned",
    }  # fmt: skip


def cpu_s(pid: int) -> float:
    """Of a process so far, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def whole_model() -> Predictor:
    """As adaptations make them: two members, intervals, a trained range, of the space and of another."""
    lists = KernelLists.of([*kernel_lists(SPACE, 300), *kernel_lists("bert", 60)])
    latency_ms = costs_ms(lists)
    fit = fit_whole_model(lists, latency_ms)
    parts = KernelSum({name: a_ridge(entries.kernels) for name, entries in lists.by_type.items()}, None)
    return Predictor(HEADER, Mean((fit.model, parts)), calibrate(fit.left_out_ms, latency_ms), TrainedRange.of(lists))


def large_model() -> Predictor:
    """A sum of trees, as large as training makes them."""
    lists = KernelLists.of(kernel_lists(SPACE, 100))
    parts = KernelSum({name: some_trees(entries.kernels) for name, entries in lists.by_type.items()}, None)
    return Predictor(HEADER, parts, None, TrainedRange.of(lists))


def laid_out_us() -> float:
    """CPU microseconds for the kernels of one architecture by its whole network."""
    drawn = draws(SPACE, "laid out", LAID_OUT)
    began_s = time.process_time()
    for one in drawn:
        kernels(one, FusionRules())
    return (time.process_time() - began_s) / LAID_OUT * 1e6


def asked_rows(asking: Asking, count: int, keys: Sequence[str], apart_us: float) -> list[Row]:
    """Cold and warm, the best of some processes."""
    found: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": []}
    for _ in range(REPEATS):
        asking.restart()
        for times in found.values():
            times.append(asking.ask(asking.fresh(count), keys))
    return [asked_row(kind, count, len(keys), *min(times), apart_us) for kind, times in found.items()]


def asked_row(kind: str, count: int, platforms_asked: int, wall_s: float, used_s: float, apart_us: float) -> Row:
    """Of one question."""
    goal_s = GOALS_S.get((count, platforms_asked, kind))
    each_us = used_s / count * 1e6
    return {
        "question": f"{count} architectures x {platforms_asked}, {kind}",
        "wall, s": wall_s,
        "CPU of the API, s": used_s,
        "CPU, us an architecture": each_us,
        "laid out as a whole, kernels alone: times as long": apart_us / each_us,
        "goal": "" if goal_s is None else f"<= {goal_s:g} s",
        "met": "" if goal_s is None else wall_s <= goal_s,
    }


def resident_rows(asking: Asking, keys: Sequence[str]) -> list[Row]:
    """Many platforms with a large predictor each, asked in turn twice."""
    size_bytes = asking.publish(large_model(), keys)
    asking.restart()
    [architecture], before_mb = asking.fresh(1), asking.resident_mb()
    rows: list[Row] = []
    for turn in ("first", "second"):
        walls_s = [asking.ask([architecture], [key])[0] for key in keys]
        grown_mb = asking.resident_mb() - before_mb
        rows.append(
            {
                "question": f"1 architecture of each of {len(keys)} platforms, {turn} turn",
                "wall, s": sum(walls_s),
                "bytes of a predictor": size_bytes,
                "predictors held, MB": asking.held_mb(),
                "grown, MB": grown_mb,
                "goal": f"< {GOAL_GROWN_MB:g} MB",
                "met": grown_mb < GOAL_GROWN_MB,
            }
        )
    return rows


def main() -> int:
    """Measure, write the section; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, nargs="+", default=[5_000, 20_000])
    parser.add_argument("--platforms", type=int, default=4, help="of the larger questions")
    parser.add_argument("--resident", type=int, default=100, help="platforms that are asked in turn")
    parser.add_argument("--print", action="store_true", help="print the table instead of writing it")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as folder,
        FarmProcess(Path(folder), local_board=False) as farm,
    ):
        asking, apart_us = Asking(farm, max(given.platforms, given.resident, 1)), laid_out_us()
        few = asking.keys[: max(given.platforms, 4)]
        asking.publish(whole_model(), few)
        rows = [
            row
            for count in given.architectures
            for asked in dict.fromkeys((1, given.platforms))
            for row in asked_rows(asking, count, few[:asked], apart_us)
        ]
        rows += resident_rows(asking, asking.keys[: given.resident])
    if given.print:
        for row in rows:
            print(row)
    else:
        write_section("Architectures asked", command_run(), rows)
    return 0 if all(row["met"] in ("", True) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
