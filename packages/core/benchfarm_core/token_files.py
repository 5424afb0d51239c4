"""How a token is read from a file that a person named: the one place for commands and agents."""

import stat
from pathlib import Path
from typing import Final

from benchfarm_core.errors import InvalidRequest

MAX_TOKEN_FILE_BYTES: Final = 4096


def read_token(path: Path, *, field: str = "token_file") -> str:
    """The token in a regular file. Raises InvalidRequest that names `field` where there is none, or far too much.

    A pipe might never end and a device never would, so neither is read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _unread(path, "no regular file", field)
        with path.open("rb") as file:
            content = file.read(MAX_TOKEN_FILE_BYTES + 1)
        token = content.decode().strip()
    except OSError as error:
        raise _unread(path, error.strerror or str(error), field) from error
    except UnicodeDecodeError as error:
        raise _unread(path, "no text", field) from error
    if len(content) > MAX_TOKEN_FILE_BYTES:
        raise _unread(path, f"more than {MAX_TOKEN_FILE_BYTES} bytes", field)
    if not token:
        raise _unread(path, "it is empty", field)
    return token


def _unread(path: Path, reason: str, field: str) -> InvalidRequest:
    option = "--" + field.replace("_", "-")
    return InvalidRequest(f"cannot read a token from {path} ({reason}): give another {option}", field=field)
