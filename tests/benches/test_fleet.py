"""What the fleet's bench makes of what it sees."""

import os
import subprocess
import sys
import time
from itertools import islice

import pytest

from bench.fleet import KERNEL_FLOPS, Watched, busy_shares, cpu_s, kernels, numbers, pss_bytes, row, tree_of
from benchfarm_core.planning import expected_s
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_workloads.kernels import kernel_type


def test_a_board_is_busy_while_its_launches_run_within_the_window() -> None:
    launches = [(1, 0.0, 15.0), (1, 16.0, 30.0), (2, 12.0, 13.0)]
    assert busy_shares(launches, 3, (10.0, 20.0)) == pytest.approx([0.0, 0.1, 0.9])


def test_a_tree_has_all_that_descend_from_a_process() -> None:
    assert tree_of(2, {2: 1, 3: 2, 4: 3, 5: 1}) == {2, 3, 4}


def test_the_time_of_children_counts_while_they_live_and_when_they_have_ended() -> None:
    before_s = cpu_s(os.getpid())
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        alive_s = cpu_s(os.getpid())
        child.communicate(b"\n")
    assert alive_s - before_s >= 0.25
    assert cpu_s(os.getpid()) >= alive_s
    assert pss_bytes(os.getpid()) > 2**20
    assert time.process_time() < cpu_s(os.getpid()) + 1


def test_twenty_of_its_kernels_are_a_batch_of_ten_seconds() -> None:
    wanted = list(islice(kernels(), 2000))
    assert len({str(one.config) for one in wanted}) == 2000
    costs = [kernel_type(one.type).cost(one.config) for one in wanted[::100]]
    assert all(abs(cost.flops / KERNEL_FLOPS - 1) < 0.1 for cost in costs)
    assert all(9.0 < 20 * expected_s(PROTOCOLS["kernel"], cost, None) < 11.0 for cost in costs)


@pytest.mark.parametrize(
    ("busy", "cores", "met"), [([0.95, 0.91], 0.9, True), ([0.95, 0.89], 0.9, False), ([0.95, 0.91], 1.1, False)]
)
def test_the_goal_holds_for_every_board_and_for_all_processes_together(
    busy: list[float], cores: float, met: bool
) -> None:
    used = {"agents": 5.0 * cores, "api": 3.0 * cores, "worker": cores, "postgres": cores, "valkey": 100.0}
    seen = Watched(10.0, used, busy, 40, [{"results": 20.0, "took_s": 10.0}], [1])
    assert row(1, 2, seen)["met"] == met


def test_lists_of_numbers_are_read() -> None:
    assert numbers("1,20") == [1, 20]
    assert numbers("") == []
