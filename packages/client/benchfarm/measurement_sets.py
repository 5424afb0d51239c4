"""Measurement sets: folders with somebody else's latencies, read as texts and handed to the farm."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from benchfarm.connection import Connection, path_part
from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_core.jobs import Page
from benchfarm_core.measurement_sets import (
    MAX_SET_CHARS,
    MAX_SET_TABLES,
    MeasurementSetImported,
    MeasurementSetUpload,
    MeasurementSetView,
)
from benchfarm_core.refusals import refusal_of

PLATFORM_FILE: Final = "platform.json"
IMPORT_TIMEOUT_S: Final = 120.0
"""The farm looks at every row before it answers."""


class MeasurementSets:
    """The farm's imported measurement sets; who imports or deletes one must be an operator."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def import_folder(
        self, folder: Path, *, names: Mapping[str, str] | None = None, dry_run: bool = False
    ) -> MeasurementSetImported:
        """Hand over a folder's tables. Doing it again changes nothing.

        Args:
            folder: holds `platform.json` and a `<kernel>.csv` for each kernel type.
            names: what foreign kernel names stand for: `{"conv-bn-relu": "conv-bn-act:act=relu"}`.
            dry_run: only say what would be taken and what not.

        Raises:
            InvalidRequest: the folder is no measurement set, or none of its rows can be taken.
            TooLarge: the set is above a limit.
        """
        return self.import_set(read_set(folder, names=names or {}, dry_run=dry_run))

    def import_set(self, upload: MeasurementSetUpload) -> MeasurementSetImported:
        """Hand over a set's texts."""
        answer = self._connection.request(
            "POST", "/measurement-sets", json=upload, repeatable=True, read_timeout_s=IMPORT_TIMEOUT_S
        )
        return self._connection.value(MeasurementSetImported, answer)

    def list(self) -> Iterator[MeasurementSetView]:
        """The imported sets, newest first."""
        cursor: str | None = None
        while True:
            page = self._connection.read(Page[MeasurementSetView], "/measurement-sets", params={"cursor": cursor})
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def get(self, set_id: str) -> MeasurementSetView:
        """One imported set."""
        return self._connection.read(MeasurementSetView, f"/measurement-sets/{path_part(set_id)}")

    def delete(self, set_id: str) -> MeasurementSetView:
        """Take an imported set away with its rows."""
        answer = self._connection.request("DELETE", f"/measurement-sets/{path_part(set_id)}")
        return self._connection.value(MeasurementSetView, answer)


def read_set(folder: Path, *, names: Mapping[str, str], dry_run: bool) -> MeasurementSetUpload:
    """The texts of a folder. Raises InvalidRequest, TooLarge."""
    if not folder.is_dir():
        raise InvalidRequest(f"{folder} is no folder", field="folder")
    tables = sorted(folder.glob("*.csv"))
    if not (folder / PLATFORM_FILE).exists() or not tables:
        detail = f"{folder} is no measurement set: it needs {PLATFORM_FILE} and a <kernel>.csv for each kernel type"
        raise InvalidRequest(detail, field="folder")
    if len(tables) > MAX_SET_TABLES:
        raise TooLarge(f"{folder} holds {len(tables)} tables; a set has at most {MAX_SET_TABLES}", field="folder")
    left = MAX_SET_CHARS
    texts = {}
    for path in tables:
        texts[path.name] = _text(path, left)
        left -= len(texts[path.name])
    fields = {"platform_json": _text(folder / PLATFORM_FILE, MAX_SET_CHARS), "tables": texts, "names": dict(names)}
    try:
        return MeasurementSetUpload.model_validate({**fields, "dry_run": dry_run})
    except ValidationError as error:
        found = refusal_of(error.errors())
        raise InvalidRequest(found.sentence, field=found.field or None) from error


def _text(path: Path, limit_bytes: int) -> str:
    """A regular file's text; a pipe would never end. Raises InvalidRequest, TooLarge."""
    try:
        if not path.is_file():
            raise InvalidRequest(f"{path} is no regular file", field="folder")
        if path.stat().st_size > limit_bytes:
            raise TooLarge(f"the tables hold more than {MAX_SET_CHARS} bytes; split the set", field="folder")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is no text in UTF-8", field="folder") from error
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror or error}", field="folder") from error
