"""Kills every process of a running farm at random points of a job and looks whether anything was lost.

    python -m bench.chaos --seeds 50

One round kills each of the five processes once, in an order and at times drawn from the seed.
"""

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import text

from bench.losses import Fate, Ran, kills_missed, losses, unjust_payments
from benchfarm import Client
from benchfarm_core.jobs import JobRequest, JobState, JobView
from benchfarm_core.platforms import PlatformFilter, Precision
from benchfarm_core.protocols import ProtocolRequest
from benchfarm_core.workloads import KernelRequest
from benchfarm_standalone.farm_process import FarmProcess
from benchfarm_store.database import Database
from benchfarm_workloads.draws import draw_mixed

VICTIMS = ("agent", "worker", "api", "valkey", "postgres")
ROUND_S = 17.0
"""Five deaths of one process within 60 s stop a farm on purpose; a round is longer than a quarter of that."""
JOB_LIMIT_S = 900.0
LAUNCHES = {"launches_min": 4, "launches_max": 5}
"""All kills fall into it, and a loud hour, which makes all launches of each of three tries, prolongs it less."""
STOPS_WITHIN_S = 5.0
KILLS_EACH = 5
INCONCLUSIVE_SHARE_MAX = 0.05
"""A machine that is busy otherwise contends now and then; three times in a row for the same kernel is rare."""


@dataclass
class Deaths:
    """Who was killed, and what ran when it was the agent."""

    kills: Counter[str] = field(default_factory=Counter)
    ran: set[Ran] = field(default_factory=set)


@dataclass
class Outcome:
    """What one job under fire came to."""

    seed: int
    job: JobView
    wall_s: float
    kills: Counter[str]
    attempts_paid: int
    inconclusive: int
    breaches: list[str]

    @property
    def lost_nothing(self) -> bool:
        """Every kill fell into the job, and nothing that `losses` or `unjust_payments` names happened."""
        return self.job.state in (JobState.SUCCEEDED, JobState.PARTIAL) and not self.breaches


def run(
    farm: FarmProcess, *, seed: int, kernels: int = 300, kills_each: int = KILLS_EACH, visit_ms: int = 60
) -> Outcome:
    """Submit a job that measures anew and kill until it ends or every process died `kills_each` times."""
    chance = random.Random(seed)
    with Client(farm.url, farm.admin_token) as client:
        began_s = time.monotonic()
        job = client.submit(request(seed=seed, kernels=kernels, visit_ms=visit_ms))
        ended = threading.Event()
        deaths = Deaths()
        killer = threading.Thread(target=_kill_until, args=(farm, chance, kills_each, deaths, ended))
        killer.start()
        try:
            job = client.wait(job.id, timeout_s=JOB_LIMIT_S)
        finally:
            ended.set()
            killer.join()
        fates = fates_of(farm, client, job)
    return Outcome(
        seed=seed,
        job=job,
        wall_s=time.monotonic() - began_s,
        kills=deaths.kills,
        attempts_paid=sum(fate.attempts for fate in fates),
        inconclusive=sum(fate.is_inconclusive for fate in fates),
        breaches=[
            *kills_missed(deaths.kills, dict.fromkeys(VICTIMS, kills_each)),
            *losses(fates, kernels=kernels, inconclusive_max=int(kernels * INCONCLUSIVE_SHARE_MAX)),
            *unjust_payments(fates, deaths.ran),
        ],
    )


def request(*, seed: int, kernels: int, visit_ms: int, launches: Mapping[str, int] = LAUNCHES) -> JobRequest:
    """A job that measures drawn kernels anew in ONNX Runtime with one thread."""
    return JobRequest(
        name=f"chaos {seed}",
        workloads=tuple(KernelRequest(type=one.type, config=one.config) for one in draw_mixed(seed, kernels)),
        platforms=PlatformFilter(engine=("onnxruntime",), threads=(1,), precision=(Precision.FP32,)),
        protocol=ProtocolRequest(name="kernel", parameters={"visit_ms": visit_ms, **launches}),
        max_age_s=0,
    )


def _kill_until(
    farm: FarmProcess, chance: random.Random, kills_each: int, deaths: Deaths, ended: threading.Event
) -> None:
    order = list(VICTIMS)
    chance.shuffle(order)
    slot_s = ROUND_S / len(order)
    start_s = time.monotonic()
    for number in range(kills_each * len(order)):
        due_s = start_s + number * slot_s + chance.uniform(0, slot_s / 2)
        if ended.wait(max(0.0, due_s - time.monotonic())):
            return
        victim = order[number % len(order)]
        if victim == "agent":
            stop_agent(farm)
            deaths.ran |= running(farm)
        dead = farm.kill(victim)
        deaths.kills[victim] += 1
        farm.wait_until_back(victim, dead)


def stop_agent(farm: FarmProcess) -> int:
    """Make the agent stand still, so that its note of what runs is what ran when it is killed next."""
    stat = Path(f"/proc/{farm.kill('agent', signal.SIGSTOP)}/stat")
    give_up_at_s = time.monotonic() + STOPS_WITHIN_S
    while (state := stat.read_text().rpartition(")")[2].split()[0]) != "T":
        if time.monotonic() > give_up_at_s:
            raise TimeoutError(f"the agent did not stop, it is {state}")
        time.sleep(0.001)
    return int(stat.parent.name)


def running(farm: FarmProcess) -> set[Ran]:
    """What the agent's spool names as running, by lease."""
    notes = {note.parent.name: note.read_text().strip() for note in farm.home.agent_dir.glob("spool/*/running")}
    return {(lease, int(text)) for lease, text in notes.items() if text}


def fates_of(farm: FarmProcess, client: Client, job: JobView) -> list[Fate]:
    """Each item of the job, as the API shows it and with what the database knows of its deliveries."""
    items = list(client.items(job.id))
    delivered, answers = _delivered(farm, [item.measurement_id for item in items if item.measurement_id is not None])
    return [
        Fate(
            item=(item.workload_id, item.platform_id),
            measurement_id=item.measurement_id,
            state=item.state,
            failure=item.failure,
            has_result=item.summary is not None,
            attempts=0 if item.measurement_id is None else client.measurement(item.measurement_id).attempts,
            delivered=tuple(delivered.get(item.measurement_id or 0, {}).values()),
            answered_by=delivered.get(item.measurement_id or 0, {}).get(answers.get(item.measurement_id or 0, 0)),
        )
        for item in items
    ]


def _delivered(farm: FarmProcess, measurement_ids: list[int]) -> tuple[dict[int, dict[int, str]], dict[int, int]]:
    """The outcome of every delivery, by measurement and lease, and the lease that each result names."""
    database = Database(farm.database_url)
    try:
        with database.transaction(read_only=True) as tx:
            rows = tx.execute(_DELIVERED, {"ids": measurement_ids}).all()
            answers = tx.execute(_ANSWERS, {"ids": measurement_ids}).all()
    finally:
        database.dispose()
    outcomes: dict[int, dict[int, str]] = {}
    for row in rows:
        outcomes.setdefault(row.measurement_id, {})[row.lease_id] = row.outcome
    return outcomes, {row.measurement_id: row.lease_id for row in answers}


_DELIVERED = text("""
    SELECT measurement_id, lease_id, outcome FROM lease_items
    WHERE measurement_id = ANY(CAST(:ids AS bigint[])) AND outcome IS NOT NULL ORDER BY finished_at
""")
_ANSWERS = text("""
    SELECT measurement_id, lease_id FROM results WHERE measurement_id = ANY(CAST(:ids AS bigint[]))
""")


def main() -> int:
    """Run as many jobs as asked for and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--kernels", type=int, default=300)
    arguments = parser.parse_args()
    lost = 0
    with tempfile.TemporaryDirectory(prefix="benchfarm-chaos-") as folder, FarmProcess(Path(folder)) as farm:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            outcome = run(farm, seed=seed, kernels=arguments.kernels)
            lost += not outcome.lost_nothing
            done = outcome.job.progress
            print(
                f"seed {seed}: {outcome.job.state}, {done.succeeded} of {done.total}, {outcome.wall_s:.0f} s", end="; "
            )
            print(f"inconclusive {outcome.inconclusive}, attempts paid {outcome.attempts_paid}", end="; ")
            print(f"kills {dict(outcome.kills)}", flush=True)
            for breach in outcome.breaches:
                print("  LOST:", breach, flush=True)
    print(f"{arguments.seeds - lost} of {arguments.seeds} seeds lost nothing")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
