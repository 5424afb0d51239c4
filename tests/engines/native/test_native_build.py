"""Building: what a runner's key depends on, what is refused, and the binary for another processor."""

import hashlib
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchfarm_agent.runner_commands import app
from benchfarm_engines import native_build, native_packages
from benchfarm_engines.native_build import BuiltRunner, built_runners, find_runner, runner_key
from benchfarm_engines.native_ncnn import LAYERS
from benchfarm_engines.native_packages import NCNN_VERSION, CannotBuild, PinnedFile
from tests.engines.conftest import CORES, limits
from tests.engines.native import build_runner
from tests.engines.native.conftest import answered, built

pytestmark = pytest.mark.timeout(1200)


def test_a_key_changes_with_all_that_a_runner_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {runner_key(target, compiler) for target in native_build.TARGETS for compiler in ("zig 1", "zig 2")}
    assert len(keys) == 4
    sources = tmp_path / "native"
    shutil.copytree(native_build.SOURCES, sources)
    (sources / "main.cpp").write_text((sources / "main.cpp").read_text() + "// changed\n")
    monkeypatch.setattr(native_build, "SOURCES", sources)
    assert runner_key("x86_64", "zig 1") not in keys


def test_only_the_present_sources_runner_is_found(tmp_path: Path) -> None:
    for name, key in (("old", "0" * 16), ("new", runner_key("x86_64", "zig 1"))):
        folder = tmp_path / "runners" / f"x86_64-{name}"
        folder.mkdir(parents=True)
        facts = {"target": "x86_64", "key": key, "sha256": "", "size_bytes": 1, "compiler": "zig 1", "ncnn_version": ""}
        (folder / "built.json").write_text(json.dumps(facts))
    assert len(built_runners(tmp_path)) == 2
    found = find_runner(tmp_path, "x86_64")
    assert found is not None
    assert found.path.parent.name == "x86_64-new"
    assert find_runner(tmp_path, "aarch64") is None
    assert find_runner(tmp_path / "nowhere", "x86_64") is None


def test_a_file_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "a.tar.gz").write_bytes(b"other")
    with pytest.raises(CannotBuild, match="not the file that is pinned"):
        PinnedFile("a", "a.tar.gz", hashlib.sha256(b"wanted").hexdigest()).fetched(tmp_path)
    (tmp_path / "downloads" / "a.tar.gz").write_bytes(b"wanted")
    assert PinnedFile("a", "a.tar.gz", hashlib.sha256(b"wanted").hexdigest()).fetched(tmp_path).exists()


def test_another_machine_and_no_index_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = next(target for target in native_build.TARGETS if target != platform.machine())
    with pytest.raises(CannotBuild, match="take zig"):
        native_build.build_runner(other, tmp_path, compiler="host")
    with pytest.raises(CannotBuild, match="no target"):
        native_build.build_runner("vax", tmp_path)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(CannotBuild, match="cannot be had"):
        native_build.build_runner(other, tmp_path, compiler="zig")
    assert not list(tmp_path.rglob("*.part"))


def test_the_writer_of_artifacts_names_no_layer_that_is_left_out() -> None:
    """Every word in the writer's modules that is a layer of ncnn is one that the runner has."""
    import ncnn

    folder = Path(native_build.__file__).parent
    words = {
        word.strip('"')
        for module in folder.glob("ncnn_*.py")
        for word in module.read_text().replace("(", " ").replace(",", " ").replace(")", " ").replace("]", " ").split()
        if word.startswith('"') and word.endswith('"')
    }
    onnx_only = {"Dropout", "Split"}  # names of ONNX operators that ncnn has too
    layers = {word for word in words if word.isidentifier() and ncnn.layer_to_index(word) >= 0}
    assert {"Convolution", "SDPA", "Reshape"} <= layers
    assert layers - LAYERS - onnx_only <= {"Squeeze", "Flatten", "Exp", "Log", "Tile"}


def test_the_command_lists_what_is_built(runner: BuiltRunner, tmp_path: Path) -> None:
    folder = tmp_path / "runners" / "runners" / runner.path.parent.name
    shutil.copytree(runner.path.parent, folder)
    said = CliRunner().invoke(app, ["list", "--state-dir", str(tmp_path)])
    assert said.exit_code == 0, said.output
    assert f"ncnn {NCNN_VERSION}" in said.stdout
    assert "in use" in said.stdout
    again = CliRunner().invoke(app, ["list", "--state-dir", str(tmp_path / "empty")])
    assert (again.exit_code, again.stdout) == (0, "")


@pytest.fixture(scope="session")
def aarch64() -> BuiltRunner:
    return built("aarch64")


def test_the_aarch64_runner_is_one_static_binary(aarch64: BuiltRunner) -> None:
    header = aarch64.path.read_bytes()[:64]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183
    assert aarch64.size_bytes <= 8 * 1024**2


@pytest.fixture
def emulated(aarch64: BuiltRunner) -> list[str]:
    """The command of the aarch64 runner here. On one core, since the emulator has a thread of its own."""
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("no qemu-aarch64 here: the package qemu-user has it")
    return ["taskset", "-c", str(CORES[-1]), emulator, str(aarch64.path)]


def test_the_aarch64_runner_answers_under_emulation(emulated: list[str], tmp_path: Path) -> None:
    _, [said] = answered([*emulated, "--probe", "ncnn"], tmp_path)
    assert (said["available"], said["version"]) == (True, NCNN_VERSION)


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-4), ("int8", 0.05)])
def test_the_aarch64_runner_computes_under_emulation(
    emulated: list[str], launch: Any, workloads: dict[str, Any], batch_folder: Path, precision: str, limit: float
) -> None:
    cage = limits(batch_folder, batch_folder, memory_bytes=2**40)  # an emulator reserves addresses, not memory
    visits = [workloads[name].visit(number, max_relative_l2=limit) for number, name in enumerate(("conv", "small"))]
    said = launch(visits, engine="ncnn", argv=emulated, precision=precision, limits=cage)
    assert [line["outcome"] for line in said.done.values()] == ["ok", "ok"], said.lines


def test_ci_is_told_in_one_sentence_why_there_is_no_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build_runner, "CACHE", tmp_path)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert build_runner.main() == build_runner.NOT_TO_BE_HAD
    said = capsys.readouterr().err
    assert said.startswith("native runner: not built, ")
    assert "cannot be had" in said
    assert said.count("\n") == 1
    (tmp_path / "downloads").mkdir(exist_ok=True)
    for file in native_packages.ZIG.values():
        (tmp_path / "downloads" / file.filename).write_bytes(b"another file")
    assert build_runner.main() == 1
    assert "is not the file that is pinned" in capsys.readouterr().err
