import errno
import hashlib
import os
import shutil
import time

import pytest

from benchfarm_core.errors import NotFound, TooLarge, Unavailable
from benchfarm_store.files import Files


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path / "files")


def left(files: Files) -> list[str]:
    return sorted(str(path.relative_to(files.root)) for path in files.root.rglob("*") if path.is_file())


def test_a_file_is_kept_under_its_hash_and_only_for_its_owner(files):
    received = files.receive(iter([b"one", b"two"]), 100)
    sha256 = hashlib.sha256(b"onetwo").hexdigest()
    assert (received.sha256, received.size_bytes) == (sha256, 6)
    with pytest.raises(NotFound):
        files.path(sha256)
    kept = files.keep(received)
    files.discard(received)
    assert files.path(sha256) == kept
    assert kept.read_bytes() == b"onetwo"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert left(files) == [f"{sha256[:2]}/{sha256}"]
    files.keep(files.receive(iter([b"onetwo"]), 100))
    assert len(left(files)) == 1
    assert files.remove_aged(sha256, 0, time.time() + 1)
    assert not files.remove_aged(sha256, 0, time.time() + 1)
    assert left(files) == []


def test_a_file_above_the_limit_leaves_nothing(files):
    def endless():
        while True:
            yield b"x" * 1000

    with pytest.raises(TooLarge):
        files.receive(endless(), 5000)
    assert left(files) == []


def test_a_broken_stream_leaves_nothing(files):
    def broken():
        yield b"x"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        files.receive(broken(), 5000)
    assert left(files) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_leaves_nothing(files, code):
    def full():
        yield b"x"
        raise OSError(code, os.strerror(code))

    with pytest.raises(Unavailable) as refused:
        files.receive(full(), 5000)
    assert refused.value.code == "disk_full"
    assert left(files) == []


def test_a_real_full_disk(files):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    target = files.root / "incoming" / "probe"
    target.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space") as refused, open(target, "wb", buffering=0) as file:
        file.write(b"x")
    assert refused.value.errno == errno.ENOSPC
    target.unlink()


@pytest.mark.parametrize("is_file", [False, True])
def test_a_folder_that_went_away_is_no_fault_of_who_uploads(files, is_file):
    """A disk that is not mounted any more: another try will do, and nobody is told that the farm broke."""
    received = files.receive([b"kept"], 100)
    shutil.rmtree(files.root)
    if is_file:  # clearing up behind it is refused as well
        files.root.write_bytes(b"")
    for write in (lambda: files.receive([b"abc"], 100), lambda: files.keep(received)):
        with pytest.raises(Unavailable) as refused:
            write()
        assert refused.value.code == "unavailable"
    files.discard(received)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EIO])
def test_a_disk_that_fails_says_so_whatever_clearing_up_says(files, monkeypatch, code):
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", fail)
    monkeypatch.setattr("pathlib.Path.unlink", fail)
    with pytest.raises(Unavailable, match=os.strerror(code)):
        files.receive([b"abc"], 100)


def test_names_that_are_no_hash_reach_no_file(files):
    for name in ("", "../../etc/passwd", "A" * 64, "a" * 63, "/" * 64, "..%2f" + "a" * 59):
        with pytest.raises(NotFound):
            files.path(name)


def test_what_a_dead_process_left_behind_is_swept(files):
    received = files.receive(iter([b"x"]), 10)
    assert files.sweep_incoming(3600, time.time()) == 0
    assert files.sweep_incoming(3600, time.time() + 7200) == 1
    assert not received.path.exists()
    folder = files.root / "incoming" / "opened"
    folder.mkdir()
    (folder / "reference").write_bytes(b"x")
    assert files.sweep_incoming(3600, time.time()) == 0
    assert files.sweep_incoming(3600, time.time() + 7200) == 1
    assert not folder.exists()
    assert files.sweep_incoming(3600, time.time() + 7200) == 0


def test_what_was_adopted_again_is_not_removed(files):
    kept = files.receive(iter([b"x"]), 10)
    path = files.keep(kept)
    os.utime(path, (1000, 1000))
    folder = int(kept.sha256[:2], 16)
    assert files.aged(folder, 3600, time.time()) == [kept.sha256]
    again = files.receive(iter([b"x"]), 10)
    os.utime(again.path, (1000, 1000))  # received long ago: its inspection took its time
    files.keep(again)
    assert files.aged(folder, 3600, time.time()) == []
    assert not files.remove_aged(kept.sha256, 3600, time.time())
    assert path.read_bytes() == b"x"


def test_names_in_the_folders_that_are_no_kept_files_are_left_alone(files):
    folder = files.root / "00"
    folder.mkdir()
    (folder / "notes").write_bytes(b"x")
    assert files.aged(0, 0, time.time() + 10) == []
    assert files.aged(1, 0, time.time() + 10) == []
