"""What engines say of themselves is taken over whole, or not at all."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent.engine_probe import probe_engine, probe_engines
from benchfarm_core.boards import EngineReport
from benchfarm_engines.registry import engine_names

RUNNER = (sys.executable, "-I", "-m", "benchfarm_engines.runner")
SWITCH = {"kind": "switch", "default": False, "meaning": "m"}


def probed(folder: Path, **said: Any) -> EngineReport:
    """The report on a child that says this."""
    answer = json.dumps({"available": True, "version": "1", "precisions": ["fp32"], **said})
    return asyncio.run(probe_engine((sys.executable, "-c", f"print({answer!r})"), "some", folder))


def test_the_options_of_a_real_engine(tmp_path: Path) -> None:
    report = asyncio.run(probe_engine(RUNNER, "onnxruntime", tmp_path))
    assert report.options is not None
    option = report.options["graph_optimization"]
    assert (option.kind, option.default) == ("choice", "all")
    assert "none" in option.choices
    assert option.meaning
    assert option.precisions == ()
    assert [report.options[name].precisions for name in ("edges", "calibration_seed")] == [("int8",)] * 2


def test_an_engine_that_tells_no_options(tmp_path: Path) -> None:
    assert probed(tmp_path).options is None
    assert probed(tmp_path, options={}).options == {}


@pytest.mark.parametrize("said", [True, False, None, "yes"])
def test_only_what_says_so_times_by_difference(tmp_path: Path, said: Any) -> None:
    assert probed(tmp_path, by_difference=said).by_difference is (said is True)
    assert probed(tmp_path).by_difference is False  # runners of older versions, and the native one


def test_a_long_meaning_is_cut(tmp_path: Path) -> None:
    found = probed(tmp_path, options={"fast": {**SWITCH, "meaning": "a\0" * 400}}).options
    assert found is not None
    assert found["fast"].meaning == "a" * 300


@pytest.mark.parametrize(
    "options",
    [
        [1],
        {"fast": 1},
        {"Fast One": SWITCH},
        {"fast": {**SWITCH, "default": "on"}},
        {f"o{number}": SWITCH for number in range(41)},
    ],
    ids=["list", "no schema", "no name", "contradiction", "too many"],
)
def test_options_that_make_no_sense_make_the_engine_unavailable(tmp_path: Path, options: Any) -> None:
    report = probed(tmp_path, options=options)
    assert (report.available, report.options) == (False, None)
    assert report.reason.startswith("its probe ended with code 0")


def test_no_child_is_left_behind_by_whoever_interrupts_a_look(tmp_path: Path) -> None:
    others = _children()
    sleeper = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]

    async def interrupted() -> set[asyncio.Task[Any]]:
        looking = asyncio.create_task(probe_engines(lambda _: sleeper, tmp_path))
        async with asyncio.timeout(30):
            while len(_children() - others) < len(engine_names()):  # noqa: ASYNC110  (processes tell nobody that they began)
                await asyncio.sleep(0.01)
        looking.cancel()
        await asyncio.wait([looking])
        assert looking.cancelled()
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(interrupted()) == set()
    assert _children() <= others


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
