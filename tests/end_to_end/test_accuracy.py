"""A predictor beside fresh measurements, from nothing, on a farm of a person's own: by the demo, and by the verb."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from benchfarm.accuracy import Accuracy
from benchfarm.commands.main import run
from benchfarm.exit_codes import ExitCode
from benchfarm_standalone.farm_process import FarmProcess
from examples import demo
from tests.end_to_end.simulated_lab import platform_of, simulated_lab


@pytest.mark.slow
def test_the_demo_adapts_a_platform_and_anyone_can_ask_how_near_it_comes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    farm_home: Callable[[Path], Path],
) -> None:
    monkeypatch.setattr(demo, "ADAPTED_WITHIN_S", 150.0)
    monkeypatch.setattr(demo, "MEASURED_WITHIN_S", 100)
    quick = {"BENCHFARM_SWEEP_S": "0.5"}
    home = farm_home(tmp_path / "farm")
    with FarmProcess(home, local_board=False, env=quick) as farm, simulated_lab(farm, tmp_path) as client:
        platform = platform_of(client)
        out = io.StringIO()
        demo.adapt_and_compare(client, platform, Console(file=out, width=200))
        told = out.getvalue()
        for words in ("Donors: none", "Predictors after", "ofa_mobilenet_v3 #1 ", "noise floor", "measured again ms"):
            assert words in told, told
        assert f"{demo.HELD_OUT} of {demo.HELD_OUT} architectures could be measured well enough twice." in told, told
        assert "too busy" not in told
        path = tmp_path / "found.json"
        (tmp_path / "admin").write_text(farm.admin_token)
        asked = ["--url", farm.url, "--token-file", str(tmp_path / "admin"), "evaluate", "accuracy"]
        wanted = ["--platform", platform, "--space", demo.SPACE, "--archs", "8", "--seed", "fresh"]
        assert run([*asked, *wanted, "--json", str(path), "--timeout", "100s"]) == ExitCode.OK, capsys.readouterr().err
    found = Accuracy.model_validate_json(path.read_text())
    assert json.loads(path.read_text())["drawn"] == 8
    assert (len(found.architectures), found.left_out) == (8, ())
    assert found.figures is not None
    assert found.figures.predictor.within_10.hits >= 4, "a roofline with little noise"
    assert found.figures.floor.mape < 0.05
    assert found.board_s > 0
    assert "noise floor" in capsys.readouterr().out
