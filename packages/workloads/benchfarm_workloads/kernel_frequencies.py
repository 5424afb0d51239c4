"""How often each kernel occurs in networks: what samplers of kernels imitate."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.values import digest
from benchfarm_workloads.columns import Config, Scalar
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.spaces import draws, kernels

BYTES_WEIGH_FLOPS: Final = 16
"""What moving a byte counts as beside an operation: a core computes about so many while it fetches one."""


@dataclass(frozen=True, slots=True)
class KernelFrequencies:
    """The different configurations of one kernel type and the share of each; shares add up to 1."""

    type: str
    configs: tuple[Config, ...]
    shares: tuple[float, ...]

    @property
    def content_hash(self) -> str:
        """Names configurations and shares together."""
        return digest([self.type, [list(config.items()) for config in self.configs], list(self.shares)])


def count_kernels(lists: Iterable[Iterable[tuple[str, Mapping[str, Scalar], int]]]) -> dict[str, KernelFrequencies]:
    """The frequencies in networks that are given as lists of kernel type, configuration and how often.

    By kernel type, in the order of their names; configurations in the order of their columns' values.

    Raises:
        InvalidRequest: the catalogue does not have a kernel, or a count is below 1.
    """
    counts: dict[str, Counter[tuple[Scalar, ...]]] = {}
    for network in lists:
        for type_name, config, count in network:
            if count < 1:
                raise InvalidRequest(f"a kernel occurs {count} times", field="count")
            canonical = kernel_type(type_name).validate(config)
            counts.setdefault(type_name, Counter())[tuple(canonical.values())] += count
    return {name: _frequencies(name, counts[name]) for name in sorted(counts)}


def frequencies_of_spaces(
    names: Iterable[str], *, seed: str, architectures: int, rules: FusionRules | None = None
) -> dict[str, KernelFrequencies]:
    """The frequencies in as many drawn architectures of each of the search spaces, by kernel type.

    A space weighs as much as its architectures have kernels. ``rules``: what the engine fuses.
    Raises InvalidRequest as ``spaces.draws`` does.
    """
    fusions = rules or FusionRules()
    drawn = (architecture for name in names for architecture in draws(name, seed, architectures))
    return count_kernels(kernels(architecture, fusions) for architecture in drawn)


def latency_heavy(frequencies: KernelFrequencies, weight: float = 0.5) -> KernelFrequencies:
    """Shares that lean towards what takes long: ``weight`` of them goes by share times cost.

    The first layers of a network are few and take up to half of its time (LitePred, NSDI 2024, section 4.1); a sampler
    of mere counts hardly draws them. Cost is operations and bytes by the catalogue, as latencies are not known yet.
    """
    if not 0 <= weight <= 1:
        raise InvalidRequest(f"weight={weight} must be from 0 to 1", field="weight")
    rule = kernel_type(frequencies.type).cost_rule
    costs = [(cost := rule(config)).flops + BYTES_WEIGH_FLOPS * cost.total_bytes for config in frequencies.configs]
    heavy = [share * cost for share, cost in zip(frequencies.shares, costs, strict=True)]
    whole = sum(heavy)
    shares = [(1 - weight) * a + weight * b / whole for a, b in zip(frequencies.shares, heavy, strict=True)]
    return KernelFrequencies(frequencies.type, frequencies.configs, tuple(shares))


def _frequencies(type_name: str, counts: Counter[tuple[Scalar, ...]]) -> KernelFrequencies:
    names = [column.name for column in kernel_type(type_name).columns]
    ordered = sorted(counts.items(), key=lambda item: tuple(map(_sortable, item[0])))
    whole = sum(counts.values())
    configs = tuple(dict(zip(names, values, strict=True)) for values, _ in ordered)
    return KernelFrequencies(type_name, configs, tuple(count / whole for _, count in ordered))


def _sortable(value: Scalar) -> tuple[str, int]:
    return (value, 0) if isinstance(value, str) else ("", value)
