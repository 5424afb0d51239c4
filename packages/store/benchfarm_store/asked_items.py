"""Which of a question's wishes can be a job's items on a platform, and how long each is expected to take."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from benchfarm_core.architectures import GeneValues
from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.matching import is_too_large, why_too_large
from benchfarm_core.planning import expected_s
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.protocols import ProtocolRequest, resolve_protocol
from benchfarm_core.workloads import ArchitectureRequest, Cost, UploadRequest
from benchfarm_store import memory, specs
from benchfarm_store.database import Transaction
from benchfarm_store.platforms import Found
from benchfarm_store.timings import why_not_by_difference
from benchfarm_store.tokens import Caller
from benchfarm_workloads.spaces import space

PROTOCOL: Final = "kernel"
MISFITS: Final = 20
"""So many items that do not fit into what is left end the looking: each costs up to a millisecond, and a search goes on
asking when next to nothing is left."""
MOST_REFUSED: Final = 10_000
"""So many items that can be none end it too. They keep nobody else from being looked at before: a search whose largest
architectures fit into no board asks for these first each time."""
COSTS_KEPT: Final = 10_000
"""Architectures whose costs are remembered, some megabytes: who fits into no board is asked for again and again."""


class Looked(NamedTuple):
    """`possible`: the places of items that fit, as they were given, and the device-seconds of each; `refused`: how many
    can be none, and `why` the first of these cannot."""

    possible: Sequence[tuple[int, float]]
    refused: int
    why: str | None


def look(
    tx: Transaction,
    request: LatencyRequest,
    platform: Found,
    items: Sequence[tuple[int, specs.AnyRequest]],
    *,
    by: Caller,
    left_s: float,
    most: int,
) -> Looked:
    """Items by place, as they fit into the device-seconds that are left, at most `most` of those that can be measured.
    One that a job would be refused for costs the others nothing, and a long one keeps no shorter one out."""
    if left_s <= 0:
        return Looked((), 0, None)
    named = [item.model_id for _, item in items if isinstance(item, UploadRequest)]
    uploads = specs.find_uploads(tx, named, by.account_number)
    largest = memory.of_largest_boards(tx, [platform.base_id]).get(platform.base_id)
    place, protocol = parse_platform_key(platform.key), resolve_protocol(ProtocolRequest(name=PROTOCOL))
    possible: list[tuple[int, float]] = []
    whys: list[str] = []
    misfits = 0
    for at, item in items:
        if len(possible) + misfits >= most or len(whys) >= MOST_REFUSED:
            break
        cost, needed, why = _needs(item, uploads)
        why = why or why_not_by_difference(request.timing, place, item)
        if needed is not None and largest is not None and is_too_large(needed, largest):
            why = f"no board can measure this: {why_too_large(needed, largest)}"
        needed_s = expected_s(protocol, cost, None, request.timing)
        if why is not None:
            whys.append(why)
        elif needed_s <= left_s:
            possible.append((at, needed_s))
            left_s -= needed_s
        elif (misfits := misfits + 1) == MISFITS:
            break
    return Looked(possible, len(whys), next(iter(whys), None))


class _Needs(NamedTuple):
    """What an item costs, and the memory without which nobody can measure it; or why it is no workload."""

    cost: Cost | None
    needed_bytes: int | None = None
    why: str | None = None


def _needs(item: specs.AnyRequest, uploads: dict[str, specs.Resolved]) -> _Needs:
    if isinstance(item, ArchitectureRequest):
        return _architecture_needs(item.space, tuple(item.genes.items()))
    try:
        one = specs.resolve_found(item, uploads)
    except (InvalidRequest, NotFound) as error:
        return _Needs(None, why=error.detail)
    return _Needs(one.cost, one.needed_bytes)


@lru_cache(COSTS_KEPT)
def _architecture_needs(name: str, genes: tuple[tuple[str, GeneValues], ...]) -> _Needs:
    try:
        drawing = space(name)
        cost = drawing.plan.cost(drawing.workload(dict(genes)).genes)
    except InvalidRequest as error:
        return _Needs(None, why=error.detail)
    return _Needs(cost, specs.needed_bytes(cost, None))
