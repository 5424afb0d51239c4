"""Carriers: generated models that pack many wanted kernels, so that one profiled launch times them all in situ.

A kernel in a carrier has the neighbours that a model gives it: its inputs come from convolutions (images) or fully
connected layers (tokens, features), so in the layout that the engine computes in, and its outputs are read by such.
These *adapters* lead from a trunk of ``TRUNK_CHANNELS`` channels to the kernel and from it to as many, are cheap
beside it, and have names of their own. Kernels hang together in short chains: engines execute a chain in its order
and so find the memory of the last layer again, as in a model, but what is lost in 8 bits must not add up. No two
wanted kernels touch and no adapter is like a wanted kernel: a carrier and a model that is made of the wanted kernels
share nothing larger than one kernel.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import Cost
from benchfarm_workloads.columns import Config, Scalar
from benchfarm_workloads.costs import BYTES_PER_ELEMENT
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.layers import Layer
from benchfarm_workloads.tensors import Dims

TRUNK_CHANNELS: Final = 16
"""The widest vector of fp32: engines keep fewer channels in another layout."""

MAX_SITES: Final = 64
MAX_CARRIER_FLOPS: Final = 4_000_000_000
"""About 40 ms on one desktop core; a single kernel may be larger."""

MAX_CARRIER_BYTES: Final = 256 * 1024**2
"""Of all layers' inputs, outputs and weights together."""

MIN_WEIGHT_BYTES: Final = 16 * 1024**2
"""As many as a small model has."""

MAX_CHAIN: Final = 3
"""Wanted kernels behind each other."""

STEM_CHANNELS: Final = 4
"""Images with so few channels are what a model is given: no layer has made them."""

_BARE: Final = frozenset({"add-act"})
"""What engines compute within the layer before it has one without an activation there, as in models."""

_ENTRY_ACTS: Final = ("relu", "relu6", "hswish")
PLAIN_ACTS: Final = ("none", "relu")
"""What every kind of adapter has."""

_WINDOWS: Final = (1, 3)

KernelKey = tuple[object, ...]
"""What a kernel is: its type and its columns."""

WantedKernel = tuple[str, Mapping[str, object]]
"""A kernel type and a configuration."""


@dataclass(frozen=True, slots=True)
class Carrier:
    """One generated network. inputs: names and dimensions; layers in the order of execution.

    outputs: names and dimensions. sites: the wanted kernels' layers, by their place in what was asked for.
    """

    inputs: tuple[tuple[str, Dims], ...]
    layers: tuple[Layer, ...]
    outputs: tuple[tuple[str, Dims], ...]
    sites: Mapping[int, str]

    def cost(self) -> Cost:
        """FLOPs and parameters of all layers; bytes of inputs, outputs and all weights."""
        costs = [kernel_type(layer.type).cost_rule(layer.config) for layer in self.layers]
        return Cost(
            flops=sum(cost.flops for cost in costs),
            parameters=sum(cost.parameters for cost in costs),
            input_bytes=_bytes(dims for _, dims in self.inputs),
            output_bytes=_bytes(dims for _, dims in self.outputs),
            weight_bytes=sum(cost.weight_bytes for cost in costs),
        )


def pack(wanted: Sequence[WantedKernel]) -> list[Carrier]:
    """Few carriers, alike in size, in the given order; the same ones on every machine.

    Alike, because the caches keep what a small one uses from one inference to the next.

    Raises:
        InvalidRequest: a kernel type or configuration that the catalogue does not have.
    """
    kernels = [(type_name, kernel_type(type_name).validate(config)) for type_name, config in wanted]
    taken = frozenset(kernel_key(*each) for each in kernels)
    carriers: list[Carrier] = []
    first = 0
    for count in _counts([_share(*each) for each in kernels]):
        draft = _Draft(taken)
        for place in range(first, first + count):
            draft.carry(place, *kernels[place])
        carriers.append(draft.finish())
        first += count
    return carriers


def _counts(shares: Sequence[float]) -> list[int]:
    """How many kernels each carrier takes, where a carrier holds shares up to 1."""
    fair = sum(shares) / max(1, math.ceil(sum(shares)))
    counts: list[int] = []
    held = math.inf
    for share in shares:
        if held >= fair or held + share > 1:
            counts.append(0)
            held = 0.0
        counts[-1] += 1
        held += share
    return counts


def _share(type_name: str, config: Config) -> float:
    """What a kernel takes of a carrier's limits; its adapters move as much as it does, and multiply by the trunk."""
    cost = kernel_type(type_name).cost_rule(config)
    flops = cost.flops + TRUNK_CHANNELS * 2 * (cost.input_bytes + cost.output_bytes) // BYTES_PER_ELEMENT
    return max(flops / MAX_CARRIER_FLOPS, 2 * cost.total_bytes / MAX_CARRIER_BYTES, 1 / MAX_SITES)


@dataclass(slots=True)
class _Draft:
    """A carrier that is being written.

    taken: kernels that no adapter may be like. stems, trunks: where chains begin and how far they are, by dimensions.
    depths: the wanted kernels before and in a tensor, by name.
    """

    taken: frozenset[KernelKey]
    sites: dict[int, str] = field(default_factory=dict)
    inputs: dict[str, Dims] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    stems: dict[Dims, str] = field(default_factory=dict)
    trunks: dict[Dims, str] = field(default_factory=dict)
    depths: dict[str, int] = field(default_factory=dict)
    adapters: int = 0

    def carry(self, place: int, type_name: str, config: Config) -> None:
        """Adds a kernel between its adapters."""
        name, tensors = f"k{place}", kernel_type(type_name).tensor_rule(config)
        sources = tuple(self._source(dims, type_name) for dims in tensors.inputs)
        site = Layer(name, type_name, config, sources)
        self.layers.append(site)
        self.sites[place] = name
        self._deepen(site, 1)
        for output, dims in zip(site.outputs, tensors.outputs, strict=True):
            self._sink(output, dims)

    def finish(self) -> Carrier:
        """The carrier; what no layer reads is an output, so that an engine drops nothing."""
        self._weigh_down()
        read = {source for layer in self.layers for source in layer.sources}
        given = [each for layer in self.layers for each in zip(layer.outputs, layer.tensors.outputs, strict=True)]
        outputs = tuple((name, dims) for name, dims in given if name not in read)
        return Carrier(tuple(self.inputs.items()), tuple(self.layers), outputs, dict(self.sites))

    def _weigh_down(self) -> None:
        """One layer more where the weights are few: in a model, a kernel's weights have left the caches by its turn."""
        costs = [kernel_type(layer.type).cost_rule(layer.config) for layer in self.layers]
        missing_bytes = MIN_WEIGHT_BYTES - sum(cost.weight_bytes for cost in costs)
        if missing_bytes > 0:
            features = (1, math.isqrt(missing_bytes // BYTES_PER_ELEMENT) + 1)
            self._adapter(self._input(features), features, features, PLAIN_ACTS)

    def _source(self, dims: Dims, type_name: str) -> str:
        trunk_dims = trunk_of(dims)
        if is_stem(dims) or not can_adapt(trunk_dims, dims):
            return self._input(dims)
        if trunk_dims not in self.stems:
            self.stems[trunk_dims] = self._adapter(self._input(trunk_dims), trunk_dims, trunk_dims, PLAIN_ACTS)
        trunk = self.trunks.get(trunk_dims, self.stems[trunk_dims])
        if self.depths[trunk] >= MAX_CHAIN:
            trunk = self.stems[trunk_dims]
        return self._adapter(trunk, trunk_dims, dims, entry_acts(type_name, dims))

    def _sink(self, source: str, dims: Dims) -> None:
        trunk_dims = trunk_of(dims)
        if can_adapt(dims, trunk_dims):
            self.trunks[trunk_dims] = self._adapter(source, dims, trunk_dims, PLAIN_ACTS)

    def _deepen(self, layer: Layer, by: int) -> None:
        depth = max((self.depths.get(source, 0) for source in layer.sources), default=0) + by
        self.depths.update(dict.fromkeys(layer.outputs, depth))

    def _input(self, dims: Dims) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs[name] = dims
        return name

    def _adapter(self, source: str, dims: Dims, becomes: Dims, acts: Sequence[str]) -> str:
        type_name, config = adapter_kernel(dims, becomes, acts, self.taken)
        layer = Layer(f"a{self.adapters}", type_name, config, (source,))
        self.adapters += 1
        self.layers.append(layer)
        self._deepen(layer, 0)
        return layer.name


def entry_acts(type_name: str, dims: Dims) -> Sequence[str]:
    """What an adapter to an input of a kernel may end with, the likeliest first."""
    if type_name in _BARE:
        return PLAIN_ACTS[:1]
    return _ENTRY_ACTS if len(dims) == 4 else PLAIN_ACTS


def adapter_kernel(dims: Dims, becomes: Dims, acts: Sequence[str], taken: frozenset[KernelKey]) -> tuple[str, Config]:
    """The kernel that leads from one tensor to another and is like none of `taken`, where there is one."""
    possible = [_adapting(dims, becomes, act, k) for k in _WINDOWS for act in acts]
    kernels = [(type_name, kernel_type(type_name).validate(config)) for type_name, config in possible]
    free = [kernel for kernel in kernels if kernel_key(*kernel) not in taken]
    return (free or kernels)[0]


def is_stem(dims: Dims) -> bool:
    """Whether an image is one that a model is given."""
    return len(dims) == 4 and dims[1] <= STEM_CHANNELS


def trunk_of(dims: Dims) -> Dims:
    """The trunk beside a tensor: the same but for its channels."""
    place = 1 if len(dims) != 3 else 2
    return (*dims[:place], TRUNK_CHANNELS, *dims[place + 1 :])


def _adapting(dims: Dims, becomes: Dims, act: str, k: int = 1) -> WantedKernel:
    """A layer from one tensor to another; the window is one of images alone."""
    if len(dims) == 4:
        window = {"k": min(k, 2 * dims[2] - 1), "act": act, "batch": dims[0]}
        return "conv-bn-act", {"hw": dims[2], "cin": dims[1], "cout": becomes[1], **window}
    if len(dims) == 3:
        return "linear", {"seq": dims[1], "cin": dims[2], "cout": becomes[2], "act": act, "batch": dims[0]}
    return "fc", {"cin": dims[1], "cout": becomes[1], "act": act, "batch": dims[0]}


def kernel_key(type_name: str, config: Mapping[str, Scalar]) -> KernelKey:
    """What a kernel is, wherever it stands."""
    return (type_name, *config.items())


def can_adapt(dims: Dims, becomes: Dims) -> bool:
    """Whether the catalogue has an adapter of that size."""
    type_name, config = _adapting(dims, becomes, "none")
    try:
        kernel_type(type_name).validate(config)
    except InvalidRequest:
        return False
    return True


def _bytes(shapes: Iterable[Dims]) -> int:
    return sum(BYTES_PER_ELEMENT * math.prod(dims) for dims in shapes)
