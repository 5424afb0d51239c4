"""Bundles for machines that reach nothing: what is packed, and their results, read whole or refused."""

import json
from collections.abc import Iterator
from pathlib import Path

from benchfarm.connection import Connection, path_part
from benchfarm_core.bundles import (
    BundleContents,
    BundleFailure,
    BundleImported,
    BundleOrder,
    BundleRequest,
    BundleResults,
    BundleView,
)
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import Page


class Bundles:
    """The farm's bundles; operators only."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, request: BundleRequest) -> BundleOrder:
        """What is to be packed, with the key that signs its results."""
        return self._connection.value(BundleOrder, self._connection.request("POST", "/bundles", json=request))

    def seal(self, bundle_id: str, contents: BundleContents) -> BundleView:
        """Tell what a bundle was packed to; results of other contents are refused."""
        answer = self._connection.request("PUT", f"/bundles/{path_part(bundle_id)}/contents", json=contents)
        return self._connection.value(BundleView, answer)

    def fail(self, bundle_id: str, failure: BundleFailure) -> BundleView:
        """Tell why a bundle could not be packed; the first reason stays."""
        answer = self._connection.request("PUT", f"/bundles/{path_part(bundle_id)}/failure", json=failure)
        return self._connection.value(BundleView, answer)

    def list(self) -> Iterator[BundleView]:
        """The farm's bundles, newest first."""
        cursor: str | None = None
        while True:
            page = self._connection.read(Page[BundleView], "/bundles", params={"cursor": cursor})
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def get(self, bundle_id: str) -> BundleView:
        """One bundle with its runs."""
        return self._connection.read(BundleView, f"/bundles/{path_part(bundle_id)}")

    def import_part(self, bundle_id: str, results: BundleResults) -> BundleImported:
        """Hand over one part of a results file."""
        path = f"/bundles/{path_part(bundle_id)}/results"
        answer = self._connection.request("POST", path, json=results, repeatable=True)
        return self._connection.value(BundleImported, answer)

    def import_results(self, file: Path) -> Iterator[BundleImported]:
        """Hand over a results file; yields what each part came to. Doing it again changes nothing.

        Raises InvalidRequest (`bundle_tampered`), before anything is sent, for a file that is cut off or of no bundle.
        """
        bundle_id, parts = read_results(file)
        for part in parts:
            yield self.import_part(bundle_id, part)


def read_results(file: Path) -> tuple[str, list[BundleResults]]:
    """The bundle that a results file is of, and its parts. Raises InvalidRequest."""
    try:
        first, *others = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        head = json.loads(first["head"])
        bundle_id, count = str(head["bundle_id"]), int(head["parts"])
        parts = [BundleResults.model_validate({"head": first["head"], **one}) for one in others]
    except OSError as error:
        raise InvalidRequest(f"cannot read {file}: {error.strerror}", field="file") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(f"{file} is no results file of a bundle, or a damaged one") from error
    if len(parts) != count:
        raise _damaged(f"{file} holds {len(parts)} of {count} parts: copy it again from the machine that measured")
    return bundle_id, parts


def _damaged(detail: str) -> InvalidRequest:
    return InvalidRequest(detail, code="bundle_tampered", field="file")
