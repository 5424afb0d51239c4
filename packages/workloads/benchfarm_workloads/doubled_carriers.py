"""Two carriers of one kernel, which hold it once and twice: for engines that do not tell the time of operators.

What the second one takes longer is the kernel's time in situ (docs/decisions/0025). Both hold the same adapters:

    once:   entry > kernel > exit      stand-in > exit
    twice:  entry > kernel > exit      entry > kernel > exit

The second copy reads what the first one reads, made by an adapter of the kind that a model has there, and takes the
place of a *stand-in* before the last exit: a tensor of the size of the kernel's output that an adapter made, so in the
layout that the engine computes in. So no adapter is counted, and the conversions that the kernel makes necessary are,
before it and behind it. The stand-in is the entry itself where the kernel keeps its input's size; else a tensor of its
own, which both carriers make and read once more. By the turn of the second copy the engine has the memory of the
first one's results to hand out again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.carriers import (
    PLAIN_ACTS,
    Carrier,
    KernelKey,
    adapter_kernel,
    can_adapt,
    entry_acts,
    is_stem,
    kernel_key,
    trunk_of,
)
from benchfarm_workloads.columns import Config
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.layers import Layer
from benchfarm_workloads.tensors import Dims

FIRST: Final = "k0"
SECOND: Final = "k1"
"""The copies, by the names of their layers."""


@dataclass(frozen=True, slots=True)
class DoubledCarrier:
    """The same kernel once and twice among the same adapters."""

    once: Carrier
    twice: Carrier


def double(type_name: str, config: Mapping[str, object]) -> DoubledCarrier:
    """Both carriers of a kernel; the same ones on every machine.

    Raises:
        InvalidRequest: a kernel type or configuration that the catalogue does not have, or (`timing_impossible`) one
            for which there are no neighbours.
    """
    canonical = kernel_type(type_name).validate(config)
    why = why_not_doubled(type_name, canonical)
    if why is not None:
        raise InvalidRequest(why, code="timing_impossible", field="config")
    return DoubledCarrier(_drawn(type_name, canonical, copies=1), _drawn(type_name, canonical, copies=2))


def why_not_doubled(type_name: str, canonical: Config) -> str | None:
    """Why a kernel has no neighbours that its second copy could share; None where it has."""
    tensors = kernel_type(type_name).tensor_rule(canonical)
    for dims in tensors.inputs:
        if not is_stem(dims) and not can_adapt(trunk_of(dims), dims):
            return f"no layer of the catalogue makes its input of {_size(dims)}"
    for dims in tensors.outputs:
        if not can_adapt(dims, trunk_of(dims)):
            return f"no layer of the catalogue reads its output of {_size(dims)}"
        if not can_adapt(trunk_of(dims), dims):
            return f"no layer of the catalogue makes another tensor of {_size(dims)}"
    return None


def _size(dims: Dims) -> str:
    return " x ".join(map(str, dims))


def _drawn(type_name: str, config: Config, *, copies: int) -> Carrier:
    draft = _Draft(frozenset({kernel_key(type_name, config)}))
    tensors = kernel_type(type_name).tensor_rule(config)
    entries = tuple(draft.entry(dims, type_name) for dims in tensors.inputs)
    stand_ins = [draft.stand_in(dims) for dims in tensors.outputs]
    draft.kernel(FIRST, type_name, config, entries)
    if copies == 2:
        stand_ins = list(draft.kernel(SECOND, type_name, config, entries))
    for name, dims in zip(stand_ins, tensors.outputs, strict=True):
        draft.exit(name, dims)
    for name, dims in draft.spare.items():  # in both carriers, so that nothing that is made is read by nobody
        draft.exit(name, dims)
    return draft.finish(copies)


@dataclass(slots=True)
class _Draft:
    """A carrier that is being written. made: tensors of adapters, by dimensions; spare: those with no other reader."""

    taken: frozenset[KernelKey]
    inputs: dict[str, Dims] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    made: dict[Dims, str] = field(default_factory=dict)
    spare: dict[str, Dims] = field(default_factory=dict)
    adapters: int = 0

    def entry(self, dims: Dims, type_name: str) -> str:
        """What the kernel reads; of an image as a model is given it, the carrier's own input."""
        if is_stem(dims):
            return self._input(dims)
        trunk_dims = trunk_of(dims)
        name = self._adapter(self._input(trunk_dims), trunk_dims, dims, type_name)
        self.made.setdefault(dims, name)
        return name

    def stand_in(self, dims: Dims) -> str:
        """A tensor that an adapter made, of the size of an output."""
        if dims not in self.made:
            trunk_dims = trunk_of(dims)
            self.made[dims] = self._adapter(self._input(trunk_dims), trunk_dims, dims, "")
            self.spare[self.made[dims]] = dims
        return self.made[dims]

    def kernel(self, name: str, type_name: str, config: Config, sources: tuple[str, ...]) -> tuple[str, ...]:
        """A copy of the kernel; the first one with its own exits. Returns its outputs."""
        layer = Layer(name, type_name, config, sources)
        self.layers.append(layer)
        if name == FIRST:
            for output, dims in zip(layer.outputs, layer.tensors.outputs, strict=True):
                self.exit(output, dims)
        return layer.outputs

    def exit(self, source: str, dims: Dims) -> None:
        """A layer that reads a tensor."""
        self._adapter(source, dims, trunk_of(dims), None)

    def finish(self, copies: int) -> Carrier:
        """The carrier; what no layer reads is an output."""
        read = {source for layer in self.layers for source in layer.sources}
        given = [each for layer in self.layers for each in zip(layer.outputs, layer.tensors.outputs, strict=True)]
        outputs = tuple((name, dims) for name, dims in given if name not in read)
        sites = dict(enumerate((FIRST, SECOND)[:copies]))
        return Carrier(tuple(self.inputs.items()), tuple(self.layers), outputs, sites)

    def _input(self, dims: Dims) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs[name] = dims
        return name

    def _adapter(self, source: str, dims: Dims, becomes: Dims, leads_to: str | None) -> str:
        """leads_to: a kernel type, or None for what leads away from one."""
        acts = PLAIN_ACTS if leads_to is None else entry_acts(leads_to, becomes)
        type_name, config = adapter_kernel(dims, becomes, acts, self.taken)
        layer = Layer(f"a{self.adapters}", type_name, config, (source,))
        self.adapters += 1
        self.layers.append(layer)
        return layer.name
