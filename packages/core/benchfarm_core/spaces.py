"""Questions and answers about search spaces: their genes, what they draw, and the kernels of an architecture."""

from typing import Any, Final, Self

from pydantic import Field

from benchfarm_core.architectures import Genes
from benchfarm_core.fusion import ModelKernel, RulesSource
from benchfarm_core.values import Answer, Value
from benchfarm_core.workloads import ArchitectureRequest, ArchitectureWorkload, Cost, workload_id

MAX_DRAWN: Final = 1000
"""Architectures of one answer."""


class GeneView(Answer):
    """A gene: one integer, or a list of them. `allowed` says for people what each may be."""

    name: str
    unit: str
    meaning: str
    allowed: str
    is_list: bool


class SpaceView(Answer):
    """A search space. `kept`, `read`, `left`: what of the paper is reproduced, what is a reading of ours, and what is
    left out; `drawn_as`: how genes are drawn. A later gene may depend on earlier ones."""

    name: str
    version: int
    title: str
    paper: str
    kept: str
    read: str
    left: str
    drawn_as: str
    genes: list[GeneView]


class DrawQuery(Value):
    """What to draw: the same seed draws the same, and a larger count begins with what a smaller one draws."""

    seed: str = Field(default="0", max_length=100)
    count: int = Field(default=1, ge=1, le=MAX_DRAWN)


class DrawnArchitecture(Answer):
    """One architecture: as a workload, with that workload's id. A job or a question names it by space and genes."""

    workload_id: str
    workload: ArchitectureWorkload

    @classmethod
    def of(cls, workload: ArchitectureWorkload, **more: Any) -> Self:
        """The answer for a workload. more: what an answer of another kind has beside."""
        return cls(workload_id=workload_id(workload), workload=workload, **more)

    @property
    def request(self) -> ArchitectureRequest:
        """As a client names it, ready to be submitted."""
        return ArchitectureRequest(space=self.workload.space, genes=self.workload.genes)


class DrawnArchitectures(Answer):
    """Different architectures of one space."""

    items: list[DrawnArchitecture]


class ArchitectureKernelsRequest(Value):
    """Whose kernels are asked for, and where; without a platform by the rules that hold unless measured otherwise."""

    genes: Genes
    platform: str | None = Field(default=None, max_length=300, description="id, key or alias")


class ArchitectureKernels(DrawnArchitecture):
    """An architecture with its cost and its kernels, in an order in which they can run.

    The genes of `workload` are in their canonical form. `rules` and `assumed` as of a model's kernels.
    """

    cost: Cost
    platform: str | None
    rules: RulesSource
    assumed: list[tuple[str, str]]
    kernels: list[ModelKernel]
