"""The kernels of thousands of networks: what a layer comes to under an engine's rules is found once and remembered.

`fuse` and `recognised` look at a whole network. Of a network made of layers, what each layer comes to follows from the
layer alone: recognition cuts every fused chain back into kernels of the catalogue, at most a layer with the activation
behind it. That activation is the layer's own or, where a network has activations as layers of their own, the layer
that alone uses its output. Both are looked at together here; a test holds this to the whole networks.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from benchfarm_workloads.columns import Config
from benchfarm_workloads.fusing import FusionRules, fuse
from benchfarm_workloads.layers import Layer, Network
from benchfarm_workloads.operators import layer_operators
from benchfarm_workloads.recognition import recognised

CountedKernels = tuple[tuple[str, Config, int], ...]
"""Kernel types with their configurations, and how often each occurs. Equal configurations are one object."""

_APART: Final = frozenset({"act", "gelu"})
"""Activations as layers of their own."""
_Found = tuple[tuple[int, ...], tuple[str, ...]]
"""Numbers of kernels, and names of what is none."""


class NetworkKernels:
    """Counts kernels in an engine that fuses by some rules. It remembers each different layer, so that it grows."""

    def __init__(self, rules: FusionRules) -> None:
        self._rules = rules
        self._found: dict[tuple[object, ...], _Found] = {}
        self._numbers: dict[tuple[object, ...], int] = {}
        self._kernels: list[tuple[str, Config]] = []

    def counts(self, network: Network) -> tuple[CountedKernels, tuple[str, ...]]:
        """The kernels of a network, and the operators that no kernel type stands for, each as often as there are."""
        counts: dict[int, int] = {}
        unknown: list[str] = []
        for group in _groups(network.layers):
            key = tuple(value for layer in group for value in (layer.type, *layer.config.values()))
            numbers, others = self._found.get(key) or self._learn(key, group)
            for number in numbers:
                counts[number] = counts.get(number, 0) + 1
            unknown += others
        return tuple((*self._kernels[number], count) for number, count in counts.items()), tuple(unknown)

    def _learn(self, key: tuple[object, ...], group: Sequence[Layer]) -> _Found:
        numbers: list[int] = []
        unknown: list[str] = []
        chains = fuse(tuple(layer_operators(group)), self._rules).kernels
        for part in (part for chain in chains for part in recognised(chain, None) if not part.is_free):
            if part.type is not None and part.config is not None:
                numbers.append(self._number(part.type, part.config))
            else:
                unknown += [part.type] if part.type is not None else [op for one in part.operators for op in one.ops]
        self._found[key] = tuple(numbers), tuple(unknown)
        return self._found[key]

    def _number(self, type_name: str, config: Config) -> int:
        number = self._numbers.setdefault((type_name, *config.values()), len(self._kernels))
        if number == len(self._kernels):
            self._kernels.append((type_name, config))
        return number


def _groups(layers: Sequence[Layer]) -> list[tuple[Layer, ...]]:
    """Each layer with the activations behind it that are layers of their own, as long as nobody else uses it."""
    if not any(layer.type in _APART for layer in layers):
        return [(layer,) for layer in layers]
    users = Counter(source for layer in layers for source in layer.sources)
    groups: list[tuple[Layer, ...]] = []
    places: dict[str, int] = {}
    for layer in layers:
        source = layer.sources[0]
        if layer.type in _APART and source in places and users[source] == 1:
            places[layer.name] = places[source]
            groups[places[source]] += (layer,)
        else:
            places[layer.name] = len(groups)
            groups.append((layer,))
    return groups
