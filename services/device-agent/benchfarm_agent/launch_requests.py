"""What a runner is asked in one launch: the runner contract's request, less the limits that the board adds."""

from collections.abc import Sequence
from typing import Any, Final

from benchfarm_agent.prepared import Canary, PreparedItem
from benchfarm_agent.runner_lines import CONTRACT
from benchfarm_core.agent_protocol import LeaseGrant
from benchfarm_core.protocols import Protocol, purpose_of

SGEMM_CANARY: Final = {"n": 192, "seed": 1}

_PROTOCOL_FIELDS: Final = (
    "block_min_us", "visit_ms", "blocks_min", "blocks_max", "warmup_min_runs", "warmup_min_ms", "canary_every_ms",
    "clock_every_ms", "quiet_wait_ms", "visit_timeout_s",
)  # fmt: skip


def launch_request(
    grant: LeaseGrant,
    items: Sequence[PreparedItem],
    canary: Canary,
    *,
    launch_no: int = 0,
    asks_precision: bool = False,
    fastest_canary_ns: int | None = None,
    patience_ms: int = 0,
) -> dict[str, Any]:
    """The runner contract's request, less the limits that the board adds.

    asks_precision: the runner is to tell what each workload is computed in; one that does not know of it tells nothing.
    fastest_canary_ns: what the clock's canary takes when nobody is beside it, by which the runner knows a quiet moment.
    patience_ms: how long it may wait for such moments.
    """
    platform = grant.platform
    known = {"fastest_ns": fastest_canary_ns} if fastest_canary_ns else {}
    return {
        "contract": CONTRACT,
        "engine": platform.engine.name,
        "precision": str(platform.precision),
        "threads": platform.operating_point.threads,
        "cores": list(platform.operating_point.cores),
        "options": dict(platform.engine.options),
        "protocol": protocol_parameters(grant.protocol),
        "canaries": {
            "sgemm": SGEMM_CANARY | known | {"patience_ms": patience_ms},
            "mobilenet": {"artifact": str(canary.artifact), "inputs": list(canary.inputs), "edges": canary.edges},
        },
        "visits": _visits(items, launch_no),
        "asks_precision": asks_precision,
    }


def protocol_parameters(protocol: Protocol) -> dict[str, int | str]:
    """The part of a protocol that a runner needs, less what it leaves out."""
    told = {name: value for name in _PROTOCOL_FIELDS if (value := getattr(protocol, name)) is not None}
    return told | {"purpose": purpose_of(protocol)}


def _visits(items: Sequence[PreparedItem], launch_no: int) -> list[dict[str, Any]]:
    """A visit for each item, but one for all items of a carrier, at the place of the first."""
    wanted, taken = {item.measurement_id for item in items}, set[int]()
    visits = []
    for item in items:
        if item.measurement_id not in taken:
            numbers = [
                (site.name, site.measurement_id if site.measurement_id in wanted else None) for site in item.sites
            ]
            carried = [number for _, number in numbers if number is not None]
            taken.update(carried)
            sites = {"sites": [{"name": name, "visit": number} for name, number in numbers]} if carried else {}
            number = carried[0] if carried else item.measurement_id
            visits.append(_visit(item) | _beside(item, launch_no) | _twice(item) | {"visit": number} | sites)
    return visits


def _visit(item: PreparedItem) -> dict[str, Any]:
    return {
        "visit": item.measurement_id,
        "artifact": str(item.artifact),
        "format": item.format,
        "inputs": list(item.inputs),
        "edges": item.edges,
        "gates": item.gates,
    }


def _beside(item: PreparedItem, launch_no: int) -> dict[str, Any]:
    """The b side of a pair. Sides take turns in being opened first, which gives one of them the better memory."""
    if item.beside is None:
        return {}
    side = _visit(item.beside.item) | {"precision": item.beside.precision, "options": item.beside.options}
    return {"beside": side | {"opens_first": launch_no % 2 == 1}}


def _twice(item: PreparedItem) -> dict[str, Any]:
    """By difference, the carrier that holds the kernel once more."""
    return {} if item.twice is None else {"twice": _visit(item.twice)}
