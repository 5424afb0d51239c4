"""What is timed in situ, packed: which kernels of a lease share a carrier, and what becomes of them when it fails."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchfarm_core.agent_protocol import BatchItem
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.failures import INCONCLUSIVE_CODES, FailureCode
from benchfarm_core.platforms import Precision
from benchfarm_core.workloads import InputSpec, KernelWorkload

if TYPE_CHECKING:
    from benchfarm_workloads.carriers import Carrier

OwnGraph = tuple[bytes, tuple[InputSpec, ...]]
"""An ONNX file that was built here, and its inputs."""


@dataclass(frozen=True)
class CarriedSite:
    """A layer of a carrier; `measurement_id` is that of the wanted kernel that it is, None for an adapter."""

    name: str
    measurement_id: int | None


@dataclass(frozen=True)
class Freight:
    """Measurements that share a carrier; by difference one measurement alone.

    key: what the carrier is, for a cache; sites: its layers in their order, by difference the kernel alone.
    """

    items: tuple[BatchItem, ...]
    key: list[object]
    sites: tuple[CarriedSite, ...]
    build: Callable[[], OwnGraph]
    """Writes the ONNX file; brings onnx, which the agent's start does not wait for."""


INT8_SITES: Final = 24
"""Kernels of an int8 carrier at most: from layer to layer the roundings add up, and the gate's limit does not."""


def freights(items: Sequence[BatchItem], precision: Precision = Precision.FP32) -> list[Freight]:
    """Few carriers for many kernels, but one of its own for each that has failed before. Raises InvalidRequest."""
    apart = [[item] for item in items if item.apart]
    together = [item for item in items if not item.apart]
    size = INT8_SITES if precision is Precision.INT8 else max(1, len(together))
    parts = [together[start : start + size] for start in range(0, len(together), size)]
    return [freight for part in [*parts, *apart] for freight in _packed(part)]


def why_not_carried(item: BatchItem) -> str | None:
    """Why an item cannot be packed with others; None where it can."""
    from benchfarm_workloads.kernels import CATALOGUE_VERSION, kernel_type

    workload = item.workload
    if not isinstance(workload, KernelWorkload):
        return f"a workload of kind {workload.kind} has no carrier"
    if workload.catalogue_version != CATALOGUE_VERSION:
        return f"catalogue_version={workload.catalogue_version} is not built here; this build knows {CATALOGUE_VERSION}"
    try:
        kernel_type(workload.type).validate(workload.config)
    except InvalidRequest as error:
        return error.detail
    return None


def why_not_doubled(item: BatchItem) -> str | None:
    """Why an item cannot be timed by difference, whose carriers it has to itself; None where it can."""
    from benchfarm_workloads.doubled_carriers import why_not_doubled
    from benchfarm_workloads.kernels import kernel_type

    why = why_not_carried(item)
    if why is not None:
        return why
    workload = item.workload
    assert isinstance(workload, KernelWorkload)  # as `why_not_carried` has seen
    return why_not_doubled(workload.type, kernel_type(workload.type).validate(workload.config))


def doubled(item: BatchItem) -> tuple[Freight, Freight]:
    """The carriers that hold a kernel once and twice. Raises InvalidRequest where `why_not_doubled`."""
    from benchfarm_workloads.carriers import Carrier
    from benchfarm_workloads.doubled_carriers import FIRST, double

    def freight(carrier: Carrier, *sites: CarriedSite) -> Freight:
        return Freight((item,), ["doubled", _layers(carrier)], sites, lambda: _build(carrier))

    workload = item.workload
    assert isinstance(workload, KernelWorkload)  # as `why_not_doubled` has seen
    both = double(workload.type, workload.config)
    return freight(both.once, CarriedSite(FIRST, item.measurement_id)), freight(both.twice)


def _packed(items: Sequence[BatchItem]) -> list[Freight]:
    from benchfarm_workloads.carriers import Carrier, pack

    def freight(carrier: Carrier) -> Freight:
        numbers = {name: items[place].measurement_id for place, name in carrier.sites.items()}
        return Freight(
            items=tuple(items[place] for place in carrier.sites),
            key=["carrier", _layers(carrier)],
            sites=tuple(CarriedSite(layer.name, numbers.get(layer.name)) for layer in carrier.layers),
            build=lambda: _build(carrier),
        )

    kernels = [item.workload for item in items if isinstance(item.workload, KernelWorkload)]
    return [freight(carrier) for carrier in pack([(kernel.type, kernel.config) for kernel in kernels])]


def _layers(carrier: "Carrier") -> list[object]:
    return [[layer.name, layer.type, dict(layer.config), list(layer.sources)] for layer in carrier.layers]


def _build(carrier: "Carrier") -> OwnGraph:
    from benchfarm_workloads.onnx_carriers import build_carrier

    return build_carrier(carrier)


_OWN: Final = frozenset(
    {
        FailureCode.FUSED_AWAY,
        FailureCode.BELOW_CLOCK,
        FailureCode.BOARD_LOST,
        FailureCode.DISK_FULL,
        FailureCode.ENGINE_UNAVAILABLE,
        FailureCode.PIN_NOT_VERIFIED,
        FailureCode.THREADS_NOT_OBEYED,
        FailureCode.PRECISION_NOT_OBEYED,
        FailureCode.FILE_LOST,
    }
)
"""Said of one kernel, or of the board and the engine as a whole."""


def carried_failure(code: FailureCode, detail: str) -> tuple[FailureCode, str]:
    """What the failure of a carrier with several wanted kernels means for each of them: nobody knows whose it was.

    A kernel that the engine has fused away is a fault of nobody else, and bad conditions are no fault.
    """
    if code in INCONCLUSIVE_CODES or code in _OWN:
        return code, detail
    return FailureCode.CARRIER_FAILED, f"{code}: {detail}"[:300]
