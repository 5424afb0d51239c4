"""Exports: what a table is made of, the files that were made, and architectures that they lacked.

A table is made between two transactions: no connection waits while it is worked out. The same export asked for again is
the one that is there, unless it is older than whoever asks will have it.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text

from benchfarm_core.access import sees_all_accounts
from benchfarm_core.boards import refuse_single_use
from benchfarm_core.errors import Conflict, NotFound
from benchfarm_core.exports import (
    KEPT_TABLES,
    MAX_MISSES,
    ExportRequest,
    ExportView,
    Misses,
    MissesTaken,
    TableHead,
)
from benchfarm_core.platforms import Platform
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_core.values import canonical_json, digest
from benchfarm_store import fusions, platforms
from benchfarm_store.asked_kernels import fusings
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import rows_json
from benchfarm_store.farm_keys import SigningKey, signing_key
from benchfarm_store.tokens import Caller
from benchfarm_workloads.fusing import FusionRules

MAX_FORGOTTEN: Final = 100
"""Exports that are forgotten at once, each with up to `MAX_MISSES` misses."""
_PREFIX: Final = "ex_"
_PREDICTOR: Final = "pr_"


class Ordered(NamedTuple):
    """What a table is to be made of. `view`: the export itself, where it is there already. `oldest`: one that was made
    before then is not it."""

    platform_id: int
    predictor_row: int
    head: TableHead
    key: SigningKey
    rules: FusionRules
    predictor: bytes
    wanted: str
    oldest: datetime | None
    view: ExportView | None


def order(tx: Transaction, request: ExportRequest, space_version: int, by: Caller) -> Ordered:
    """What the table is made of; the farm's key is made here, if there is none yet.

    Raises:
        InvalidRequest: as `platforms.find`, `platform_single_use`.
        Conflict: `no_predictor` where nothing answers for whole models, or no such version answers or did once and has
            its file.
    """
    row = platforms.find(tx, request.platform)
    refuse_single_use(row.key)
    found = tx.execute(_PREDICTORS, {"platform": row.id, "version": request.version, "subject": WHOLE_MODEL}).first()
    if found is None:
        raise _no_predictor(row.key, request.version)
    rules = _rules(tx, f"{_PREDICTOR}{found.id}", row.spec)
    genes = {name: tuple(sorted(set(values))) for name, values in sorted(request.genes.items())}
    key = signing_key(tx)
    head = TableHead(
        export_id="",
        farm=tx.execute(text("SELECT name FROM farms WHERE id = 1")).scalar_one(),
        platform=row.key,
        space=request.space,
        space_version=space_version,
        genes=genes,
        predictor_id=f"{_PREDICTOR}{found.id}",
        predictor_version=found.version,
        predictor_sha256=found.sha256,
        kernels=fusions.rules_digest(rules),
        made_at=tx.now,
    )
    wanted = digest(
        [head.space, space_version, {name: list(each) for name, each in genes.items()}, head.kernels, key.id]
    )
    there = tx.execute(_SAME, {"predictor": found.id, "wanted": wanted}).one_or_none()
    export_id = _PREFIX + secrets.token_hex(8) if there is None else there.public_id
    head = head.model_copy(update={"export_id": export_id})
    oldest = None if request.max_age_s is None else tx.now - timedelta(seconds=request.max_age_s)
    is_there = there is not None and there.has_file and (oldest is None or there.created_at >= oldest)
    view = get_export(tx, export_id, by) if is_there else None
    return Ordered(row.id, found.id, head, key, rules, bytes(found.file), wanted, oldest, view)


def _rules(tx: Transaction, predictor_id: str, spec: Any) -> FusionRules:
    """By which a version of a platform takes kernel lists, as where the farm answers."""
    _, (rules,) = fusings(tx, [(Platform.model_validate(spec), predictor_id)])
    return rules


def _no_predictor(platform: str, version: int | None) -> Conflict:
    which = (
        "no predictor of whole models answers"
        if version is None
        else f"version {version} of whole models never answered, or its file is not kept"
    )
    makes = f"an adaptation makes one: benchfarm adapt {platform}"
    return Conflict(f"on {platform} {which}; {makes}", code="no_predictor", field="version" if version else "platform")


_PREDICTORS = text("""
    SELECT id, version, sha256, file FROM predictors
    WHERE platform_id = :platform AND subject = :subject AND file IS NOT NULL
        AND CASE WHEN CAST(:version AS int) IS NULL THEN state = 'active'
            ELSE version = CAST(:version AS int) AND activated_at IS NOT NULL AND state <> 'rejected' END
""")
# a device has the old table under this id: it asks by it for the new one, and tells its misses there
_SAME = text("""
    SELECT public_id, created_at, file IS NOT NULL AS has_file FROM exports
    WHERE predictor_id = :predictor AND wanted = :wanted
""")


def keep(tx: Transaction, ordered: Ordered, file: bytes, blocks: int, by: Caller) -> ExportView:
    """Keep a table that was made, and let go of the files of older ones. Who made the same meanwhile was first."""
    head = ordered.head
    row = {
        "public_id": head.export_id,
        "platform": ordered.platform_id,
        "predictor": ordered.predictor_row,
        "key": ordered.key.row_id,
        "account": by.account_number,
        "now": head.made_at,
        "space_version": head.space_version,
        "blocks": blocks,
        "size_bytes": len(file),
        "space": head.space,
        "genes": canonical_json({name: list(values) for name, values in head.genes.items()}),
        "wanted": ordered.wanted,
        "kernels": head.kernels,
        "sha256": hashlib.sha256(file).hexdigest(),
        "file": file,
        "oldest": ordered.oldest,
    }
    tx.execute(_KEEP, row)
    kept = tx.execute(_SAME, row).one().public_id
    tx.execute(_FORGET, {"platform": ordered.platform_id, "space": head.space, "kept": KEPT_TABLES})
    return get_export(tx, kept, by)


_KEEP = text("""
    INSERT INTO exports AS e (public_id, platform_id, predictor_id, key_id, account_id, created_at, space_version,
        blocks, size_bytes, space, genes, wanted, kernels, sha256, file)
    VALUES (:public_id, :platform, :predictor, :key, :account, :now, :space_version, :blocks,
        :size_bytes, :space, CAST(:genes AS jsonb), :wanted, :kernels, :sha256, :file)
    ON CONFLICT (predictor_id, wanted) DO UPDATE SET public_id = excluded.public_id, created_at = excluded.created_at,
        size_bytes = excluded.size_bytes, sha256 = excluded.sha256, file = excluded.file
    WHERE e.file IS NULL OR e.created_at < CAST(:oldest AS timestamptz)
""")
_FORGET = text("""
    UPDATE exports SET file = NULL WHERE id IN (
        SELECT id FROM exports WHERE platform_id = :platform AND space = :space AND file IS NOT NULL
        ORDER BY created_at DESC, id DESC OFFSET :kept)
""")


def get_export(tx: Transaction, export_id: str, by: Caller) -> ExportView:
    """One export, with the misses that the caller is shown (`list_misses`). Raises NotFound."""
    row = _row(tx, export_id, by)
    rules = _rules(tx, f"{_PREDICTOR}{row.predictor_id}", row.spec)
    is_current = row.state == "active" and row.kernels == fusions.rules_digest(rules)
    return ExportView(
        id=row.public_id,
        platform=row.key,
        space=row.space,
        space_version=row.space_version,
        genes=row.genes,
        predictor_id=f"{_PREDICTOR}{row.predictor_id}",
        predictor_version=row.version,
        is_current=is_current,
        key_id=row.key_id,
        blocks=row.blocks,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        has_file=row.has_file,
        misses=row.misses,
        created_at=row.created_at,
    )


def _row(tx: Transaction, export_id: str, by: Caller | None = None) -> Row[Any]:
    """`by`: whose misses are counted; None: nobody's."""
    row = tx.execute(_EXPORT, {"id": export_id, "account": _shown(by) if by is not None else 0}).one_or_none()
    if row is None:
        raise NotFound("there is no such export")
    return row


_EXPORT = text("""
    SELECT e.id AS row_id, e.public_id, e.created_at, e.space, e.space_version, e.genes, e.kernels, e.blocks,
        e.size_bytes, e.sha256, e.predictor_id, e.file IS NOT NULL AS has_file, p.key, p.spec, r.version, r.state,
        k.public_id AS key_id, (SELECT count(DISTINCT m.digest) FROM export_misses m
            WHERE m.export_id = e.id AND (CAST(:account AS int) IS NULL OR m.account_id = :account)) AS misses
    FROM exports e JOIN platforms p ON p.id = e.platform_id JOIN predictors r ON r.id = e.predictor_id
    JOIN farm_keys k ON k.id = e.key_id
    WHERE e.public_id = :id
""")


def _shown(by: Caller) -> int | None:
    """The account whose misses a caller is shown; None: all accounts'."""
    return None if sees_all_accounts(by.role) else by.account_number


def file_hash(tx: Transaction, export_id: str) -> str:
    """The SHA-256 of the file. Raises NotFound, also where it is not kept any more."""
    row = _row(tx, export_id)
    if not row.has_file:
        raise NotFound("the file of this export is not kept any more: export the table again")
    return str(row.sha256)


def file(tx: Transaction, export_id: str) -> bytes:
    """The table as it was signed. Raises as `file_hash`."""
    file_hash(tx, export_id)
    return bytes(tx.execute(text("SELECT file FROM exports WHERE public_id = :id"), {"id": export_id}).scalar_one())


def space_of(tx: Transaction, export_id: str) -> str:
    """The name of the search space that a table is of. Raises NotFound."""
    return str(_row(tx, export_id).space)


def report_misses(tx: Transaction, export_id: str, genes: Sequence[Mapping[str, Any]], by: Caller) -> MissesTaken:
    """Count architectures that a table lacked, each once a report; up to `MAX_MISSES` different ones of each account
    are kept: what one tells takes no room of another's.

    Raises NotFound.
    """
    row = _row(tx, export_id)
    held = tx.execute(text("SELECT 1 FROM exports WHERE id = :id FOR UPDATE"), {"id": row.row_id})
    if held.one_or_none() is None:  # forgotten at this very moment
        raise NotFound("there is no such export")
    given = {digest(each): each for each in genes}
    rows = [{"digest": name, "genes": each} for name, each in given.items()]
    asked = {"export": row.row_id, "account": by.account_number, "rows": rows_json(rows), "now": tx.now}
    known = {each.digest for each in tx.execute(_COUNT, asked)}
    new = [each for each in rows if each["digest"] not in known]
    room = MAX_MISSES - tx.execute(_MISSES_COUNT, asked).scalar_one()
    taken = new[: max(room, 0)]
    tx.execute(_ADD, {**asked, "rows": rows_json(taken)})
    return MissesTaken(new=len(taken), known=len(known), left_out=len(new) - len(taken))


_COUNT = text("""
    UPDATE export_misses m SET reports = m.reports + 1, last_at = :now
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(digest text)
    WHERE m.export_id = :export AND m.account_id = :account AND m.digest = x.digest
    RETURNING m.digest
""")
_MISSES_COUNT = text("SELECT count(*) FROM export_misses WHERE export_id = :export AND account_id = :account")
_ADD = text("""
    INSERT INTO export_misses (export_id, account_id, reports, first_at, last_at, digest, genes)
    SELECT :export, :account, 1, :now, :now, x.digest, x.genes
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(digest text, genes jsonb)
    ON CONFLICT (export_id, account_id, digest) DO NOTHING
""")


def list_misses(tx: Transaction, export_id: str, by: Caller) -> Misses:
    """What a table lacked: by the caller's account, or by all of them together where the role sees these. Raises
    NotFound."""
    rows = tx.execute(_MISSES, {"export": _row(tx, export_id).row_id, "account": _shown(by)})
    return Misses.model_validate({"misses": [_miss(row.genes, row.reports, row.first_at, row.last_at) for row in rows]})


def _miss(genes: Mapping[str, Any], reports: int, first_at: datetime, last_at: datetime) -> dict[str, Any]:
    return {"genes": genes, "reports": reports, "first_at": first_at, "last_at": last_at}


_MISSES = text("""
    SELECT (array_agg(genes))[1] AS genes, sum(reports)::int AS reports, min(first_at) AS first_at,
        max(last_at) AS last_at
    FROM export_misses WHERE export_id = :export AND (CAST(:account AS int) IS NULL OR account_id = :account)
    GROUP BY digest ORDER BY reports DESC, first_at, digest
""")


def forget_old(tx: Transaction, *, kept_s: float, limit: int = MAX_FORGOTTEN) -> int:
    """Remove exports whose files are not kept any more, with their misses, when they were made and last missed anything
    longer ago than that; returns how many. What another transaction holds is left alone."""
    ids = list(tx.execute(_OLD, {"now": tx.now, "kept_s": kept_s, "limit": limit}).scalars())
    if ids:
        tx.execute(text("DELETE FROM export_misses WHERE export_id = ANY(CAST(:ids AS int[]))"), {"ids": ids})
        tx.execute(text("DELETE FROM exports WHERE id = ANY(CAST(:ids AS int[]))"), {"ids": ids})
    return len(ids)


_OLD = text("""
    SELECT e.id FROM exports e
    WHERE e.file IS NULL AND e.created_at <= :now - make_interval(secs => :kept_s) AND NOT EXISTS (
        SELECT FROM export_misses m
        WHERE m.export_id = e.id AND m.last_at > :now - make_interval(secs => :kept_s))
    ORDER BY e.id LIMIT :limit FOR UPDATE OF e SKIP LOCKED
""")
