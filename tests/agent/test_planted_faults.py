"""Faults planted in a real engine: each ends in its typed outcome, takes nothing else with it, and leaves a board.

Leases run on this host's board with the real runner and the real files; the engine lives in an environment of its
own, where the fault lies.
"""

import json
import os
import re
import subprocess
import sysconfig
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent import engine_installing
from benchfarm_agent.clock import boottime_s
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.protocols import PROTOCOLS
from tests.agent.conftest import grant_of
from tests.agent.real_leases import RealLeases, outcome_of
from tests.agent.scripted_farm import given_back, handed_in

Run = Callable[[Any], Any]
ROOT = Path(__file__).parents[2]
PLANTED = Path(__file__).with_name("planted_fault.py")
PROTOCOL = PROTOCOLS["kernel"].model_copy(update={"launches_min": 1, "launches_max": 1, "visit_timeout_s": 1})
OUTCOMES = {
    "segfault": "runner_died",
    "hang": "timeout",
    "native_hang": "timeout",
    "out_of_memory": "out_of_memory",
    "bad_alloc": "out_of_memory",
    "wrong_output": "wrong_result",
    "garbage": "runner_garbage",
    "chatter": "ok",  # what an engine prints never reaches the agent
}


@pytest.fixture
def site(state: StateDir) -> Path:
    """An environment of the engine's own with the packages of this one; where its packages lie."""
    environment = state.engines / "onnxruntime"
    venv.create(environment, with_pip=False, symlinks=True)
    folder = next(environment.glob("lib/python*/site-packages"))
    (folder / "tests.pth").write_text(sysconfig.get_path("purelib"))
    engine_installing._link_ours(folder)
    return folder


class Bench(RealLeases):
    """Whose engine lives in an environment with a fault."""

    def __init__(self, state: StateDir, site: Path) -> None:
        super().__init__(state)
        self._site = site

    def plant(self, deed: str, artifact: str) -> None:
        (self._site / "planted_fault.py").write_text(PLANTED.read_text())
        (self._site / "planted_fault.json").write_text(json.dumps([deed, artifact]))
        (self._site / "planted.pth").write_text("import planted_fault\n")

    def mend(self) -> None:
        (self._site / "planted.pth").unlink(missing_ok=True)


@pytest.fixture
def bench(state: StateDir, site: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("benchfarm_agent.launches.GRACE_S", 0.5)
    return Bench(state, site)


def test_each_fault_has_its_outcome_and_leaves_a_board(bench: Bench, running: Run) -> None:
    grant = grant_of(3, PROTOCOL)

    async def work() -> tuple[dict[str, dict[int, str]], dict[int, str]]:
        async with bench.open():
            target, found = await bench.target(grant, 2), {}
            for deed in OUTCOMES:
                bench.plant(deed, target)
                found[deed] = {number: outcome_of(one) for number, one in (await bench.lease(grant)).items()}
            bench.mend()
            return found, {number: outcome_of(one) for number, one in (await bench.lease(grant)).items()}

    found, afterwards = running(work())
    assert found == {deed: {1: "ok", 2: outcome, 3: "ok"} for deed, outcome in OUTCOMES.items()}
    assert afterwards == {1: "ok", 2: "ok", 3: "ok"}


def wall_clock_s() -> float:
    return time.clock_gettime(time.CLOCK_REALTIME)


def test_a_clock_that_steps_changes_no_duration(bench: Bench, running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the runner, and in the agent: every look at the wall clock sees another day."""
    grant = grant_of(2, PROTOCOL)

    async def work() -> tuple[dict[int, Any], float]:
        async with bench.open():
            bench.plant("clock", "")
            days = iter(range(1, 10**6))
            monkeypatch.setattr("time.time", lambda: wall_clock_s() + (-1) ** next(days) * 86400.0)
            begun_s = boottime_s()
            found = await bench.lease(grant)
            return found, boottime_s() - begun_s

    found, took_s = running(work())
    assert {number: outcome_of(one) for number, one in found.items()} == {1: "ok", 2: "ok"}
    for result in found.values():
        for launch in result["launches"]:
            durations_ms = [launch["open_ms"], launch["first_ms"], launch["timed_ms"], launch["canary_ms"]]
            assert all(0 <= each <= took_s * 1000 for each in durations_ms)
            assert all(0 < each < took_s * 1e9 for each in launch["blocks_ns"])
    (results,), (released,) = handed_in(bench.calls), given_back(bench.calls)
    for evidence in results["launches"]:
        seen = (evidence["began_unix_s"], evidence["first_block_unix_s"])
        assert all(abs(unix_s - wall_clock_s()) > 80_000 for unix_s in seen)  # both did see a clock that steps
        assert 0 < evidence["wall_ms"] <= took_s * 1000
        assert evidence["ended_unix_s"] - evidence["began_unix_s"] == pytest.approx(evidence["wall_ms"] / 1000)
    assert 0 < released["lease_wall_ms"] <= took_s * 1000


def test_the_wall_clock_is_looked_at_for_people_and_for_files_alone() -> None:
    """It goes into a `unix_s`, or is compared with a file's age. Durations are of a clock that never steps."""
    others = {}
    for folder in ("packages/engines/benchfarm_engines", "services/device-agent/benchfarm_agent"):
        for path in (ROOT / folder).rglob("*.py"):
            for line in path.read_text().splitlines():
                if re.search(r"\btime\.time(_ns)?\b|datetime\.(now|utcnow)", line) and "unix_s" not in line:
                    others[path.name] = line.strip()
    assert others == {"file_cache.py": "newest_s = time.time() - older_than_s"}


@pytest.fixture
def small_scratch(state: StateDir) -> Iterator[Callable[[str], None]]:
    """Mounts a small disk where runners have their scratch folders."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a small disk")

    def mount(options: str) -> None:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=711,{options}", "none", str(state.scratch)])
        if done.returncode:
            pytest.skip("nothing can be mounted here")

    yield mount
    if os.path.ismount(state.scratch):
        unmount(state.scratch)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("options", ["size=64k", "size=1m,nr_inodes=2"])
def test_a_full_scratch_disk_is_a_full_disk(
    bench: Bench, running: Run, small_scratch: Callable[[str], None], state: StateDir, options: str
) -> None:
    grant = grant_of(2, PROTOCOL)

    async def work() -> tuple[dict[int, str], dict[int, str]]:
        async with bench.open():
            bench.plant("full_disk", await bench.target(grant, 2))
            small_scratch(options)
            found = {number: outcome_of(one) for number, one in (await bench.lease(grant)).items()}
            unmount(state.scratch)
            bench.mend()
            return found, {number: outcome_of(one) for number, one in (await bench.lease(grant)).items()}

    found, afterwards = running(work())
    assert found[2] == "disk_full"
    assert found[1] == ("ok" if options == "size=64k" else "disk_full")
    assert afterwards == {1: "ok", 2: "ok"}
