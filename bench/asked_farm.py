"""A farm that is asked and never measures: what the benches of `POST /v1/latency` put their questions to.

Its boards are made up, one board model and platform each, and so are its predictors: a mean of a ridge on sums and of a
sum of kernels, fitted to made-up latencies. Nothing is measured, so every answer is predicted.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import quantiles
from typing import Final, NamedTuple

import httpx2
import msgpack

from bench.api_load import VERSIONS, Load
from bench.predicting import HEADER, a_ridge, costs_ms, kernel_lists
from benchfarm_core.architectures import Architecture
from benchfarm_core.latency_columns import COLUMNS_TYPES, LatencyColumns
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
from benchfarm_workloads.spaces import MAX_DRAWS, draws

Row = dict[str, object]
Item = Mapping[str, object]
SPACE: Final = "ofa_mobilenet_v3"
JSON: Final = "application/json"
COLUMNS: Final = COLUMNS_TYPES[0]
APART_S: Final = 16.0
"""Between two starts of the API: a farm in which a process dies five times within a minute gives up."""


class Taken(NamedTuple):
    """What a question took: seconds from the first byte sent to the last one received, CPU seconds of the API."""

    wall_s: float
    cpu_s: float


class Asking:
    """A farm without boards that measure, and its one API process.

    keys: of its platforms, as many as were wanted.
    """

    def __init__(self, farm: FarmProcess, count: int) -> None:
        self._farm, self._load, self._drawn = farm, Load(farm.url, farm.admin_token), 0
        headers, _ = self._load.agent("asked", "asked-0")
        boards = {**VERSIONS, "boards": [board(number) for number in range(count)]}
        self._restarted_s = 0.0
        self._client = self.connected()
        self._client.post("/v1/agent/boards", json=boards, headers=headers).raise_for_status()
        self.keys = [f"asked-{number}/c0.t1.free/onnxruntime-1.31.1/fp32" for number in range(count)]

    def close(self) -> None:
        """No more questions."""
        self._client.close()
        self._load.close()

    def connected(self) -> httpx2.Client:
        """A client of the farm with a connection of its own."""
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
        self._client = self.connected()
        self.ask(items_of(draws("bert", "asking", 1)), self.keys[:4])

    def fresh(self, count: int) -> list[Item]:
        """Architectures that nobody asked for yet, as items of a question."""
        self._drawn += 1
        parts = [(f"{self._drawn}/{start}", min(count - start, MAX_DRAWS)) for start in range(0, count, MAX_DRAWS)]
        return items_of(one for seed, size in parts for one in draws(SPACE, f"asking/{seed}", size))

    def ask(self, items: Sequence[Item], keys: Sequence[str], accept: str = JSON) -> Taken:
        """One question. The client's own JSON is made before and read after."""
        body, before_s = body_of(items, keys), self.cpu_s()
        wall_s, answer = posted(self._client, body, accept)
        taken = Taken(wall_s, self.cpu_s() - before_s)
        if accept == JSON:
            answers = answer.json()["answers"]
            assert len(answers) == len(items) * len(keys)
            assert {one["source"] for one in answers} == {"predicted"}, answers[0]
        else:
            assert predicted_columns(answer).count == len(items) * len(keys)
        return taken

    def cpu_s(self) -> float:
        """CPU seconds of the API process so far."""
        return cpu_s(self._farm.pid("api"))

    def resident_mb(self) -> float:
        """What the API process holds."""
        status = Path(f"/proc/{self._farm.pid('api')}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024

    def held_mb(self) -> float:
        """What it says that predictors take."""
        return self._load.gauge("benchfarm_api_predictors_bytes") / 1e6


@contextmanager
def asked_farm(count: int) -> Iterator[Asking]:
    """A farm of its own with so many platforms, for the length of the block; no predictor answers yet."""
    with (
        tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as folder,
        FarmProcess(Path(folder), local_board=False) as farm,
    ):
        made = Asking(farm, count)
        try:
            yield made
        finally:
            made.close()


def board(number: int) -> dict[str, object]:
    """A board of a model of its own."""
    engine = {"name": "onnxruntime", "available": True, "version": "1.31.1", "precisions": ["fp32"]}
    return {
        "kind": "simulated", "serial": f"asked-{number}", "hardware_id": "asked", "board_model": f"asked-{number}",
        "model_name": "Simulated board", "generation": "g1", "facts": {}, "engines": [engine],
        "operating_points": [{"mode": "free", "cores": [0], "threads": 1}], "clock_proof": "unpinned",
    }  # fmt: skip


def items_of(architectures: Iterable[Architecture]) -> list[Item]:
    """Items of a question."""
    return [{"kind": "architecture", "space": one.space, "genes": one.genes} for one in architectures]


def body_of(items: Sequence[Item], keys: Sequence[str], **fields: object) -> bytes:
    """A question as it is sent."""
    return json.dumps({"platforms": list(keys), "items": list(items), **fields}).encode()


def posted(client: httpx2.Client, body: bytes, accept: str = JSON) -> tuple[float, httpx2.Response]:
    """Seconds until the whole answer is there, and the answer. Raises what the client does, also for a refusal."""
    began_s = time.perf_counter()
    answer = client.post("/v1/latency", content=body, headers={"content-type": JSON, "accept": accept})
    return time.perf_counter() - began_s, answer.raise_for_status()


def predicted_columns(answer: httpx2.Response) -> LatencyColumns:
    """An answer in columns, each of them predicted."""
    found = LatencyColumns.of(msgpack.unpackb(answer.content))
    assert list(found.values["source"]) == ["predicted"], found.values["detail"]
    assert min(found.codes["source"]) == 0
    return found


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


def percentile(values: Sequence[float], percent: int) -> float:
    """Of at least two values, between two of them where it falls there."""
    return quantiles(values, n=100, method="inclusive")[percent - 1]
