"""The statements of a lease look its rows up: what it costs does not grow with all that there is."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from benchfarm_core.agent_protocol import FinishRequest, LeaseReport, ReleaseRequest, ReportsRequest
from benchfarm_core.leases import LeaseTimes
from benchfarm_store import dispatching, finishing, leases
from benchfarm_store.database import Transaction

PLATFORM = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
LARGE = ["job_items", "measurements"]
READ_WHOLE = text("""
    SELECT relname, seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = ANY(:names)
""")
TIMES = LeaseTimes()


@contextmanager
def looking_up(farm) -> Iterator[Transaction]:
    """A transaction that reads no large table from its begin to its end."""
    with farm.transaction() as tx:
        before = dict(tx.execute(READ_WHOLE, {"names": LARGE}).all())
        yield tx
        after = dict(tx.execute(READ_WHOLE, {"names": LARGE}).all())
    assert {name: rows - before.get(name, 0) for name, rows in after.items() if rows > before.get(name, 0)} == {}


@pytest.fixture
def planned(farm, ann, job_of):
    """Ten thousand wanted measurements."""
    for seed in range(5):
        farm.submit_planned(ann, job_of(100, seed=seed, platforms=[PLATFORM], repeats=20, max_age_s=0))
    for table in LARGE:
        farm.run(f"ANALYZE {table}")


def test_a_lease_reads_no_table_of_items(farm, agent, planned, ok_result):
    grant = agent.must_take()
    ids = tuple(item.measurement_id for item in grant.items)
    with looking_up(farm) as tx:
        told = LeaseReport(lease_token=grant.lease_token, measurement_ids=ids)
        leases.report(tx, agent.id, ReportsRequest(leases=(told,)), TIMES)
    release = ReleaseRequest(reason="done")
    request = FinishRequest(results=tuple(map(ok_result, ids[1:])), release=release, wants_next=True)
    with looking_up(farm) as tx:
        finishing.finish(tx, agent.id, grant.lease_token, request, TIMES)
    with looking_up(farm) as tx:
        assert dispatching.dispatch(tx, agent.boards[0], TIMES, taken_by=agent.id) is not None
