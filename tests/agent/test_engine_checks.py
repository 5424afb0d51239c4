"""An engine whose environment is damaged is offered no more, with the reason, until it is whole again."""

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchfarm_agent import engine_checks, engine_installing
from benchfarm_agent.boards.local import LocalBoard
from benchfarm_agent.engine_checks import EngineChecks, files_of
from benchfarm_agent.engine_environments import EngineEnvironments
from benchfarm_agent.engine_probe import probe_engine, unavailable
from benchfarm_agent.main import check_engines
from benchfarm_agent.offers import OfferDesk
from benchfarm_agent.processes import watch_children_without_threads
from benchfarm_agent.state_dir import StateDir
from benchfarm_core.boards import BoardReport, EngineReport
from benchfarm_core.platforms import Precision
from tests.agent.scripted_farm import true_soon
from tests.agent.test_offers import OneOffer, at_desk, one_offer

__all__ = ("at_desk", "one_offer")
ENGINE = "onnxruntime"
OTHER = unavailable("litert", "not installed")


def test_a_damaged_environment_is_withdrawn_and_comes_back(state: StateDir, running: Callable[[Any], Any]) -> None:
    watch_children_without_threads()
    whole = engine_installing.add(state.engines, ENGINE, packages_of=Path(sys.executable))
    environments = EngineEnvironments(state.engines)
    asked: list[str] = []

    def argv(name: str) -> Sequence[str]:
        asked.append(name)
        return environments.runner_argv(name)

    async def damage_and_mend() -> None:
        checks = EngineChecks(environments, argv, state.scratch)
        await checks.note()
        assert await checks.renewed((OTHER, whole)) == (OTHER, whole)
        assert asked == []
        (linked,) = state.engines.glob(f"{ENGINE}/lib/python*/site-packages/packages-of.pth")
        away = linked.rename(state.scratch / "away")
        other, damaged = await checks.renewed((OTHER, whole))
        assert (other, damaged.available) == (OTHER, False)
        assert "cannot be imported" in damaged.reason
        assert await checks.renewed((OTHER, damaged)) == (OTHER, damaged)
        assert asked == [ENGINE]
        away.rename(linked)
        assert await checks.renewed((OTHER, damaged)) == (OTHER, whole)
        assert asked == [ENGINE, ENGINE]

    running(damage_and_mend())


def test_an_engine_that_failed_once_is_asked_again_after_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ailed it were not its files: they are as they were."""
    python = tmp_path / "engines" / ENGINE / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    now_s = {"s": 1000.0}
    monkeypatch.setattr(engine_checks, "boottime_s", lambda: now_s["s"])
    answer = json.dumps({"available": True, "version": "1", "precisions": ["fp32"]})
    well = tmp_path / "well"
    asked: list[float] = []

    def argv(name: str) -> Sequence[str]:
        asked.append(now_s["s"])
        return ("/bin/sh", "-c", f"cat {well}", name)

    checks = EngineChecks(EngineEnvironments(tmp_path / "engines"), argv, tmp_path)

    async def at(s: float, before: EngineReport) -> EngineReport:
        now_s["s"] = s
        [report] = await checks.renewed((before,))
        return report

    async def fail_and_recover() -> None:
        whole = EngineReport(name=ENGINE, available=True, version="1", precisions=(Precision.FP32,))
        await checks.note()
        python.write_text("changed")
        silent = await at(1000, whole)
        assert not silent.available
        for moment_s in (1029, 1031, 1060, 1092, 1100, 1213):
            silent = await at(moment_s, silent)
        assert asked == [1000, 1031, 1092, 1213]
        well.write_text(answer)
        assert (await at(1500, silent)) == whole
        assert await at(9000, whole) == whole
        assert asked[4:] == [1500]

    watch_children_without_threads()
    asyncio.run(fail_and_recover())


def test_an_interpreter_that_is_gone_makes_the_engine_unavailable(tmp_path: Path) -> None:
    report = asyncio.run(probe_engine((str(tmp_path / "bin" / "python"),), ENGINE, tmp_path))
    assert not report.available
    assert report.reason == "its interpreter cannot be started: No such file or directory"


@pytest.mark.parametrize("name", ["lib/python3.11/site-packages/engine/lib/kernels.so", "bin/python"])
def test_files_that_go_or_shrink_are_seen(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text("whole")
    whole = files_of(tmp_path)
    (path.parent / "__pycache__").mkdir()
    assert files_of(tmp_path) == whole
    path.write_text("")
    cut = files_of(tmp_path)
    path.unlink()
    assert len({whole, cut, files_of(tmp_path), files_of(tmp_path / "absent")}) == 4


def test_what_is_linked_is_seen_too(tmp_path: Path) -> None:
    site = tmp_path / "own" / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    linked = tmp_path / "linked"
    (linked / "engine").mkdir(parents=True)
    (linked / "engine" / "core.so").touch()
    (site / "packages-of.pth").write_text(f"{linked}\nimport nothing\n")
    whole = files_of(tmp_path / "own")
    (linked / "engine" / "core.so").unlink()
    assert files_of(tmp_path / "own") != whole


class Ailing(LocalBoard):
    """Loses and regains its engines when it is told so."""

    is_ill = False
    fails = False
    checks = 0

    async def renewed(self, report: BoardReport) -> BoardReport:
        self.checks += 1
        if self.fails:
            raise OSError("the disk is away")
        told = await self.describe()
        if not self.is_ill:
            return told
        return told.model_copy(update={"engines": tuple(unavailable(one.name, "damaged") for one in told.engines)})


def test_the_farm_is_told_and_the_board_stays(
    at_desk: Callable[..., None], one_offer: OneOffer, local_board: Callable[..., LocalBoard]
) -> None:
    board = local_board(kind=Ailing)
    assert isinstance(board, Ailing)

    def told() -> list[Any]:
        return [call["boards"][0]["engines"][0]["reason"] for call in one_offer.bodies("boards")]

    async def meanwhile(desk: OfferDesk) -> None:
        await true_soon(lambda: bool(one_offer.bodies("release")))
        desk._lab.at_work.add("another")
        checking = asyncio.create_task(check_engines(desk._lab, desk._watch, every_s=0.01))
        await asyncio.sleep(0.1)
        assert board.checks == 0  # launches would wait for it
        board.fails = True
        desk._lab.at_work.clear()
        await true_soon(lambda: board.checks > 2)
        board.fails = False
        board.is_ill = True
        await true_soon(lambda: told()[-1] == "damaged")
        board.is_ill = False
        await true_soon(lambda: told()[-1] != "damaged")
        checking.cancel()

    at_desk(board, meanwhile)
    assert len(told()) == 3
    assert all(len(call["boards"]) == 1 for call in one_offer.bodies("boards"))
