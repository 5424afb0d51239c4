"""What a kernel type is: columns, ranges, rules, tensors and exact costs in one value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import Cost, KernelWorkload
from benchfarm_workloads.columns import Column, Config, Scalar, Shape
from benchfarm_workloads.costs import WorkRule, cost_of
from benchfarm_workloads.tensors import TensorRule, Tensors

CATALOGUE_VERSION: Final = 1

MAX_KERNEL_BYTES: Final = 512 * 1024 * 1024
"""Inputs, outputs and weights together: a board with 1 GB of memory can still hold it."""

MAX_KERNEL_WEIGHT_BYTES: Final = 120 * 1024 * 1024
"""An agent builds the file itself and holds the weights four times for that: below 600 MiB in all."""

MAX_KERNEL_FLOPS: Final = 50_000_000_000
"""One run stays within seconds on a slow core."""


@dataclass(frozen=True, slots=True)
class KernelType:
    """One kernel type. ``columns`` keep their order everywhere: labels, CSV, features."""

    name: str
    summary: str
    shape: Shape
    tensor_rule: TensorRule
    work_rule: WorkRule

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns in order."""
        return self.shape.columns

    def validate(self, config: Mapping[str, object]) -> Config:
        """The canonical configuration: all columns in order, defaults filled in.

        Raises:
            InvalidRequest: ``kernel_out_of_range`` with the column, its value and what is allowed.
        """
        canonical = self.shape.canonical(config)
        cost = self.cost_rule(canonical)
        if cost.total_bytes > MAX_KERNEL_BYTES:
            raise self._above("total_bytes", cost.total_bytes, MAX_KERNEL_BYTES)
        if cost.flops > MAX_KERNEL_FLOPS:
            raise self._above("flops", cost.flops, MAX_KERNEL_FLOPS)
        if cost.weight_bytes > MAX_KERNEL_WEIGHT_BYTES:
            raise self._above("weight_bytes", cost.weight_bytes, MAX_KERNEL_WEIGHT_BYTES)
        return canonical

    def cost(self, config: Mapping[str, object]) -> Cost:
        """FLOPs, parameters and bytes of a valid configuration, by the conventions of ``costs``."""
        return self.cost_rule(self.validate(config))

    def cost_rule(self, canonical: Mapping[str, Scalar]) -> Cost:
        """The cost of a configuration that is canonical already."""
        tensors = self.tensor_rule(canonical)
        return cost_of(self.work_rule(canonical, tensors), tensors)

    def tensors(self, config: Mapping[str, object]) -> Tensors:
        """The dimensions of inputs and outputs of a valid configuration."""
        return self.tensor_rule(self.validate(config))

    def output_names(self, name: str, canonical: Mapping[str, Scalar]) -> tuple[str, ...]:
        """What the outputs of a kernel called ``name`` are called: ``name``, or ``name/0``, ``name/1``, ..."""
        count = len(self.tensor_rule(canonical).outputs)
        return (name,) if count == 1 else tuple(f"{name}/{index}" for index in range(count))

    def workload(self, config: Mapping[str, object]) -> KernelWorkload:
        """The canonical workload of a configuration."""
        return KernelWorkload(catalogue_version=CATALOGUE_VERSION, type=self.name, config=self.validate(config))

    def _above(self, quantity: str, value: int, limit: int) -> InvalidRequest:
        first = self.columns[0].name
        return self.shape.refusal(first, f"{quantity}={value} is above {limit}; take smaller sizes")
