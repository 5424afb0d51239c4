"""From a workload to the file that an engine opens."""

from dataclasses import dataclass

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import AnySingle, ArchitectureWorkload, InputSpec, KernelWorkload, UploadedWorkload
from benchfarm_workloads.kernels import CATALOGUE_VERSION
from benchfarm_workloads.models import ZOO_VERSION
from benchfarm_workloads.onnx_kernels import build_kernel
from benchfarm_workloads.onnx_models import build_architecture, build_model


@dataclass(frozen=True, slots=True)
class Artifact:
    """An ONNX file and the inputs to feed it."""

    onnx_bytes: bytes
    inputs: tuple[InputSpec, ...]


def build(workload: AnySingle) -> Artifact:
    """The artifact of a generated workload; the same bytes for the same workload.

    Raises:
        InvalidRequest: a configuration out of range, a version that this build does not know, or an upload:
            its bytes come from the store.
    """
    if isinstance(workload, UploadedWorkload):
        raise InvalidRequest("an uploaded workload is not generated; its file comes from the store", field="kind")
    if isinstance(workload, KernelWorkload):
        _refuse_version("catalogue_version", workload.catalogue_version, CATALOGUE_VERSION)
        return Artifact(*build_kernel(workload.type, workload.config))
    if isinstance(workload, ArchitectureWorkload):
        return Artifact(*build_architecture(workload))
    _refuse_version("zoo_version", workload.zoo_version, ZOO_VERSION)
    return Artifact(*build_model(workload.name, workload.config))


def _refuse_version(field: str, asked: int, known: int) -> None:
    if asked != known:
        raise InvalidRequest(f"{field}={asked} is not built here; this build knows {known}", field=field)
