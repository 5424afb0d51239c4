"""Architectures of one search space gene by gene, as workloads that are made when somebody looks at one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, overload

from benchfarm_core.architecture_columns import ArchitectureColumns
from benchfarm_core.workloads import ArchitectureWorkload
from benchfarm_workloads.spaces.genes import Known
from benchfarm_workloads.spaces.space import Space


@dataclass(frozen=True, eq=False, repr=False)
class Architectures(Sequence[ArchitectureWorkload]):
    """n architectures of a space. To look at one that the space does not have raises as ``Space.validate``."""

    space: Space
    columns: ArchitectureColumns

    @classmethod
    def of(cls, space: Space, genes: Sequence[Known]) -> Self:
        """Of canonical genes of at least one architecture."""
        columns = ArchitectureColumns.of(space.name, genes)
        assert columns is not None  # canonical genes are integers, or lists of them, by the same names
        return cls(space, columns)

    def take(self, rows: Sequence[int]) -> Self:
        """Some of them, at least one, in that order."""
        return type(self)(self.space, self.columns.take(rows))

    def __len__(self) -> int:
        return len(self.columns)

    @overload
    def __getitem__(self, at: int) -> ArchitectureWorkload: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[ArchitectureWorkload]: ...
    def __getitem__(self, at: int | slice) -> ArchitectureWorkload | Sequence[ArchitectureWorkload]:
        if isinstance(at, slice):
            return [self[row] for row in range(len(self))[at]]
        return self.space.workload(self.columns.genes_of(range(len(self))[at]))
