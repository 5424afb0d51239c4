"""What a bundle carries, and what cannot be packed."""

import hashlib
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from benchfarm.exit_codes import ExitCode
from benchfarm_agent import bundle_commands, bundle_packing, bundle_start
from benchfarm_agent.bundle_work import BundledWork, bundled, unbundled_canary, unbundled_item
from benchfarm_agent.engine_installing import LOCKS
from benchfarm_agent.prepared import Canary, PreparedItem
from benchfarm_agent.python_kit import CannotPack, Interpreter, locked_version
from benchfarm_core.agent_protocol import BatchItem
from benchfarm_core.bundles import BUNDLED, BundleOrder
from benchfarm_core.errors import Conflict
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.workloads import KernelWorkload
from benchfarm_engines.engine import EngineUnavailable
from benchfarm_engines.registry import load_engine

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^([a-z0-9-]+)==.*\n(?:    --hash=.*\n)+", re.MULTILINE)


def order_of(**changes: object) -> BundleOrder:
    workload = KernelWorkload(catalogue_version=1, type="fc", config={"cin": 4, "cout": 4})
    item = BatchItem(
        measurement_id=1, workload=workload, file_sha256=None, reference_sha256=None, max_relative_l2=1e-3, expected_s=1
    )
    fields: dict[str, object] = {
        "bundle_id": "n_1",
        "farm": "here",
        "key": "k" * 64,
        "target": "linux-x86_64-cp312",
        "engine": "onnxruntime",
        "engine_version": None,
        "options": {},
        "precision": "fp32",
        "threads": 1,
        "protocol": PROTOCOLS["quick"],
        "items": [item],
        "expires_at": "2030-01-01T00:00:00Z",
    }
    return BundleOrder.model_validate({**fields, **changes})


def test_the_list_of_packages_is_that_of_the_agent():
    def blocks(text: str) -> dict[str, set[str]]:
        return {found[1]: set(found[0].replace("\\", "").split()) for found in _BLOCK.finditer(text)}

    ours = blocks((ROOT / "services/device-agent/benchfarm_agent/bundle_packages/agent.txt").read_text() + "\n")
    agents = blocks((ROOT / "requirements/agent.txt").read_text())
    assert {"pydantic", "pydantic-core", "pydantic-settings"} <= ours.keys()
    assert ours == {name: agents[name] for name in ours}, "make lock"


@pytest.mark.parametrize("engine", sorted(path.stem for path in LOCKS.glob("*.txt")))
def test_every_list_tells_its_engines_version(engine: str) -> None:
    version = locked_version(engine, Interpreter(path="", version="3.12", machine="aarch64", libc="glibc"))
    assert re.fullmatch(r"[0-9.]+", version)


def test_the_farm_knows_what_can_be_packed() -> None:
    """It orders nothing else: what cannot be packed stands there as a bundle that nobody ever finishes."""
    assert set(BUNDLED) == {path.stem for path in LOCKS.glob("*.txt")}


@pytest.mark.parametrize("name", sorted(BUNDLED))
def test_the_farm_knows_the_precisions_of_what_is_packed(name: str) -> None:
    try:
        here = set(load_engine(name).precisions())
    except EngineUnavailable as error:
        pytest.skip(str(error))
    of_some_processors = {"bf16"}
    assert here - {"as_given"} <= set(BUNDLED[name])  # files of others are in no bundle
    assert set(BUNDLED[name]) - of_some_processors <= here


def test_the_command_ends_as_one_that_was_refused(tmp_path: Path) -> None:
    order = tmp_path / "order.json"
    order.write_text(order_of(engine="none").model_dump_json())
    for out in ("b", "nowhere/b"):
        with pytest.raises(typer.Exit) as ended:
            bundle_commands.pack(order, tmp_path / out)
        assert ended.value.exit_code == ExitCode.USAGE


def test_what_was_prepared_is_the_same_where_it_is_unpacked(tmp_path):
    item = PreparedItem(
        measurement_id=7,
        artifact=tmp_path / "aa",
        artifact_sha256="aa",
        inputs=({"name": "x"},),
        reference=tmp_path / "bb",
        max_relative_l2=0.5,
        format="mnn",
        edges={"inputs": []},
        twin=tmp_path / "cc",
    )
    canary = Canary(tmp_path / "dd", ({"name": "y"},), None)
    carried = BundledWork.model_validate_json(bundled([item], canary, ()).model_dump_json())
    assert carried.canary is not None
    assert unbundled_item(carried.items[0], tmp_path) == item
    assert unbundled_canary(carried.canary, tmp_path) == canary


def test_what_cannot_be_packed_leaves_nothing(tmp_path):
    with pytest.raises(CannotPack, match="no engine none"):
        bundle_packing.pack(order_of(engine="none"), tmp_path / "b")
    with pytest.raises(CannotPack, match=r"onnxruntime 1\.0\.0 is wanted and this agent packs 1\.31\.1"):
        bundle_packing.pack(order_of(engine_version="1.0.0"), tmp_path / "b")
    (tmp_path / "there").touch()
    with pytest.raises(Conflict, match="already"):
        bundle_packing.pack(order_of(), tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_file_that_is_no_bundle(tmp_path, capsys):
    (tmp_path / "b").write_bytes(b"PK no zip")
    assert bundle_start.main(["run"], str(tmp_path / "b")) == bundle_start.EXIT_REFUSED
    assert "damaged" in capsys.readouterr().err
    assert bundle_start.main(["run", "--out"], str(tmp_path / "b")) == bundle_start.EXIT_USAGE
    assert bundle_start.main([], str(tmp_path / "b")) == bundle_start.EXIT_USAGE
    assert bundle_start.main(["run"], str(tmp_path / "none")) == bundle_start.EXIT_REFUSED


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "b", "w") as packed:
        packed.writestr("CONTENTS", "0  file\n")
    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with zipfile.ZipFile(tmp_path / "b") as packed, pytest.raises(bundle_start.Refused, match="MB of room"):
        bundle_start._unpack(packed, str(tmp_path / "work"))
    assert not (tmp_path / "work").exists()


def bundle_file(folder: Path) -> Path:
    """A bundle of one file."""
    with zipfile.ZipFile(folder / "b", "w") as packed:
        packed.writestr("run.py", "ours")
        packed.writestr("CONTENTS", f"{hashlib.sha256(b'ours').hexdigest()}  run.py\n")
    return folder / "b"


def unpack(bundle: Path, work: Path) -> None:
    with zipfile.ZipFile(bundle) as packed:
        bundle_start._unpack(packed, str(work))


def write_theirs(work: Path) -> None:
    (work / "bundle" / "run.py").write_text("theirs")


def add_a_module(work: Path) -> None:
    (work / "bundle" / "json.py").write_text("theirs")


def lead_elsewhere(work: Path) -> None:
    (work / "theirs").write_text("ours")
    (work / "bundle" / "run.py").unlink()
    (work / "bundle" / "run.py").symlink_to(work / "theirs")


@pytest.mark.parametrize("change", [write_theirs, add_a_module, lead_elsewhere])
def test_what_lies_unpacked_is_looked_at_again(tmp_path: Path, change: Callable[[Path], None]) -> None:
    bundle, work = bundle_file(tmp_path), tmp_path / "work"
    unpack(bundle, work)
    (work / "parts").mkdir()
    unpack(bundle, work)
    assert (work / "parts").exists(), "what was measured stays"
    change(work)
    unpack(bundle, work)
    assert (work / "bundle" / "run.py").read_text() == "ours"
    assert not (work / "bundle" / "run.py").is_symlink()
    assert not (work / "bundle" / "json.py").exists()
    assert not (work / "parts").exists(), "nobody knows what measured it"


def test_a_folder_that_somebody_else_may_have_prepared_is_refused(tmp_path: Path) -> None:
    bundle, work = bundle_file(tmp_path), tmp_path / "work"
    unpack(bundle, work)
    work.chmod(0o777)
    with pytest.raises(bundle_start.Refused, match="this user alone"):
        unpack(bundle, work)
    work.chmod(0o755)
    unpack(bundle, work)
    assert work.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
    (tmp_path / "link").symlink_to(work)
    with pytest.raises(bundle_start.Refused, match="this user alone"):
        unpack(bundle, tmp_path / "link")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    bundle, work = bundle_file(tmp_path), tmp_path / "work"
    unpack(bundle, work)
    os.chown(work, 65534, 65534)
    with pytest.raises(bundle_start.Refused, match="this user alone"):
        unpack(bundle, work)
