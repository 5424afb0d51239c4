"""Exports: tables of search spaces for use without a network, and the keys that sign them."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from benchfarm.calls import checked
from benchfarm.connection import Connection, path_part
from benchfarm_core.architectures import GeneValues
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.exports import MAX_MISSES, ExportRequest, ExportView, FarmKeys, Misses, MissesReport, MissesTaken

MAKING_TIMEOUT_S: Final = 120.0
"""The farm works out thousands of blocks before it answers."""
_NOT_MODIFIED: Final = 304


class Exports:
    """The farm's tables of search spaces."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def table(
        self,
        platform: str,
        space: str,
        *,
        version: int | None = None,
        genes: Mapping[str, Iterable[int]] | None = None,
        max_age_s: int | None = None,
    ) -> ExportView:
        """Have the table of a space on a platform made, with what answers there; the same again is the same export.

        Args:
            platform: its id, key or alias.
            space: its name.
            version: of the platform's predictors of whole models, instead of the one that answers.
            genes: the values that genes may have, where the whole space would be too large.
            max_age_s: a table that was made longer ago is made anew, with the same numbers, under its old id; None: it
                stays as it is, and so does its hash.
        """
        only = {name: tuple(values) for name, values in (genes or {}).items()}
        wanted = {"platform": platform, "space": space, "version": version, "genes": only, "max_age_s": max_age_s}
        answer = self._connection.request(
            "POST",
            "/exports",
            json=checked(ExportRequest, wanted),
            repeatable=True,
            read_timeout_s=MAKING_TIMEOUT_S,
        )
        return self._connection.value(ExportView, answer)

    def get(self, export_id: str) -> ExportView:
        """One export, as it stands."""
        return self._connection.read(ExportView, f"/exports/{path_part(export_id)}")

    def file(self, export_id: str, *, known_sha256: str | None = None) -> bytes | None:
        """The table as it was signed; None where it is the one of that hash, which is not sent again.

        Raises InvalidRequest, ``table_tampered``, for what came with another hash than the farm tells: by its tag, or,
        where a proxy changed that or took it away, by the export.
        """
        headers = {} if known_sha256 is None else {"If-None-Match": f'"{known_sha256}"'}
        answer = self._connection.request("GET", f"/exports/{path_part(export_id)}/file", headers=headers)
        if answer.status_code == _NOT_MODIFIED:
            return None
        sha256 = hashlib.sha256(answer.content).hexdigest()
        tag = answer.headers.get("etag", "").removeprefix("W/")
        if tag != f'"{sha256}"' and sha256 != self.get(export_id).sha256:
            detail = f"the table {export_id} came with other bytes than the farm sent; ask for it again"
            raise InvalidRequest(detail, code="table_tampered")
        return answer.content

    def keys(self) -> FarmKeys:
        """The public keys of the farm."""
        return self._connection.read(FarmKeys, "/keys")

    def report_misses(self, export_id: str, architectures: Sequence[Mapping[str, GeneValues]]) -> MissesTaken:
        """Tell for which architectures, by their genes, a table had no number; any number of them."""
        taken = MissesTaken(new=0, known=0, left_out=0)
        for start in range(0, len(architectures), MAX_MISSES):
            some = [dict(each) for each in architectures[start : start + MAX_MISSES]]
            report = checked(MissesReport, {"architectures": some})
            answer = self._connection.request("POST", f"/exports/{path_part(export_id)}/misses", json=report)
            found = self._connection.value(MissesTaken, answer)
            taken = MissesTaken(
                new=taken.new + found.new, known=taken.known + found.known, left_out=taken.left_out + found.left_out
            )
        return taken

    def misses(self, export_id: str) -> Misses:
        """For which architectures a table had no number."""
        return self._connection.read(Misses, f"/exports/{path_part(export_id)}/misses")
