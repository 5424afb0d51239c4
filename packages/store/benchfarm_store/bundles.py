"""Bundles: what is handed out to be packed, and how each stands. What comes back: `bundle_imports`."""

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Row, insert, text

from benchfarm_core.agent_protocol import BatchItem
from benchfarm_core.bundles import (
    MAX_BUNDLED,
    BundleContents,
    BundleFailure,
    BundleOrder,
    BundleRequest,
    BundleRun,
    BundleView,
    refuse_unbundled,
)
from benchfarm_core.correctness import gate_limit
from benchfarm_core.errors import Conflict, InvalidRequest, NotFound
from benchfarm_core.jobs import Page
from benchfarm_core.matching import with_meant_options
from benchfarm_core.measurements import Timing
from benchfarm_core.planning import expected_s
from benchfarm_core.platforms import EngineSpec, OperatingPoint, Platform
from benchfarm_core.protocols import Protocol, ProtocolRequest, is_comparison, resolve_protocol
from benchfarm_core.workloads import WORKLOAD, AnyWorkload, workload_id
from benchfarm_store import cursors, platforms, specs
from benchfarm_store.bundle_imports import import_part
from benchfarm_store.database import Transaction
from benchfarm_store.tables import bundles
from benchfarm_store.tokens import Caller

__all__ = ["create_bundle", "fail_bundle", "forget_bundles", "get_bundle", "import_part", "list_bundles", "seal_bundle"]

ANY_VERSION: Final = "0"
"""Stands for an engine's version where it does not matter."""
UNSEALED_LIFE_DAYS: Final = 2
EXPIRED_LIFE_DAYS: Final = 30


def create_bundle(tx: Transaction, request: BundleRequest, by: Caller) -> BundleOrder:
    """Hand out what is to be packed. Nothing waits for it: what is wanted stays wanted, and boards may be quicker.

    Raises InvalidRequest as a job does, Conflict where nothing waits on the platform.
    """
    order = _of_platform(tx, request) if request.platform is not None else _of_workloads(tx, request, by)
    row = {
        "public_id": order.bundle_id,
        "account_id": by.account_number,
        "created_at": tx.now,
        "expires_at": order.expires_at,
        "key": order.key,
        "spec": order.model_dump(mode="json", exclude={"key"}),
    }
    tx.execute(insert(bundles).values(**row))
    return order


def _of_workloads(tx: Transaction, request: BundleRequest, by: Caller) -> BundleOrder:
    engine = str(request.engine)  # a request of workloads names one
    refuse_unbundled(engine, request.precision)
    with platforms.named_in("options"):
        _check_options(tx, engine, request)
    protocol = resolve_protocol(request.protocol or ProtocolRequest())
    _check_protocol(protocol)
    resolved = specs.resolve_workloads(tx, request.workloads, by.account_number, field="workloads")
    distinct = list({workload_id(one.workload): one for one in resolved}.values())
    specs.ensure_workloads(tx, distinct)  # with their costs, which no results tell
    fields = {
        "engine": engine,
        "engine_version": None,
        "options": request.options,
        "precision": request.precision,
        "threads": request.threads,
    }
    if len(distinct) * request.repeats > MAX_BUNDLED:
        detail = f"{len(distinct)} workloads {request.repeats} times are more than the {MAX_BUNDLED} of one bundle"
        raise InvalidRequest(detail, code="too_large", field="repeats")
    wanted = [(one.workload, expected_s(protocol, one.cost, None), request.repeats) for one in distinct]
    return _order(tx, request, protocol, fields, wanted)


def _check_options(tx: Transaction, engine: str, request: BundleRequest) -> None:
    """Raise InvalidRequest for options that no version of the engine has which some board tells: what a box measured
    with them could not be taken in. Where no board tells any, the box itself is the first to know."""
    refusal: InvalidRequest | None = None
    for version, known in platforms.engine_options(tx, engine).items() if request.options else ():
        spec = EngineSpec(name=engine, version=version, options=request.options)
        point = OperatingPoint(mode="free", cores=(0,), threads=1)
        platform = Platform(board_model="any", operating_point=point, engine=spec, precision=request.precision)
        try:
            with_meant_options(platform, known)
        except InvalidRequest as error:
            refusal = error
        else:
            return
    if refusal is not None:
        raise refusal


def _of_platform(tx: Transaction, request: BundleRequest) -> BundleOrder:
    row = platforms.find(tx, request.platform or "")
    platform = Platform.model_validate(row.spec)
    point = platform.operating_point
    if point.mode != "free":
        detail = f"a bundle measures at a free clock alone, and {platform.key} is {point.mode}"
        raise InvalidRequest(detail, code="operating_point_impossible", field="platform")
    with platforms.named_in("platform"):
        refuse_unbundled(platform.engine.name, platform.precision)
    protocol_id, protocol = _protocol_of(tx, row.id, request)
    _check_protocol(protocol)
    found = tx.execute(_WAITING, {"platform": row.id, "protocol": protocol_id, "limit": MAX_BUNDLED}).all()
    if not found:
        raise Conflict(f"nothing that a bundle can hold waits on {platform.key}: kernels and generated models alone")
    fields = {
        "engine": platform.engine.name,
        "engine_version": platform.engine.version,
        "options": platform.engine.options,
        "precision": platform.precision,
        "threads": point.threads,
    }
    wanted = [(WORKLOAD.validate_json(one.spec), one.expected_s, min(one.waiting, request.repeats)) for one in found]
    return _order(tx, request, protocol, fields, wanted)


def _protocol_of(tx: Transaction, platform: int, request: BundleRequest) -> tuple[int, Protocol]:
    if request.protocol is not None:
        protocol = resolve_protocol(request.protocol)
        return specs.ensure_protocol(tx, protocol), protocol
    row = tx.execute(_OLDEST_WISH, {"platform": platform}).one_or_none()
    if row is None:
        raise Conflict("nothing that a bundle can hold waits on the platform: kernels and generated models alone")
    return row.id, Protocol.model_validate_json(row.spec)


def _check_protocol(protocol: Protocol) -> None:
    if is_comparison(protocol):
        raise InvalidRequest("a bundle holds no pairs", code="not_a_pair", field="protocol")


_BUNDLED: Final = f"""
    FROM measurements m JOIN workloads w ON w.id = m.workload_id JOIN protocols t ON t.id = m.protocol_id
    WHERE m.platform_id = :platform AND m.state = 'wanted' AND m.clock_need = 0 AND m.timing = '{Timing.ALONE}'
        AND m.only_board_id IS NULL
        AND w.kind IN ('kernel', 'model')
"""
_OLDEST_WISH = text(f"SELECT t.id, t.spec::text AS spec {_BUNDLED} ORDER BY m.wanted_at, m.id LIMIT 1")
_WAITING = text(f"""
    SELECT w.spec::text AS spec, max(m.expected_s) AS expected_s, count(*) AS waiting {_BUNDLED}
        AND m.protocol_id = :protocol
    GROUP BY w.id ORDER BY min(m.id) LIMIT :limit
""")


def _order(
    tx: Transaction,
    request: BundleRequest,
    protocol: Protocol,
    fields: dict[str, Any],
    wanted: Sequence[tuple[AnyWorkload, float, int]],
) -> BundleOrder:
    """wanted: each workload, its expected seconds and how often it is measured."""
    order = BundleOrder(
        bundle_id="n_" + secrets.token_hex(8),
        farm=tx.execute(text("SELECT name FROM farms WHERE id = 1")).scalar_one(),
        key=secrets.token_hex(32),
        target=request.target,
        protocol=protocol,
        items=[],
        expires_at=tx.now + timedelta(seconds=request.expires_in_s),
        **fields,
    )
    try:
        limit = gate_limit(order.platform_of_files(order.engine_version or ANY_VERSION))
    except ValueError as error:
        raise InvalidRequest("that is no engine with options", field="options") from error
    items = [
        BatchItem(
            measurement_id=number,
            workload=workload,
            file_sha256=None,
            reference_sha256=None,
            max_relative_l2=limit,
            expected_s=seconds,
        )
        for number, (workload, seconds) in enumerate(_rounds(wanted)[:MAX_BUNDLED], 1)
    ]
    return order.model_copy(update={"items": items})


def _rounds(wanted: Sequence[tuple[AnyWorkload, float, int]]) -> list[tuple[AnyWorkload, float]]:
    """All workloads once, then those that are wanted again: repeats share no launches, so parts are few."""
    most = max((repeats for _, _, repeats in wanted), default=0)
    return [(one, seconds) for number in range(most) for one, seconds, repeats in wanted if number < repeats]


def forget_bundles(tx: Transaction, limit: int) -> int:
    """Remove bundles that nothing can come of any more, at most `limit`; returns how many. What brought results stays.

    Those that were never packed to their end go after `UNSEALED_LIFE_DAYS`, the others `EXPIRED_LIFE_DAYS` after they
    expired: until then a late import hears why it is refused.
    """
    return int(tx.execute(_FORGET, {"now": tx.now, "limit": limit}).rowcount)


_FORGET = text(f"""
    DELETE FROM bundles WHERE id IN (
        SELECT b.id FROM bundles b
        WHERE (b.expires_at <= :now - interval '{EXPIRED_LIFE_DAYS} days'
                OR (b.contents_sha256 IS NULL AND b.created_at <= :now - interval '{UNSEALED_LIFE_DAYS} days'))
            AND NOT EXISTS (SELECT FROM bundle_parts p WHERE p.bundle_id = b.id)
        ORDER BY b.id LIMIT :limit FOR UPDATE SKIP LOCKED)
""")


def seal_bundle(tx: Transaction, bundle_id: str, contents: BundleContents) -> BundleView:
    """Note what a bundle was packed to, once. The same again changes nothing. Raises NotFound, Conflict."""
    parameters = {"id": bundle_id, "sha256": contents.contents_sha256}
    known = tx.execute(_SEAL, parameters).one_or_none()
    if known is None:
        raise NotFound("there is no such bundle")
    if known.failure:
        raise Conflict(f"packing the bundle has failed: {known.failure}: create another one")
    if known.contents_sha256 != contents.contents_sha256:
        raise Conflict("the bundle was packed before, to other contents: create another one")
    return get_bundle(tx, bundle_id)


_SEAL = text("""
    UPDATE bundles SET contents_sha256 = CASE WHEN failure = '' THEN coalesce(contents_sha256, :sha256) END
    WHERE public_id = :id RETURNING contents_sha256, failure
""")


def fail_bundle(tx: Transaction, bundle_id: str, failure: BundleFailure) -> BundleView:
    """Note why a bundle could not be packed, once: the first reason stays. Raises NotFound, Conflict for one that was.

    Nobody need wait for it, and it is forgotten when those are that were never packed to their end.
    """
    known = tx.execute(_FAIL, {"id": bundle_id, "reason": failure.reason}).one_or_none()
    if known is None:
        raise NotFound("there is no such bundle")
    if known.contents_sha256 is not None:
        raise Conflict("the bundle was packed")
    return get_bundle(tx, bundle_id)


_FAIL = text("""
    UPDATE bundles SET failure = CASE WHEN contents_sha256 IS NULL AND failure = '' THEN :reason ELSE failure END
    WHERE public_id = :id RETURNING contents_sha256
""")


def list_bundles(tx: Transaction, *, cursor: str | None = None, limit: int = 100) -> Page[BundleView]:
    """Bundles, newest first."""
    last = cursors.decode("bundles", cursor, int)[0] if cursor else None
    rows = tx.execute(_BUNDLES, {"last": last, "id": None, "limit": limit + 1}).all()
    runs = _runs(tx, [row.id for row in rows])
    return cursors.page(rows, limit, lambda r: _view(r, runs[r.id]), lambda r: cursors.encode("bundles", r.id))


def get_bundle(tx: Transaction, bundle_id: str) -> BundleView:
    """One bundle. Raises NotFound."""
    row = tx.execute(_BUNDLES, {"last": None, "id": bundle_id, "limit": 1}).one_or_none()
    if row is None:
        raise NotFound("there is no such bundle")
    return _view(row, _runs(tx, [row.id])[row.id])


_BUNDLES = text("""
    SELECT id, public_id, created_at, expires_at, contents_sha256, failure, spec->>'target' AS target,
        spec->>'engine' AS engine, spec->>'precision' AS precision, (spec->>'threads')::int AS threads,
        json_array_length(spec->'items') AS items
    FROM bundles WHERE (CAST(:id AS text) IS NULL OR public_id = :id) AND (CAST(:last AS int) IS NULL OR id < :last)
    ORDER BY id DESC LIMIT :limit
""")


def _runs(tx: Transaction, ids: Sequence[int]) -> dict[int, list[BundleRun]]:
    """The imported runs of bundles, by the bundle's row, each bundle's in the order in which they came."""
    found: dict[int, list[BundleRun]] = {id_: [] for id_ in ids}
    for row in tx.execute(_RUNS, {"bundles": list(ids)}):
        fields = row._asdict()
        found[fields.pop("bundle_id")].append(BundleRun(**fields))
    return found


def _view(row: Row[Any], runs: list[BundleRun]) -> BundleView:
    return BundleView(
        id=row.public_id,
        target=row.target,
        engine=row.engine,
        precision=row.precision,
        threads=row.threads,
        items=row.items,
        contents_sha256=row.contents_sha256,
        failure=row.failure,
        created_at=row.created_at,
        expires_at=row.expires_at,
        runs=runs,
    )


_RUNS = text("""
    SELECT p.bundle_id, p.run_id, b.public_id AS board_id, min(p.answer->>'platform') AS platform, count(*) AS parts,
        sum((p.answer->>'results')::int) AS results, max(p.imported_at) AS imported_at, min(p.author) AS author
    FROM bundle_parts p JOIN boards b ON b.id = p.board_id
    WHERE p.bundle_id = ANY(CAST(:bundles AS int[])) GROUP BY p.bundle_id, p.run_id, b.public_id
    ORDER BY max(p.imported_at), p.run_id
""")
