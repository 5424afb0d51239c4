"""The catalogue as the rules of measurement sets ask about it."""

from collections.abc import Mapping, Sequence

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.columns import Scalar
from benchfarm_workloads.kernels import kernel_type, kernel_types


class OwnKernels:
    """Satisfies ``benchfarm_core.measurement_sets.KernelCatalogue``."""

    def names(self) -> Sequence[str]:
        """All types in catalogue order."""
        return [kind.name for kind in kernel_types()]

    def columns(self, type_name: str) -> Mapping[str, bool]:
        """The columns of one of the types, in order, and whether each must be given."""
        return {column.name: column.default is None for column in kernel_type(type_name).columns}

    def why_not(self, type_name: str, config: Mapping[str, Scalar]) -> str | None:
        """A sentence when the type does not have that configuration."""
        try:
            kernel_type(type_name).validate(config)
        except InvalidRequest as error:
            return error.detail
        return None
