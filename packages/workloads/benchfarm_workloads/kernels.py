"""The kernel catalogue: every kernel type with its columns, ranges, rules, tensors and exact costs.

Types on images stand in ``image_kernels``, types on sequences in ``sequence_kernels``. A change of a type's meaning
needs a new ``CATALOGUE_VERSION``, because workloads are named by it; a new type or a wider range does not.
"""

from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.image_kernels import IMAGE_KERNELS
from benchfarm_workloads.kernel_types import CATALOGUE_VERSION, KernelType
from benchfarm_workloads.sequence_kernels import SEQUENCE_KERNELS

__all__ = ["CATALOGUE_VERSION", "KernelType", "kernel_type", "kernel_types"]

_CATALOGUE: Final[dict[str, KernelType]] = {kind.name: kind for kind in (*IMAGE_KERNELS, *SEQUENCE_KERNELS)}


def kernel_types() -> tuple[KernelType, ...]:
    """All kernel types of this catalogue version, in catalogue order."""
    return tuple(_CATALOGUE.values())


def kernel_type(name: str) -> KernelType:
    """The kernel type of that name.

    Raises:
        InvalidRequest: ``kernel_unknown``.
    """
    if name not in _CATALOGUE:
        known = ", ".join(_CATALOGUE)
        raise InvalidRequest(f"no kernel type {name[:40]!r}; there are {known}", code="kernel_unknown", field="type")
    return _CATALOGUE[name]
