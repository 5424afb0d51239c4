"""The files of a production farm, judged by the tools that know their formats (no engine runs here)."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SECRETS = {
    "POSTGRES_PASSWORD": "a1",
    "VALKEY_PASSWORD": "b2",
    "BENCHFARM_URL": "https://farm.example.org",
    "BENCHFARM_TLS_CERTIFICATE": "/etc/benchfarm/certificate.pem",
    "BENCHFARM_TLS_KEY": "/etc/benchfarm/key.pem",
    "BENCHFARM_TLS_AUTHORITY": "/etc/benchfarm/authority.pem",
}
OURS = {"migrate", "api", "worker-plan", "worker-dispatch", "worker-sweep", "worker-train", "beat", "agent"}
PLUGIN = "/usr/libexec/docker/cli-plugins/docker-compose"


@pytest.fixture(scope="module")
def root() -> Path:
    return Path(__file__).parents[2]


@pytest.fixture(scope="module")
def services(root):
    return yaml.safe_load((root / "docker-compose.yml").read_text())["services"]


def run(*argv: str | Path, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


def tool(name: str) -> Path:
    return Path(sys.executable).parent / name


def compose(root: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    binary = os.environ.get("DOCKER_COMPOSE") or shutil.which("docker-compose")
    binary = binary or (PLUGIN if Path(PLUGIN).exists() else None)
    if binary is None:
        pytest.skip("no docker-compose here; Debian 13's package has one that needs no engine for `config`")
    return run(binary, "--profile", "agent", *arguments, cwd=root, env={"PATH": "/usr/bin:/bin", **env})


def test_compose_file_obeys_the_specification(root):
    done = run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "docker-compose.yml", cwd=root)
    assert done.returncode == 0, done.stdout


def test_a_wrong_key_would_be_found(root, tmp_path):
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text((root / "docker-compose.yml").read_text().replace("shm_size:", "shm_syze:"))
    done = run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", wrong, cwd=root)
    assert done.returncode == 1
    assert "shm_syze" in done.stdout


def test_yaml_is_tidy(root):
    done = run(tool("yamllint"), "--strict", "--config-file", ".yamllint.yml", "docker-compose.yml", cwd=root)
    assert done.returncode == 0, done.stdout


def test_dockerfile_has_no_finding(root):
    done = run(tool("hadolint"), "deploy/Dockerfile", cwd=root)
    assert done.returncode == 0, done.stdout


def test_compose_interpolates_when_everything_is_given(root):
    done = compose(root, SECRETS, "config", "--quiet")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_compose_refuses_a_missing_secret(root, name):
    done = compose(root, {key: value for key, value in SECRETS.items() if key != name}, "config", "--quiet")
    assert done.returncode != 0
    assert name in done.stderr


def test_no_secret_has_a_default(root):
    text = (root / "docker-compose.yml").read_text()
    for name in SECRETS:
        uses = re.findall(rf"\$\{{{name}([^}}]*)\}}", text)
        assert uses, name
        assert all(use.startswith(":?") for use in uses), name


def test_the_example_names_every_variable(root):
    used = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", (root / "docker-compose.yml").read_text()))
    optional = {"BENCHFARM_VERSION", "BENCHFARM_HTTPS_PORT"}
    example = set(re.findall(r"^([A-Z_]+)=", (root / "deploy" / "env.example").read_text(), re.MULTILINE))
    assert example == used - optional


def test_every_container_is_hardened(services):
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_no_container_runs_as_root(root, services):
    for name in set(services) - OURS:
        assert services[name]["user"] not in {"root", "0", "0:0"}, name
    stages = (root / "deploy" / "Dockerfile").read_text().split("\nFROM ")
    assert any(stage.startswith("python") and "USER 10001:10001" in stage for stage in stages)


def test_only_the_proxy_is_reachable(services):
    assert {name for name, service in services.items() if "ports" in service} == {"proxy"}
    assert services["api"]["network_mode"] == "service:proxy"


def test_every_service_that_answers_or_consumes_is_probed(services):
    assert {name for name, service in services.items() if "test" in service.get("healthcheck", {})} == {
        "proxy",
        "postgres",
        "valkey",
        "api",
        "worker-plan",
        "worker-dispatch",
        "worker-sweep",
        "worker-train",
    }


def test_the_counters_stay_inside(root):
    """`/metrics` needs no token, so the proxy does not pass it on."""
    assert "respond /metrics 404" in (root / "deploy" / "Caddyfile").read_text()


@pytest.mark.parametrize(
    ("package", "names"),
    [
        ("benchfarm_api", ["api"]),
        ("benchfarm_worker", ["worker-plan", "worker-dispatch", "worker-sweep", "worker-train", "beat"]),
        ("benchfarm_agent", ["agent"]),
    ],
)
def test_containers_are_told_settings_that_exist(services, package, names):
    """A setting that nobody reads is a misspelt one; what a service requires is given."""
    settings = importlib.import_module(f"{package}.settings").Settings
    prefix = settings.model_config.get("env_prefix", "")
    known = {(prefix + name).upper(): field for name, field in settings.model_fields.items()}
    for name in names:
        told = set(services[name]["environment"])
        assert {key for key in told if key.startswith("BENCHFARM_AGENT_")} <= set(known), name
        required = {key for key, field in known.items() if field.is_required()}
        assert required - {"BENCHFARM_AGENT_STATE_DIR"} <= told, name  # that one is set in the image


def test_each_queue_has_a_worker_and_one_beat_ticks(services):
    from benchfarm_core.messages import QUEUES

    served = [service["command"][-1] for service in services.values() if "--queues" in service.get("command", [])]
    assert sorted(served) == sorted(set(QUEUES.values()))
    assert [name for name, service in services.items() if service.get("command", [])[-1:] == ["beat"]] == ["beat"]


def test_images_are_built_by_the_set_ups_own_command(root):
    """The Dockerfile installs with the script that `make setup` and the tests run, and names folders that exist."""
    installs = re.findall(r"requirements/install /opt/venv/bin/python (\w+)(?: \\\n\s+(.+))?\n", _dockerfile(root))
    assert [lock for lock, _ in installs] == ["server", "train", "agent"]
    for lock, folders in installs:
        assert (root / "requirements" / f"{lock}.txt").exists()
        for folder in folders.split():
            assert (root / folder / "pyproject.toml").exists(), folder
    assert "requirements/install" in (root / "Makefile").read_text()
    assert "pip install" not in _dockerfile(root)


def test_only_the_worker_that_trains_has_what_fits_trees(root, services):
    """Its image is the server's and the list `train`; all other services run what answers alone."""
    build = _dockerfile(root).partition(" AS trainer-build\n")
    assert build[0].endswith("FROM server-build")
    assert build[2].startswith("RUN requirements/install /opt/venv/bin/python train\n")
    targets = {name: services[name]["build"]["target"] for name in OURS}
    assert [name for name, target in targets.items() if target == "trainer"] == ["worker-train"]
    assert services["worker-train"]["image"] != services["worker-sweep"]["image"]
    stages = re.findall(r"^FROM \S+ AS (\S+)$", _dockerfile(root), re.MULTILINE)
    assert set(targets.values()) <= set(stages)


def test_what_the_images_copy_is_sent_to_the_builder(root):
    sent = set(re.findall(r"^!(\S+)", (root / ".dockerignore").read_text(), re.MULTILINE))
    copied = set(re.findall(r"^COPY (?!--)(\S+)", _dockerfile(root), re.MULTILINE))
    assert copied == sent
    assert all((root / name).is_dir() for name in copied)


def test_commands_of_containers_exist(services):
    for name in OURS & {name for name, service in services.items() if "command" in service}:
        module = services[name]["command"][2]
        done = run(
            sys.executable, "-c", f"import importlib.util as u; assert u.find_spec('{module}.__main__')", cwd=Path()
        )
        assert done.returncode == 0, f"{name}: {module}"


def test_the_unit_is_understood(root):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    done = run("systemd-analyze", "verify", "--man=no", root / "deploy" / "benchfarm-agent.service", cwd=root)
    complaints = [line for line in done.stderr.splitlines() if "is not executable" not in line]
    assert complaints == []


def _dockerfile(root: Path) -> str:
    return (root / "deploy" / "Dockerfile").read_text()
