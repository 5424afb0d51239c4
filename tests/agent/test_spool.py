"""What is owed to the farm: on disk before it is sent, there until confirmed, and one bad result holds up no other."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent import spool as spool_module
from benchfarm_agent.farm_client import FarmClient
from benchfarm_agent.leases import AFTER_RESTART, HANDED_IN_LATE, settle_leftover
from benchfarm_agent.spool import LeaseSpool, Spool, chunks_of
from benchfarm_core.agent_protocol import LaunchEvidence, ReleaseRequest
from benchfarm_core.errors import Unavailable
from benchfarm_core.failures import FailureCode
from benchfarm_core.measurements import LaunchSamples, MeasurementResult
from tests.agent.scripted_farm import Call, Script, problem, scripted_farm

Run = Callable[[Any], Any]
TOKEN = "l_" + "7" * 32


def result(number: int, blocks: int = 10) -> MeasurementResult:
    launch = LaunchSamples(
        launch_no=0,
        iterations=1,
        blocks_ns=(5,) * blocks,
        delays_ns=(0,) * blocks,
        switches=(0,) * blocks,
        canaries={},
        open_ms=1,
        first_ms=1,
        warmup_runs=1,
        gate_relative_l2=0,
        timed_ms=1,
        canary_ms=1,
    )
    return MeasurementResult(measurement_id=number, outcome="ok", launches=(launch,))


def accepted(call: Call) -> tuple[int, Any]:
    numbers = [one["measurement_id"] for one in call.body.get("results", ())] if call.body else []
    return 200, {"accepted": numbers, "repeated": [], "orphaned": []}


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


@pytest.fixture
def lease(spool: Spool) -> LeaseSpool:
    lease = spool.lease(TOKEN)
    lease.open()
    return lease


def with_farm(running: Run, script: Script, work: Callable[[FarmClient], Any]) -> list[Call]:
    async def serve() -> list[Call]:
        async with scripted_farm(script) as farm:
            client = FarmClient(farm.url)
            try:
                await work(client)
            finally:
                await client.close()
            return farm.calls

    calls: list[Call] = running(serve())
    return calls


def deliver(running: Run, lease: LeaseSpool, script: Script) -> list[Call]:
    return with_farm(running, script, lambda client: lease.deliver(client, patience_s=0.3))


def settle(
    running: Run, left: LeaseSpool, script: Script, release: ReleaseRequest = AFTER_RESTART, patience_s: float = 0.3
) -> list[Call]:
    return with_farm(running, script, lambda client: settle_leftover(client, left, release, patience_s=patience_s))


def sent(calls: list[Call]) -> list[list[int]]:
    return [[one["measurement_id"] for one in call.body["results"]] for call in calls]


def test_confirmed_results_leave_nothing(spool: Spool, lease: LeaseSpool, running: Run) -> None:
    lease.add([result(1), result(2)], ())
    assert spool.leftovers()[0].known_ids() == {1, 2}
    assert sent(deliver(running, lease, accepted)) == [[1, 2]]
    lease.close()
    assert spool.leftovers() == []


def test_unconfirmed_results_survive_the_agent(spool: Spool, lease: LeaseSpool, running: Run) -> None:
    lease.add([result(1)], ())
    with pytest.raises(Unavailable):
        deliver(running, lease, lambda _: problem(503, "unavailable"))
    lease.close()
    (left,) = spool.leftovers()
    assert left.lease_token == TOKEN
    assert sent(deliver(running, left, accepted)) == [[1]]


def test_chunks_are_bounded_and_lose_nothing() -> None:
    results = [result(number, blocks=2000) for number in range(1, 91)]
    chunks = chunks_of(results, ())
    assert [one for chunk in chunks for one in chunk.results] == results
    assert all(sum(len(one.launches[0].blocks_ns) for one in chunk.results) <= 50_000 for chunk in chunks)
    assert [len(chunk.results) for chunk in chunks_of([result(n, 1) for n in range(1, 451)], ())] == [200, 200, 50]
    assert chunks_of([], ()) == []


def test_one_refused_result_holds_up_no_other(lease: LeaseSpool, running: Run) -> None:
    lease.add([result(number) for number in range(1, 8)], ())
    taken: dict[int, str | None] = {}

    def refuse_five(call: Call) -> tuple[int, Any]:
        results = call.body["results"]
        if any(one["measurement_id"] == 5 and one["outcome"] == "ok" for one in results):
            return problem(422, "result_invalid")
        taken.update({one["measurement_id"]: one["failure"] for one in results})
        return accepted(call)

    deliver(running, lease, refuse_five)
    assert taken == {**dict.fromkeys((1, 2, 3, 4, 6, 7)), 5: FailureCode.RUNNER_GARBAGE}


def evidence() -> LaunchEvidence:
    return LaunchEvidence(
        launch_no=0,
        began_unix_s=1,
        first_block_unix_s=None,
        ended_unix_s=2,
        engine_version="1",
        precision="fp32",
        threads=1,
        threads_observed=1,
        affinity=(1,),
        confinement=(),
        witness_cost_ns=1,
        import_ms=1,
        canary_open_ms=1,
        wall_ms=1,
        timed_ms=1,
        canary_ms=1,
        open_ms=1,
        peak_rss_bytes=1,
        load_1m_before=None,
        freq_khz_observed=(),
        governor=None,
        temperature_c_before=None,
        temperature_c_after=None,
        throttled=None,
    )


@pytest.mark.parametrize("refused", [1, 2, 3])
def test_a_refused_result_takes_no_evidence_with_it(lease: LeaseSpool, running: Run, refused: int) -> None:
    lease.add([result(1), result(2), result(3)], [evidence()])
    taken: list[int] = []

    def refuse_one(call: Call) -> tuple[int, Any]:
        if any(one["measurement_id"] == refused and one["outcome"] == "ok" for one in call.body["results"]):
            return problem(422, "result_invalid")
        taken.extend(one["launch_no"] for one in call.body["launches"])
        return accepted(call)

    deliver(running, lease, refuse_one)
    assert taken == [0]


def test_refused_evidence_holds_up_no_result(lease: LeaseSpool, running: Run) -> None:
    lease.add([result(1), result(2)], [evidence()])
    calls = deliver(running, lease, lambda call: problem(422, "invalid") if call.body["launches"] else accepted(call))
    assert sorted(sent([call for call in calls if not call.body["launches"]])) == [[1], [2]]
    assert lease.known_ids() == set()


def test_a_farm_that_refuses_everything_does_not_hold_the_agent(lease: LeaseSpool, running: Run) -> None:
    lease.add([result(1), result(2)], ())
    calls = deliver(running, lease, lambda _: problem(422, "result_invalid"))
    assert len(calls) < 10
    assert lease.known_ids() == set()


def test_a_full_disk_loses_nothing(lease: LeaseSpool, running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool_module, "write_whole", full)
    lease.add([result(1)], ())
    assert lease.known_ids() == {1}
    assert sent(deliver(running, lease, accepted)) == [[1]]
    assert lease.known_ids() == set()


def test_a_damaged_chunk_does_not_hold_up_the_rest(
    spool: Spool, lease: LeaseSpool, running: Run, tmp_path: Path
) -> None:
    lease.add([result(1)], ())
    (tmp_path / TOKEN / "000000.json").write_bytes(b'{"results": [')
    lease.add([result(2)], ())
    assert sent(deliver(running, spool.lease(TOKEN), accepted)) == [[2]]


def test_what_ran_when_the_agent_was_killed_is_blamed_alone(spool: Spool, lease: LeaseSpool, running: Run) -> None:
    lease.note_running(12345678901234)
    lease.note_running(7)
    (left,) = spool.leftovers()
    assert left.running() == 7
    calls = settle(running, left, accepted)
    (failure,) = calls[0].body["results"]
    assert (failure["measurement_id"], failure["failure"]) == (7, FailureCode.BOARD_LOST)
    assert calls[1].path.endswith("/release")
    assert spool.leftovers() == []


def test_nothing_is_blamed_when_nothing_ran(spool: Spool, lease: LeaseSpool, running: Run) -> None:
    lease.note_running(7)
    lease.note_running(None)
    calls = settle(running, spool.leftovers()[0], accepted)
    assert [call.path.rsplit("/", 1)[1] for call in calls] == ["release"]


@pytest.mark.parametrize(
    "note", [b"99999999999999999999", b"0", b"-3", b"7.0", b"true", "²".encode(), b"\xff", b"7" * 5000]
)
def test_a_note_that_names_no_measurement_blames_nobody(
    spool: Spool, lease: LeaseSpool, running: Run, tmp_path: Path, note: bytes
) -> None:
    (tmp_path / TOKEN / "running").write_bytes(note)
    calls = settle(running, spool.leftovers()[0], accepted)
    assert [call.path.rsplit("/", 1)[1] for call in calls] == ["release"]
    assert spool.leftovers() == []


def test_a_leftover_of_a_lost_lease_is_an_orphan_and_gone(spool: Spool, lease: LeaseSpool, running: Run) -> None:
    lease.add([result(3)], ())

    def too_late(call: Call) -> tuple[int, Any]:
        if call.path.endswith("/release"):
            return problem(409, "lease_lost")
        return 200, {"accepted": [], "repeated": [], "orphaned": [3]}

    settle(running, spool.leftovers()[0], too_late)
    assert spool.leftovers() == []


@pytest.mark.parametrize("release", [AFTER_RESTART, HANDED_IN_LATE])
def test_the_board_is_given_back_for_the_reason_that_holds(
    lease: LeaseSpool, running: Run, release: ReleaseRequest
) -> None:
    lease.add([result(3)], ())
    assert settle(running, lease, accepted, release)[-1].body == release.model_dump(mode="json")


def test_a_lease_that_the_farm_does_not_know_leaves_nothing(spool: Spool, lease: LeaseSpool, running: Run) -> None:
    """As after a restore of the farm's database from before the lease."""
    lease.note_running(4)
    lease.add([result(3)], ())
    unknown: Script = lambda _: problem(409, "lease_lost", "this agent never had such a lease")  # noqa: E731
    calls = settle(running, spool.leftovers()[0], unknown)
    assert [call.path.rsplit("/", 1)[1] for call in calls] == ["results", "release"]
    assert spool.leftovers() == []


def test_what_is_added_after_a_partial_delivery_overwrites_nothing(
    spool: Spool, lease: LeaseSpool, running: Run
) -> None:
    for number in (1, 2, 3):
        lease.add([result(number)], ())
    answers = [accepted]

    def away_after_one(call: Call) -> tuple[int, Any]:
        return answers.pop()(call) if answers else problem(503, "unavailable")

    with pytest.raises(Unavailable):
        deliver(running, lease, away_after_one)
    lease.add([result(4)], ())
    assert sent(deliver(running, spool.leftovers()[0], accepted)) == [[2], [3], [4]]


def test_blame_is_not_lost_when_the_farm_is_away(spool: Spool, lease: LeaseSpool, running: Run) -> None:
    lease.note_running(9)
    away: Script = lambda _: problem(503, "unavailable")  # noqa: E731
    for _ in range(2):
        with pytest.raises(Unavailable):
            settle(running, spool.leftovers()[0], away, patience_s=0.2)
    calls = settle(running, spool.leftovers()[0], accepted)
    assert sent(calls[:1]) == [[9]]
