"""The knowledge pool: its members, who may be a donor of whom, and pool files for other farms.

Members are platforms of this farm and entries of others (`pool_entries`); how alike they are, `likenesses` knows.
"""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text

from benchfarm_core.errors import InvalidRequest, NotFound, TooLarge
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import Platform
from benchfarm_core.pool import Likeness, PooledPredictor, PoolExport, PoolMember, is_entry_id
from benchfarm_core.pool_files import (
    MAX_ENTRIES,
    MAX_ENTRY_ROWS,
    MAX_ROWS_BYTES,
    POOL_FORMAT,
    PackedPredictor,
    PoolEntry,
    PoolManifest,
    packed_rows,
    part_hash,
    why_too_many,
    write,
)
from benchfarm_core.pool_rows import pack
from benchfarm_core.predictor_headers import read_header
from benchfarm_core.predictors import TrainingRows, is_marked, may_lend
from benchfarm_store import likenesses, platforms, pool_entries, predictors, training_rows
from benchfarm_store.database import Transaction
from benchfarm_workloads.kernels import CATALOGUE_VERSION
from benchfarm_workloads.probes import PROBES_VERSION, probe_set

MAX_CODE_VERSION: Final = 60


class Donor(NamedTuple):
    """A member that may lend to a platform in one subject and timing; `id` is that of a platform or an entry."""

    id: str
    platform: Platform
    is_own: bool
    likeness: Likeness


def donors(tx: Transaction, platform_id: int, subject: str, timing: Timing) -> list[Donor]:
    """What is known of who may lend to a platform (its row), the nearest first; also those that are not near.

    Members that were not probed, or not compared yet, are not among them. Raises NotFound.
    """
    own = tx.execute(text("SELECT spec FROM platforms WHERE id = :id"), {"id": platform_id}).scalar_one_or_none()
    if own is None:
        raise NotFound("there is no such platform")
    ranked = likenesses.ranked(tx, platform_id, subject, timing)
    known = _platforms_of(tx, [one.donor for one in ranked])
    found = [Donor(one.donor, *known[one.donor], one) for one in ranked if one.donor in known]
    return [one for one in found if may_lend(one.platform.board_model, own["board_model"])]


def _platforms_of(tx: Transaction, members: Sequence[str]) -> dict[str, tuple[Platform, bool]]:
    """The platforms of members by id, and whether each is this farm's own."""
    rows = tx.execute(_MEMBERS_PLATFORMS, {"members": list(members)})
    return {row.id: (Platform.model_validate(row.spec), row.is_own) for row in rows}


_MEMBERS_PLATFORMS = text("""
    SELECT public_id AS id, CAST(spec AS jsonb) AS spec, true AS is_own FROM platforms
    WHERE public_id = ANY(CAST(:members AS text[]))
    UNION ALL
    SELECT public_id, manifest->'platform', false FROM pool_entries WHERE public_id = ANY(CAST(:members AS text[]))
""")


def donor_rows(tx: Transaction, donor_id: str, subject: str) -> TrainingRows:
    """What a donor's predictors of a subject learn from, without what is a hold-out anywhere on this farm.

    Raises NotFound, and InvalidRequest (`pool_file_foreign`) for an entry with kernels of another catalogue.
    """
    if not is_entry_id(donor_id):
        return training_rows.training_rows(tx, _platform_row(tx, donor_id), subject)
    return pool_entries.load_rows(tx, donor_id)


def donor_file(tx: Transaction, donor_id: str, subject: str) -> bytes | None:
    """A donor's predictor of a subject, of a platform the active one; None where it has none. Raises NotFound.

    An entry's may have learnt what is a hold-out here: start from its rows where that counts.
    """
    if is_entry_id(donor_id):
        return pool_entries.load_files(tx, donor_id).get(subject)
    heads = [head for head in predictors.active(tx, [_platform_row(tx, donor_id)]) if head.subject == subject]
    return predictors.file(tx, heads[0].id) if heads else None


def _platform_row(tx: Transaction, public_id: str) -> int:
    found = tx.execute(text("SELECT id FROM platforms WHERE public_id = :id"), {"id": public_id}).scalar_one_or_none()
    if found is None:
        raise NotFound("there is no such platform")
    return int(found)


def list_members(tx: Transaction) -> list[PoolMember]:
    """Platforms of this farm that were probed or have a predictor, by key; then what others measured."""
    rows = tx.execute(_OWN, {"version": PROBES_VERSION}).all()
    files: dict[int, list[PooledPredictor]] = {row.id: [] for row in rows}
    for head in predictors.active(tx, list(files)):
        fields = {"subject": head.subject, "version": head.version, "sha256": head.sha256}
        files[head.platform_id].append(PooledPredictor.model_validate(fields | {"size_bytes": head.size_bytes}))
    origin = pool_entries.own_origin(tx)
    return [_member(row, files[row.id], origin) for row in rows] + pool_entries.list_entries(tx)


_OWN = text("""
    SELECT p.id, p.public_id, p.key, k.probes, k.newest_at
    FROM platforms p LEFT JOIN probed_platforms k ON k.platform_id = p.id AND k.probes_version = :version
    WHERE k.platform_id IS NOT NULL OR EXISTS (
        SELECT FROM predictors d WHERE d.platform_id = p.id AND d.state = 'active')
    ORDER BY p.key
""")


def _member(row: Row[Any], files: list[PooledPredictor], origin: str) -> PoolMember:
    return PoolMember(
        id=row.public_id,
        key=row.key,
        is_own=True,
        origin=origin,
        probes=row.probes or 0,
        probes_of=probe_set().measurements,
        rows=None,
        predictors=files,
        licence=None,
        source=None,
        measured_at=row.newest_at,
        imported_at=None,
        author=None,
    )


def export(tx: Transaction, wanted: PoolExport) -> bytes:
    """A pool file of platforms and entries; without names, of all own platforms whose boards are what they look like.

    Rows of uploads and hold-outs are never in it.

    Raises:
        InvalidRequest: a name that means nothing, a platform that has no row, or nothing at all to export.
        NotFound: an entry that there is not.
        TooLarge: above what a pool file holds.
    """
    made = [_made(tx, name, wanted) for name in wanted.names or _worth_exporting(tx)]
    by_id = {entry.id: entry for entry, _ in made if wanted.names or entry.rows.count}
    if not by_id:
        raise InvalidRequest("no platform of this farm was probed or has a predictor yet", field="names")
    why = why_too_many([*by_id.values()])
    if why is not None:
        raise TooLarge(f"{why}: name fewer platforms", field="names")
    manifest = PoolManifest(
        format=POOL_FORMAT,
        farm=pool_entries.own_origin(tx),
        code_version=version("benchfarm-store")[:MAX_CODE_VERSION],
        entries=tuple(sorted(by_id.values(), key=lambda entry: (entry.platform.key, entry.id))),
    )
    return write(manifest, [part for _, parts in made for part in parts])


Made = tuple[PoolEntry, list[bytes]]
"""An entry and its parts."""


def _made(tx: Transaction, name: str, wanted: PoolExport) -> Made:
    return _kept(tx, name) if is_entry_id(name) else _own(tx, name, wanted)


def _worth_exporting(tx: Transaction) -> list[str]:
    rows = tx.execute(_OWN, {"version": PROBES_VERSION}).all()
    return [row.public_id for row in rows if not is_marked(row.key)][:MAX_ENTRIES]


def _own(tx: Transaction, name: str, wanted: PoolExport) -> Made:
    row = platforms.find(tx, name)
    rows = training_rows.training_rows(tx, row.id)
    count = len(rows.kernels) + len(rows.models)
    if not count and wanted.names:
        raise InvalidRequest(f"{row.key} has no row to learn from", field="names")
    part, size_bytes = pack(rows, CATALOGUE_VERSION)
    if count > MAX_ENTRY_ROWS or size_bytes > MAX_ROWS_BYTES:
        raise TooLarge(f"{row.key} has {count} rows, at most {MAX_ENTRY_ROWS} lie in a pool file", field="names")
    files = {head.subject: predictors.file(tx, head.id) for head in predictors.active(tx, [row.id])}
    entry = PoolEntry(
        origin=pool_entries.own_origin(tx),
        platform=Platform.model_validate(row.spec),
        licence=wanted.licence,
        source=wanted.source,
        rows=packed_rows(rows, part, size_bytes),
        predictors=tuple(_packed(subject, file) for subject, file in sorted(files.items())),
    )
    return entry, [part, *files.values()]


def _packed(subject: str, file: bytes) -> PackedPredictor:
    return PackedPredictor(subject=subject, sha256=part_hash(file), lineage=read_header(file).lineage)


def _kept(tx: Transaction, entry_id: str) -> Made:
    """An entry as it came, but for predictors that were left out."""
    entry = pool_entries.get_manifest(tx, entry_id)
    files = pool_entries.load_files(tx, entry_id)
    here = tuple(packed for packed in entry.predictors if packed.subject in files)
    return entry.model_copy(update={"predictors": here}), [pool_entries.load_part(tx, entry_id), *files.values()]
