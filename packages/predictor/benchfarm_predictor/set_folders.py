"""Reads a measurement set from its folder, for offline evaluation."""

from collections.abc import Mapping
from pathlib import Path

from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_core.measurement_sets import MAX_SET_CHARS, MAX_SET_TABLES, MeasurementSet, read_tables

PLATFORM_FILE = "platform.json"


def read_folder(path: Path, names: Mapping[str, str] | None = None) -> MeasurementSet:
    """The measurement set of a folder: its ``platform.json`` and every ``*.csv`` beside it.

    ``names``: what foreign kernel names stand for, as ``measurement_sets.read_tables`` takes them.

    Raises:
        InvalidRequest: no folder, no platform.json, no table, or what ``read_tables`` refuses.
        TooLarge: more text or more tables than a set may have.
    """
    tables = sorted(path.glob("*.csv"))
    if not (path / PLATFORM_FILE).is_file() or not tables:
        raise InvalidRequest(f"{path} is no measurement set: it needs {PLATFORM_FILE} and at least one table *.csv")
    size = sum(table.stat().st_size for table in tables)
    if size > MAX_SET_CHARS or len(tables) > MAX_SET_TABLES:
        raise TooLarge(f"{path} holds {len(tables)} tables of {size} bytes; split the set")
    texts = {table.name: _text(table) for table in tables}
    return read_tables(_text(path / PLATFORM_FILE), texts, names=names or {})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path.name} is no text in UTF-8") from error
