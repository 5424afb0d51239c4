"""What ``bench.in_situ`` measures: models, the kernels that they are made of, and carriers of these kernels.

A carrier shares nothing larger than one kernel with a model that it is held against: that is looked at here, of every
carrier, before anything is measured.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from bench.architectures import FAMILIES, draw_architectures
from benchfarm_workloads.carriers import Carrier, KernelKey, kernel_key, pack
from benchfarm_workloads.layers import Layer, Network
from benchfarm_workloads.models import model_recipe

SEED: Final = 30
KNOWN_MODELS: Final = "models"
"""The portion of models that have a name of their own; each search space is one more."""

Neighbours = frozenset[tuple[KernelKey, KernelKey]]
"""Kernels of which one reads what the other one makes, by what they are."""


@dataclass(frozen=True)
class Plan:
    """What is measured together. kernels: each that is in any model, with a layer that is one; in order of carriers."""

    models: Mapping[str, Network]
    kernels: Mapping[KernelKey, Layer]
    carriers: tuple[Carrier, ...]

    @property
    def digest(self) -> str:
        """The same for the same models in the same carriers."""
        said = repr([(name, network.layers) for name, network in self.models.items()]) + repr(self.carriers)
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def plan(names: Iterable[str]) -> Plan:
    """Models at their defaults, and carriers of all their kernels."""
    return plan_of({name: model_recipe(name).network({}) for name in names})


def plan_of(models: Mapping[str, Network]) -> Plan:
    """Some networks, and carriers of all their kernels. Raises ValueError as `refuse_shared`."""
    layers = {kernel_of(layer): layer for network in models.values() for layer in network.layers}
    carriers = tuple(pack([(layer.type, layer.config) for layer in layers.values()]))
    refuse_shared(carriers, models.values())
    return Plan(models, layers, carriers)


def portions(names: Iterable[str], families: Iterable[str] = FAMILIES, architectures: int = 10) -> dict[str, Plan]:
    """Known models, then so many architectures of each family: each portion is measured by itself."""
    drawn = {family: draw_architectures(family, architectures, SEED) for family in families}
    known = {KNOWN_MODELS: {name: model_recipe(name).network({}) for name in names}}
    return {name: plan_of(models) for name, models in (known | drawn).items() if models}


def kernel_of(layer: Layer) -> KernelKey:
    """What a layer is, wherever it stands: layers that are alike are one kernel."""
    return kernel_key(layer.type, layer.config)


def neighbours(layers: Iterable[Layer]) -> Neighbours:
    """Every layer with each one that reads it."""
    listed = list(layers)
    makers = {output: layer for layer in listed for output in layer.outputs}
    return frozenset(
        (kernel_of(makers[source]), kernel_of(layer))
        for layer in listed for source in layer.sources if source in makers
    )  # fmt: skip


def refuse_shared(carriers: Iterable[Carrier], networks: Iterable[Network]) -> None:
    """Raises ValueError where two neighbours of a carrier are neighbours in one of the networks too."""
    known = frozenset[tuple[KernelKey, KernelKey]]().union(*(neighbours(network.layers) for network in networks))
    for carrier in carriers:
        shared = neighbours(carrier.layers) & known
        if shared:
            raise ValueError(f"a carrier shares two neighbours with a model: {min(map(str, shared))}")
