"""What a fleet costs: simulated boards in real time, 10 s batches of 20 results, on one agent and on many.

python -m bench.fleet [--boards 200] [--agents 1,20] [--memory 10,50] [--seconds 180] [--no-report]

A board is busy while a launch of its runs, by the launches' own begin and end. CPU is what the kernel has charged to
the processes of agents, API, worker and Postgres, their children included, over the seconds watched. Jobs are planned
before. Memory is the proportional share (PSS) of one busy agent.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from os import sysconf
from pathlib import Path
from statistics import mean, quantiles

import httpx2
from sqlalchemy import text

from bench.report import command_run, write_section
from benchfarm import Client
from benchfarm_core.jobs import JobRequest
from benchfarm_core.workloads import Config, KernelRequest
from benchfarm_standalone.farm_process import FarmProcess
from benchfarm_standalone.processes import parents
from benchfarm_store.database import Database

GOAL_BUSY, GOAL_CORES = 0.90, 1.0
BATCH_S, BATCH_RESULTS = 10, 20
KERNEL_FLOPS = 500e6
"""What takes half a second of a board by the protocol `kernel`, so that 20 results are a batch of 10 s."""
REPEATS = 20
JOB_KERNELS = 100
READY_S, SETTLE_S, HAND_IN_S = 300.0, 40.0, 16.0
SERVICES = ("api", "worker", "postgres")
PROFILE = """\
model = "fleet"
name = "A board of a fleet"

[[cluster]]
cores = [0, 1]
freq_khz = [2_400_000]
flops_per_cycle = 16.0

[[engine]]
name = "onnxruntime"
version = "1.31.1"

[latency]
bytes_per_s = 12e9

[noise]
disturbed_share = 0.0
"""
"""Nothing disturbs it, so that every batch takes the protocol's least number of launches."""
Row = dict[str, object]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Watched:
    """What was seen of a fleet for some seconds. cpu_s and busy: by process and by board; took_s: of each batch."""

    seconds: float
    cpu_s: Mapping[str, float]
    busy: Sequence[float]
    results: int
    batches: Sequence[Mapping[str, float]]
    agent_pss_bytes: Sequence[int]


def kernels() -> Iterator[KernelRequest]:
    """Distinct convolutions of about `KERNEL_FLOPS`."""
    for hw in range(14, 60):
        for cin in range(64, 512):
            cout = round(KERNEL_FLOPS / (18 * hw * hw * cin))
            if 16 <= cout <= 1024:
                config: Config = {"hw": hw, "cin": cin, "cout": cout, "k": 3, "s": 1, "batch": 1, "act": "none"}
                yield KernelRequest(type="conv-bn-act", config=config)


def busy_shares(launches: Iterable[tuple[int, float, float]], boards: int, window: Interval) -> list[float]:
    """The share of the window in which each board ran a launch; launches: board, begin, end on one clock, in s."""
    begin_s, end_s = window
    shares: dict[int, float] = defaultdict(float)
    for board, began_s, ended_s in launches:
        shares[board] += max(0.0, min(ended_s, end_s) - max(began_s, begin_s)) / (end_s - begin_s)
    found = sorted(shares.values())
    return [0.0] * (boards - len(found)) + found


def tree_of(pid: int, table: Mapping[int, int]) -> set[int]:
    """A process and all that descend from it; table: parents by process id."""
    found = {pid}
    while more := {child for child, parent in table.items() if parent in found} - found:
        found |= more
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds of a process tree, of children that have ended too."""
    ticks = 0
    for one in tree_of(pid, parents()):
        try:
            fields = Path(f"/proc/{one}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))  # its own and its ended children's, in user and kernel mode
    return ticks / sysconf("SC_CLK_TCK")


def pss_bytes(pid: int) -> int:
    """The memory of a process, what it shares counted in parts."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


class Fleet:
    """A farm of its own with an account that may want anything, and agents of simulated boards."""

    def __init__(self, farm: FarmProcess, folder: Path) -> None:
        self._farm = farm
        self._folder = folder
        self._admin = Client(farm.url, farm.admin_token)
        self._kernels = kernels()
        self._client = Client(farm.url, self._own_token())
        (folder / "profile.toml").write_text(PROFILE)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()
        self._admin.close()

    def _own_token(self) -> str:
        headers = {"Authorization": f"Bearer {self._farm.admin_token}"}
        with httpx2.Client(base_url=self._farm.url, headers=headers, timeout=60) as http:
            quotas = {"pending_items": 10_000_000, "active_jobs": 1_000_000}
            http.post("/v1/accounts", json={"name": "fleet", "quotas": quotas}).raise_for_status()
            made = http.post("/v1/tokens", json={"account": "fleet", "role": "client"}).raise_for_status()
            return str(made.json()["token"])

    @contextmanager
    def agents(self, count: int, boards: int) -> Iterator[list[int]]:
        """So many agents that share the boards; their process ids. They are drained in the end."""
        each = [boards // count + (number < boards % count) for number in range(count)]
        with ExitStack() as stack:
            processes = [stack.enter_context(self._agent(number, share)) for number, share in enumerate(each)]
            self._until(lambda: self._online() >= boards, "every board is registered")
            yield [process.pid for process in processes]

    @contextmanager
    def _agent(self, number: int, boards: int) -> Iterator[subprocess.Popen[bytes]]:
        state = Path(tempfile.mkdtemp(prefix="agent-", dir=self._folder))
        (state / "token").write_text(self._admin.create_enrol_token().token)
        words = ["--boards", str(boards), "--profile", str(self._folder / "profile.toml"), "--seed", str(number)]
        words += ["--url", self._farm.url, "--state-dir", str(state / "state")]
        words += ["--enrol-token-file", str(state / "token"), "--name", f"fleet-{number}"]
        with (state / "log").open("wb") as log:
            argv = [sys.executable, "-m", "benchfarm_agent", "simulate", *words]
            process = subprocess.Popen(argv, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                process.kill()

    def want(self, items: int) -> None:
        """Wants so many measurements on the fleet's platform, and waits until they are planned."""
        [platform] = [one.key for one in self._client.platforms(threads=[1]) if one.key.startswith("sim-fleet/")]
        jobs = []
        for _ in range(-(-items // (JOB_KERNELS * REPEATS))):
            workloads = tuple(islice(self._kernels, JOB_KERNELS))
            request = JobRequest(workloads=workloads, platforms=(platform,), repeats=REPEATS, max_age_s=0)
            jobs.append(self._client.submit(request).id)
        self._until(lambda: all(self._client.job(job).progress.planned == 0 for job in jobs), "the jobs are planned")

    def watch(self, agents: Sequence[int], boards: int, seconds: float) -> Watched:
        """Looks at a fleet that works."""
        time.sleep(SETTLE_S)
        begin_s, before = time.time(), self._cpu_s(agents)
        time.sleep(seconds)
        end_s, after = time.time(), self._cpu_s(agents)
        memory = [pss_bytes(pid) for pid in agents]
        time.sleep(HAND_IN_S)  # what began in the window is told when its lease ends
        database = Database(self._farm.database_url)
        try:
            with database.transaction(read_only=True) as tx:
                window = {"begin": begin_s, "end": end_s}
                launches = [(row.board_id, row.began, row.ended) for row in tx.execute(_LAUNCHES, window)]
                batches = [{"results": row.results, "took_s": row.took_s} for row in tx.execute(_BATCHES, window)]
                results = int(tx.execute(_RESULTS, window).scalar_one())
        finally:
            database.dispose()
        used = {name: after[name] - before[name] for name in before}
        shares = busy_shares(launches, boards, (begin_s, end_s))
        return Watched(end_s - begin_s, used, shares, results, batches, memory)

    def _cpu_s(self, agents: Sequence[int]) -> dict[str, float]:
        services = {name: cpu_s(self._farm.pid(name)) for name in (*SERVICES, "valkey")}
        return {"agents": sum(map(cpu_s, agents)), **services}

    def _online(self) -> int:
        return sum(board.kind == "simulated" and board.state != "offline" for board in self._admin.boards())

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        until_s = time.monotonic() + READY_S
        while not condition():
            if time.monotonic() > until_s:
                raise TimeoutError(f"not within {READY_S:g} s: {what}")
            time.sleep(0.5)


_LAUNCHES = text("""
    SELECT l.board_id, (x.evidence->>'began_unix_s')::float8 AS began, (x.evidence->>'ended_unix_s')::float8 AS ended
    FROM launches x JOIN leases l ON l.id = x.lease_id
    WHERE (x.evidence->>'ended_unix_s')::float8 > :begin AND (x.evidence->>'began_unix_s')::float8 < :end
""")
_BATCHES = text("""
    SELECT count(*)::float8 AS results, extract(epoch FROM max(l.ended_at) - max(l.accepted_at))::float8 AS took_s
    FROM leases l JOIN lease_items i ON i.lease_id = l.id
    WHERE l.ended_at BETWEEN to_timestamp(:begin) AND to_timestamp(:end) AND l.accepted_at IS NOT NULL
    GROUP BY l.id
""")
_RESULTS = text("SELECT count(*) FROM results WHERE measured_at BETWEEN to_timestamp(:begin) AND to_timestamp(:end)")


def row(agents: int, boards: int, watched: Watched) -> Row:
    """The figures of one layout."""
    cores = {name: used / watched.seconds for name, used in watched.cpu_s.items()}
    total = sum(cores[name] for name in ("agents", *SERVICES))
    lowest = min(watched.busy)
    return {
        "agents": agents,
        "boards": boards,
        "seconds": round(watched.seconds),
        "results a batch": f"{mean(one['results'] for one in watched.batches):.1f}" if watched.batches else "none",
        "s a batch": f"{mean(one['took_s'] for one in watched.batches):.1f}" if watched.batches else "none",
        "results/s": f"{watched.results / watched.seconds:.0f}",
        "busy, lowest": f"{lowest:.1%}",
        "busy, p10": f"{quantiles(watched.busy, n=10)[0] if boards > 1 else lowest:.1%}",
        **{f"cores: {name}": f"{used:.2f}" for name, used in cores.items()},
        "cores: sum without valkey": f"{total:.2f}",
        "CPU ms a result": f"{1000 * total * watched.seconds / watched.results:.2f}" if watched.results else "none",
        "goal": f"each busy >= {GOAL_BUSY:.0%}, sum <= {GOAL_CORES:g} core",
        "met": lowest >= GOAL_BUSY and total <= GOAL_CORES,
    }


def memory_row(boards: int, one_agent_bytes: int) -> Row:
    """What one busy agent with so many boards takes."""
    return {
        "boards on one agent": boards,
        "MiB of the agent": f"{one_agent_bytes / 2**20:.0f}",
        "MiB a board": f"{one_agent_bytes / 2**20 / boards:.2f}",
    }


@contextmanager
def fleet() -> Iterator[Fleet]:
    """A new farm without boards; gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="benchfarm-bench-") as folder,
        FarmProcess(Path(folder) / "farm", local_board=False, env={"BENCHFARM_GOLDEN_EVERY_S": "0"}) as farm,
    ):
        one = Fleet(farm, Path(folder))
        try:
            yield one
        finally:
            one.close()


def measure(layouts: Sequence[int], boards: int, seconds: float) -> tuple[list[Row], int | None]:
    """A row for each number of agents; the memory of an agent that has all the boards."""
    rows, alone_bytes = [], None
    for agents in layouts:
        with fleet() as one, one.agents(agents, boards) as pids:
            one.want(round(1.3 * boards * (SETTLE_S + seconds + HAND_IN_S) * BATCH_RESULTS / BATCH_S))
            watched = one.watch(pids, boards, seconds)
        rows.append(row(agents, boards, watched))
        print(rows[-1], flush=True)
        alone_bytes = watched.agent_pss_bytes[0] if agents == 1 else alone_bytes
    return rows, alone_bytes


def memory(counts: Sequence[int]) -> list[Row]:
    """Rows of agents with fewer boards, each watched until it has worked for a while."""
    rows = []
    for boards in counts:
        with fleet() as one, one.agents(1, boards) as pids:
            one.want(round(1.3 * boards * 2 * SETTLE_S * BATCH_RESULTS / BATCH_S))
            time.sleep(SETTLE_S)
            rows.append(memory_row(boards, pss_bytes(pids[0])))
        print(rows[-1], flush=True)
    return rows


def numbers(words: str) -> list[int]:
    """Whole numbers between commas."""
    return [int(word) for word in words.split(",") if word]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the tables; the exit status says whether every layout met its goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=200)
    parser.add_argument("--agents", type=numbers, default=[1, 20])
    parser.add_argument("--memory", type=numbers, default=[10, 50])
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--no-report", action="store_true", help="print only, leave docs/performance.md alone")
    options = parser.parse_args(arguments)
    sizes = memory(options.memory)
    rows, alone_bytes = measure(options.agents, options.boards, options.seconds)
    sizes += [memory_row(options.boards, alone_bytes)] if alone_bytes is not None else []
    if not options.no_report:
        write_section("Fleets of simulated boards", command_run(), rows)
        write_section("Memory of an agent by its boards", command_run(), sizes)
    return 0 if all(line["met"] for line in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
