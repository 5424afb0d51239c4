"""Two carriers of one kernel, which hold it once and twice: for engines that do not tell the time of operators.

What the second one takes longer is the kernel's time in situ (docs/decisions/0025). Both hold the same adapters, and
the second copy is put between two that are there anyway, which fit each other where the kernel keeps its size:

    once:   entry > kernel > exit      entry > exit
    twice:  entry > kernel > exit      entry > kernel > exit

So no adapter is counted, and the conversions that the kernel makes necessary are, before it and behind it: an entry is
of the kind that a model has there and in the layout that the engine computes in. Where the kernel gives another size,
the exit of the first carrier reads a *stand-in*, a tensor of that size that an adapter made. What only one of the two
carriers reads has an exit of its own in both:

    once:   entry > kernel > exit      entry > exit     stand-in > exit, stand-in > exit
    twice:  entry > kernel > exit      stand-in > exit  entry > exit, entry > kernel > exit

The copies have entries of their own, with weights of their own: nothing that two of them share could be computed once.
What the last exit reads was made just before in either carrier, and what the second copy reads was, as in a model:
else one of the two would wait longer for memory, and the difference would say so of the kernel. Its other inputs are
read right behind their making in both. By the turn of the second copy the engine has the memory of the first one's
results to hand out again.
"""

from collections.abc import Iterable, Mapping, Sequence
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
from benchfarm_workloads.tensors import Dims, Tensors

FIRST: Final = "k0"
SECOND: Final = "k1"
"""The copies, by the names of their layers."""

_Tensor = tuple[str, Dims]


@dataclass(frozen=True, slots=True)
class DoubledCarrier:
    """The same kernel once and twice among the same adapters."""

    once: Carrier
    twice: Carrier


def double(type_name: str, config: Mapping[str, object], taken: frozenset[KernelKey] = frozenset()) -> DoubledCarrier:
    """Both carriers of a kernel; the same ones on every machine. taken: kernels besides, that no adapter is to be like.

    Raises:
        InvalidRequest: a kernel type or configuration that the catalogue does not have, or (`timing_impossible`) one
            for which there are no neighbours.
    """
    canonical = kernel_type(type_name).validate(config)
    why = why_not_doubled(type_name, canonical)
    if why is not None:
        raise InvalidRequest(why, code="timing_impossible", field="config")
    avoided = taken | {kernel_key(type_name, canonical)}
    once, twice = (_drawn(type_name, canonical, avoided, copies=copies) for copies in (1, 2))
    return DoubledCarrier(once, twice)


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


def _drawn(type_name: str, config: Config, taken: frozenset[KernelKey], *, copies: int) -> Carrier:
    draft, tensors = _Draft(taken), kernel_type(type_name).tensor_rule(config)
    first = [draft.given(dims) if is_stem(dims) else draft.adapted(dims, type_name) for dims in tensors.inputs]
    draft.exits(draft.kernel(FIRST, type_name, config, first))
    begun = len(draft.layers)
    replaced = _replaced(tensors)
    made: dict[int, str] = {}
    for place in sorted(range(len(tensors.inputs)), key=lambda place: place == replaced):
        dims = tensors.inputs[place]
        if not is_stem(dims):
            made[place] = draft.adapted(dims, type_name)
            draft.exits([(made[place], dims)] if place != replaced else [])
    chain, beside = len(draft.layers), dict[Dims, str]()
    for dims in tensors.outputs if replaced is None else ():
        if dims not in beside:
            beside[dims] = draft.adapted(dims, "")
            draft.exits([(beside[dims], dims)])
    if copies == 1:
        stand_ins = [made[replaced]] if replaced is not None else [beside[dims] for dims in tensors.outputs]
        draft.exits(zip(stand_ins, tensors.outputs, strict=True))
    else:
        draft.layers[begun:] = draft.layers[chain:] + draft.layers[begun:chain]
        second = [made[place] if place in made else draft.given(dims) for place, dims in enumerate(tensors.inputs)]
        draft.exits(draft.kernel(SECOND, type_name, config, second))
    return draft.finish(copies)


def _replaced(tensors: Tensors) -> int | None:
    """The last input that the one output is as large as, of those that an adapter makes."""
    places = [place for place, dims in enumerate(tensors.inputs) if tensors.outputs == (dims,) and not is_stem(dims)]
    return places[-1] if places else None


@dataclass(slots=True)
class _Draft:
    """A carrier that is being written. taken: kernels that no adapter may be like."""

    taken: frozenset[KernelKey]
    inputs: dict[str, Dims] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    adapters: int = 0

    def given(self, dims: Dims) -> str:
        """An input of the carrier, of the given size."""
        name = f"x{len(self.inputs)}"
        self.inputs[name] = dims
        return name

    def adapted(self, dims: Dims, leads_to: str) -> str:
        """A tensor that an adapter made. leads_to: the type of the kernel that it is made for, or nothing."""
        trunk_dims = trunk_of(dims)
        return self._adapter(self.given(trunk_dims), trunk_dims, dims, entry_acts(leads_to, dims))

    def kernel(self, name: str, type_name: str, config: Config, sources: Sequence[str]) -> list[_Tensor]:
        """A copy of the kernel; its outputs."""
        layer = Layer(name, type_name, config, tuple(sources))
        self.layers.append(layer)
        return list(zip(layer.outputs, layer.tensors.outputs, strict=True))

    def exits(self, tensors: Iterable[_Tensor]) -> None:
        """A layer that reads each of some tensors."""
        for name, dims in tensors:
            self._adapter(name, dims, trunk_of(dims), PLAIN_ACTS)

    def finish(self, copies: int) -> Carrier:
        """The carrier; what no layer reads is an output."""
        read = {source for layer in self.layers for source in layer.sources}
        given = [each for layer in self.layers for each in zip(layer.outputs, layer.tensors.outputs, strict=True)]
        outputs = tuple((name, dims) for name, dims in given if name not in read)
        sites = dict(enumerate((FIRST, SECOND)[:copies]))
        return Carrier(tuple(self.inputs.items()), tuple(self.layers), outputs, sites)

    def _adapter(self, source: str, dims: Dims, becomes: Dims, acts: Sequence[str]) -> str:
        type_name, config = adapter_kernel(dims, becomes, acts, self.taken)
        layer = Layer(f"a{self.adapters}", type_name, config, (source,))
        self.adapters += 1
        self.layers.append(layer)
        return layer.name
