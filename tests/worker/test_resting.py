"""What computes beside measurements: it lets them be, and not for ever."""

import time

import pytest

from benchfarm_worker.resting import rests
from tests.store.conftest import Farm, kernel_job

WAIT_S = 60.0


def test_work_rests_while_its_own_host_measures_and_not_for_ever(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    by = farm.account("ann")
    agent = farm.agent(by)
    farm.run("""UPDATE boards SET facts = facts || '{"boot_id": "own"}'""")
    farm.submit_planned(by, kernel_job(2))
    began_s = time.monotonic()

    def look(after_s: float, subject: str = "one", boot: str = "own") -> bool:
        monkeypatch.setattr(time, "monotonic", lambda: began_s + after_s)
        return rests(farm.database, "refresh", subject, boot, WAIT_S)

    assert not look(0)
    grant = agent.must_take()
    assert look(1)
    assert not look(2, boot="another")
    assert look(3), "whoever goes on begins anew the next time"
    assert look(50, subject="two")
    assert look(62)
    assert not look(64)
    assert look(100, subject="two"), "each waits for itself"
    agent.release(grant)
    assert not look(101, subject="two")
