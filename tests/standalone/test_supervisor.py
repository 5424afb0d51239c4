"""The supervisor with real small processes: order, restarts, the end of patience, and what remains (nothing)."""

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from benchfarm_standalone.children import Service
from benchfarm_standalone.errors import ServiceFailed
from benchfarm_standalone.probes import file_exists
from benchfarm_standalone.processes import is_alive
from benchfarm_standalone.supervisor import ChildState, RestartRule, Supervisor

Eventually = Callable[[Callable[[], object], float], None]
Program = subprocess.Popen[str]
QUICK = RestartRule(pause_s=0.01, longest_pause_s=0.05)


def sleeper(name: str) -> Service:
    return Service(name, ("sleep", "1000"))


def shell(name: str, script: str, **more: Any) -> Service:
    return Service(name, ("sh", "-c", script), **more)


def supervised(log_dir: Path, work: Callable[[Supervisor], Coroutine[Any, Any, None]], **more: Any) -> Supervisor:
    """Run the work with a supervisor, which is stopped in any case."""
    made: list[Supervisor] = []

    async def run() -> None:
        supervisor = Supervisor(log_dir, **{"rule": QUICK, **more})
        made.append(supervisor)
        try:
            await asyncio.wait_for(work(supervisor), 30)
        finally:
            await supervisor.stop()

    asyncio.run(run())
    return made[0]


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - the condition is about other processes
        await asyncio.sleep(0.01)


def pid_of(supervisor: Supervisor, name: str) -> int:
    pid = supervisor.children[name].pid
    assert pid is not None
    return pid


async def death_and_return(supervisor: Supervisor, name: str) -> None:
    child = supervisor.children[name]
    restarts = child.restarts
    os.kill(pid_of(supervisor, name), signal.SIGKILL)
    await until(lambda: child.restarts > restarts and child.state is ChildState.READY)


def test_stops_in_reverse_order_of_the_starts(tmp_path: Path) -> None:
    def service(name: str) -> Service:
        ready = tmp_path / f"{name}.ready"
        script = f"trap 'echo {name} >> order; exit 0' TERM; touch {ready}; while :; do sleep 0.02; done"
        return shell(name, f"cd {tmp_path}; {script}", ready=file_exists(ready))

    async def work(supervisor: Supervisor) -> None:
        for name in ("first", "second", "third"):
            await supervisor.start(service(name))

    supervised(tmp_path, work)
    assert (tmp_path / "order").read_text().split() == ["third", "second", "first"]


def test_what_was_started_together_is_stopped_together(tmp_path: Path) -> None:
    """Each ends only after the other was asked to."""

    def service(name: str, other: str) -> Service:
        ready = tmp_path / f"{name}.ready"
        waits = f"touch {name}.asked; until [ -e {other}.asked ]; do sleep 0.02; done; touch {name}.ended; exit 0"
        script = f"trap '{waits}' TERM; touch {ready}; while :; do sleep 0.02; done"
        return shell(name, f"cd {tmp_path}; {script}", ready=file_exists(ready))

    async def work(supervisor: Supervisor) -> None:
        await supervisor.start(service("one", "two"), service("two", "one"))

    supervised(tmp_path, work)
    assert (tmp_path / "one.ended").exists()
    assert (tmp_path / "two.ended").exists()


def test_a_service_is_started_only_when_the_one_before_it_is_ready(tmp_path: Path) -> None:
    late = shell("late", f"sleep 0.2; touch {tmp_path}/late; sleep 1000", ready=file_exists(tmp_path / "late"))
    early = shell(
        "after",
        f"cd {tmp_path}; ls {tmp_path}/late > new; mv new seen; sleep 1000",
        ready=file_exists(tmp_path / "seen"),
    )

    async def work(supervisor: Supervisor) -> None:
        await supervisor.start(late)
        await supervisor.start(early)

    supervised(tmp_path, work)
    assert (tmp_path / "seen").read_text().strip() == str(tmp_path / "late")


def test_a_dead_service_comes_back_alone(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        await supervisor.start(sleeper("database"), sleeper("user"))
        before = {name: pid_of(supervisor, name) for name in ("database", "user")}
        await death_and_return(supervisor, "database")
        assert pid_of(supervisor, "database") != before["database"]
        assert pid_of(supervisor, "user") == before["user"]

    supervised(tmp_path, work)


def test_five_deaths_in_the_window_end_the_patience_and_name_the_service(tmp_path: Path) -> None:
    pids: list[int] = []

    async def work(supervisor: Supervisor) -> None:
        await supervisor.start(sleeper("innocent"))
        pids.append(pid_of(supervisor, "innocent"))
        await supervisor.start(shell("crasher", "echo out of luck; sleep 0.01; exit 3"))
        with pytest.raises(ServiceFailed, match=r"crasher died 5 times in 60 s.*out of luck"):
            await supervisor.wait()

    supervisor = supervised(tmp_path, work)
    assert supervisor.children["crasher"].restarts == 4
    assert not is_alive(pids[0])


def test_on_a_full_disk_nothing_gives_up(tmp_path: Path) -> None:
    free_bytes = [0]

    async def work(supervisor: Supervisor) -> None:
        await supervisor.start(shell("crasher", "sleep 0.01; exit 3"))
        await until(lambda: supervisor.children["crasher"].restarts >= 7)
        starts = supervisor.children["crasher"].restarts
        free_bytes[0] = 2**40
        with pytest.raises(ServiceFailed, match=r"crasher died 5 times.* disk at .*, full \d s ago, has room again"):
            await supervisor.wait()
        assert supervisor.children["crasher"].restarts >= starts + 4, "what died for want of room does not count"

    supervised(tmp_path, work, room=lambda _: free_bytes[0])


def test_where_room_is_made_again_deaths_on_a_full_disk_are_forgotten(tmp_path: Path) -> None:
    free_bytes = [0]

    async def work(supervisor: Supervisor) -> None:
        await supervisor.start(sleeper("unlucky"))
        for _ in range(6):
            await death_and_return(supervisor, "unlucky")
        free_bytes[0] = 2**40
        for _ in range(4):
            await death_and_return(supervisor, "unlucky")
        assert supervisor.children["unlucky"].state is ChildState.READY

    supervised(tmp_path, work, room=lambda _: free_bytes[0])


def test_who_dies_with_and_without_room_is_given_up(tmp_path: Path) -> None:
    free_bytes = cycle([0, 2**40])

    async def work(supervisor: Supervisor) -> None:
        await supervisor.start(shell("crasher", "sleep 0.01; exit 3"))
        with pytest.raises(ServiceFailed, match="crasher died 5 times"):
            await supervisor.wait()

    supervised(tmp_path, work, room=lambda _: next(free_bytes))


def test_a_line_of_our_logs_is_told_without_its_stack_trace(tmp_path: Path) -> None:
    trace = "Traceback (most recent call last):\n  File x\nResponseError: MISCONF the disk is full"
    (tmp_path / "worker.log").write_text(json.dumps({"message": "cannot go on", "exception": trace}) + "\n")
    told = str(ServiceFailed("worker", "died", tmp_path / "worker.log"))
    assert told.endswith("(last line: cannot go on: ResponseError: MISCONF the disk is full)")


@pytest.mark.parametrize(("before", "told"), [('{"message": "no room"}\n', " (last line: no room)"), ("", "")])
def test_a_line_that_a_full_disk_cut_off_is_not_told(before: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text(before + '{"at": "2026-01-01T00:00:00Z", "level": "in')
    assert (
        str(ServiceFailed("worker", "died", tmp_path / "worker.log")) == f"worker died; see {tmp_path}/worker.log{told}"
    )


def test_four_deaths_are_forgiven(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        await supervisor.start(sleeper("unlucky"))
        for _ in range(4):
            await death_and_return(supervisor, "unlucky")
        assert supervisor.children["unlucky"].state is ChildState.READY

    supervised(tmp_path, work)


def refusing(name: str, refused: list[int]) -> Service:
    """A service whose preparation fails as often as the list has entries, from its second start on."""
    started: list[str] = []

    def prepare() -> None:
        if started and refused:
            raise OSError(refused.pop(), "no room on this machine")
        started.append(name)

    return Service(name, ("sleep", "1000"), prepare=prepare)


def test_a_machine_that_refuses_a_start_is_asked_again(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        await supervisor.start(refusing("patient", [errno.ENOSPC, errno.ENOENT]))
        await death_and_return(supervisor, "patient")
        assert supervisor.children["patient"].restarts == 3

    supervised(tmp_path, work)


def test_a_machine_that_refuses_every_start_ends_the_patience(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        await supervisor.start(refusing("hopeless", [errno.ENOSPC] * 10))
        os.kill(pid_of(supervisor, "hopeless"), signal.SIGKILL)
        with pytest.raises(ServiceFailed, match="hopeless died 5 times in 60 s"):
            await supervisor.wait()

    supervised(tmp_path, work)


def test_a_first_start_that_the_machine_refuses_is_an_error_at_once(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        with pytest.raises(ServiceFailed, match="homeless could not be started"):
            await supervisor.start(Service("homeless", ("true",), prepare=(tmp_path / "gone" / "folder").mkdir))

    supervised(tmp_path, work)


def test_old_deaths_do_not_count() -> None:
    rule = RestartRule()
    assert rule.recent([0.0, 39.9, 41.0, 99.0], now_s=100.0) == [41.0, 99.0]


def test_pauses_grow_and_are_bounded() -> None:
    rule = RestartRule(pause_s=0.1, factor=3, longest_pause_s=2)
    assert [rule.pause_after_s(deaths) for deaths in (1, 2, 3, 4)] == pytest.approx([0.1, 0.3, 0.9, 2])


@pytest.mark.parametrize(
    ("service", "said"),
    [
        (shell("dies", "echo no such luck >&2; exit 7", ready=lambda: False), "dies ended with 7.*no such luck"),
        (shell("hangs", "sleep 1000", ready=lambda: False, ready_within_s=0.2), "hangs was not ready within 0.2 s"),
    ],
)
def test_a_first_start_that_fails_is_an_error_at_once(service: Service, said: str, tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        with pytest.raises(ServiceFailed, match=said):
            await supervisor.start(service)

    supervisor = supervised(tmp_path, work)
    process = supervisor.children[service.name].process
    assert process is not None
    assert not is_alive(process.pid)


def test_a_one_shot_must_end_with_0(tmp_path: Path) -> None:
    async def work(supervisor: Supervisor) -> None:
        await supervisor.run_to_end(shell("good", f"touch {tmp_path}/done"))
        with pytest.raises(ServiceFailed, match="bad ended with 5"):
            await supervisor.run_to_end(shell("bad", "exit 5"))
        with pytest.raises(ServiceFailed, match="endless did not end within"):
            await supervisor.run_to_end(shell("endless", "sleep 1000", ready_within_s=0.2))

    supervised(tmp_path, work)
    assert (tmp_path / "done").exists()


DEAF = "trap '' TERM; sleep 1000 & echo $! > grandchild.new; mv grandchild.new grandchild; wait; sleep 1000"


def test_what_ignores_the_stop_signal_is_killed_with_its_children(tmp_path: Path) -> None:
    script = f"cd {tmp_path}; {DEAF}"
    deaf = shell("deaf", script, ready=file_exists(tmp_path / "grandchild"), grace_s=0.2)

    async def work(supervisor: Supervisor) -> None:
        await supervisor.start(deaf)

    supervisor = supervised(tmp_path, work)
    process = supervisor.children["deaf"].process
    assert process is not None
    assert process.returncode == -signal.SIGKILL
    assert not is_alive(int((tmp_path / "grandchild").read_text()))


def test_hurry_ends_the_grace(tmp_path: Path) -> None:
    deaf = shell("deaf", f"cd {tmp_path}; {DEAF}", ready=file_exists(tmp_path / "grandchild"), grace_s=25)

    async def work(supervisor: Supervisor) -> None:
        await supervisor.start(deaf)
        stopping = asyncio.create_task(supervisor.stop())
        await asyncio.sleep(0)
        supervisor.hurry()
        began_s = time.monotonic()
        await stopping
        assert time.monotonic() - began_s < 5

    supervised(tmp_path, work)


def test_a_changed_state_is_told(tmp_path: Path) -> None:
    seen: list[ChildState] = []

    async def run() -> None:
        supervisor = Supervisor(tmp_path, rule=QUICK, on_change=lambda: seen.append(supervisor.children["one"].state))
        await supervisor.start(sleeper("one"))
        await death_and_return(supervisor, "one")
        await supervisor.stop()

    asyncio.run(run())
    assert seen == ["starting", "ready", "pausing", "starting", "ready", "stopped"]


PROGRAM = """
    import asyncio, sys
    from pathlib import Path
    from benchfarm_standalone.children import Service
    from benchfarm_standalone.processes import adopt_orphans
    from benchfarm_standalone.supervisor import RestartRule, Supervisor

    async def main():
        adopt_orphans()
        rule = RestartRule(pause_s=0.01)
        supervisor = Supervisor(Path(sys.argv[1]), owns_orphans=True, rule=rule)
        for identity in sys.argv[2].split(","):
            await supervisor.start(Service(identity, ("sleep", "1000"), identity=identity))
        script = "setsid sleep 1000 & echo $!; wait"
        log = supervisor.log_file("parent")
        said = lambda: log.exists() and log.read_bytes().endswith(b"\\n")
        await supervisor.start(Service("parent", ("sh", "-c", script), ready=said))
        pids = [child.pid for child in supervisor.children.values()]
        print(*pids, log.read_text().split()[0], flush=True)
        await supervisor.wait()

    asyncio.run(main())
"""


def identities() -> str:
    return "self,namespace,65534:65534" if os.geteuid() == 0 else "self"


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    argv = [sys.executable, str(script), str(tmp_path), identities()]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def said(program: Program) -> str:
    assert program.stdout is not None
    return program.stdout.readline()


def test_a_killed_supervisor_leaves_none_of_its_children(program: Program, eventually: Eventually) -> None:
    pids = [int(word) for word in said(program).split()]
    *children, _grandchild = pids
    assert all(is_alive(pid) for pid in pids)
    program.kill()
    program.wait()
    eventually(lambda: not any(is_alive(pid) for pid in children), 10)
    os.kill(_grandchild, signal.SIGKILL)


def test_orphans_of_a_dead_service_are_found_in_whatever_session(program: Program, eventually: Eventually) -> None:
    *others, parent, grandchild = [int(word) for word in said(program).split()]
    os.kill(parent, signal.SIGKILL)
    eventually(lambda: not is_alive(grandchild), 10)
    assert all(is_alive(pid) for pid in others)
