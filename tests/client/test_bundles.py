"""A bundle from its making to its import: packed here, run with nothing but a Python and no network, brought back."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchfarm.exit_codes import ExitCode

MINOR = sys.version_info[1]
TARGET = f"linux-{platform.machine()}-cp3{MINOR}"
NOBODY = 65534
LIMIT_S = 180.0


class Box:
    """A machine of its own as far as one host can be it: no network, no packages, no home, another user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._python = shutil.which(f"python3.{MINOR}", path="/usr/bin") or str(
            Path(sys.base_prefix) / "bin" / f"python3.{MINOR}"
        )
        self._alone = ["unshare", "--net"]
        as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        if os.geteuid() != 0:
            self._alone = ["unshare", "--net", "--map-root-user"]
        elif subprocess.run([*as_nobody, self._python, "-c", ""], check=False, capture_output=True).returncode == 0:
            self._alone += as_nobody
            os.chown(folder, NOBODY, NOBODY)
        if subprocess.run([*self._alone, "true"], check=False, capture_output=True).returncode != 0:
            pytest.skip("a process without a network needs root or user namespaces here")

    def start(self, file: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        argv = [*self._alone, self._python, str(file), *arguments]
        # a box may be busy with other tests
        env = {"PATH": "/usr/bin:/bin", "BENCHFARM_AGENT_GATE_FOREIGN_THREADS": "1000", **environment}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(argv, cwd=self.folder, env=env, start_new_session=True, **pipes)

    def run(self, file: Path, *arguments: str) -> tuple[int, str, str]:
        with self.start(file, *arguments) as process:
            out, err = process.communicate(timeout=LIMIT_S)
        return process.returncode, out, err

    def carry(self, file: Path, name: str = "") -> Path:
        """Bring a file to the box, readable there."""
        copy = self.folder / (name or file.name)
        shutil.copyfile(file, copy)
        copy.chmod(0o644)
        return copy

    @property
    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def box() -> Iterator[Box]:
    folder = Path(tempfile.mkdtemp(prefix="box-", dir="/tmp"))
    folder.chmod(0o755)
    yield Box(folder)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk that has no room for a bundle."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=777", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def changed(bundle: Path, copy: Path, **contents: Callable[[bytes], bytes]) -> Path:
    """A copy with other bytes in some of its files; a file's dots are underscores here."""
    with zipfile.ZipFile(bundle) as old, zipfile.ZipFile(copy, "w") as new:
        for entry in old.infolist():
            change = contents.get(entry.filename.replace(".", "_"))
            data = old.read(entry)
            new.writestr(entry.filename, change(data) if change else data)
    return copy


def retargeted(order: bytes) -> bytes:
    return json.dumps({**json.loads(order), "target": "linux-aarch64-cp319"}).encode()


def kill_when_measuring(process: subprocess.Popen[str], folder: Path) -> None:
    """SIGKILL in the middle of a launch, as a power cut would."""
    until_s = time.monotonic() + LIMIT_S
    while not list(folder.glob(".benchfarm-*/state/scratch/launch-*/..")) or not (
        list(folder.glob(".benchfarm-*/run.json"))
    ):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until_s
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_bundle_measures_on_a_machine_that_reaches_nothing(
    farm: Any, logged_in: Any, box: Box, tmp_path: Path
) -> None:
    file = tmp_path / "b.bundle"
    wanted = ("--kernel", farm.kernels[0], "--kernel", farm.kernels[1], "--engine", "onnxruntime", "--repeats", "2")
    options = ("--target", TARGET, "--protocol", "quick", "--out", file)
    made = logged_in("bundle", "create", *wanted, *options, "--json")
    assert made.code == 0, made.err
    bundle_id = made.document["id"]
    assert file.stat().st_mode & 0o777 == 0o600, "the key is in it"
    assert logged_in("bundle", "create", *wanted, *options).code == ExitCode.USAGE, "never written over"

    damaged = changed(file, tmp_path / "damaged", work_json=lambda data: data.replace(b'"number":1', b'"number":7'))
    code, _, err = box.run(box.carry(damaged), "run")
    assert (code, "work.json is damaged" in err) == (3, True), err
    elsewhere = changed(file, tmp_path / "elsewhere", order_json=retargeted)
    code, _, err = box.run(box.carry(elsewhere), "run")
    assert (code, "packed for linux-aarch64-cp319" in err) == (3, True), err
    bundle = box.carry(file)
    if os.geteuid() == 0:  # nobody else can mount a small disk
        with small_disk(box.folder / "small") as small:
            code, _, err = box.run(bundle, "run", "--work", str(small))
            assert (code, "MB of room" in err) == (3, True), err
    assert box.left == ["b.bundle", "damaged", "elsewhere"], "nothing half done stays"

    kill_when_measuring(box.start(bundle, "run"), box.folder)
    (begun,) = (json.loads(path.read_text()) for path in box.folder.glob(".benchfarm-*/run.json"))
    code, out, err = box.run(bundle, "run")
    assert code == 0, err
    results = Path(out.strip())
    assert begun["run_id"][:8] in results.name, "it went on"
    assert box.left == sorted(["b.bundle", "damaged", "elsewhere", results.name]), "it has removed itself"

    first = logged_in("bundle", "import", results, "--json")
    assert first.code == 0, first.err
    assert [(part["results"], part["failed"], part["repeated"]) for part in first.document] == [(2, 0, False)] * 2, (
        "repeats share no launches"
    )
    again = logged_in("bundle", "import", results, "--json").document
    assert [(part["results"], part["repeated"]) for part in again] == [(2, True)] * 2
    board = logged_in("boards", "show", first.document[0]["board_id"], "--json").document
    assert (board["kind"], board["state"]) == ("air_gapped", "offline")
    with farm.client("admin") as client:
        found = [one for one in client.stored_results() if one.bundle_id == bundle_id]
    assert len(found) == 4
    assert bundle_id in logged_in("bundle", "list").out
    assert first.document[0]["board_id"] in logged_in("bundle", "show", bundle_id).out

    edited = tmp_path / "edited.results"
    edited.write_text(results.read_text().replace('\\"number\\":0', '\\"number\\":1'))
    assert edited.read_text() != results.read_text()
    refused = logged_in("bundle", "import", edited)
    assert (refused.code, "bundle_tampered" in refused.err) == (ExitCode.USAGE, True)
    edited.write_text(results.read_text().splitlines()[0])
    refused = logged_in("bundle", "import", edited)
    assert (refused.code, "0 of 2 parts" in refused.err) == (ExitCode.USAGE, True)


def test_a_bundle_that_cannot_be_packed_ends_with_the_reason(
    farm: Any, logged_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it takes is of another processor, and no index of packages can be reached."""
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9",
        "PIP_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    elsewhere = f"linux-{'x86_64' if platform.machine() == 'aarch64' else 'aarch64'}-cp3{MINOR}"
    wanted = ("--kernel", farm.kernels[0], "--engine", "onnxruntime", "--target", elsewhere)
    ended = logged_in("bundle", "create", *wanted, "--out", tmp_path / "b")
    assert ended.code == ExitCode.USAGE, ended.err
    newest = logged_in("bundle", "list", "--json").document[0]
    assert newest["id"] in ended.err
    assert newest["contents_sha256"] is None
    assert "cannot be had" in newest["failure"]
    assert newest["failure"][:60] in " ".join(ended.err.split()), "who packs is told the same"
    assert "packing failed: " in logged_in("bundle", "list").out
    assert not (tmp_path / "b").exists()


def test_what_is_no_text_hides_no_reason(
    farm: Any, logged_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever packs writes to the same pipe as what converts, and that need not speak UTF-8."""
    packer = tmp_path / "python"
    packer.write_text("#!/bin/sh\nprintf 'no room \\377\\n\\n' >&2\nexit 3\n")
    packer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(packer))
    wanted = ("--kernel", farm.kernels[0], "--engine", "onnxruntime", "--target", TARGET)
    ended = logged_in("bundle", "create", *wanted, "--out", tmp_path / "b")
    assert ended.code == 3, ended.err
    assert logged_in("bundle", "list", "--json").document[0]["failure"] == "no room \ufffd"


def test_bundles_are_the_labs(farm: Any, logged_in: Any, tmp_path: Path) -> None:
    stray = tmp_path / "stray.results"
    stray.write_text("no results")
    assert "bundle_tampered" in logged_in("bundle", "import", stray).err
    assert logged_in("bundle", "import", tmp_path / "none").code == ExitCode.USAGE
    assert logged_in("bundle", "show", "n_none").code == ExitCode.NOT_FOUND
    for given in (("--kernel", farm.kernels[0]), ("--engine", "onnxruntime"), ("--platform", "none")):
        refused = logged_in("bundle", "create", *given, "--target", TARGET, "--out", tmp_path / "b")
        assert refused.code == ExitCode.USAGE, given
    before = logged_in("bundle", "list", "--json").document
    kernel = ("bundle", "create", "--kernel", farm.kernels[0], "--target", TARGET)
    impossible: tuple[tuple[tuple[str, ...], str, str], ...] = (
        (("--engine", "none"), "b", "carries no none: it can carry litert, mnn"),
        (("--engine", "mnn", "--precision", "int8"), "b", "mnn has no int8"),
        (("--engine", "mnn"), "nowhere/b", "in a folder that exists"),
    )
    for engine, out, why in impossible:
        refused = logged_in(*kernel, *engine, "--out", tmp_path / out)
        assert (refused.code, why in refused.err) == (ExitCode.USAGE, True), refused.err
    assert not (tmp_path / "b").exists()
    assert logged_in("bundle", "list", "--json").document == before, "nothing was ordered"
    with farm.client("client") as client, pytest.raises(Exception, match="no right"):
        list(client.bundles.list())
