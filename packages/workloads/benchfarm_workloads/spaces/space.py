"""What a search space is: genes, how architectures are drawn from them, and the network that they mean."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchfarm_core.architecture_columns import ArchitectureColumns
from benchfarm_core.architectures import Architecture, GeneValues
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import ArchitectureWorkload, Cost
from benchfarm_workloads.layers import Network
from benchfarm_workloads.spaces.blocks import Plan
from benchfarm_workloads.spaces.genes import Gene, Known, Misfit

GeneRule = Callable[[random.Random, Gene, Known], GeneValues]


def uniform(rng: random.Random, gene: Gene, known: Known) -> GeneValues:
    """Every choice of every place is as likely as any other."""
    return gene.draw(rng, known)


@dataclass(frozen=True, slots=True)
class Space:
    """One search space. ``genes`` keep their order everywhere; a later one may depend on earlier ones.

    paper: where it was published. kept, read, left: what of the paper is reproduced, what is a reading of ours, and
    what is left out. plan: the blocks of canonical genes. drawing: how a gene is drawn. drawn_as: that in words.
    """

    name: str
    version: int
    title: str
    paper: str
    kept: str
    read: str
    left: str
    genes: tuple[Gene, ...]
    plan: Plan[Any, Any]
    drawing: GeneRule = uniform
    drawn_as: str = "every choice of every place is as likely as any other"

    def draw(self, seed: str) -> Architecture:
        """An architecture; the same for the same seed on every machine."""
        rng = random.Random(f"{self.name}/{self.version}/{seed}")
        known: dict[str, GeneValues] = {}
        for gene in self.genes:
            known[gene.name] = gene.canonical(self.drawing(rng, gene, known), known)
        return self._architecture(known)

    def validate(self, genes: Mapping[str, object]) -> Architecture:
        """The architecture of these genes in their order: the same for every spelling.

        Raises:
            InvalidRequest: ``architecture_out_of_range`` with the gene, its value and what is allowed.
        """
        return self._architecture(self._canonical(genes))

    def _canonical(self, genes: Mapping[str, object]) -> dict[str, GeneValues]:
        known: dict[str, GeneValues] = {}
        for gene in self.genes:
            if gene.name not in genes:
                self._refuse_strange(genes)
                raise self._refusal(gene.name, f"the gene {gene.name} is missing; it must be {gene.allowed}")
            try:
                known[gene.name] = gene.canonical(genes[gene.name], known)
            except Misfit as error:
                self._refuse_strange(genes)
                raise self._refusal(gene.name, str(error)) from error
        if len(genes) > len(known):
            self._refuse_strange(genes)
        return known

    def misfits(self, architectures: ArchitectureColumns) -> list[int]:
        """The rows that ``validate`` refuses; the genes of all others are canonical as they stand."""
        if architectures.genes.keys() != {gene.name for gene in self.genes}:
            return [*range(len(architectures))]
        doubtful = {row for gene in self.genes for row in gene.doubtful(architectures.genes, len(architectures))}
        return [row for row in sorted(doubtful) if not self._takes(architectures.genes_of(row))]

    def _takes(self, genes: Known) -> bool:
        try:
            self._canonical(genes)
        except InvalidRequest:
            return False
        return True

    def _refuse_strange(self, genes: Mapping[str, object]) -> None:
        """A gene that the space does not have is told before what is wrong with others."""
        names = [gene.name for gene in self.genes]
        for name in genes:
            if name not in names:
                shown = str(name)[:40]
                raise self._refusal(shown, f"there is no gene {shown!r}; genes are {', '.join(names)}")

    def network(self, architecture: Architecture) -> Network:
        """The layers, each a kernel of the catalogue.

        Raises:
            InvalidRequest: the architecture is of another space, of a version that this build does not know, or its
                genes are out of range.
        """
        self._check(architecture)
        return self.layout(self.validate(architecture.genes).genes)

    def _check(self, architecture: Architecture) -> None:
        if architecture.space != self.name:
            raise InvalidRequest(f"an architecture of {architecture.space}, not of {self.name}", field="space")
        if architecture.space_version != self.version:
            raise InvalidRequest(
                f"space_version={architecture.space_version} is not built here; this build knows {self.version}",
                field="space_version",
            )

    def layout(self, genes: Known) -> Network:
        """The layers of canonical genes."""
        return self.plan.network(genes)

    def cost(self, architecture: Architecture) -> Cost:
        """FLOPs, parameters and bytes by the conventions of ``costs``: those of its network. Raises as ``network``."""
        self._check(architecture)
        return self.plan.cost(self._canonical(architecture.genes))

    def workload(self, genes: Mapping[str, object]) -> ArchitectureWorkload:
        """The canonical workload of these genes. Raises as ``validate``."""
        # genes of a space are what the fields take: a question has thousands, and checks cost most of them
        return ArchitectureWorkload.model_construct(
            space=self.name, space_version=self.version, genes=self._canonical(genes)
        )

    def _architecture(self, genes: dict[str, GeneValues]) -> Architecture:
        return Architecture(space=self.name, space_version=self.version, genes=genes)

    def _refusal(self, gene: str, detail: str) -> InvalidRequest:
        return InvalidRequest(f"space {self.name}: {detail}", code="architecture_out_of_range", field=f"genes.{gene}")
