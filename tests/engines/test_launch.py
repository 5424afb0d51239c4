"""The agent's half is light and hands nothing on."""

import subprocess
import sys

import pytest

from benchfarm_engines.launch import launch_environment, reference_argv, runner_argv

LIGHT = (
    "benchfarm_engines.launch",
    "benchfarm_engines.runner",
    "benchfarm_engines.reference",
    "benchfarm_engines.registry",
)
HEAVY = ("numpy", "onnxruntime", "openvino", "pydantic", "onnx", "asyncio")


@pytest.mark.parametrize("module", LIGHT)
def test_nothing_heavy_is_imported_before_the_confinement(module: str) -> None:
    code = f"import sys, {module}\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_board_side_needs_numpy_and_its_engine_alone() -> None:
    code = (
        "import sys, benchfarm_engines.batch, benchfarm_engines.onnxruntime_engine\n"
        "print([name for name in ('pydantic', 'onnx', 'openvino', 'benchfarm_workloads') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_environment_is_made_and_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHFARM_TOKEN", "secret")
    environment = launch_environment("/scratch")
    assert "secret" not in environment.values()
    assert environment["HOME"] == "/scratch"
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"


def test_children_ignore_variables_and_folders() -> None:
    for argv in (runner_argv(), reference_argv(memory_bytes=1, cpu_s=1, readable=[], writable=[])):
        assert argv[:3] == [sys.executable, "-I", "-m"]
