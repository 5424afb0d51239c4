"""Pairs of workloads: what may be compared, and whose files and rights their sides bring along."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import text

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.platforms import Platform, parse_platform_key
from benchfarm_core.workloads import AnyWorkload, PairRequest, PairWorkload
from benchfarm_store import platforms
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import rows_json

IS_UPLOAD: Final = """
    (w.kind = 'upload' OR w.kind = 'pair' AND EXISTS (
        SELECT FROM pairs x JOIN workloads s ON s.id IN (x.a_id, x.b_id)
        WHERE x.workload_id = w.id AND s.kind = 'upload'))
"""
"""Whether a row w of workloads is an upload or a pair with one."""

# uploads are private: only accounts that uploaded the same bytes, even if they deleted them since, may see
VISIBLE: Final = """
    (w.kind NOT IN ('upload', 'pair') OR NOT EXISTS (
        SELECT FROM workloads s LEFT JOIN pairs x ON x.workload_id = w.id
        WHERE s.id IN (w.id, x.a_id, x.b_id) AND s.kind = 'upload' AND NOT EXISTS (
            SELECT FROM models mo WHERE mo.workload_id = s.id AND mo.account_id = :account)))
"""


class Beside(NamedTuple):
    """How b's platform differs from a's; None for not at all."""

    precision: str | None = None
    options: dict[str, int | bool | str] | None = None


def refuse_pairs(requests: Sequence[object], *, compared: bool, protocol_compares: bool) -> None:
    """Raise InvalidRequest (`not_a_pair`) unless pairs, the protocol for them and the job's kind come together."""
    for index, request in enumerate(requests):
        if isinstance(request, PairRequest) != compared:
            wanted = "takes pairs only" if compared else "takes no pairs: its kind must be `compare`"
            raise InvalidRequest(f"this job {wanted}", code="not_a_pair", field=f"workloads.{index}")
    if protocol_compares != compared:
        raise InvalidRequest(
            "the protocol `compare` belongs to jobs of kind `compare`, and they to it",
            code="not_a_pair",
            field="protocol.name",
        )


class Partners(NamedTuple):
    """The platforms of a job's a sides by key, and those that its pairs name for b by that name; each parsed once."""

    of_a: dict[str, Platform]
    of_b: dict[str, Platform]


def find_partners(tx: Transaction, requests: Sequence[object], keys: Sequence[str]) -> Partners:
    """Of all pairs among some requests, for jobs on the platforms `keys`. Raises InvalidRequest as `find_all` does."""
    firsts: dict[str, str] = {}
    for index, request in enumerate(requests):
        if isinstance(request, PairRequest) and request.b_platform is not None:
            firsts.setdefault(request.b_platform, f"workloads.{index}.b_platform")
    of_a = {key: parse_platform_key(key) for key in keys} if firsts else {}
    return Partners(of_a, {name: _named(tx, name, field) for name, field in firsts.items()})


def comparable(
    partners: Partners, requests: Sequence[object], rows: Sequence[platforms.Found], *, filtered: bool
) -> list[platforms.Found]:
    """The platforms that share a process with every b.

    A filter leaves the others out; of named ones each must. Raises InvalidRequest (`compare_across_engines`).
    """
    wanted = {_process(b): name for name, b in partners.of_b.items()}
    strays = {key: a for key, a in partners.of_a.items() if wanted.keys() - {_process(a)}}
    if not strays or (filtered and len(strays) < len(rows)):
        return [row for row in rows if row.key not in strays]
    key, a = next(iter(strays.items()))
    name = next(name for process, name in wanted.items() if process != _process(a))
    index = next(i for i, one in enumerate(requests) if isinstance(one, PairRequest) and one.b_platform == name)
    raise InvalidRequest(
        f"{key} and {partners.of_b[name].key} cannot be compared: only precision and options of the engine may differ",
        code="compare_across_engines",
        field=f"workloads.{index}.b_platform",
    )


def beside(partners: Partners, name: str | None, keys: Sequence[str]) -> Beside:
    """Where b runs on the platform `name` (None: on a's own) when a runs on each of the platforms `keys`."""
    if name is None:
        return Beside()
    b, of_a = partners.of_b[name], [partners.of_a[key] for key in keys]
    return Beside(
        None if all(a.precision == b.precision for a in of_a) else str(b.precision),
        None if all(a.engine.options == b.engine.options for a in of_a) else dict(b.engine.options),
    )


def _named(tx: Transaction, name: str, field: str) -> Platform:
    with platforms.named_in(field):
        (found,) = platforms.find_all(tx, [name])
    return parse_platform_key(found.key)


def _process(platform: Platform) -> tuple[object, ...]:
    """What two sides must share to run in one process."""
    return platform.board_model, platform.operating_point, platform.engine.name, platform.engine.version


def pair_of(a: AnyWorkload, b: AnyWorkload, where: Beside) -> PairWorkload:
    """The workload that two sides make."""
    sides = {"a": a.model_dump(), "b": b.model_dump()}
    return PairWorkload.model_validate({**sides, "b_precision": where.precision, "b_options": where.options})


def ensure(tx: Transaction, rows: Sequence[tuple[int, int, int]]) -> None:
    """Say which rows of workloads are the sides of a pair: (pair, a, b)."""
    if rows:
        documents = [{"pair": pair, "a": a, "b": b} for pair, a, b in sorted(set(rows))]
        tx.execute(_ADD, {"rows": rows_json(documents)})


_ADD = text("""
    INSERT INTO pairs (workload_id, a_id, b_id)
    SELECT pair, a, b FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(pair bigint, a bigint, b bigint)
    ON CONFLICT DO NOTHING
""")
