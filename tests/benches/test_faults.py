"""The bench of planted faults: its faults happen, and its table says so."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import faults
from bench.faults import FAULTS, Seen, met_faults, row
from bench.faulty_runner import DEEDS, SCRATCH_KIB
from benchfarm_core.boards import BoardView
from benchfarm_core.jobs import ItemView

ROOT = Path(__file__).parents[2]
BY_NAME = {fault.name: fault for fault in FAULTS}


def item(failure: str | None = None, *, board_id: str | None = "b", ms: float = 1.0) -> ItemView:
    summary: dict[str, Any] = {
        "rule_version": 7, "median_ms": ms, "normalised_ms": ms, "canary": "sgemm", "low_ms": ms, "high_ms": ms,
        "interval_coverage": 0.9, "spread": 0.01, "grade": "A", "clock_proof": "unpinned", "launches": 3, "blocks": 9,
        "clean_share": 1.0,
    }  # fmt: skip
    kernel = {"kind": "kernel", "type": "fc", "config": {"cin": 8}, "catalogue_version": 1}
    return ItemView.model_validate({
        "item_no": 0, "workload_id": "w", "workload": kernel, "label": "fc", "platform_id": "p", "platform": "here",
        "repeat": 0, "state": "failed" if failure else "succeeded", "source": "new", "reason": "", "failure": failure,
        "measurement_id": 1, "origin": None, "board_id": board_id, "measured_at": None,
        "summary": None if failure else summary,
    })  # fmt: skip


def board(health: str = "good") -> BoardView:
    return BoardView.model_validate({
        "id": "b", "agent_id": "a", "kind": "local", "board_model": "host", "model_name": "Host", "generation": "g",
        "state": "idle", "health": health, "reason": "", "serial": None, "facts": {}, "engines": [],
        "clock_proof": "unpinned", "last_heard_at": None, "platforms": [],
    })  # fmt: skip


def seen(hit: ItemView, **changes: Any) -> Seen:
    whole = Seen([hit, item(), item()], 1, ["read address 0"], [item(), item()], board())
    return whole._replace(**changes)


def test_every_deed_has_a_line() -> None:
    assert list(BY_NAME) == list(DEEDS)


@pytest.mark.parametrize(
    ("changes", "met"),
    [
        ({}, True),
        ({"said": []}, False),  # nobody saw it happen
        ({"met_by": [item("timeout"), item(), item()]}, False),
        ({"met_by": [item("runner_died"), item(), item("runner_died")]}, False),
        ({"after": [item(), item("inconclusive")]}, False),
        ({"after": [item(), item(board_id="another")]}, False),
        ({"board": board("suspect")}, False),
    ],
)
def test_a_fault_is_met_by_its_outcome_and_a_board_that_measures(changes: dict[str, Any], met: bool) -> None:
    assert row(BY_NAME["segfault"], seen(item("runner_died"), **changes), 1.0)["met"] is met


@pytest.mark.parametrize(("ms", "moved", "met"), [(1.05, "5.0%", True), (1.2, "20.0%", False)])
def test_what_a_fault_shall_not_change_is_held_to_the_time_without_it(ms: float, moved: str, met: bool) -> None:
    found = row(BY_NAME["clock"], seen(item(ms=ms), said=["saw it"] * 3), 1.0)
    assert (found["its time moved by"], found["met"], found["seen by the runner"]) == (moved, met, "saw it (3 times)")


def told(code: str, home: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"HOME": str(home)}, capture_output=True, text=True, timeout=60
    )


def test_the_wall_clock_steps_and_the_others_do_not(tmp_path: Path) -> None:
    code = (
        "import json, time; from bench.faulty_runner import step_the_clock; real = time.clock_gettime;"
        "step_the_clock(lambda _: None); clocks = [time.time, time.time, lambda: time.time_ns() / 1e9,"
        "lambda: time.clock_gettime(time.CLOCK_REALTIME)];"
        "before = time.clock_gettime(time.CLOCK_BOOTTIME);"
        "print(json.dumps([[one() - real(time.CLOCK_REALTIME) for one in clocks],"
        "time.clock_gettime(time.CLOCK_BOOTTIME) - before]))"
    )
    steps_s, passed_s = json.loads(told(code, tmp_path).stdout)
    assert steps_s == pytest.approx([86_400, -86_400, 86_400, -86_400], abs=1)
    assert 0 <= passed_s < 60


def test_the_scratch_disk_is_full_for_the_process_alone(tmp_path: Path) -> None:
    code = (
        "import os, pathlib; from bench.faulty_runner import mount_small_scratch; mount_small_scratch(print);"
        "(pathlib.Path(os.environ['HOME']) / 'scratch').write_bytes(bytes(2**20))"
    )
    done = told(code, tmp_path)
    if any(call in done.stderr for call in ("unshare: ", "mount: ", "uid_map")):
        pytest.skip("nothing can be mounted here")
    assert done.stdout == f"its scratch disk has {SCRATCH_KIB} KiB\n"
    assert "No space left on device" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_memory_is_taken_up_to_the_limit(tmp_path: Path) -> None:
    code = (
        "import resource; from bench.faulty_runner import DEEDS;"
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)); DEEDS['out_of_memory'](print, None)"
    )
    done = told(code, tmp_path)
    assert done.stderr.rstrip().endswith("MemoryError")
    line = done.stdout.rstrip()
    taken_mib = int(line.split(" behind ")[1].split()[0])
    assert line.endswith("of the cage's 2048 MiB")
    assert 1024 < taken_mib < 2048


def test_a_wrong_output_is_met_by_a_real_runner_on_a_real_farm(
    tmp_path: Path, farm_home: Callable[[Path], Path]
) -> None:
    """Other tests keep this machine busy, so what is measured beside it and behind it is no matter here, and few
    launches, no second job and short rests are enough."""
    farm_home(tmp_path / "farm")  # where the bench keeps it
    env = {"BENCHFARM_RETRY_S": "0.5"}
    (found,) = met_faults(tmp_path, [BY_NAME["wrong_output"]], protocol="quick", tries=1, env=env)
    assert found["outcome seen"] in ("wrong_result", "wrong_result (2 attempts)")
    assert str(found["seen by the runner"]).startswith("added 1 to every output")
    assert not faults.plan_of(tmp_path).exists()
