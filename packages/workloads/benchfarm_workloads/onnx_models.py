"""ONNX files of generated models, of architectures and of any other network made of catalogue kernels."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from benchfarm_core.architectures import Architecture
from benchfarm_core.values import digest
from benchfarm_core.workloads import InputSpec, NormalFill
from benchfarm_workloads.layers import Network
from benchfarm_workloads.models import model_recipe
from benchfarm_workloads.onnx_graphs import OnnxGraph
from benchfarm_workloads.onnx_kernels import emit_kernel
from benchfarm_workloads.spaces import space

BRANCH_GAIN: Final = 0.25
"""Of He's scale, where a branch ends in a sum: over forty blocks sums would leave the range of 16-bit numbers, and what
8 bits lose would grow with each of them, as in trained networks it does not."""

_SUMS: Final = frozenset({"add-act", "token-add"})


def build_model(name: str, config: Mapping[str, object]) -> tuple[bytes, tuple[InputSpec, ...]]:
    """The ONNX file of a generated model and its inputs; the same bytes for the same configuration.

    Raises:
        InvalidRequest: unknown model or configuration out of range.
    """
    recipe = model_recipe(name)
    canonical = recipe.validate(config)
    network = recipe.layout(canonical)
    seed = int(digest([name, canonical["seed"]], length=16), 16)
    return build_network(network, seed=seed), network_inputs(network)


def build_architecture(architecture: Architecture) -> tuple[bytes, tuple[InputSpec, ...]]:
    """The ONNX file of a network of a search space and its inputs; the same bytes for the same genes.

    Raises:
        InvalidRequest: unknown space or version, or genes out of range.
    """
    network = space(architecture.space).network(architecture)
    named = [architecture.space, architecture.space_version, dict(architecture.genes)]
    seed = int(digest(named, length=16), 16)
    return build_network(network, seed=seed), network_inputs(network)


def build_network(network: Network, *, seed: int, branch_gain: float = BRANCH_GAIN) -> bytes:
    """The ONNX file of a network with weights from ``seed``; ``branch_gain``: of those that end a branch."""
    graph, shapes = OnnxGraph(network.name, seed), network.shapes()
    branch_ends = _branch_ends(network)
    for name, dims in network.inputs:
        graph.input(name, dims)
    for layer in network.layers:
        sources = list(layer.sources)
        if layer.type == "fc" and len(shapes[sources[0]]) > 2:
            # pooled features are n x c x 1 x 1; the catalogue's fc takes n x c
            sources = [graph.node("Flatten", sources, f"{layer.name}/flat", axis=1)]
        graph.gain = branch_gain if layer.name in branch_ends else 1.0
        emit_kernel(graph, layer.name, layer.type, layer.config, sources)
    [output] = network.layers[-1].outputs
    graph.output(output, shapes[output])
    return graph.to_bytes()


def _branch_ends(network: Network) -> frozenset[str]:
    """The layers whose output has no use but a sum; where both parts of a sum are such, the first."""
    uses = Counter(source for layer in network.layers for source in layer.sources)
    places = {output: place for place, layer in enumerate(network.layers) for output in layer.outputs}
    sums = (layer for layer in network.layers if layer.type in _SUMS)
    alone = ([places[source] for source in layer.sources if uses[source] == 1 and source in places] for layer in sums)
    return frozenset(network.layers[min(found)].name for found in alone if found)


def network_inputs(network: Network) -> tuple[InputSpec, ...]:
    """The network's inputs, filled with seeded normal numbers."""
    return tuple(
        InputSpec(name=name, dtype="float32", shape=dims, fill=NormalFill(seed=seed))
        for seed, (name, dims) in enumerate(network.inputs)
    )
