"""What a file must be that a token is read from: the one rule for commands and agents, which open it."""

import stat
from pathlib import Path
from typing import IO, Final

from benchfarm_core.errors import InvalidRequest

MAX_TOKEN_FILE_BYTES: Final = 4096


def check_mode(path: Path, mode: int, *, field: str) -> None:
    """Raise InvalidRequest for what is no regular file (`mode`: its `st_mode`): a pipe or a device may never end."""
    if not stat.S_ISREG(mode):
        raise unreadable(path, "no regular file", field=field)


def token_in(file: IO[bytes], path: Path, *, field: str) -> str:
    """The token in an open file, of which no more is read than a token takes. Raises InvalidRequest, OSError."""
    content = file.read(MAX_TOKEN_FILE_BYTES + 1)
    if len(content) > MAX_TOKEN_FILE_BYTES:
        raise unreadable(path, f"more than {MAX_TOKEN_FILE_BYTES} bytes", field=field)
    try:
        token = content.decode().strip()
    except UnicodeDecodeError as error:
        raise unreadable(path, "no text", field=field) from error
    if not token:
        raise unreadable(path, "it is empty", field=field)
    return token


def unreadable(path: Path, reason: str, *, field: str) -> InvalidRequest:
    """The refusal of a token file; `field`: the option without its dashes."""
    option = "--" + field.replace("_", "-")
    return InvalidRequest(f"cannot read a token from {path} ({reason}): give another {option}", field=field)
