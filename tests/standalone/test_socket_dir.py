"""Sockets lie where their names are short and nobody else can be."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchfarm_standalone.errors import FarmError
from benchfarm_standalone.socket_dir import LONGEST_SOCKET_NAME, private_socket_dir, socket_dir_path


@pytest.fixture
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory with a short name: pytest's own may be too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="rt") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name)


def test_a_long_home_has_short_sockets(tmp_path: Path) -> None:
    path = socket_dir_path(tmp_path / ("deep/" * 30))
    assert len(str(path / LONGEST_SOCKET_NAME)) <= 107


def test_a_long_runtime_directory_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = tmp_path / ("long" * 25)
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert not socket_dir_path(tmp_path).is_relative_to(runtime)


def test_the_same_home_finds_the_same_sockets(tmp_path: Path, runtime_dir: Path) -> None:
    path = private_socket_dir(tmp_path / "home")
    assert path.parent == runtime_dir
    assert path.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
    assert private_socket_dir(tmp_path / "x" / ".." / "home") == path
    assert private_socket_dir(tmp_path / "other") != path


@pytest.mark.parametrize("how", ["symlink", "open to others", "a file"])
def test_a_directory_that_is_not_ours_alone_is_refused(how: str, tmp_path: Path, runtime_dir: Path) -> None:
    assert runtime_dir.is_dir()
    path = socket_dir_path(tmp_path / "home")
    if how == "symlink":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        path.symlink_to(tmp_path / "elsewhere")
    elif how == "a file":
        path.touch(mode=0o600)
    else:
        path.mkdir()
        path.chmod(0o755)
    with pytest.raises(FarmError, match="not a private directory of yours"):
        private_socket_dir(tmp_path / "home")
