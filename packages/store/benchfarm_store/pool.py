"""The knowledge pool: its members, who may be a donor of whom, and pool files for other farms.

Members are platforms of this farm and entries of others (`pool_entries`); how alike they are, `likenesses` knows.
"""

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any, Final, NamedTuple

from sqlalchemy import Row, text

from benchfarm_core.boards import is_single_use, refuse_single_use
from benchfarm_core.errors import InvalidRequest, NotFound, TooLarge
from benchfarm_core.measurements import Timing
from benchfarm_core.platforms import Platform
from benchfarm_core.pool import Likeness, PooledPredictor, PoolExport, PoolMember, is_entry_id
from benchfarm_core.pool_files import (
    MAX_ENTRIES,
    MAX_ENTRY_ROWS,
    MAX_POOL_BYTES,
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
from benchfarm_core.pool_rows import MAX_COUNTED, count_kernels, pack
from benchfarm_core.predictor_headers import read_header
from benchfarm_core.predictors import is_marked, may_lend
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


def find_donor_rows(tx: Transaction, donor_id: str, subject: str) -> training_rows.FoundRows | pool_entries.FoundEntry:
    """What a donor's predictors of a subject learn from, only read: an entry's are packed still, with what is a
    hold-out on this farm. Raises NotFound.
    """
    if is_entry_id(donor_id):
        return pool_entries.find_rows(tx, donor_id)
    return training_rows.find_rows(tx, _platform_row(tx, donor_id), subject)


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
    """Platforms of this farm that were probed or have a predictor, by key, but for those whose boards' results are of
    single use; then what others measured."""
    rows = [row for row in tx.execute(_OWN, {"version": PROBES_VERSION}) if not is_single_use(row.key)]
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


class _Own(NamedTuple):
    """A platform of this farm as it was found, its rows not told and not packed yet."""

    platform: Platform
    rows: training_rows.FoundRows
    files: dict[str, bytes]


class _Kept(NamedTuple):
    """An imported entry as it came, but for predictors that were left out, and its parts."""

    entry: PoolEntry
    parts: list[bytes]


class Gathered(NamedTuple):
    """What is to be exported, as one transaction saw it; `origin`: how this farm is called in pool files."""

    wanted: PoolExport
    origin: str
    found: list[_Own | _Kept]


def gather(tx: Transaction, wanted: PoolExport) -> Gathered:
    """What `export` makes a file of: platforms and entries; without names, all own platforms whose boards are what they
    look like.

    Raises:
        InvalidRequest: a name that means nothing, or a platform that gives nothing away (`platform_single_use`);
            without names, none that is worth it.
        NotFound: an entry that there is not.
        TooLarge: predictors alone are above what a pool file holds, or there are more platforms than it holds.
    """
    found: list[_Own | _Kept] = []
    held_bytes = 0
    for name in wanted.names or _worth_exporting(tx):
        found.append(_kept(tx, name) if is_entry_id(name) else _own(tx, name))
        held_bytes += sum(map(len, _files_of(found[-1])))
        if held_bytes > MAX_POOL_BYTES:
            detail = f"predictors of {len(found)} platforms have {held_bytes} bytes, a pool file at most"
            raise TooLarge(f"{detail} {MAX_POOL_BYTES}: name fewer platforms", field="names")
    return Gathered(wanted, pool_entries.own_origin(tx), found)


def _files_of(one: _Own | _Kept) -> Iterable[bytes]:
    return one.files.values() if isinstance(one, _Own) else one.parts


def export(gathered: Gathered) -> bytes:
    """The pool file; no connection is needed for it. Rows of uploads and hold-outs are never in it.

    Raises:
        InvalidRequest: a named platform that has no row, or nothing at all to export.
        TooLarge: above what a pool file holds.
    """
    named = gathered.wanted.names
    made = [_packed_own(one, gathered) if isinstance(one, _Own) else (one.entry, one.parts) for one in gathered.found]
    by_id = {entry.id: entry for entry, _ in made if named or entry.rows.count}
    if not by_id:
        raise InvalidRequest("no platform of this farm has a row to learn from", field="names")
    why = why_too_many([*by_id.values()])
    if why is not None:
        raise TooLarge(f"{why}: name fewer platforms", field="names")
    manifest = PoolManifest(
        format=POOL_FORMAT,
        farm=gathered.origin,
        code_version=version("benchfarm-store")[:MAX_CODE_VERSION],
        entries=tuple(sorted(by_id.values(), key=lambda entry: (entry.platform.key, entry.id))),
    )
    return write(manifest, [part for _, parts in made for part in parts])


Made = tuple[PoolEntry, list[bytes]]
"""An entry and its parts."""


def _worth_exporting(tx: Transaction) -> list[str]:
    """Raises InvalidRequest, TooLarge: nothing is left out unsaid."""
    rows = [row for row in tx.execute(_OWN, {"version": PROBES_VERSION}).all() if not is_single_use(row.key)]
    worth = [row.public_id for row in rows if not is_marked(row.key)]
    if not rows:
        raise InvalidRequest("no platform of this farm was probed or has a predictor yet", field="names")
    if not worth:
        raise InvalidRequest(
            f"all {len(rows)} platforms that were probed or have a predictor are of simulated boards: name what is "
            "to be exported all the same",
            field="names",
        )
    if len(worth) > MAX_ENTRIES:
        raise TooLarge(f"{len(worth)} platforms are more than {MAX_ENTRIES}: name fewer platforms", field="names")
    return worth


def _own(tx: Transaction, name: str) -> _Own:
    row = platforms.find(tx, name, field="names")
    refuse_single_use(row.key, field="names")
    files = {head.subject: predictors.file(tx, head.id) for head in predictors.active(tx, [row.id])}
    return _Own(Platform.model_validate(row.spec), training_rows.find_rows(tx, row.id), files)


def _packed_own(one: _Own, gathered: Gathered) -> Made:
    wanted, key = gathered.wanted, one.platform.key
    rows = training_rows.told(one.rows)
    count, counted = len(rows.kernels) + len(rows.models), count_kernels(rows)
    if not count and wanted.names:
        raise InvalidRequest(f"{key} has no row to learn from", field="names")
    part, size_bytes = pack(rows, CATALOGUE_VERSION)
    if count > MAX_ENTRY_ROWS or size_bytes > MAX_ROWS_BYTES or counted > MAX_COUNTED:
        detail = f"{key} has {count} rows with {counted} kernels of models, a pool file holds at most"
        raise TooLarge(f"{detail} {MAX_ENTRY_ROWS} of one platform, with {MAX_COUNTED}", field="names")
    entry = PoolEntry(
        origin=gathered.origin,
        platform=one.platform,
        licence=wanted.licence,
        source=wanted.source,
        rows=packed_rows(rows, part, size_bytes),
        predictors=tuple(_packed(subject, file) for subject, file in sorted(one.files.items())),
    )
    return entry, [part, *one.files.values()]


def _packed(subject: str, file: bytes) -> PackedPredictor:
    return PackedPredictor(subject=subject, sha256=part_hash(file), lineage=read_header(file).lineage)


def _kept(tx: Transaction, entry_id: str) -> _Kept:
    entry = pool_entries.get_manifest(tx, entry_id)
    files = pool_entries.load_files(tx, entry_id)
    here = tuple(packed for packed in entry.predictors if packed.subject in files)
    parts = [pool_entries.load_part(tx, entry_id), *files.values()]
    return _Kept(entry.model_copy(update={"predictors": here}), parts)
