"""The stored login: private, whole, and never for another farm."""

import os
from pathlib import Path

import pytest

from benchfarm import InvalidRequest, Unauthenticated
from benchfarm.login import Login, effective, forget, login_file, read_token, store, stored
from benchfarm_agent.identity import read_enrol_token
from benchfarm_core.token_files import MAX_TOKEN_FILE_BYTES

HERE = Login(url="https://here", token="of-here")


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BENCHFARM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_it_is_readable_by_its_owner_alone() -> None:
    old = os.umask(0)
    try:
        path = store(HERE)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert stored() == HERE
    assert os.listdir(path.parent) == ["login.json"]


def test_it_follows_the_home_directory_without_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert login_file() == tmp_path / ".config" / "benchfarm" / "login.json"


def test_a_login_that_others_can_read_is_not_used() -> None:
    store(HERE).chmod(0o644)
    with pytest.raises(InvalidRequest, match="others can read"):
        stored()


@pytest.mark.parametrize("content", ["", "{", "{}", '{"url": 1}'])
def test_a_damaged_login_says_what_to_do(content: str) -> None:
    store(HERE).write_text(content)
    with pytest.raises(InvalidRequest, match="log in again"):
        stored()


def test_the_order_is_option_environment_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(HERE)
    assert effective(None, None, None) == HERE
    monkeypatch.setenv("BENCHFARM_TOKEN", "of-environment")
    assert effective(None, None, None).token == "of-environment"
    (tmp_path / "token").write_text("of-option\n")
    assert effective("https://there", tmp_path / "token", None) == Login(url="https://there", token="of-option")


def test_the_token_may_stand_in_a_file_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("of-file\n")
    monkeypatch.setenv("BENCHFARM_URL", "https://there")
    monkeypatch.setenv("BENCHFARM_TOKEN_FILE", str(tmp_path / "token"))
    assert effective(None, None, None) == Login(url="https://there", token="of-file")


def test_a_stored_token_is_never_sent_to_another_farm(monkeypatch: pytest.MonkeyPatch) -> None:
    store(HERE)
    with pytest.raises(Unauthenticated, match="no token for https://there"):
        effective("https://there", None, None)
    monkeypatch.setenv("BENCHFARM_URL", "https://there")
    with pytest.raises(Unauthenticated):
        effective(None, None, None)
    assert effective("https://here/", None, None).token == "of-here"


def test_without_any_login_the_command_to_log_in_is_told() -> None:
    with pytest.raises(Unauthenticated, match="benchfarm login URL --token-file FILE"):
        effective(None, None, None)


def test_forgetting() -> None:
    store(HERE)
    assert forget()
    assert not forget()
    assert stored() is None


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe\x00"])
def test_token_files_without_a_token(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidRequest, match="cannot read a token from"):
        read_token(path)


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "long"])
def test_a_token_file_is_regular_and_short(tmp_path: Path, kind: str) -> None:
    """What never ends would be read until there is no memory left, or for ever."""
    path = tmp_path / "token"
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("t" * (MAX_TOKEN_FILE_BYTES + 1))
    for read, field in ((read_token, "token_file"), (read_enrol_token, "enrol_token_file")):
        with pytest.raises(InvalidRequest, match="more than 4096" if kind == "long" else "no regular file") as caught:
            read(path)
        assert caught.value.field == field
        assert "--" + field.replace("_", "-") in caught.value.detail


def test_a_token_is_not_shown_by_its_login() -> None:
    assert "of-here" not in repr(HERE)
