"""Which of a question's wishes can be a job's items on a platform, and how long each is expected to take."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from benchfarm_core.errors import InvalidRequest, NotFound
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.matching import is_too_large, why_too_large
from benchfarm_core.planning import expected_s
from benchfarm_core.platforms import parse_platform_key
from benchfarm_core.protocols import ProtocolRequest, resolve_protocol
from benchfarm_core.workloads import UploadRequest
from benchfarm_store import memory, specs
from benchfarm_store.database import Transaction
from benchfarm_store.platforms import Found
from benchfarm_store.timings import why_not_by_difference
from benchfarm_store.tokens import Caller

PROTOCOL: Final = "kernel"


class Looked(NamedTuple):
    """`possible`: the places of items, as they were given, and the device-seconds of each; `refused`: how many others
    there are, and `why` the first of these is none."""

    possible: Sequence[tuple[int, float]]
    refused: int
    why: str | None


def look(
    tx: Transaction, request: LatencyRequest, platform: Found, items: Sequence[tuple[int, specs.AnyRequest]], by: Caller
) -> Looked:
    """Items by place. One that a job would be refused for is left out, and costs the others nothing."""
    named = [item.model_id for _, item in items if isinstance(item, UploadRequest)]
    uploads = specs.find_uploads(tx, named, by.account_number)
    largest = memory.of_largest_boards(tx, [platform.base_id]).get(platform.base_id)
    place, protocol = parse_platform_key(platform.key), resolve_protocol(ProtocolRequest(name=PROTOCOL))
    possible: list[tuple[int, float]] = []
    whys: list[str] = []
    for at, item in items:
        try:
            one = specs.resolve_found(item, uploads)
        except (InvalidRequest, NotFound) as error:
            whys.append(error.detail)
            continue
        needed = one.needed_bytes
        why = why_not_by_difference(request.timing, place, item)
        if needed is not None and largest is not None and is_too_large(needed, largest):
            why = f"no board can measure this: {why_too_large(needed, largest)}"
        if why is None:
            possible.append((at, expected_s(protocol, one.cost, None, request.timing)))
        else:
            whys.append(why)
    return Looked(possible, len(whys), next(iter(whys), None))
