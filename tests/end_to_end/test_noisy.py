"""Neighbours whom no witness sees, on a farm with boards: the third answer counts, marked, and nobody reuses it."""

import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import text

from benchfarm import Client
from benchfarm_core.jobs import ItemSource, ItemView, JobRequest
from benchfarm_core.summaries import Grade
from benchfarm_core.workloads import KernelRequest
from benchfarm_standalone.farm_process import FarmProcess
from benchfarm_store.database import Database
from benchfarm_workloads.draws import draw_mixed
from tests.end_to_end.simulated_lab import BOARDS, UNTIL_S, platform_of, simulated_lab

WAIT_S = 180.0


def measured(client: Client, platform: str, seed: int, *, count: int, max_age_s: int = 0) -> list[ItemView]:
    kernels = tuple(KernelRequest(type=one.type, config=one.config) for one in draw_mixed(seed, count))
    job = client.submit(JobRequest(workloads=kernels, platforms=(platform,), max_age_s=max_age_s))
    return list(client.items(client.wait(job.id, timeout_s=WAIT_S).id))


def known_boards(database: Database) -> int:
    """Boards of which the farm knows what their canaries take."""
    with database.transaction(read_only=True) as tx:
        return int(tx.execute(text("SELECT count(*) FROM canary_goldens")).scalar_one())


def make_quiet_leases_faster(database: Database) -> None:
    """As though the canary had run undisturbed in all earlier leases, and beside neighbours ever since."""
    with database.transaction() as tx:
        tx.execute(text("UPDATE canary_goldens SET mobilenet_recent_ns = array_fill(mobilenet_ns / 2, ARRAY[32])"))


def test_the_third_answer_beside_neighbours_is_marked_and_measured_again_by_who_asks_next(
    tmp_path: Path, farm_home: Callable[[Path], Path]
) -> None:
    home, quick = farm_home(tmp_path / "farm"), {"BENCHFARM_SWEEP_S": "0.5"}
    with FarmProcess(home, local_board=False, env=quick) as farm, simulated_lab(farm, tmp_path) as client:
        platform, database = platform_of(client), Database(farm.database_url, pool_size=1)
        until_s = time.monotonic() + UNTIL_S
        while known_boards(database) < BOARDS:
            assert time.monotonic() < until_s, "a board took no lease"
            assert not any(one.summary.noisy for one in measured(client, platform, 1, count=40) if one.summary)
        make_quiet_leases_faster(database)
        items = measured(client, platform, 2, count=2)
        assert [(one.summary.grade, one.summary.noisy) for one in items if one.summary] == [(Grade.D, True)] * 2
        ids = [one.measurement_id for one in items]
        stored = {one.measurement_id: one.summary for one in client.stored_results(platform=platform)}
        assert [stored[id_ or 0] for id_ in ids] == [one.summary for one in items]
        assert all(client.measurement(id_ or 0).summary == stored[id_ or 0] for id_ in ids)
        again = measured(client, platform, 2, count=2, max_age_s=3600)
        database.dispose()
    assert {one.source for one in again} == {ItemSource.NEW}
    assert {one.measurement_id for one in again}.isdisjoint(ids)
