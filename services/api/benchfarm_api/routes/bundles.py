"""Bundles: measurements packed for machines that reach nothing, and their results."""

from typing import Annotated

from fastapi import Path

from benchfarm_api.access import CallerDep
from benchfarm_api.parts import PartsDep
from benchfarm_api.problems import conflict, not_found
from benchfarm_api.routes import PageParameters, new_router
from benchfarm_core.bundles import (
    BundleContents,
    BundleFailure,
    BundleImported,
    BundleOrder,
    BundleRequest,
    BundleResults,
    BundleView,
)
from benchfarm_core.jobs import Page
from benchfarm_store import bundles

router = new_router("bundles")

BundleId = Annotated[str, Path(max_length=40)]


@router.post("/bundles", status_code=201, responses=conflict())
def create_bundle(wanted: BundleRequest, caller: CallerDep, parts: PartsDep) -> BundleOrder:
    """Hand out what is to be packed, with the key that signs its results."""
    with parts.database.transaction() as tx:
        return bundles.create_bundle(tx, wanted, by=caller)


@router.get("/bundles")
def list_bundles(parts: PartsDep, query: PageParameters) -> Page[BundleView]:
    """Bundles, newest first."""
    with parts.database.transaction(read_only=True) as tx:
        return bundles.list_bundles(tx, cursor=query.cursor, limit=query.limit)


@router.get("/bundles/{bundle_id}", responses=not_found())
def get_bundle(bundle_id: BundleId, parts: PartsDep) -> BundleView:
    """One bundle with its runs."""
    with parts.database.transaction(read_only=True) as tx:
        return bundles.get_bundle(tx, bundle_id)


@router.put("/bundles/{bundle_id}/contents", responses=not_found() | conflict())
def seal_bundle(bundle_id: BundleId, contents: BundleContents, parts: PartsDep) -> BundleView:
    """Say what the bundle was packed to: results of any other contents are refused."""
    with parts.database.transaction() as tx:
        return bundles.seal_bundle(tx, bundle_id, contents)


@router.put("/bundles/{bundle_id}/failure", responses=not_found() | conflict())
def fail_bundle(bundle_id: BundleId, failure: BundleFailure, parts: PartsDep) -> BundleView:
    """Say why the bundle could not be packed: nobody is to wait for it."""
    with parts.database.transaction() as tx:
        return bundles.fail_bundle(tx, bundle_id, failure)


@router.post("/bundles/{bundle_id}/results", responses=not_found() | conflict())
def import_bundle(bundle_id: BundleId, results: BundleResults, caller: CallerDep, parts: PartsDep) -> BundleImported:
    """Take in one part of a results file. The same part again changes nothing."""
    with parts.database.transaction() as tx:
        return bundles.import_part(tx, bundle_id, results, by=caller)
