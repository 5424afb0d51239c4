"""Which farm the command talks to, and with which token: from options, the environment, or the stored login."""

import os
import tempfile
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from benchfarm.connection import checked_url
from benchfarm.settings import Settings
from benchfarm_core.errors import InvalidRequest, Unauthenticated
from benchfarm_core.token_files import check_mode, token_in, unreadable
from benchfarm_core.values import Value

OTHERS_MASK: Final = 0o077


class Login(Value):
    """A farm and the token for it."""

    url: str
    token: str = Field(min_length=1, repr=False)
    ca_file: Path | None = None


def login_file() -> Path:
    """Where the login is stored: below XDG_CONFIG_HOME, by default ~/.config."""
    return Settings().config_home / "benchfarm" / "login.json"


def read_token(path: Path) -> str:
    """The token in a file. Raises InvalidRequest when there is none."""
    try:
        check_mode(path, path.stat().st_mode, field="token_file")
        with path.open("rb") as file:
            return token_in(file, path, field="token_file")
    except OSError as error:
        raise unreadable(path, error.strerror or str(error), field="token_file") from error


def store(login: Login) -> Path:
    """Keep a login, readable by its owner alone; replaces an earlier one in one step."""
    path = login_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A new file of mkstemp is 0600 from its first moment: the token is never readable by others, not even briefly.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".login-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(login.model_dump_json())
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    return path


def forget() -> bool:
    """Remove the stored login; whether there was one."""
    path = login_file()
    existed = path.exists()
    path.unlink(missing_ok=True)
    return existed


def stored() -> Login | None:
    """The stored login. Raises InvalidRequest when its file is damaged or readable by others."""
    path = login_file()
    try:
        if path.stat().st_mode & OTHERS_MASK:
            raise InvalidRequest(f"others can read {path}: chmod 600 it, and revoke the token if they may have")
        return Login.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise InvalidRequest(f"cannot read {path}: {_reason(error)}; log in again") from error


def effective(url: str | None, token_file: Path | None, ca_file: Path | None) -> Login:
    """The login that options, environment and the stored login make together, in this order.

    A stored token belongs to its own farm: it is not sent to another URL.

    Raises:
        Unauthenticated: there is no URL or no token.
        InvalidRequest: the URL is none of a farm, or a file cannot be read.
    """
    given = Settings()
    kept = stored()
    farm = url or given.url or (kept.url if kept else None)
    if farm is None:
        raise Unauthenticated("no farm is known: benchfarm login URL --token-file FILE")
    checked_url(farm)
    own = kept if kept and kept.url.rstrip("/") == farm.rstrip("/") else None
    token = _token(token_file, given) or (own.token if own else None)
    if token is None:
        raise Unauthenticated(f"no token for {farm}: benchfarm login {farm} --token-file FILE")
    return Login(url=farm, token=token, ca_file=ca_file or given.ca_file or (own.ca_file if own else None))


def _token(token_file: Path | None, given: Settings) -> str | None:
    if token_file is not None:
        return read_token(token_file)
    if given.token is not None:
        return given.token.get_secret_value()
    return read_token(given.token_file) if given.token_file else None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error).splitlines()[0]
