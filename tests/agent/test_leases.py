"""One lease from grant to release, on this host's board with a stand-in runner and a farm that follows a script."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent.boards.interface import Board, LaunchExit, LaunchOrder
from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.farm_client import FarmClient
from benchfarm_agent.lab_gate import LabGate
from benchfarm_agent.leases import Lab, LeaseWork, NextLease
from benchfarm_agent.main import open_lab
from benchfarm_agent.settings import Settings
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.agent_protocol import LeaseGrant
from benchfarm_core.errors import TransientDeviceError
from benchfarm_core.failures import FailureCode
from benchfarm_core.platforms import EngineSpec, OperatingPoint
from benchfarm_core.workloads import UploadedWorkload
from tests.agent.scripted_farm import (
    HANG_UP,
    Call,
    Script,
    given_back,
    handed_in,
    problem,
    reported,
    results_in,
    scripted_farm,
    taken,
)

Run = Callable[[Any], Any]
MakeBoard = Callable[..., LocalBoard]
CONVERTER = Path(__file__).with_name("misbehaving_converter.py")
Grant = Callable[..., LeaseGrant]


class Hot(LocalBoard):
    """Never cool enough."""

    async def gate(self, point: OperatingPoint) -> str | None:
        return "92 degrees"


class Stubborn(LocalBoard):
    """Does not take a clock."""

    async def pin(self, point: OperatingPoint) -> None:
        raise TransientDeviceError("the governor stayed powersave")


class Faulty(LocalBoard):
    """Meets what nobody has foreseen."""

    async def gate(self, point: OperatingPoint) -> str | None:
        raise ValueError("no such sensor")


class Vanishing(LocalBoard):
    """Is busy at first, and then cannot be asked."""

    looked = False

    async def gate(self, point: OperatingPoint) -> str | None:
        if self.looked:
            raise ValueError("no such sensor")
        self.looked = True
        return "busy"


class Unplugged(LocalBoard):
    """Out of reach from one launch on."""

    launches_left = 3

    async def launch(self, order: LaunchOrder, on_line: Callable[[bytes], None]) -> LaunchExit:
        if not self.launches_left:
            raise TransientDeviceError("the cable was pulled")
        self.launches_left -= 1
        return await super().launch(order, on_line)


class Baffled(LocalBoard):
    """Meets a runner that nobody has foreseen, in the second launch."""

    launches_begun = 0

    async def launch(self, order: LaunchOrder, on_line: Callable[[bytes], None]) -> LaunchExit:
        self.launches_begun += 1
        if self.launches_begun == 2:
            raise ValueError("\0 cannot be")
        return await super().launch(order, on_line)


class Scene:
    """A lab on a scripted farm; `work` runs one lease and keeps what the farm heard."""

    def __init__(self, state: StateDir, grant: LeaseGrant) -> None:
        self.state = state
        self.grant = grant
        self.calls: list[Call] = []
        self.looks: list[str | None] = []
        self.reason = ""
        self.ailment: str | None = None
        self.goes_on = False
        self.next: NextLease | None = None

    async def work(
        self, board: Board, script: Script = taken, meanwhile: Callable[[LeaseWork], Any] | None = None
    ) -> None:
        async with scripted_farm(script) as farm:
            settings = Settings(url=farm.url, state_dir=self.state.root, gate_wait_s=0.2, drain_s=0.5)
            client = FarmClient(farm.url)
            try:
                async with open_lab(settings, self.state, client) as lab:
                    await self._work(lab, board, meanwhile)
            finally:
                await client.close()
                self.calls = farm.calls

    async def _work(self, lab: Lab, board: Board, meanwhile: Callable[[LeaseWork], Any] | None) -> None:
        begun_s, goes_on = boottime_s(), lambda: self.goes_on
        work = LeaseWork(lab, board, self.grant, asked_s=begun_s, on_gate=self.looks.append, goes_on=goes_on)
        task = asyncio.create_task(work.run())
        if meanwhile is not None:
            await meanwhile(work)
        self.reason = await task
        self.ailment = work.ailment()
        self.next = work.next

    def paths(self) -> list[str]:
        return [call.path.rsplit("/", 1)[1] for call in self.calls]

    def outcomes(self) -> dict[int, str]:
        return {number: one["failure"] or "ok" for number, one in results_in(self.calls).items()}

    def release(self) -> Any:
        return given_back(self.calls)[0]

    def spooled(self) -> list[str]:
        return sorted(path.name for path in self.state.spool.glob("*/*.json"))


@pytest.fixture
def scene(state: StateDir, grant: Grant) -> Scene:
    return Scene(state, grant(3))


def visit_begun(scene: Scene) -> bool:
    return any(path.read_text().strip() for path in scene.state.spool.glob("*/running"))


async def until_a_visit_runs(scene: Scene) -> None:
    while not visit_begun(scene):  # noqa: ASYNC110  (the note is a file)
        await asyncio.sleep(0.01)


def test_one_request_brings_the_results_and_gives_the_board_back(
    scene: Scene, local_board: MakeBoard, running: Run
) -> None:
    running(scene.work(local_board()))
    assert scene.reason == "done"
    assert scene.outcomes() == dict.fromkeys((1, 2, 3), "ok")
    assert [path for path in scene.paths() if path != "reports"] == ["finish"] == scene.paths()[-1:]
    assert scene.release()["lease_wall_ms"] > scene.release()["conversion_ms"] > scene.release()["gate_ms"] == 0
    assert not list(scene.state.spool.iterdir())
    told = reported(scene.calls)
    assert told
    assert {number for one in told for number in one["measurement_ids"]} <= {1, 2, 3}
    assert {one["lease_token"] for one in told} == {scene.grant.lease_token}
    assert len(handed_in(scene.calls)[0]["launches"]) == 3
    assert scene.calls[-1].body["wants_next"] is False
    assert scene.next is None


def test_results_that_take_several_requests_come_after_the_word_that_nothing_runs(
    scene: Scene, local_board: MakeBoard, running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what ran last would pay for a lease that is lost in between."""
    monkeypatch.setattr("benchfarm_agent.spool.CHUNK_SAMPLES", 1)
    running(scene.work(local_board()))
    assert scene.outcomes() == dict.fromkeys((1, 2, 3), "ok")
    assert scene.paths()[-4:] == ["reports", "results", "results", "finish"]
    over = [one["over"] for one in reported(scene.calls)]
    assert over == [False] * (len(over) - 1) + [True]


def test_the_end_of_a_lease_brings_the_next(scene: Scene, local_board: MakeBoard, running: Run) -> None:
    scene.goes_on = True
    following = scene.grant.model_copy(update={"lease_token": "l_" + "6b" * 16})

    def with_next(call: Call) -> Any:
        status, body = taken(call)
        is_end = call.path.endswith("/finish")
        return (status, {**body, "next_lease": following.model_dump(mode="json")}) if is_end else (status, body)

    running(scene.work(local_board(), script=with_next))
    assert scene.calls[-1].body["wants_next"] is True
    assert scene.next is not None
    assert scene.next.grant == following
    assert scene.next.asked_s <= boottime_s()


def test_a_lease_that_waits_for_its_end_is_renewed_no_more(scene: Scene, local_board: MakeBoard, running: Run) -> None:
    """Else the farm could not tell an end that was held up for long from one whose answer is awaited."""
    scene.grant = scene.grant.model_copy(update={"renew_in_s": 0.5})

    async def slow_end(call: Call) -> Any:
        if call.path.endswith("/renew"):
            return 200, {"expires_in_s": 60, "renew_in_s": 0.5, "cancelled": []}
        if call.path.endswith("/finish"):
            await asyncio.sleep(1.5)
        return taken(call)

    running(scene.work(local_board(), script=slow_end))
    paths = scene.paths()
    assert len(paths[paths.index("finish") + 1 :]) <= 1, "no more than what was on its way"
    assert scene.reason == "done"


def test_a_lease_that_was_lost_before_its_end_brings_none(scene: Scene, local_board: MakeBoard, running: Run) -> None:
    scene.goes_on = True

    def lost(call: Call) -> Any:
        late = {"accepted": [], "repeated": [], "orphaned": [1, 2, 3], "lost": True}
        return (200, late) if call.path.endswith("/finish") else taken(call)

    running(scene.work(local_board(), script=lost))
    assert scene.reason == "lease_lost"
    assert scene.next is None
    assert not list(scene.state.spool.iterdir()), "what came too late is with the farm"


def test_a_board_that_ended_otherwise_than_well_takes_no_next_lease(
    scene: Scene, local_board: MakeBoard, running: Run
) -> None:
    scene.goes_on = True
    running(scene.work(local_board(kind=Hot)))
    assert scene.release()["reason"] == "gate"
    assert scene.calls[-1].body["wants_next"] is False


@pytest.mark.parametrize(
    ("fault", "kind", "ailment"),
    [
        (None, LocalBoard, ""),
        ("segfault@all", LocalBoard, ""),
        ("exit@ready", LocalBoard, "runner_died"),
        (None, Stubborn, "pin_not_verified"),
        (None, Hot, None),
    ],
    ids=["measures", "its workloads kill the runner", "no runner begins", "no clock", "too hot to begin"],
)
def test_a_lease_says_whether_its_board_could_measure(
    scene: Scene,
    local_board: MakeBoard,
    running: Run,
    fault: str | None,
    kind: type[LocalBoard],
    ailment: str | None,
) -> None:
    running(scene.work(local_board(*([fault] if fault else []), kind=kind)))
    assert scene.ailment == ailment


def test_a_report_renews_the_lease_and_hears_what_nobody_wants(
    scene: Scene, local_board: MakeBoard, running: Run
) -> None:
    scene.grant = scene.grant.model_copy(update={"renew_in_s": 1.0})

    def cancel_all(call: Call) -> Any:
        if not call.path.endswith("/reports"):
            return taken(call)
        cancelled = [{"lease_token": one["lease_token"], "cancelled": [1, 2, 3]} for one in call.body["leases"]]
        return 200, {"lost": [], "renewed": cancelled, "expires_in_s": 60, "renew_in_s": 15}

    running(scene.work(local_board("hang@all"), script=cancel_all))
    assert [one["renew"] for one in reported(scene.calls)] == [True]
    assert "renew" not in scene.paths()
    assert scene.release()["reason"] == "cancelled"


def test_a_lease_that_a_report_finds_lost_stops_the_board(scene: Scene, local_board: MakeBoard, running: Run) -> None:
    def gone(call: Call) -> Any:
        tokens = [one["lease_token"] for one in call.body["leases"]] if call.path.endswith("/reports") else []
        return (200, {"lost": tokens, "renewed": [], "expires_in_s": 60, "renew_in_s": 15}) if tokens else taken(call)

    running(scene.work(local_board("hang@all"), script=gone))
    assert scene.reason == "lease_lost"
    assert given_back(scene.calls) == []


@pytest.mark.parametrize("fault", ["starts-no-id", "starts-truth", "starts-other"])
def test_a_runner_that_starts_what_was_not_ordered_harms_itself_alone(
    scene: Scene, local_board: MakeBoard, running: Run, fault: str
) -> None:
    running(scene.work(local_board(f"{fault}@2")))
    assert scene.outcomes() == {1: "ok", 2: FailureCode.RUNNER_GARBAGE, 3: "ok"}
    assert scene.reason == scene.release()["reason"] == "done"
    told = reported(scene.calls)
    assert told
    assert {number for one in told for number in one["measurement_ids"]} <= {1, 2, 3}
    assert not list(scene.state.spool.iterdir())


def test_a_lab_says_how_long_a_lease_waits_at_the_gate(scene: Scene, local_board: MakeBoard, running: Run) -> None:
    running(scene.work(local_board(kind=Hot, gate=LabGate(wait_s=0))))
    assert (scene.reason, scene.looks) == ("gate", ["92 degrees"]), "once, and not for the 0.2 s of the agent's setting"


def test_a_gate_that_stays_shut_costs_nothing(scene: Scene, local_board: MakeBoard, running: Run) -> None:
    running(scene.work(local_board(kind=Hot)))
    assert scene.reason == "gate"
    assert scene.release()["detail"] == "92 degrees"
    assert scene.outcomes() == {}


def test_a_pin_that_fails_is_never_measured(scene: Scene, local_board: MakeBoard, running: Run) -> None:
    running(scene.work(local_board(kind=Stubborn)))
    assert scene.outcomes() == dict.fromkeys((1, 2, 3), FailureCode.PIN_NOT_VERIFIED)


@pytest.mark.parametrize(("launches", "outcome"), [(2, FailureCode.BOARD_LOST), (3, "ok")])
def test_a_board_that_is_lost_takes_only_what_still_needed_it(
    scene: Scene, local_board: MakeBoard, running: Run, launches: int, outcome: str
) -> None:
    board = local_board("then-exit@2", kind=Unplugged)
    assert isinstance(board, Unplugged)
    board.launches_left = launches
    running(scene.work(board))
    assert scene.outcomes() == dict.fromkeys((1, 2, 3), outcome)


def test_a_fault_of_the_agent_gives_the_board_back_with_what_was_found(
    scene: Scene, local_board: MakeBoard, running: Run
) -> None:
    newer = scene.grant.items[0].workload.model_copy(update={"catalogue_version": 9999})
    scene.grant.items[0] = scene.grant.items[0].model_copy(update={"workload": newer})
    running(scene.work(local_board(kind=Faulty)))
    assert scene.reason == scene.release()["reason"] == "error"
    assert "no such sensor" in scene.release()["detail"]
    assert scene.outcomes() == {1: FailureCode.INVALID_WORKLOAD}


def test_what_breaks_a_launch_costs_an_attempt_and_keeps_what_was_found(
    scene: Scene, local_board: MakeBoard, running: Run
) -> None:
    """Free of charge, the same batch would come back for ever."""
    running(scene.work(local_board("refuse@2", kind=Baffled)))
    died = FailureCode.RUNNER_DIED
    assert scene.outcomes() == {1: died, 2: FailureCode.UNSUPPORTED_OPERATOR, 3: died}
    assert scene.release()["reason"] == "done"


def test_a_rule_that_breaks_on_what_was_found_leaves_nothing_wanted(
    scene: Scene, local_board: MakeBoard, running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchfarm_agent.launches.wants_more_launches", lambda *_, **__: 1 // 0)
    running(scene.work(local_board("refuse@2")))
    assert scene.outcomes() == {1: "ok", 2: FailureCode.UNSUPPORTED_OPERATOR, 3: "ok"}, "or they came back for ever"


def test_what_the_farm_does_not_hand_out_costs_nothing_and_rests(
    scene: Scene, local_board: MakeBoard, running: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchfarm_agent.farm_client.PATIENCE_S", 0.2)
    workload = UploadedWorkload(sha256="a" * 64, format="onnx", dims={}, inputs=())
    files = {"workload": workload, "file_sha256": "a" * 64, "reference_sha256": "b" * 64}
    scene.grant.items[1] = scene.grant.items[1].model_copy(update=files)

    def without_files(call: Call) -> Any:
        return problem(503, "unavailable") if "/files/" in call.path else taken(call)

    running(scene.work(local_board(), script=without_files))
    assert scene.outcomes() == {1: "ok", 3: "ok"}
    assert scene.release()["reason"] == "error"


def test_a_spool_that_fails_does_not_keep_the_board(scene: Scene, local_board: MakeBoard, running: Run) -> None:
    (scene.state.spool / scene.grant.lease_token).write_text("no folder")
    running(scene.work(local_board()))
    assert scene.reason == scene.release()["reason"] == "error"


def test_a_lost_lease_stops_the_board_and_is_not_released(scene: Scene, local_board: MakeBoard, running: Run) -> None:
    async def lose(work: LeaseWork) -> None:
        await until_a_visit_runs(scene)
        work.lose()

    running(scene.work(local_board("hang@all"), meanwhile=lose))
    assert scene.reason == "lease_lost"
    assert given_back(scene.calls) == []
    assert scene.outcomes() == {}


def test_a_lease_that_is_not_renewed_in_time_stops_the_board(
    scene: Scene, local_board: MakeBoard, running: Run
) -> None:
    scene.grant = scene.grant.model_copy(update={"expires_in_s": 3.0, "renew_in_s": 0.5})

    def deaf_to_renewals(call: Call) -> Any:
        return HANG_UP if call.path.endswith("/renew") else taken(call)

    running(scene.work(local_board("hang@all"), script=deaf_to_renewals))
    assert scene.reason == "lease_lost"


def test_a_lost_lease_gives_up_the_file_that_its_converter_hangs_over(
    scene: Scene, local_board: MakeBoard, running: Run
) -> None:
    python = scene.state.engines / "ncnn" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I {CONVERTER} "$@"\n')
    python.chmod(0o755)
    engine = EngineSpec(name="ncnn", version="1", options={"deed": "hang"})
    scene.grant = scene.grant.model_copy(
        update={"platform": scene.grant.platform.model_copy(update={"engine": engine})}
    )
    lost_at: list[float] = []

    async def lose(work: LeaseWork) -> None:
        while not list(scene.state.cache.glob("conversions/*")):  # noqa: ASYNC110  (a folder sets no event)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        lost_at.append(boottime_s())
        work.lose()

    running(scene.work(local_board(), meanwhile=lose))
    assert boottime_s() - lost_at[0] < 30, "a converter may take two minutes, twice"
    assert scene.reason == "lease_lost"
    assert scene.outcomes() == {}


def test_draining_ends_a_long_launch_and_gives_the_board_back(
    scene: Scene, local_board: MakeBoard, running: Run
) -> None:
    async def drain(work: LeaseWork) -> None:
        await until_a_visit_runs(scene)
        work.drain()

    running(scene.work(local_board("hang@all"), meanwhile=drain))
    assert scene.reason == scene.release()["reason"] == "drain"
    assert scene.outcomes() == {}


def test_a_batch_that_nobody_wants_any_more_is_ended(scene: Scene, local_board: MakeBoard, running: Run) -> None:
    scene.grant = scene.grant.model_copy(update={"renew_in_s": 0.2})

    def cancel_all(call: Call) -> Any:
        if call.path.endswith("/renew"):
            return 200, {"expires_in_s": 60, "renew_in_s": 0.2, "cancelled": [1, 2, 3]}
        return taken(call)

    running(scene.work(local_board("hang@all"), script=cancel_all))
    assert scene.release()["reason"] == "cancelled"
    assert scene.outcomes() == {}


def test_results_wait_on_disk_while_the_farm_is_away(scene: Scene, local_board: MakeBoard, running: Run) -> None:
    scene.grant = scene.grant.model_copy(update={"expires_in_s": 4.0, "renew_in_s": 1.0})

    def away_at_the_end(call: Call) -> Any:
        return taken(call) if call.path.endswith("/reports") else problem(503, "unavailable")

    running(scene.work(local_board(), script=away_at_the_end))
    assert scene.spooled() == ["000000.json"]


def test_results_of_a_lease_that_the_farm_does_not_know_are_not_kept(
    scene: Scene, local_board: MakeBoard, running: Run
) -> None:
    def forgetful(call: Call) -> Any:
        return problem(409, "lease_lost") if call.path.endswith("/finish") else taken(call)

    running(scene.work(local_board(), script=forgetful))
    assert scene.reason == "lease_lost"
    assert not list(scene.state.spool.iterdir())


@pytest.mark.parametrize(("kind", "ends"), [(Vanishing, True), (Hot, False)])
def test_a_wait_is_over_with_its_lease_unless_it_goes_on_in_the_next(
    kind: type[LocalBoard], ends: bool, scene: Scene, local_board: MakeBoard, running: Run
) -> None:
    running(scene.work(local_board(kind=kind)))
    assert scene.reason == ("error" if ends else "gate")
    assert scene.looks[0] is not None
    assert (scene.looks[-1] is None) == ends


def test_a_restart_leaves_no_trace_of_the_last_launch(scene: Scene, local_board: MakeBoard, running: Run) -> None:
    board = local_board()
    (scene.state.scratch / "launch-old").mkdir()
    running(board.restore())
    assert not (scene.state.scratch / "launch-old").exists()
