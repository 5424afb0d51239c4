"""How fast one API process takes jobs while it holds 500 parked polls and 200 event streams.

python -m bench.api_load [--polls 500] [--streams 200] [--jobs 600]
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles

import httpx2

from bench.report import write_section
from benchfarm_standalone.farm_process import FarmProcess

GOAL_P99_MS = 50.0
KERNELS_PER_JOB = 10
POLL_S = 25.0
SETTLE_S = 90.0
VERSIONS = {"protocol_version": 2, "agent_version": "0.1.0"}
Row = dict[str, object]


def board(serial: str, board_model: str) -> dict[str, object]:
    """A board as an agent registers it."""
    return {
        "kind": "simulated",
        "serial": serial,
        "hardware_id": "load",
        "board_model": board_model,
        "model_name": "Simulated board",
        "generation": "g1",
        "facts": {},
        "engines": [{"name": "onnxruntime", "available": True, "version": "1.31.1", "precisions": ["fp32"]}],
        "operating_points": [{"mode": "free", "cores": [0], "threads": 1}],
        "clock_proof": "unpinned",
    }


class Load:
    """One farm with simulated agents. The jobs want a board whose agent does not poll, so that they stay."""

    def __init__(self, url: str, admin_token: str) -> None:
        self.url = url
        self._admin = httpx2.Client(base_url=url, headers=bearer(admin_token), timeout=60)
        quotas = {"pending_items": 10_000_000, "active_jobs": 1_000_000}
        self._admin.post("/v1/accounts", json={"name": "load", "quotas": quotas}).raise_for_status()
        made = self._admin.post("/v1/tokens", json={"account": "load", "role": "client"})
        self.client = bearer(made.raise_for_status().json()["token"])
        self.agent("wanted", "wanted-board")

    def close(self) -> None:
        """No more calls."""
        self._admin.close()

    def agent(self, serial: str, board_model: str) -> tuple[dict[str, str], str]:
        """A new agent with one board: its headers and the board's id."""
        token = self._admin.post("/v1/enrol-tokens", json={}).raise_for_status().json()["token"]
        enrolment = {**VERSIONS, "name": serial, "enrol_token": token}
        enrolled = self._admin.post("/v1/agent/enrol", json=enrolment).raise_for_status().json()
        headers = bearer(enrolled["token"])
        boards = {**VERSIONS, "boards": [board(serial, board_model)]}
        answer = self._admin.post("/v1/agent/boards", json=boards, headers=headers).raise_for_status().json()
        return headers, answer["boards"][0]["board_id"]

    def submit(self, client: httpx2.Client, number: int) -> tuple[str, float]:
        """Submit one job of new kernels: its id, and how long the answer took in ms."""
        first = number * KERNELS_PER_JOB
        configs = [{"cin": 1 + n % 30_000, "cout": 1 + n // 30_000} for n in range(first, first + KERNELS_PER_JOB)]
        job = {
            "workloads": [{"kind": "kernel", "type": "fc", "config": config} for config in configs],
            "platforms": {"board_model": ["wanted-board"]},
        }
        began_s = time.perf_counter()
        answer = client.post("/v1/jobs", json=job).raise_for_status()
        return answer.json()["id"], (time.perf_counter() - began_s) * 1000

    def submit_many(self, numbers: Sequence[int], clients: int, pause_s: float) -> list[float]:
        """Submit jobs from so many clients, each with a pause after every answer: times in ms."""

        def one_client(mine: Sequence[int]) -> list[float]:
            with httpx2.Client(base_url=self.url, headers=self.client, timeout=60) as client:
                self.submit(client, mine[0])  # opens the connection
                return [self._submit_and_pause(client, number, pause_s) for number in mine[1:]]

        with ThreadPoolExecutor(clients) as pool:
            parts = pool.map(one_client, [numbers[start::clients] for start in range(clients)])
            return [elapsed_ms for part in parts for elapsed_ms in part]

    def _submit_and_pause(self, client: httpx2.Client, number: int, pause_s: float) -> float:
        elapsed_ms = self.submit(client, number)[1]
        time.sleep(pause_s)
        return elapsed_ms

    def wait_until_planned(self) -> None:
        """Return when the worker has caught up with what was submitted."""
        until_s = time.monotonic() + SETTLE_S
        for state in ("queued", "planning"):
            while self._admin.get(f"/v1/jobs?state={state}&limit=1", headers=self.client).json()["items"]:
                if time.monotonic() > until_s:
                    raise TimeoutError("the worker did not catch up")
                time.sleep(0.2)

    def gauge(self, name: str) -> float:
        """A gauge of the API process."""
        lines = self._admin.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(name + " "))


def bearer(token: str) -> dict[str, str]:
    """The header of a token."""
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def waiting(load: Load, agents: Sequence[tuple[dict[str, str], str]], jobs: Sequence[str]) -> AsyncIterator[None]:
    """Parked polls and open streams, for the length of the block."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(base_url=load.url, limits=limits, timeout=POLL_S * 2) as http:
        polls = [asyncio.create_task(poll(http, headers, board_id)) for headers, board_id in agents]
        streams = [asyncio.create_task(follow(http, load.client, job_id)) for job_id in jobs]
        try:
            await settled(load, len(agents), len(jobs))
            yield
        finally:
            for task in (*polls, *streams):
                task.cancel()
            await asyncio.gather(*polls, *streams, return_exceptions=True)


async def poll(http: httpx2.AsyncClient, headers: dict[str, str], board_id: str) -> None:
    """Poll again and again, as an idle agent does; agents do not all begin in the same second."""
    await asyncio.sleep(random.uniform(0, POLL_S))
    while True:
        body = {**VERSIONS, "idle": [board_id], "wait_s": POLL_S}
        (await http.post("/v1/agent/poll", json=body, headers=headers)).raise_for_status()


async def follow(http: httpx2.AsyncClient, headers: dict[str, str], job_id: str) -> None:
    """Read a job's events for as long as there are any."""
    async with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as stream:
        async for _ in stream.aiter_lines():
            pass


async def settled(load: Load, polls: int, streams: int) -> None:
    """Return when so many polls and streams wait at the API."""
    until_s = time.monotonic() + SETTLE_S
    while load.gauge("benchfarm_api_parked_polls") < polls or load.gauge("benchfarm_api_open_streams") < streams:
        if time.monotonic() > until_s:
            raise TimeoutError("the polls and streams did not come to wait")
        await asyncio.sleep(0.2)


def row(waiting_now: str, clients: str, times_ms: Sequence[float]) -> Row:
    """The figures of one round."""
    cuts = quantiles(times_ms, n=100, method="inclusive")
    return {
        "waiting at the API": waiting_now,
        "clients": clients,
        "jobs": len(times_ms),
        "median ms": cuts[49],
        "p95 ms": cuts[94],
        "p99 ms": cuts[98],
        "highest ms": max(times_ms),
        "goal p99 ms": GOAL_P99_MS,
        "met": cuts[98] <= GOAL_P99_MS,
    }


async def measure(load: Load, polls: int, streams: int, jobs: int) -> list[Row]:
    """Rows without and with the waiting requests, from one and from four clients."""
    numbers = iter(range(10_000_000))
    agents = [load.agent(f"parked-{n}", "parked-board") for n in range(polls)]
    with httpx2.Client(base_url=load.url, headers=load.client, timeout=60) as client:
        followed = [load.submit(client, next(numbers))[0] for _ in range(streams)]

    def round_of(waiting_now: str, clients: int, pause_s: float) -> Row:
        times_ms = load.submit_many([next(numbers) for _ in range(jobs)], clients, pause_s)
        return row(waiting_now, f"{clients}, pause {pause_s:g} s", times_ms)

    load.wait_until_planned()
    rows = [round_of("nothing", 1, 0.0)]
    async with waiting(load, agents, followed):
        for clients, pause_s in ((1, 0.0), (4, 0.2)):
            rows.append(await asyncio.to_thread(round_of, f"{polls} polls, {streams} streams", clients, pause_s))
    return rows


def main() -> int:
    """Measure and write the table; the exit status says whether the goal was met by every round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--polls", type=int, default=500)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=600)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as folder,
        FarmProcess(Path(folder), local_board=False) as farm,
    ):
        load = Load(farm.url, farm.admin_token)
        rows = asyncio.run(measure(load, options.polls, options.streams, options.jobs))
    for line in rows:
        print(line)
    write_section("Jobs taken while agents and readers wait", "python -m bench.api_load", rows)
    return 0 if all(line["met"] for line in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
