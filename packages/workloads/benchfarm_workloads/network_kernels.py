"""The kernels of thousands of networks: what a layer comes to under an engine's rules is found once and remembered.

`fuse` and `recognised` look at a whole network. Of a network made of layers, what each layer comes to follows from the
layer alone: recognition cuts every fused chain back into kernels of the catalogue, at most a layer with the activation
behind it. That activation is the layer's own or, where a network has activations as layers of their own, the layer
that alone uses its output. Both are looked at together here; a test holds this to the whole networks. So does what a
block of an architecture comes to, which another block never reaches into.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Final, NamedTuple

from benchfarm_workloads.columns import Config
from benchfarm_workloads.fusing import FusionRules, Pair, fuse
from benchfarm_workloads.layers import Layer, Network
from benchfarm_workloads.operators import layer_operators
from benchfarm_workloads.recognition import recognised
from benchfarm_workloads.spaces.blocks import Block
from benchfarm_workloads.spaces.genes import Known
from benchfarm_workloads.spaces.space import Space

CountedKernels = tuple[tuple[str, Config, int], ...]
"""Kernel types with their configurations, and how often each occurs. Equal configurations are one object."""

KERNEL_BYTES: Final = 450
"""What a kernel takes in memory with its configuration and the key that it is found by; a test holds these to it."""
BLOCK_BYTES: Final = 300
COUNTED_BYTES: Final = 72
"""Of each kernel that a block holds."""

_APART: Final = frozenset({"act", "gelu"})
"""Activations as layers of their own."""


class Part(NamedTuple):
    """A part of a model, or all of it: its kernels, and the operators that no kernel type stands for, each as often as
    there are. Equal blocks are one part, the very same object."""

    kernels: CountedKernels
    unknown: tuple[str, ...]


class NetworkKernels:
    """Counts kernels in an engine that fuses by some rules. It remembers kernels and blocks, about up to a bound: above
    it, it forgets all of them and begins anew."""

    def __init__(self, rules: FusionRules, limit_bytes: int = 2**30) -> None:
        self._rules = rules
        self._limit_bytes = limit_bytes
        self._kernels: dict[tuple[object, ...], tuple[str, Config]] = {}
        self._is_one: dict[tuple[str, object], bool] = {}
        self._blocks: dict[str, dict[Block, Part]] = {}
        self._held_bytes = 0
        self.times_forgotten = 0
        """How often it has forgotten all: who keeps kernels of before holds what is counted nowhere else."""

    @property
    def held_bytes(self) -> int:
        """About what it remembers takes."""
        return self._held_bytes + KERNEL_BYTES * len(self._kernels)

    def counts(self, network: Network) -> Part:
        """The kernels of a network as one part."""
        return self._part(network.layers)

    def parts(self, space: Space, genes: Known) -> list[Part]:
        """The kernels of the architecture of canonical genes, by its blocks."""
        known = self._blocks.setdefault(f"{space.name}/{space.version}", {})
        blocks = space.plan.blocks(genes)
        if not isinstance(blocks, list):
            blocks = [*blocks]
        try:
            return [*map(known.__getitem__, blocks)]
        except KeyError:
            return [self._learnt(known, space, block) for block in blocks]

    def block(self, space: Space, block: Block) -> Part:
        """The kernels of one block."""
        return self._learnt(self._blocks.setdefault(f"{space.name}/{space.version}", {}), space, block)

    def _learnt(self, known: dict[Block, Part], space: Space, block: Block) -> Part:
        part = known.get(block)
        if part is None:
            part = self._part(space.plan.layers(block))
            part = known.setdefault(block, part)  # of two threads that learn it at once, the first one's counts
            self._held_bytes += BLOCK_BYTES + COUNTED_BYTES * len(part.kernels)
            if self.held_bytes > self._limit_bytes:
                self._forget()
        return part

    def _forget(self) -> None:
        for known in self._blocks.values():
            known.clear()
        self._kernels.clear()
        self._held_bytes = 0
        self.times_forgotten += 1

    def _part(self, layers: Sequence[Layer]) -> Part:
        counts: dict[int, int] = {}
        kernels: list[tuple[str, Config]] = []
        places: dict[int, int] = {}
        unknown: list[str] = []
        for group in _groups(layers):
            found, others = self._found(group)
            for kernel in found:
                place = places.setdefault(id(kernel), len(kernels))
                if place == len(kernels):
                    kernels.append(kernel)
                counts[place] = counts.get(place, 0) + 1
            unknown += others
        return Part(tuple((*kernel, counts[place]) for place, kernel in enumerate(kernels)), tuple(unknown))

    def _found(self, group: Sequence[Layer]) -> tuple[list[tuple[str, Config]], list[str]]:
        """Kernels, and names of what is none.

        Whether a layer is one kernel, with its own activation or without any, follows from its type and activation
        whatever its sizes are; then the kernel is the layer's own.
        """
        kind = (group[0].type, group[0].config.get("act")) if len(group) == 1 else None
        if kind is not None and self._is_one.get(kind):
            return [self._kernel(group[0].type, group[0].config)], []
        found: list[tuple[str, Config]] = []
        unknown: list[str] = []
        chains = fuse(tuple(layer_operators(group)), self._rules).kernels
        for part in (part for chain in chains for part in recognised(chain, None) if not part.is_free):
            if part.type is not None and part.config is not None:
                found.append(self._kernel(part.type, part.config))
            else:
                unknown += [part.type] if part.type is not None else [op for one in part.operators for op in one.ops]
        if kind is not None:
            self._is_one[kind] = not unknown and found == [(group[0].type, group[0].config)]
        return found, unknown

    def _kernel(self, type_name: str, config: Config) -> tuple[str, Config]:
        """The same object for equal ones."""
        return self._kernels.setdefault((type_name, *config.values()), (type_name, config))


class RememberedKernels:
    """`NetworkKernels` by rules, all together about within a bound. Any thread may ask."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = Lock()
        self._kept: OrderedDict[frozenset[tuple[Pair, bool]], NetworkKernels] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        """About what is remembered takes."""
        return sum(one.held_bytes for one in self._kept.values())

    def of(self, rules: FusionRules) -> NetworkKernels:
        """Those of some rules. Others are forgotten here where all together are above the bound, the least recently
        asked for first."""
        key = frozenset(rules.measured.items())
        with self._lock:
            found = self._kept.pop(key, None)
            while self._kept and self.held_bytes + (found.held_bytes if found else 0) > self._limit_bytes:
                self._kept.popitem(last=False)
            if found is None:
                found = NetworkKernels(rules, self._limit_bytes)
            self._kept[key] = found
            return found


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
