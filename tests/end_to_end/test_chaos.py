"""kill -9 of every process at random points of a job: it ends, nothing is lost, nobody pays who did not run."""

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import chaos
from bench.losses import Fate, kills_missed, losses, unjust_payments
from benchfarm import Client
from benchfarm_core.jobs import ItemState
from benchfarm_standalone.farm_process import FarmProcess

SEED = 11
SHORT_RESTS = {"BENCHFARM_RETRY_S": "0.5"}
"""The suite's machine is busy, so some items are tried three times."""
KERNELS = 150
"""While all are killed by turns an agent lives for 17 s, which is enough for one lease of 25 of them at the most: the
fifth round meets some that wait, whatever the hour. What is left is measured in peace, which a loud hour makes long."""
FEW = {"launches_min": 1, "launches_max": 2}
"""Enough to be silent in; what a loud hour makes again takes seconds."""
SHORT_LEASES = {
    "BENCHFARM_RETRY_S": "0.1",
    "BENCHFARM_LEASE_S": "3",
    "BENCHFARM_RENEW_S": "1",
    "BENCHFARM_OFFER_S": "3",
    "BENCHFARM_SWEEP_S": "1",
    # what is measured behind the silence may be of any quality: no lease waits for quiet
    "BENCHFARM_AGENT_GATE_FOREIGN_THREADS": "1000",
}


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_every_process_killed_five_times_loses_nothing(tmp_path: Path, farm_home: Callable[[Path], Path]) -> None:
    print(f"seed {SEED}")
    with FarmProcess(farm_home(tmp_path), env=SHORT_RESTS) as farm:
        outcome = chaos.run(farm, seed=SEED, kernels=KERNELS)
    assert outcome.kills == Counter(dict.fromkeys(chaos.VICTIMS, 5)), outcome
    assert outcome.lost_nothing, (outcome.breaches, outcome.job.state, outcome)


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_an_agent_that_falls_silent_loses_its_lease_and_its_late_results(
    tmp_path: Path, farm_home: Callable[[Path], Path]
) -> None:
    """Stopped, not killed: it comes back with results of a lease that ended long ago."""
    home, kernels = farm_home(tmp_path), 8
    with FarmProcess(home, env=SHORT_LEASES) as farm, Client(farm.url, farm.admin_token) as client:
        job = client.submit(chaos.request(seed=3, kernels=kernels, visit_ms=60, launches=FEW))
        for _ in range(2):
            _wait_until_leased(client)
            agent = chaos.stop_agent(farm)
            try:
                _wait_until(lambda: next(iter(client.boards())).state != "leased", limit_s=20)
            finally:
                os.kill(agent, signal.SIGCONT)
        client.wait(job.id, timeout_s=200)
        fates = chaos.fates_of(farm, client, job)
        assert losses(fates, kernels=kernels, inconclusive_max=kernels) == []
        # the farm goes by the last report, which may be a visit older than what ran
        assert sum(fate.attempts for fate in fates) <= 2, "more paid than one per lost lease"


def fate(number: int, **changes: Any) -> Fate:
    """A kernel that was measured once and paid nothing."""
    good = Fate(
        item=(f"w{number}", "p"),
        measurement_id=number,
        state=ItemState.SUCCEEDED,
        failure=None,
        has_result=True,
        attempts=0,
        delivered=("ok",),
        answered_by="ok",
    )
    return replace(good, **changes)


GOOD = [fate(number) for number in range(1, 41)]
NO_RESULT: dict[str, Any] = {
    "state": ItemState.FAILED,
    "failure": "inconclusive",
    "has_result": False,
    "answered_by": None,
}
INCONCLUSIVE = fate(1, **NO_RESULT, delivered=("contended", "canary_drift", "contended"))
RAN = {("l_a", 1), ("l_b", 1), ("l_b", 2)}


@pytest.mark.parametrize(
    "fates",
    [
        GOOD,
        [fate(1, attempts=2, delivered=("board_lost", "contended", "ok")), fate(2, attempts=1), *GOOD[2:]],
        [INCONCLUSIVE, *GOOD[1:]],
        [replace(INCONCLUSIVE, delivered=("noisy", "contended", "canary_drift", "noisy", "contended")), *GOOD[1:]],
        [fate(1, delivered=("contended", "noisy", "canary_drift", "contended"), answered_by="noisy"), *GOOD[1:]],
        [fate(1, delivered=("contended", "canary_drift", "contended"), answered_by="canary_drift"), *GOOD[1:]],
        [
            fate(1, attempts=1, delivered=("noisy", "board_lost", *("contended",) * 3), answered_by="noisy"),
            *GOOD[1:],
        ],
    ],
)
def test_what_nobody_lost_is_no_loss(fates: list[Fate]) -> None:
    assert losses(fates, kernels=40, inconclusive_max=2) == []
    assert unjust_payments(fates, RAN) == []


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ([], "39 items of 40 kernels"),
        ([fate(2)], "40 items of 40 kernels"),
        ([fate(1, measurement_id=2)], "measurement 2 stands for 2 items"),
        ([fate(1, delivered=("ok", "ok"))], "measurement 1 succeeded .* with 2 results"),
        ([fate(1, delivered=())], "measurement 1 succeeded .* with 0 results"),
        ([fate(1, delivered=("contended",) * 3)], "measurement 1 succeeded .* with 0 results"),
        ([fate(1, delivered=("contended",) * 3, answered_by=None)], "measurement 1 succeeded .* with 0 results"),
        ([fate(1, delivered=("noisy", "contended"))], "measurement 1 succeeded .* with 0 results"),
        ([fate(1, delivered=("noisy", "contended"), answered_by="noisy")], "measurement 1 succeeded .* with 0 results"),
        ([fate(1, delivered=("noisy", "ok"), answered_by="noisy")], "measurement 1 is answered by a try .* noisy"),
        ([fate(1, has_result=False)], "measurement 1 succeeded"),
        ([fate(1, state=ItemState.PENDING, has_result=False, delivered=())], "measurement 1 pending"),
        ([fate(1, **NO_RESULT, delivered=("contended",))], "measurement 1 failed .inconclusive. with 0 results"),
        (
            [fate(1, **NO_RESULT, delivered=("noisy", "noisy", "noisy"))],
            "measurement 1 failed .inconclusive. with 0 results",
        ),
        ([replace(INCONCLUSIVE, delivered=("contended", "ok", "contended", "contended"))], "with 1 results"),
        ([fate(1, attempts=3)], "measurement 1 paid 3 attempts and ran at 2 deaths"),
        ([fate(3, item=("w1", "p"), measurement_id=99, attempts=1)], "measurement 99 paid 1 attempts and ran at 0"),
    ],
)
def test_every_loss_is_seen(first: list[Fate], said: str) -> None:
    fates = [*first, *GOOD[1:]]
    found = [*losses(fates, kernels=40, inconclusive_max=2), *unjust_payments(fates, RAN)]
    assert any(re.search(said, one) for one in found), found


def test_too_many_inconclusive_items_are_a_loss() -> None:
    noisy = [replace(INCONCLUSIVE, item=(f"w{number}", "p"), measurement_id=number) for number in (1, 2, 3)]
    assert losses([*noisy, *GOOD[3:]], kernels=40, inconclusive_max=2) == ["3 of 40 items are inconclusive"]


def test_a_kill_that_did_not_happen_is_seen() -> None:
    wanted = dict.fromkeys(chaos.VICTIMS, 5)
    assert kills_missed(Counter(wanted), wanted) == []
    missed = kills_missed({**wanted, "agent": 4, "api": 0}, wanted)
    assert missed == ["agent was killed 4 times, not 5", "api was killed 0 times, not 5"]


def _wait_until_leased(client: Client) -> None:
    _wait_until(lambda: next(iter(client.boards())).state == "leased", limit_s=60)


def _wait_until(look: Callable[[], bool], *, limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not look():
        assert time.monotonic() < end, "the state did not come"
        time.sleep(0.05)  # wait: polls a condition with a limit
