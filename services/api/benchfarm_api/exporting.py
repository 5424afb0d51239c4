"""Tables made: what they are made of is looked up in one transaction, and they are kept in another."""

from threading import Lock
from typing import Any, Final

from benchfarm_core.errors import InvalidRequest, Unavailable
from benchfarm_core.exports import ExportRequest, ExportView, MissesReport
from benchfarm_predictor import predictor_file, table_file
from benchfarm_predictor.space_tables import LOOKED_AT, SpaceTable, compiled
from benchfarm_store import exports
from benchfarm_store.database import Database
from benchfarm_store.exports import Ordered
from benchfarm_store.tokens import Caller
from benchfarm_workloads.network_kernels import NetworkKernels
from benchfarm_workloads.spaces import Space, draws, space
from benchfarm_workloads.spaces.every_block import every_block

_SEED: Final = "exports"


def export(database: Database, lock: Lock, request: ExportRequest, by: Caller) -> ExportView:
    """The table of a space, made now or there already. `lock`: whoever has it makes a table, which takes seconds.

    Raises:
        InvalidRequest: `space_unknown`, `architecture_out_of_range` for genes that the space does not have, as
            `platforms.find`, and `export_impossible` where the predictor does not know the space's kernels.
        TooLarge: of too many blocks or bytes; name fewer values of genes.
        Conflict: `no_predictor`.
        Unavailable: another table is being made.
    """
    of_space = space(request.space)
    with database.transaction() as tx:
        ordered = exports.order(tx, request, of_space.version, by)
    if ordered.view is not None:
        return ordered.view
    if not lock.acquire(blocking=False):
        raise Unavailable("another table is being made: ask again in a few seconds")
    try:
        table = _made(of_space, ordered)
    finally:
        lock.release()
    file = table_file.write(table, ordered.head, ordered.key.id, ordered.key.sign)
    with database.transaction() as tx:
        return exports.keep(tx, ordered, file, len(table.blocks), by)


def _made(of_space: Space, ordered: Ordered) -> SpaceTable:
    blocks, slots = every_block(of_space, ordered.head.genes)
    kernels = NetworkKernels(ordered.rules)
    parts = [kernels.block(of_space, block) for block in blocks]
    predictor = predictor_file.read(ordered.predictor, ordered.head.predictor_sha256)
    return compiled(predictor, of_space, blocks, parts, slots, draws(of_space.name, _SEED, LOOKED_AT))


def checked_misses(database: Database, export_id: str, report: MissesReport) -> list[dict[str, Any]]:
    """The canonical genes of reported architectures.

    Raises:
        NotFound: there is no such export.
        InvalidRequest: `architecture_out_of_range` with the place of the first architecture that is not of the space.
    """
    with database.transaction(read_only=True) as tx:
        of_space = space(exports.space_of(tx, export_id))
    found = []
    for number, genes in enumerate(report.architectures):
        try:
            found.append(of_space.validate(genes).model_dump(mode="json")["genes"])
        except InvalidRequest as error:
            field = f"architectures.{number}.{error.field or 'genes'}"
            raise InvalidRequest(error.detail, code=error.code, field=field) from error
    return found
