"""The process: what it refuses to start with, and what it serves on."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from benchfarm_api.__main__ import listen, refusal_to_listen
from benchfarm_api.settings import Settings

NOWHERE = {
    "DATABASE_URL": "postgresql://nowhere",
    "REDIS_URL": "redis://nowhere",
    "BENCHFARM_DATA_DIR": "/nonexistent",
}


def start(**environment: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], **environment}
    command = [sys.executable, "-m", "benchfarm_api"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_it_says_which_settings_are_missing() -> None:
    ended = start(DATABASE_URL="postgresql://nowhere")
    assert ended.returncode == 2
    assert "REDIS_URL" in ended.stderr
    assert "BENCHFARM_DATA_DIR" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_refuses_lease_times_that_cannot_work() -> None:
    ended = start(**NOWHERE, BENCHFARM_LEASE_S="20", BENCHFARM_API_PORT="0")
    assert ended.returncode == 2
    assert "BENCHFARM_RENEW_S do not fit together" in ended.stderr
    assert "renew_s must be at most half of lease_s" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_refuses_to_listen_to_the_world_without_tls() -> None:
    ended = start(**NOWHERE, BENCHFARM_API_HOST="0.0.0.0", BENCHFARM_API_PORT="0")
    assert ended.returncode == 2
    assert "without TLS" in ended.stderr


def settings_with(tmp_path: Path, **changes: object) -> Settings:
    common = {"database_url": "x", "redis_url": "x", "benchfarm_data_dir": tmp_path, "benchfarm_api_port": 0}
    return Settings.model_validate(common | changes)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, False),
        ({"benchfarm_api_host": "127.0.0.2"}, False),
        ({"benchfarm_api_host": "0.0.0.0"}, True),
        ({"benchfarm_api_host": "0.0.0.0", "benchfarm_behind_tls_proxy": True}, False),
        ({"benchfarm_api_host": "0.0.0.0", "benchfarm_tls_certificate": "c", "benchfarm_tls_key": "k"}, False),
    ],
)
def test_where_it_may_listen(tmp_path: Path, changes: dict[str, object], refused: bool) -> None:
    settings = settings_with(tmp_path, **changes)
    with listen(settings) as listener:
        assert (refusal_to_listen(settings, listener) is not None) is refused


def test_an_inherited_socket_is_judged_by_its_address(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as outside:
        settings = settings_with(tmp_path, benchfarm_api_fd=os.dup(outside.fileno()))
        with listen(settings) as listener:
            assert refusal_to_listen(settings, listener) is not None


def test_half_a_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belong together"):
        settings_with(tmp_path, benchfarm_tls_key="k")


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_process_imports_no_engine_and_nothing_that_trains() -> None:
    strangers = {"torch", "sklearn", "scipy", "onnx", "onnxruntime", "openvino", "benchfarm_engines"}
    assert not (strangers | {"benchfarm_predictor.training"}) & loaded_by("benchfarm_api.main")


def test_numpy_comes_after_its_threads_are_counted() -> None:
    assert "numpy" not in loaded_by("benchfarm_api.__main__")
