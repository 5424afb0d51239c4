"""Predictors: published whole or not at all, at most one active version of each platform and subject, and the way back.

Files lie beside their versions, so that one transaction swaps what answers: a question sees the version before or the
one after. Platforms are told apart by their rows here; ids of predictors are as people see them.
"""

import hashlib
from collections.abc import Collection
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, insert, text

from benchfarm_core.errors import Conflict, InvalidRequest, NotFound, TooLarge
from benchfarm_core.jobs import Page
from benchfarm_core.predictor_headers import MAX_FILE_BYTES, Header, read_header
from benchfarm_core.predictors import (
    KEPT_FILES,
    PREDICTOR_TRANSITIONS,
    WHOLE_MODEL,
    HoldoutScore,
    PredictorEvidence,
    PredictorState,
    PredictorsWanted,
    PredictorView,
    may_lend,
)
from benchfarm_core.states import advance
from benchfarm_store import cursors, fusions, platforms
from benchfarm_store.board_history import author_of
from benchfarm_store.database import Transaction
from benchfarm_store.tables import predictors
from benchfarm_store.tokens import Caller
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.kernels import kernel_type

ANY_PREDICTOR: Final = PredictorsWanted()
CANARIES_NOW: Final = """
    (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY latest.ns::float8 / coalesce(c.fastest_ns, c.sgemm_ns))
        FROM canary_goldens c JOIN boards b ON b.generation_id = c.generation_id
        CROSS JOIN LATERAL (
            SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY ns) AS ns FROM unnest(c.sgemm_recent_ns) AS ns) latest
        WHERE c.platform_id = {platform} AND c.sgemm_ns > 0)
"""
"""What the clock's canary of a `platform` takes in its latest leases over its reference, the middle of its boards."""
_PREFIX: Final = "pr_"


class Head(NamedTuple):
    """What there is to know of an active version before its file is loaded; `platform_id` is the platform's row."""

    id: str
    platform_id: int
    subject: str
    version: int
    sha256: str
    size_bytes: int


class Pinned(NamedTuple):
    """A version that a pin names. `gone`: why it cannot answer any more; None where it can."""

    head: Head
    gone: str | None


class Answering(NamedTuple):
    """What answers now: when it was made, what it scored on hold-outs then, and its file.

    `rules`: by which it takes kernel lists; None where they were not kept, and those of now count.
    """

    id: str
    made_at: datetime
    holdout: HoldoutScore | None
    file: bytes
    rules: FusionRules | None = None


def publish(
    tx: Transaction,
    *,
    platform_id: int,
    subject: str,
    file: bytes,
    evidence: PredictorEvidence,
    reason: str,
    activate: bool,
) -> PredictorView:
    """Keep a predictor as the next version of its subject on a platform: a candidate, or with `activate` what answers.

    The newest version's own file again is no new version, so that who died after the commit may do it twice; what was
    rejected or rolled back meanwhile stays so.

    Raises:
        NotFound: there is no such platform.
        InvalidRequest: `kernel_unknown` for a subject that is none; `predictor_file_damaged`, `predictor_file_foreign`
            where the file is none, or of another platform or subject.
        TooLarge: the file is.
    """
    if subject != WHOLE_MODEL:
        kernel_type(subject)
    if len(file) > MAX_FILE_BYTES:
        raise TooLarge(f"the predictor takes {len(file)} bytes; at most {MAX_FILE_BYTES}")
    header = read_header(file)
    _check_place(header, _held_platform(tx, platform_id), subject)
    row = _newest(tx, platform_id, subject)
    sha256 = hashlib.sha256(file).hexdigest()
    if row is None or row.sha256 != sha256:
        values = {
            "platform_id": platform_id,
            "subject": subject,
            "version": 1 if row is None else row.version + 1,
            "state": PredictorState.CANDIDATE,
            "reason": reason,
            "created_at": tx.now,
            "size_bytes": len(file),
            "sha256": sha256,
            "lineage": header.lineage.model_dump(mode="json"),
            "evidence": evidence.model_dump(mode="json"),
            "file": file,
            "canaries": tx.execute(_CANARIES, {"platform": platform_id}).scalar_one(),
        }
        tx.execute(insert(predictors).values(**values))
        row = _newest(tx, platform_id, subject)
        assert row is not None
    if activate and row.state == PredictorState.CANDIDATE:
        _activate(tx, row, reason)
    _forget_files(tx, row)
    return _view(_row(tx, row.id))


_CANARIES = text(f"SELECT {CANARIES_NOW.format(platform=':platform')}")


def _check_place(header: Header, key: str, subject: str) -> None:
    if (header.platform, header.kernel_type) != (key, subject):
        found = f"{header.kernel_type[:60]} on {header.platform[:200]}"
        detail = f"the predictor file is foreign: it is of {found}, not of {subject} on {key}"
        raise InvalidRequest(detail, code="predictor_file_foreign")


def activate(tx: Transaction, predictor_id: str, reason: str) -> PredictorView:
    """Let a candidate answer from the commit on; an active one stays as it is.

    Raises NotFound; Conflict for what was rejected, or superseded: only a rollback returns to that.
    """
    row = _held(tx, predictor_id)
    if row.state == PredictorState.SUPERSEDED:
        raise Conflict(f"version {row.version} was superseded: only a rollback returns to it")
    if row.state != PredictorState.ACTIVE:
        _activate(tx, row, reason)
        _forget_files(tx, row)
    return _view(_row(tx, row.id))


def reject(tx: Transaction, predictor_id: str, reason: str) -> PredictorView:
    """Say why a candidate must not answer; a rejected one stays as it is. Raises NotFound, Conflict."""
    row = _held(tx, predictor_id)
    if row.state != PredictorState.REJECTED:
        _move(tx, row, PredictorState.REJECTED, reason)
        _forget_files(tx, row)
    return _view(_row(tx, row.id))


def rollback(
    tx: Transaction, platform: str, subject: str, *, by: Caller, reason: str, version: int | None = None
) -> PredictorView:
    """Let the version that answered before the active one answer again, and return it. What was rolled back is not
    returned to from a later one.

    Args:
        platform: id, key or alias.
        version: the one that is to answer no more; None: whichever answers now.

    Raises:
        NotFound: no such platform, or nothing of the subject answers there.
        Conflict: another version than `version` answers, or none is left to return to; nothing was changed.
    """
    try:
        platform_id = int(platforms.find(tx, platform).id)
    except InvalidRequest as error:
        raise NotFound(error.detail) from error
    key = _held_platform(tx, platform_id)
    answering = _active(tx, platform_id, subject)
    if answering is None:
        raise NotFound(f"no predictor of {subject[:60]!r} answers on {key}")
    if version is not None and version != answering.version:
        raise Conflict(f"version {answering.version} answers, not version {version}; nothing was changed")
    parameters = {"platform": platform_id, "subject": subject, "version": answering.version}
    before = tx.execute(_BEFORE, parameters).one_or_none()
    if before is None:
        raise Conflict(f"there is no version before version {answering.version} to return to")
    _move(tx, answering, PredictorState.SUPERSEDED, f"rolled back by {author_of(by)}: {reason}")
    _move(tx, before, PredictorState.ACTIVE, f"returned to by {author_of(by)}: {reason}")
    _forget_files(tx, before)
    return _view(_row(tx, before.id))


def _activate(tx: Transaction, row: Row[Any], reason: str) -> None:
    advance(PREDICTOR_TRANSITIONS, PredictorState(row.state), PredictorState.ACTIVE)  # before anything is changed
    if not row.has_file:
        raise Conflict(f"the file of version {row.version} is not kept any more")
    before = _active(tx, row.platform_row, row.subject)
    if before is not None:
        _move(tx, before, PredictorState.SUPERSEDED, f"version {row.version} took its place: {reason}")
    _move(tx, row, PredictorState.ACTIVE, reason)


def _move(tx: Transaction, row: Row[Any], to: PredictorState, reason: str) -> None:
    state = advance(PREDICTOR_TRANSITIONS, PredictorState(row.state), to)
    activated_at = tx.now if state == PredictorState.ACTIVE else None
    tx.execute(_MOVE, {"id": row.id, "state": state, "reason": reason, "activated_at": activated_at})


_MOVE = text("""
    UPDATE predictors SET state = :state, reason = :reason,
        activated_at = coalesce(CAST(:activated_at AS timestamptz), activated_at)
    WHERE id = :id
""")


def _forget_files(tx: Transaction, row: Row[Any]) -> None:
    """Of a subject's versions that do not answer, all but the newest of each state lose their files."""
    tx.execute(_FORGET, {"platform": row.platform_row, "subject": row.subject, "kept": KEPT_FILES})


_FORGET = text("""
    UPDATE predictors SET file = NULL WHERE id IN (
        SELECT id FROM (
            SELECT id, row_number() OVER (PARTITION BY state ORDER BY version DESC) AS place FROM predictors
            WHERE platform_id = :platform AND subject = :subject AND state <> 'active' AND file IS NOT NULL) ranked
        WHERE place > :kept)
""")


def answering(tx: Transaction, platform_id: int, subject: str) -> Answering | None:
    """What answers of a subject on a platform (its row), to be judged beside; None where nothing does."""
    row = tx.execute(_ANSWERING, {"platform": platform_id, "subject": subject}).one_or_none()
    if row is None:
        return None
    evidence = PredictorEvidence.model_validate(row.evidence)
    rules = fusions.kept_rules(tx, [evidence.rules] if evidence.rules is not None else [])
    id_ = f"{_PREFIX}{row.id}"
    return Answering(id_, row.created_at, evidence.holdout, bytes(row.file), rules.get(evidence.rules or ""))


_ANSWERING = text("""
    SELECT id, created_at, evidence, file FROM predictors
    WHERE platform_id = :platform AND subject = :subject AND state = 'active'
""")


def rules_of(tx: Transaction, predictor_ids: Collection[str]) -> dict[str, FusionRules]:
    """By which rules of fusion versions learnt, and take kernel lists; of some nobody kept them."""
    numbers = {_number(id_): id_ for id_ in predictor_ids}
    rows = tx.execute(_RULES, {"ids": sorted(numbers)}).all() if numbers else []
    kept = fusions.kept_rules(tx, [row.rules for row in rows])
    return {numbers[row.id]: kept[row.rules] for row in rows if row.rules in kept}


_RULES = text("""
    SELECT id, evidence->>'rules' AS rules FROM predictors
    WHERE id = ANY(CAST(:ids AS int[])) AND evidence->>'rules' IS NOT NULL
""")


def hold_answering(tx: Transaction, platform_id: int, subject: str) -> str | None:
    """The id of what answers, which nobody else changes until the transaction's end: who has judged a new one beside
    another must judge again. None where nothing answers. Raises NotFound."""
    _held_platform(tx, platform_id)
    row = _active(tx, platform_id, subject)
    return None if row is None else f"{_PREFIX}{row.id}"


def active(tx: Transaction, platform_ids: Collection[int], as_of: datetime | None = None) -> list[Head]:
    """The versions that answer on some platforms, by platform and subject; `as_of`: only of subjects of which a
    version answered by then."""
    rows = tx.execute(_HEADS, {"platforms": sorted(set(platform_ids)), "as_of": as_of})
    return [_head(row) for row in rows]


_HEADS = text("""
    SELECT id, platform_id, subject, version, sha256, size_bytes FROM predictors d
    WHERE platform_id = ANY(CAST(:platforms AS int[])) AND state = 'active'
        AND (CAST(:as_of AS timestamptz) IS NULL OR EXISTS (SELECT FROM predictors e
            WHERE e.platform_id = d.platform_id AND e.subject = d.subject
                AND e.created_at <= :as_of AND e.activated_at IS NOT NULL))
    ORDER BY platform_id, subject
""")


def pinned(tx: Transaction, predictor_ids: Collection[str]) -> list[Pinned]:
    """The versions that a pin names: what answers, or did once. Raises NotFound where there is no such version."""
    try:
        wanted = {_number(id_): id_ for id_ in predictor_ids}
    except NotFound as error:
        raise NotFound(error.detail, field="pin.predictors") from error
    rows = {row.id: row for row in tx.execute(_PINNED, {"ids": sorted(wanted)})}
    for number, id_ in wanted.items():
        if number not in rows:
            raise NotFound(f"there is no predictor {id_}", field="pin.predictors")
    return [Pinned(_head(row), _why_gone(row)) for row in rows.values()]


def _why_gone(row: Row[Any]) -> str | None:
    if row.has_file and row.activated_at is not None and row.state != PredictorState.REJECTED:
        return None
    why = "its file is not kept any more" if row.activated_at is not None else "it never answered"
    what = f"version {row.version} of {row.subject} on {row.platform} ({_PREFIX}{row.id})"
    return f"the pin names {what}, which is gone: {why}"


_PINNED = text("""
    SELECT d.id, d.platform_id, d.subject, d.version, d.sha256, d.size_bytes, d.state, d.activated_at,
        d.file IS NOT NULL AS has_file, p.key AS platform
    FROM predictors d JOIN platforms p ON p.id = d.platform_id
    WHERE d.id = ANY(CAST(:ids AS int[])) ORDER BY d.id
""")


def donors(tx: Transaction, platform_id: int, subject: str) -> list[Head]:
    """The versions of a subject that answer on other platforms and may teach this one's: what is no real board teaches
    none. Raises NotFound."""
    rows = tx.execute(_DONORS, {"platform": platform_id, "subject": subject}).all()
    board_model = tx.execute(_BOARD_MODEL, {"platform": platform_id}).scalar_one_or_none()
    if board_model is None:
        raise NotFound("there is no such platform")
    return [_head(row) for row in rows if may_lend(row.board_model, board_model)]


_DONORS = text("""
    SELECT d.id, d.platform_id, d.subject, d.version, d.sha256, d.size_bytes, p.spec->>'board_model' AS board_model
    FROM predictors d JOIN platforms p ON p.id = d.platform_id
    WHERE d.platform_id <> :platform AND d.subject = :subject AND d.state = 'active' ORDER BY p.key
""")
_BOARD_MODEL = text("SELECT spec->>'board_model' FROM platforms WHERE id = :platform")


def file(tx: Transaction, predictor_id: str) -> bytes:
    """The file of a version. Raises NotFound, also where it is not kept any more."""
    found = tx.execute(text("SELECT file FROM predictors WHERE id = :id"), {"id": _number(predictor_id)}).one_or_none()
    if found is None:
        raise NotFound("there is no such predictor")
    if found.file is None:
        raise NotFound("the file of this version is not kept any more; those of the newest versions are")
    return bytes(found.file)


def get_predictor(tx: Transaction, predictor_id: str) -> PredictorView:
    """One version. Raises NotFound."""
    return _view(_row(tx, _number(predictor_id)))


def list_predictors(
    tx: Transaction, wanted: PredictorsWanted = ANY_PREDICTOR, *, cursor: str | None = None, limit: int = 100
) -> Page[PredictorView]:
    """Versions, newest first. Raises InvalidRequest for a platform that is none."""
    parameters = {
        "platform": None if wanted.platform is None else platforms.find(tx, wanted.platform).id,
        "subject": wanted.subject,
        "state": wanted.state,
        "last": cursors.decode("predictors", cursor, int)[0] if cursor else None,
        "limit": limit + 1,
    }
    rows = tx.execute(_LIST, parameters).all()
    encode = partial(cursors.encode, "predictors")
    return cursors.page(rows, limit, _view, lambda row: encode(row.id))


_ROWS: Final = """
    SELECT d.id, d.platform_id AS platform_row, p.public_id AS platform_id, p.key AS platform, d.subject, d.version,
        d.state, d.reason, d.created_at, d.activated_at, d.size_bytes, d.sha256, d.file IS NOT NULL AS has_file,
        d.lineage, d.evidence
    FROM predictors d JOIN platforms p ON p.id = d.platform_id
"""
_ROW = text(f"{_ROWS} WHERE d.id = :id")
_OF_SUBJECT: Final = f"{_ROWS} WHERE d.platform_id = :platform AND d.subject = :subject"
_NEWEST = text(f"{_OF_SUBJECT} ORDER BY d.version DESC LIMIT 1")
_ACTIVE = text(f"{_OF_SUBJECT} AND d.state = 'active'")
_BEFORE = text(f"""
    {_OF_SUBJECT} AND d.state = 'superseded' AND d.version < :version AND d.file IS NOT NULL
    ORDER BY d.activated_at DESC, d.version DESC LIMIT 1
""")
_LIST = text(f"""
    {_ROWS} WHERE (CAST(:platform AS int) IS NULL OR d.platform_id = :platform)
        AND (CAST(:subject AS text) IS NULL OR d.subject = :subject)
        AND (CAST(:state AS text) IS NULL OR d.state = :state)
        AND (CAST(:last AS bigint) IS NULL OR d.id < :last)
    ORDER BY d.id DESC LIMIT :limit
""")


def _held_platform(tx: Transaction, platform_id: int) -> str:
    """The key of a platform whose versions this transaction alone changes until its end. Raises NotFound."""
    key = tx.execute(_HOLD, {"id": platform_id}).scalar_one_or_none()
    if key is None:
        raise NotFound("there is no such platform")
    return str(key)


_HOLD = text("SELECT key FROM platforms WHERE id = :id FOR NO KEY UPDATE")


def _held(tx: Transaction, predictor_id: str) -> Row[Any]:
    """A version as it stands once its platform is held. Raises NotFound."""
    number = _number(predictor_id)
    _held_platform(tx, _row(tx, number).platform_row)
    return _row(tx, number)


def _row(tx: Transaction, number: int) -> Row[Any]:
    row = tx.execute(_ROW, {"id": number}).one_or_none()
    if row is None:
        raise NotFound("there is no such predictor")
    return row


def _newest(tx: Transaction, platform_id: int, subject: str) -> Row[Any] | None:
    return tx.execute(_NEWEST, {"platform": platform_id, "subject": subject}).one_or_none()


def _active(tx: Transaction, platform_id: int, subject: str) -> Row[Any] | None:
    return tx.execute(_ACTIVE, {"platform": platform_id, "subject": subject}).one_or_none()


def _number(predictor_id: str) -> int:
    digits = predictor_id.removeprefix(_PREFIX)
    if digits == predictor_id or not digits.isdecimal() or len(digits) > 9:
        raise NotFound("there is no such predictor")
    return int(digits)


def _head(row: Row[Any]) -> Head:
    return Head(f"{_PREFIX}{row.id}", row.platform_id, row.subject, row.version, row.sha256, row.size_bytes)


def _view(row: Row[Any]) -> PredictorView:
    fields = row._asdict()
    del fields["platform_row"]
    return PredictorView.model_validate({**fields, "id": f"{_PREFIX}{row.id}"})
