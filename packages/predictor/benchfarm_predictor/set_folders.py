"""Reads a measurement set from its folder, for offline evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_core.measurement_sets import (
    MAX_SET_CHARS,
    MAX_SET_ROWS,
    MAX_SET_TABLES,
    MeasurementSet,
    read_tables,
)

PLATFORM_FILE: Final = "platform.json"
MAX_PLATFORM_BYTES: Final = 65_536


def read_folder(path: Path, names: Mapping[str, str] | None = None) -> MeasurementSet:
    """The measurement set of a folder: its ``platform.json`` and every ``*.csv`` beside it.

    ``names``: what foreign kernel names stand for, as ``measurement_sets.read_tables`` takes them.

    Raises:
        InvalidRequest: no folder, no platform.json, no table, what is no regular file or cannot be read, or what
            ``read_tables`` refuses.
        TooLarge: more text, rows or tables than a set may have.
    """
    tables = sorted(path.glob("*.csv"))
    if not (path / PLATFORM_FILE).exists() or not tables:
        raise InvalidRequest(f"{path} is no measurement set: it needs {PLATFORM_FILE} and at least one table *.csv")
    if len(tables) > MAX_SET_TABLES:
        raise TooLarge(f"{path} holds {len(tables)} tables; a set has at most {MAX_SET_TABLES}")
    platform = _text(path / PLATFORM_FILE, MAX_PLATFORM_BYTES)
    texts, left = {}, MAX_SET_CHARS
    for table in tables:
        texts[table.name] = _text(table, left)
        left -= len(texts[table.name])
    if sum(text.count("\n") for text in texts.values()) > MAX_SET_ROWS + MAX_SET_TABLES:
        raise TooLarge(f"{path} holds more than {MAX_SET_ROWS} rows; split the set")
    return read_tables(platform, texts, names=names or {})


def _text(path: Path, limit_bytes: int) -> str:
    """A regular file's text, of which no more is read than a set may have: a pipe would never end."""
    try:
        if not path.is_file():
            raise InvalidRequest(f"{path} is no regular file")
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > limit_bytes:
        raise TooLarge(f"{path}: more than {limit_bytes} bytes are too many; split the set")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path.name} is no text in UTF-8") from error
