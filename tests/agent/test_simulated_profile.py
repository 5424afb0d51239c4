"""The profile of simulated boards: the sample is one, and what is wrong in one is told with its line and reason."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchfarm_agent.boards.simulated_profile import SAMPLE, read_profile
from benchfarm_agent.commands import EXIT_USAGE, app
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.failures import FailureCode

TEXT = SAMPLE.read_text()


def changed(old: str, new: str) -> str:
    assert TEXT.count(old) == 1, old
    return TEXT.replace(old, new)


def line_with(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), start=1) if part in line)


def test_the_sample_is_a_profile() -> None:
    profile = read_profile(None)
    assert profile.board_model == "sim-phone"
    assert profile.cores == tuple(range(8))
    assert profile.failures[FailureCode.RUNNER_DIED] > 0
    assert [one.mode for one in profile.ranges] == ["pinned", "pinned", "free"]


def test_the_command_prints_the_sample() -> None:
    said = CliRunner().invoke(app, ["simulate", "--show-profile"])
    assert (said.exit_code, said.stdout) == (0, TEXT)


@pytest.mark.parametrize(
    ("text", "at", "reason"),
    [
        (changed("cool_s = 60.0", "cool_s = "), "cool_s =", "this is no TOML"),
        (changed("cool_s = 60.0", "cool_s = 0"), "cool_s = 0", "heat.cool_s: "),
        (changed("overhead_us = 15.0", "overhead = 15"), "overhead = 15", "latency.overhead: there is no such entry"),
        (changed("bytes_per_s = 12e9", ""), "[latency]", "latency.bytes_per_s: is missing"),
        (changed("[600_000, 1_200_000", "[1_200_000, 600_000"), "[[cluster]]", "cluster.1: freq_khz must be ascending"),
        (changed("flops_per_cycle = 16.0", 'flops_per_cycle = "16"'), '"16"', "cluster.2.flops_per_cycle: "),
        (changed("[4, 5, 6, 7]", "[3, 4]"), "", "the core 3 is given twice"),
        (changed("runner_died = 0.0005", "runner_died = 2"), "runner_died = 2", "failures.runner_died: "),
        (changed("runner_died = 0.0005", "contended = 0.1"), "contended = 0.1", "failures.contended: it cannot be"),
        (changed("gate_c = 70.0", "gate_c = 20.0"), "[heat]", "heat: idle_c must be below gate_c"),
        (changed('model = "phone" ', 'model = "Phone" '), "model =", "model: "),
        (changed('precisions = ["fp32", "int8"]', "precisions = []"), "precisions = []", "engine.1.precisions: "),
    ],
)
def test_an_error_names_its_line_and_what_to_do(tmp_path: Path, text: str, at: str, reason: str) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(text)
    with pytest.raises(InvalidRequest) as refused:
        read_profile(path)
    assert refused.value.field == "profile"
    said = refused.value.detail.removeprefix(f"{path}, ")
    assert said.startswith(f"line {line_with(text, at) if at else 1}: {reason}"), said


@pytest.mark.parametrize("content", [None, b"model = 7\n"])
def test_a_profile_that_cannot_be_used_is_a_wrong_command_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "profile.toml"
    if content is not None:
        path.write_bytes(content)
    words = ["--url", "http://127.0.0.1:1", "--state-dir", str(tmp_path / "agent"), "--profile", str(path)]
    said = CliRunner().invoke(app, ["simulate", *words])
    assert said.exit_code == EXIT_USAGE
    assert "profile" in said.output
    assert not (tmp_path / "agent").exists()
