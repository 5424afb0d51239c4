"""Predictors: which versions there are, their files, and the way back to the version before."""

import hashlib
from collections.abc import Iterator

from benchfarm.connection import Connection, path_part, platform_path
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import Page
from benchfarm_core.predictors import PredictorState, PredictorView, RollbackRequest


class Predictors:
    """The farm's predictors; who rolls one back must be an operator."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(
        self, *, platform: str | None = None, subject: str | None = None, state: PredictorState | None = None
    ) -> Iterator[PredictorView]:
        """Versions, newest first.

        Args:
            platform: id, key or alias.
            subject: a kernel type, or `model`.
            state: `active` for those that answer.
        """
        cursor: str | None = None
        while True:
            wanted = {"platform": platform, "subject": subject, "state": state, "cursor": cursor}
            page = self._connection.read(Page[PredictorView], "/predictors", params=wanted)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def get(self, predictor_id: str) -> PredictorView:
        """One version."""
        return self._connection.read(PredictorView, f"/predictors/{path_part(predictor_id)}")

    def file(self, predictor_id: str) -> bytes:
        """The file of a version. Raises InvalidRequest (`predictor_file_damaged`) where its hash is another."""
        found = self.get(predictor_id)
        data = self._connection.request("GET", f"/predictors/{path_part(predictor_id)}/file").content
        if hashlib.sha256(data).hexdigest() != found.sha256:
            detail = f"the file of {predictor_id} does not have the hash that its version tells; ask for it again"
            raise InvalidRequest(detail, code="predictor_file_damaged")
        return data

    def rollback(self, platform: str, subject: str, request: RollbackRequest) -> PredictorView:
        """Let the version before the active one answer again; that one is the answer."""
        path = f"/platforms/{platform_path(platform)}/predictors/{path_part(subject)}/rollback"
        return self._connection.value(PredictorView, self._connection.request("POST", path, json=request))
