"""Kernel lists: workloads as counted kernels, by what an engine was seen to fuse. Predictors learn in them."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from benchfarm_core.predictors import CountedKernel
from benchfarm_core.workloads import (
    ArchitectureWorkload,
    Config,
    GeneratedModelWorkload,
    KernelWorkload,
    UploadedWorkload,
)
from benchfarm_workloads.fusing import FusionRules, fuse
from benchfarm_workloads.kernels import CATALOGUE_VERSION
from benchfarm_workloads.layers import Network
from benchfarm_workloads.models import ZOO_VERSION, model_recipe
from benchfarm_workloads.operators import GraphIndex, graph_operators
from benchfarm_workloads.recognition import Part, recognised
from benchfarm_workloads.spaces import fused_network, space
from benchfarm_workloads.verdicts import Graph


class KernelList(NamedTuple):
    """A workload's kernels in the order in which each first runs, and what of it is no kernel of the catalogue.

    `unknown`: operators without a kernel type, and kernel types whose configuration is unknown or outside the
    catalogue, each as often as the workload has it. Operators that compute nothing stand nowhere.
    """

    kernels: tuple[CountedKernel, ...]
    unknown: tuple[str, ...]


GeneratedWorkload = KernelWorkload | GeneratedModelWorkload | ArchitectureWorkload


def is_current(workload: GeneratedWorkload | UploadedWorkload) -> bool:
    """Whether this code still means by a workload what was measured: one of another catalogue, zoo or space version is
    another thing."""
    if isinstance(workload, KernelWorkload):
        return workload.catalogue_version == CATALOGUE_VERSION
    if isinstance(workload, GeneratedModelWorkload):
        return workload.zoo_version == ZOO_VERSION
    return isinstance(workload, UploadedWorkload) or workload.space_version == space(workload.space).version


def kernel_list(workload: GeneratedWorkload, rules: FusionRules) -> KernelList:
    """The kernels of a kernel, a generated model or an architecture of a current version.

    Raises InvalidRequest for what this code does not generate.
    """
    if isinstance(workload, KernelWorkload):
        return KernelList(((workload.type, workload.config, 1),), ())
    _, chains = fused_network(_network(workload), rules)
    return _counted(chains)


def graph_kernel_list(graph: Graph, rules: FusionRules) -> KernelList:
    """The kernels of an uploaded model."""
    index = GraphIndex(graph)
    return _counted([recognised(chain, index) for chain in fuse(graph_operators(graph), rules).kernels])


def _network(workload: GeneratedModelWorkload | ArchitectureWorkload) -> Network:
    if isinstance(workload, ArchitectureWorkload):
        return space(workload.space).network(workload)
    return model_recipe(workload.name).network(workload.config)


def _counted(chains: Sequence[Sequence[Part]]) -> KernelList:
    counts: Counter[tuple[object, ...]] = Counter()
    kernels: dict[tuple[object, ...], tuple[str, Config]] = {}
    unknown: list[str] = []
    for part in (part for chain in chains for part in chain if not part.is_free):
        if part.type is None or part.config is None:
            unknown += [part.type] if part.type is not None else _operators(part)
            continue
        key = (part.type, *part.config.items())
        counts[key] += 1
        kernels.setdefault(key, (part.type, part.config))
    return KernelList(tuple((*kernels[key], count) for key, count in counts.items()), tuple(unknown))


def _operators(part: Part) -> list[str]:
    return [op for operator in part.operators for op in operator.ops]
