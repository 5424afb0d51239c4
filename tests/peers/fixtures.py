"""Real peers for every test that asks for them: one of each per session, started on first use, reset for each test.

A test whose peer cannot run here is skipped with the reason, and fails instead where BENCHFARM_CI=1.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.peers.need import skipped_where_missing
from tests.peers.phones import Phone, lab_models, running_phones
from tests.peers.qemu_board import QemuBoard
from tests.peers.scratch import scratch_dir
from tests.peers.sshd import SshHost
from tests.peers.unauthorized import UnauthorizedPhone

if TYPE_CHECKING:
    from tests.peers.private_adb import PrivateAdb


@pytest.fixture(scope="session")
def peer_dir() -> Iterator[Path]:
    """Logs and keys of the session's peers; gone after the session."""
    path = scratch_dir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def _phone_lab(peer_dir: Path) -> Iterator[list[Phone]]:
    with skipped_where_missing("phones"), running_phones(lab_models(), peer_dir) as phones:
        yield phones


@pytest.fixture
def phones(_phone_lab: list[Phone]) -> list[Phone]:
    """Six real adbd, plugged in, nothing on them. `phone_files` and `phones.lab_models` say what they are."""
    for phone in _phone_lab:
        phone.reset()
    return _phone_lab


@pytest.fixture
def phone(phones: list[Phone]) -> Phone:
    """One of the six: rooted, one cluster."""
    return phones[0]


@pytest.fixture
def unauthorized_phone() -> Iterator[UnauthorizedPhone]:
    """A phone that asks for a key and accepts none."""
    phone = UnauthorizedPhone()
    yield phone
    phone.end()


@pytest.fixture(scope="session")
def _qemu(peer_dir: Path) -> Iterator[QemuBoard]:
    keys = peer_dir / "qemu"
    keys.mkdir()
    with skipped_where_missing("the QEMU board"):
        board = QemuBoard(keys)
    yield board
    board.end()


@pytest.fixture
def qemu_board(_qemu: QemuBoard) -> QemuBoard:
    """An arm64 board with a real kernel: on, cool, all cores there, clocks free."""
    _qemu.reset()
    return _qemu


@pytest.fixture(scope="session")
def _sshd(peer_dir: Path) -> Iterator[SshHost]:
    keys = peer_dir / "sshd"
    keys.mkdir()
    with skipped_where_missing("sshd"):
        host = SshHost(keys, peer_dir)
    yield host
    host.end()


@pytest.fixture
def ssh_host(_sshd: SshHost) -> SshHost:
    """OpenSSH's sshd with another user, whose home is empty."""
    _sshd.reset()
    return _sshd


@pytest.fixture(scope="session")
def _adb_server() -> Iterator["PrivateAdb"]:
    from tests.peers.private_adb import PrivateAdb

    server = PrivateAdb()
    yield server
    server.end()


@pytest.fixture
def peer_adb(_adb_server: "PrivateAdb") -> Iterator["PrivateAdb"]:
    """A real adb server of the tests' own that knows no device yet."""
    _adb_server.forget()
    yield _adb_server
    _adb_server.forget()
