"""Parts of an agent in a folder of their own, and a runner that misbehaves on request."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.journal import Journal
from benchfarm_agent.lab_gate import NO_GATE, LabGate
from benchfarm_agent.launches import LeaseLaunches
from benchfarm_agent.prepared import Canary, PreparedItem
from benchfarm_agent.processes import watch_children_without_threads
from benchfarm_agent.settings import Settings
from benchfarm_agent.state_dir import StateDir, open_state_dir
from benchfarm_core.agent_protocol import BatchItem, LeaseGrant
from benchfarm_core.platforms import EngineSpec, OperatingPoint, Platform, Precision
from benchfarm_core.protocols import PROTOCOLS, Protocol
from benchfarm_workloads.draws import draw_mixed

STAND_IN = Path(__file__).with_name("stand_in_runner.py")
LEASE_TOKEN = "l_" + "5a" * 16

_Answer = TypeVar("_Answer")


def stand_in(*faults: str) -> tuple[str, ...]:
    """The command of a runner with these faults."""
    return (sys.executable, "-I", str(STAND_IN), *faults)


def run(work: Coroutine[Any, Any, _Answer]) -> _Answer:
    """Runs one coroutine as the agent would."""
    watch_children_without_threads()
    return asyncio.run(asyncio.wait_for(work, timeout=60))


def grant_of(count: int, protocol: Protocol = PROTOCOLS["kernel"], engine: str = "onnxruntime") -> LeaseGrant:
    """A lease over `count` kernels, measurements 1 to `count`."""
    core = max(os.sched_getaffinity(0))
    return LeaseGrant(
        lease_token=LEASE_TOKEN,
        board_id="b_test",
        platform=Platform(
            board_model="host-test",
            operating_point=OperatingPoint(mode="free", cores=(core,), threads=1),
            engine=EngineSpec(name=engine, version="1"),
            precision=Precision.FP32,
        ),
        protocol=protocol,
        generation="g",
        items=[
            BatchItem(
                measurement_id=number,
                workload=workload,
                file_sha256=None,
                reference_sha256=None,
                max_relative_l2=1e-3,
                expected_s=0.3,
            )
            for number, workload in enumerate(draw_mixed(1, count), start=1)
        ],
        expires_in_s=60,
        renew_in_s=15,
    )


def prepared(grant: LeaseGrant, folder: Path) -> list[PreparedItem]:
    """Items whose files a stand-in runner never opens."""
    return [
        PreparedItem(
            measurement_id=item.measurement_id,
            artifact=folder / "artifact",
            artifact_sha256="0" * 64,
            inputs=(),
            reference=folder / "reference",
            max_relative_l2=1e-3,
        )
        for item in grant.items
    ]


def canary_in(folder: Path) -> Canary:
    return Canary(artifact=folder / "canary", inputs=())


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDir]:
    tmp_path.chmod(0o711)
    state, lock = open_state_dir(tmp_path / "agent")
    yield state
    os.close(lock)


@pytest.fixture
def local_board(state: StateDir) -> Callable[..., LocalBoard]:
    """Makes this host's board with a stand-in runner of the given faults."""

    def make(*faults: str, kind: type[LocalBoard] = LocalBoard, gate: LabGate = NO_GATE) -> LocalBoard:
        settings = Settings(
            url="http://127.0.0.1:1",
            state_dir=state.root,
            runner_argv=stand_in(*faults),
            gate_foreign_threads=1000,  # tests run beside others
        )
        return kind(state, Journal(state.journal), settings, gate=gate)

    return make


@pytest.fixture
def running() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine to its end."""
    return run


@pytest.fixture
def grant() -> Callable[..., LeaseGrant]:
    """Makes grants: `grant(count, protocol, engine)`."""
    return grant_of


@pytest.fixture
def launches(local_board: Callable[..., LocalBoard], state: StateDir) -> Callable[..., LeaseLaunches]:
    """Makes the launches of a lease over `count` measurements, with a runner of the given faults."""

    def make(
        *faults: str,
        count: int = 5,
        protocol: Protocol = PROTOCOLS["kernel"],
        on_running: Callable[[int | None], None] = lambda _: None,
        board_model: str = "host-test",
    ) -> LeaseLaunches:
        granted = grant_of(count, protocol)
        platform = granted.platform.model_copy(update={"board_model": board_model})
        granted = granted.model_copy(update={"platform": platform})
        items = prepared(granted, state.cache)
        return LeaseLaunches(local_board(*faults), granted, items, canary_in(state.cache), on_running)

    return make
