"""The knowledge pool: what can be a donor, how alike platforms are, and files that carry both between farms."""

from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Final

from benchfarm.connection import Connection, Params, path_part
from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_core.jobs import Page
from benchfarm_core.measurements import Timing
from benchfarm_core.pool import LikenessView, PoolEntryView, PoolImported, PoolMember
from benchfarm_core.pool_files import MAX_POOL_BYTES, read

PAGE_ITEMS: Final = 1000
FILE_TIMEOUT_S: Final = 120.0
"""The farm packs or looks at every row before it answers."""


class Pool:
    """The farm's knowledge pool; who exports, imports or deletes must be an operator."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> Iterator[PoolMember]:
        """Platforms of the farm that were probed or have a predictor, and what others measured."""
        cursor: str | None = None
        while True:
            page = self._connection.read(Page[PoolMember], "/pool", params={"cursor": cursor, "limit": PAGE_ITEMS})
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def matrix(
        self, *, target: str | None = None, subject: str | None = None, timing: Timing | None = None
    ) -> Iterator[LikenessView]:
        """How alike a donor is to a target, by subject and timing, the nearest first.

        Args:
            target: a platform's id, key or alias.
            subject: a kernel type, or `model`.
            timing: alone or in situ.
        """
        wanted: Params = {"target": target, "subject": subject, "timing": timing, "limit": PAGE_ITEMS}
        cursor: str | None = None
        while True:
            page = self._connection.read(Page[LikenessView], "/pool/matrix", params={**wanted, "cursor": cursor})
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def export_file(self, *, licence: str, source: str = "", names: Iterable[str] = ()) -> bytes:
        """Rows and predictors as a pool file for another farm.

        Args:
            licence: of this farm's rows and predictors; entries of others keep theirs.
            source: who measured, for people.
            names: platforms and entries; none: every platform of the farm that was probed or has a predictor.

        Raises:
            TooLarge: that is more than a pool file holds; name fewer.
        """
        wanted: Params = {"licence": licence, "source": source or None, "names": [*names]}
        return self._connection.request("GET", "/pool/file", params=wanted, read_timeout_s=FILE_TIMEOUT_S).content

    def import_file(self, file: Path) -> PoolImported:
        """Hand over a pool file. Doing it again changes nothing.

        Raises InvalidRequest, before anything is sent, for what is no pool file (`pool_file_foreign`) or not whole
        (`pool_file_damaged`).
        """
        data = _read(file)
        read(data)
        answer = self._connection.request(
            "POST",
            "/pool",
            file=BytesIO(data),
            headers={"Content-Type": "application/octet-stream"},
            repeatable=True,
            read_timeout_s=FILE_TIMEOUT_S,
        )
        return self._connection.value(PoolImported, answer)

    def get(self, entry_id: str) -> PoolEntryView:
        """An imported entry, with what its predictors were taught."""
        return self._connection.read(PoolEntryView, f"/pool/entries/{path_part(entry_id)}")

    def delete(self, entry_id: str) -> PoolMember:
        """Take an imported entry away."""
        answer = self._connection.request("DELETE", f"/pool/entries/{path_part(entry_id)}")
        return self._connection.value(PoolMember, answer)


def _read(file: Path) -> bytes:
    """A regular file's bytes; a pipe would never end. Raises InvalidRequest, TooLarge."""
    try:
        if file.exists() and not file.is_file():
            raise InvalidRequest(f"{file} is no regular file", field="file")
        if file.stat().st_size > MAX_POOL_BYTES:
            raise TooLarge(f"{file} is above the limit of {MAX_POOL_BYTES} bytes of a pool file", field="file")
        return file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"cannot read {file}: {error.strerror or error}", field="file") from error
