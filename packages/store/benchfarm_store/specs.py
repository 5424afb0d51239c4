"""From what a client names to what is stored: kernels, models and platforms resolved and made rows."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert

from benchfarm_core.architecture_columns import ArchitectureColumns
from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.jobs import MAX_ITEMS, JobKind, JobRequest, JobSpec
from benchfarm_core.platforms import PlatformFilter
from benchfarm_core.protocols import COMPARE, Protocol, ProtocolRequest, is_comparison, resolve_protocol
from benchfarm_core.workloads import (
    AnyWorkload,
    ArchitectureRequest,
    ArchitectureWorkload,
    Cost,
    GeneratedModelRequest,
    KernelRequest,
    PairRequest,
    UploadedWorkload,
    UploadRequest,
    architecture_ids,
    family,
    workload_id,
)
from benchfarm_store import formats, memory, pairs, platforms
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import rows_json, workload_digest
from benchfarm_store.tables import models, protocols, workloads
from benchfarm_store.timings import check_timing
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.models import model_recipe
from benchfarm_workloads.spaces import space

ROWS_AT_ONCE: Final = 5000
"""Workloads that one statement adds: some megabytes of JSON."""

AnyRequest = KernelRequest | GeneratedModelRequest | ArchitectureRequest | UploadRequest


class Resolved(NamedTuple):
    """A workload with its cost, where that is known."""

    workload: AnyWorkload
    cost: Cost | None
    size_bytes: int | None = None
    """Of an uploaded file."""
    sides: "tuple[Resolved, Resolved] | None" = None
    """Of a pair."""
    known_id: str | None = None
    """The workload's id, where it was found with thousands of others."""

    @property
    def id(self) -> str:
        """The workload's."""
        return self.known_id or workload_id(self.workload)

    @property
    def needed_bytes(self) -> int | None:
        """Memory without which it cannot be measured anywhere; None where nothing is known."""
        return needed_bytes(self.cost, self.size_bytes)


def needed_bytes(cost: Cost | None, size_bytes: int | None) -> int | None:
    """Memory without which a workload of some cost, or a file of some size, can be measured nowhere."""
    known = [one for one in (cost.total_bytes if cost is not None else None, size_bytes) if one is not None]
    return max(known, default=None)


Ahead = Resolved | InvalidRequest | None
"""A request's workload as it is known without a transaction: None of an upload, which the account must be seen to have;
an error for what the catalogue refuses."""


class JobAhead(NamedTuple):
    """The workloads of a job as they are known without a transaction: of single ones, and of both sides of pairs."""

    singles: Sequence[Ahead]
    every_a: Sequence[Ahead]
    every_b: Sequence[Ahead]


def resolve_ahead(request: JobRequest) -> JobAhead:
    """What takes most of the time of a job, so that no transaction and no lock waits for it. What the catalogue refuses
    is told when its turn comes.

    Raises InvalidRequest (`too_large`) for what is so on one platform already.
    """
    _check_count(request, 1)
    singles, wanted_pairs = _apart(request)
    return JobAhead(
        _all_ahead(singles), _all_ahead([one.a for one in wanted_pairs]), _all_ahead([one.b for one in wanted_pairs])
    )


def _apart(request: JobRequest) -> tuple[list[AnyRequest], list[PairRequest]]:
    """The single workloads of a job, and its pairs."""
    singles = [one for one in request.workloads if not isinstance(one, PairRequest)]
    return singles, [one for one in request.workloads if isinstance(one, PairRequest)]


def _all_ahead(requests: Sequence[AnyRequest]) -> list[Ahead]:
    """Models are worked out once each: a network is laid out for its cost."""
    at_once = _architectures_ahead(requests)
    if at_once is not None:
        return at_once
    models_: dict[str, Ahead] = {}
    found: list[Ahead] = []
    for request in requests:
        if isinstance(request, GeneratedModelRequest):
            key = request.model_dump_json()
            if key not in models_:
                models_[key] = _ahead(request)
            found.append(models_[key])
        else:
            found.append(_ahead(request))
    return found


def _ahead(request: AnyRequest) -> Ahead:
    if isinstance(request, UploadRequest):
        return None
    try:
        return _resolver(request, {}, costs=True)()
    except InvalidRequest as error:
        return error


def _architectures_ahead(requests: Sequence[AnyRequest]) -> list[Ahead] | None:
    """Architectures of one space that name the same genes, checked and named gene by gene; None where they are not."""
    wanted = [one for one in requests if isinstance(one, ArchitectureRequest)]
    if not wanted or len(wanted) < len(requests) or len({one.space for one in wanted}) > 1:
        return None
    try:
        drawing = space(wanted[0].space)
    except InvalidRequest:
        return None
    columns = ArchitectureColumns.of(drawing.name, [one.genes for one in wanted])
    misfits = {*range(len(wanted))} if columns is None else {*drawing.misfits(columns)}
    if columns is None or len(misfits) == len(wanted):
        return None
    names = [gene.name for gene in drawing.genes]
    ids = architecture_ids(drawing.name, drawing.version, {name: columns.genes[name].given for name in names})
    found: list[Ahead] = []
    for at, one in enumerate(wanted):
        if at in misfits:
            found.append(_ahead(one))
        else:
            genes = {name: one.genes[name] for name in names}  # in the order of the space
            workload = ArchitectureWorkload.model_construct(
                space=drawing.name, space_version=drawing.version, genes=genes
            )
            found.append(Resolved(workload, drawing.plan.cost(genes), known_id=ids[at]))
    return found


def resolve_workloads(
    tx: Transaction,
    requests: Sequence[AnyRequest],
    account: int,
    *,
    field: str,
    part: str = "",
    ahead: Sequence[Ahead] | None = None,
) -> list[Resolved]:
    """Each request's workload, in order, duplicates kept. Errors name `field.index` and the part.

    Args:
        ahead: what was found of them before the transaction; None: it is done here.

    Raises InvalidRequest for what the catalogue refuses, NotFound for models the account has not uploaded.
    """
    uploads = find_uploads(tx, [r.model_id for r in requests if isinstance(r, UploadRequest)], account)
    known = _all_ahead(requests) if ahead is None else ahead
    return [
        one if isinstance(one, Resolved) else _told(f"{field}.{index}{part}", request, one, uploads)
        for index, (request, one) in enumerate(zip(requests, known, strict=True))
    ]


def _told(field: str, request: AnyRequest, ahead: InvalidRequest | None, uploads: dict[str, Resolved]) -> Resolved:
    """What is known of an upload. Raises as `resolve_workloads`, naming the field."""
    try:
        if ahead is not None:
            raise ahead
        return _resolver(request, uploads, costs=True)()
    except InvalidRequest as error:
        raise InvalidRequest(
            error.detail, code=error.code, field=f"{field}.{error.field}" if error.field else field
        ) from error


def resolve_generated(request: AnyRequest) -> Resolved | None:
    """One request's workload, without a transaction: None for an upload, which the account must be seen to have.

    Costs are not worked out, for which networks are laid out: one to two milliseconds each. Raises InvalidRequest for
    what the catalogue refuses.
    """
    return None if isinstance(request, UploadRequest) else _resolver(request, {}, costs=False)()


def resolve_found(request: AnyRequest, uploads: dict[str, Resolved]) -> Resolved:
    """One request's workload with its cost; `uploads`: as `find_uploads` found them. Raises as `resolve_workloads`."""
    return _resolver(request, uploads, costs=True)()


def _resolve_pairs(
    tx: Transaction,
    requests: Sequence[PairRequest],
    account: int,
    partners: pairs.Partners,
    keys: Sequence[str],
    ahead: JobAhead,
) -> list[Resolved]:
    """Each request's pair, for jobs on the platforms `keys`. Raises as `resolve_workloads`."""
    a, b = [one.a for one in requests], [one.b for one in requests]
    every_a = resolve_workloads(tx, a, account, field="workloads", part=".a", ahead=ahead.every_a)
    every_b = resolve_workloads(tx, b, account, field="workloads", part=".b", ahead=ahead.every_b)
    names = {one.b_platform for one in requests}
    where = {name: pairs.beside(partners, name, keys) for name in names}
    return [_pair(a, b, where[one.b_platform]) for one, a, b in zip(requests, every_a, every_b, strict=True)]


def _pair(a: Resolved, b: Resolved, where: pairs.Beside) -> Resolved:
    """Both sides at once: they are open beside each other."""
    cost = a.cost + b.cost if a.cost is not None and b.cost is not None else None
    sizes = [one.size_bytes for one in (a, b) if one.size_bytes is not None]
    return Resolved(pairs.pair_of(a.workload, b.workload, where), cost, sum(sizes) or None, (a, b))


def _resolver(request: AnyRequest, uploads: dict[str, Resolved], *, costs: bool) -> Callable[[], Resolved]:
    if isinstance(request, KernelRequest):
        return lambda: _kernel(request, costs=costs)
    if isinstance(request, GeneratedModelRequest):
        return lambda: _generated(request, costs=costs)
    if isinstance(request, ArchitectureRequest):
        return lambda: _architecture(request, costs=costs)
    return lambda: _upload(request, uploads)


def _kernel(request: KernelRequest, *, costs: bool) -> Resolved:
    kind = kernel_type(request.type)
    workload = kind.workload(request.config)
    return Resolved(workload, kind.cost_rule(workload.config) if costs else None)


def _generated(request: GeneratedModelRequest, *, costs: bool) -> Resolved:
    recipe = model_recipe(request.name)
    return Resolved(recipe.workload(request.config), recipe.cost(request.config) if costs else None)


def _architecture(request: ArchitectureRequest, *, costs: bool) -> Resolved:
    drawing = space(request.space)
    workload = drawing.workload(request.genes)
    return Resolved(workload, drawing.plan.cost(workload.genes) if costs else None)


def _upload(request: UploadRequest, uploads: dict[str, Resolved]) -> Resolved:
    if request.model_id not in uploads:
        raise NotFound(f"the account has no model {request.model_id}")
    return uploads[request.model_id]


def find_uploads(tx: Transaction, model_ids: Sequence[str], account: int) -> dict[str, Resolved]:
    """The workloads of models by id, of those that the account has uploaded."""
    if not model_ids:
        return {}
    mine = (models.c.account_id == account) & models.c.deleted_at.is_(None)
    rows = tx.execute(
        select(models.c.id, models.c.size_bytes, workloads)
        .join(workloads, workloads.c.id == models.c.workload_id)
        .where(mine & models.c.id.in_([m for m in model_ids if "\x00" not in m]))
    )
    return {row[0]: Resolved(UploadedWorkload.model_validate(row.spec), cost_of(row), row.size_bytes) for row in rows}


def cost_of(row: Any) -> Cost | None:
    """The cost in a workload's row; None where it is not known."""
    if row.flops is None:
        return None
    return Cost(
        flops=row.flops,
        parameters=row.parameters or 0,
        input_bytes=row.input_bytes or 0,
        output_bytes=row.output_bytes or 0,
        weight_bytes=row.weight_bytes or 0,
    )


def resolve_platforms(
    tx: Transaction, wanted: Sequence[str] | PlatformFilter, account: int, *, make: bool
) -> list[platforms.Found]:
    """The platforms meant, duplicates removed; with `make` each has its row. Raises InvalidRequest."""
    if isinstance(wanted, PlatformFilter):
        rows = platforms.find_offered(tx, wanted)
        if not rows:
            raise InvalidRequest(
                "no board offers a platform that passes the filter", code="platform_none_matched", field="platforms"
            )
        return [platforms.Found(row.id, row.key, row.id) for row in rows]
    if not wanted:
        raise InvalidRequest("name at least one platform", code="workloads_empty", field="platforms")
    return platforms.make_all(tx, wanted, account) if make else platforms.find_all(tx, wanted)


def resolve(
    tx: Transaction, request: JobRequest, account: int, *, make: bool, ahead: JobAhead | None = None
) -> tuple[JobSpec, list[Resolved], list[platforms.Found]]:
    """The spec of a job, its distinct workloads with costs, and its platforms. Raises InvalidRequest.

    With `make`, platforms that nobody wanted yet are made. `ahead`: what `resolve_ahead` found of the job before the
    transaction; None: it is done here.
    """
    compared = request.kind == JobKind.COMPARE
    protocol = resolve_protocol(request.protocol or ProtocolRequest(name=COMPARE if compared else "kernel"))
    pairs.refuse_pairs(request.workloads, compared=compared, protocol_compares=is_comparison(protocol))
    filtered = isinstance(request.platforms, PlatformFilter)
    rows = resolve_platforms(tx, request.platforms, account, make=make)
    _check_count(request, 1 if filtered else len(rows))
    rows = check_timing(tx, request.timing, request.workloads, protocol, rows, filtered=filtered)
    partners = pairs.find_partners(tx, request.workloads, [row.key for row in rows])
    rows = pairs.comparable(partners, request.workloads, rows, filtered=filtered)
    ahead = ahead or resolve_ahead(request)
    singles, wanted_pairs = _apart(request)
    resolved = resolve_workloads(tx, singles, account, field="workloads", ahead=ahead.singles)
    resolved += _resolve_pairs(tx, wanted_pairs, account, partners, [row.key for row in rows], ahead)
    rows = formats.check([one.workload for one in resolved], rows, filtered=filtered)
    memory.check(tx, resolved, [row.base_id for row in rows])
    distinct = list({one.id: one for one in resolved}.values())
    _refuse_too_many(len(distinct) * len(rows) * request.repeats)
    spec = JobSpec(
        kind=request.kind,
        workloads=tuple(one.workload for one in distinct),
        platform_keys=tuple(row.key for row in rows),
        protocol=protocol,
        timing=request.timing,
        max_age_s=request.max_age_s,
        min_grade=request.min_grade,
        clock_proof=request.clock_proof,
        repeats=request.repeats,
        budget_device_s=request.budget_device_s,
    )
    return spec, distinct, rows


def _check_count(request: JobRequest, width: int) -> None:
    """Refuse what is too large before any of it is resolved; `width`: platforms at the least."""
    if len(request.workloads) * width * request.repeats > MAX_ITEMS:
        _refuse_too_many(len({one.model_dump_json() for one in request.workloads}) * width * request.repeats)


def _refuse_too_many(items: int) -> None:
    if items > MAX_ITEMS:
        raise InvalidRequest(f"the job has {items} items; the limit is {MAX_ITEMS}", code="too_large")


def ensure_workloads(tx: Transaction, wanted: Sequence[Resolved]) -> list[int]:
    """The rows of workloads, made where they are missing, in order."""
    digests = [workload_digest(one.id) for one in wanted]
    each = dict(zip(digests, wanted, strict=True))
    found = known_workloads(tx, each)
    missing = sorted(each.keys() - found.keys())  # in one order, so that no two who add the same wait for each other
    for start in range(0, len(missing), ROWS_AT_ONCE):
        some = missing[start : start + ROWS_AT_ONCE]
        rows = [_workload_columns(digest, each[digest]) for digest in some]
        found |= {row.digest: row.id for row in tx.execute(_ADD_WORKLOADS, {"rows": rows_json(rows)})}
        if not found.keys() >= {*some}:
            found |= known_workloads(tx, {*some} - found.keys())
    numbers = [found[digest] for digest in digests]
    _ensure_sides(tx, [(number, one.sides) for number, one in zip(numbers, wanted, strict=True) if one.sides])
    return numbers


def _ensure_sides(tx: Transaction, wanted: Sequence[tuple[int, tuple[Resolved, Resolved]]]) -> None:
    """The rows of pairs' sides, and which they are."""
    if wanted:
        sides = iter(ensure_workloads(tx, [side for _, both in wanted for side in both]))
        pairs.ensure(tx, [(number, next(sides), next(sides)) for number, _ in wanted])


def known_workloads(tx: Transaction, digests: Collection[str]) -> dict[str, int]:
    """Rows of the workloads of these digests that are known."""
    found = tx.execute(_WORKLOADS, {"digests": ",".join(sorted(digests))})
    return {row.digest: row.id for row in found}


_WORKLOADS = text("""
    SELECT w.id, w.digest::text AS digest
    FROM unnest(CAST(string_to_array(:digests, ',') AS uuid[])) AS x(digest) JOIN workloads w ON w.digest = x.digest
""")
# what somebody else added meanwhile is not returned
_ADD_WORKLOADS = text("""
    INSERT INTO workloads (digest, spec, kind, family, flops, parameters, input_bytes, output_bytes, weight_bytes)
    SELECT digest, CAST(spec AS json), kind, family, flops, parameters, input_bytes, output_bytes, weight_bytes
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(digest uuid, spec text, kind text, family text, flops bigint,
        parameters bigint, input_bytes bigint, output_bytes bigint, weight_bytes bigint)
    ON CONFLICT DO NOTHING RETURNING id, digest::text AS digest
""")


def _workload_columns(digest: str, one: Resolved) -> dict[str, Any]:
    cost = one.cost.model_dump() if one.cost is not None else {}
    return {
        "digest": digest,
        "spec": one.workload.model_dump_json(),
        "kind": one.workload.kind,
        "family": family(one.workload),
        **cost,
    }


def ensure_protocol(tx: Transaction, protocol: Protocol) -> int:
    """The row of a protocol, made where it is missing."""
    statement = insert(protocols).values(public_id=protocol.id, spec=protocol.model_dump(mode="json"))
    tx.execute(statement.on_conflict_do_nothing())
    return int(tx.execute(select(protocols.c.id).where(protocols.c.public_id == protocol.id)).scalar_one())
