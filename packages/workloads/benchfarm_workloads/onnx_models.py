"""ONNX files of generated models, of architectures and of any other network made of catalogue kernels."""

from collections.abc import Mapping

from benchfarm_core.architectures import Architecture
from benchfarm_core.values import digest
from benchfarm_core.workloads import InputSpec, NormalFill
from benchfarm_workloads.layers import Network
from benchfarm_workloads.models import model_recipe
from benchfarm_workloads.onnx_graphs import OnnxGraph
from benchfarm_workloads.onnx_kernels import emit_kernel
from benchfarm_workloads.spaces import space


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
    return build_network(network, seed=int(digest(named, length=16), 16)), network_inputs(network)


def build_network(network: Network, *, seed: int) -> bytes:
    """The ONNX file of a network with weights from ``seed``."""
    graph, shapes = OnnxGraph(network.name, seed), network.shapes()
    for name, dims in network.inputs:
        graph.input(name, dims)
    for layer in network.layers:
        sources = list(layer.sources)
        if layer.type == "fc" and len(shapes[sources[0]]) > 2:
            # pooled features are n x c x 1 x 1; the catalogue's fc takes n x c
            sources = [graph.node("Flatten", sources, f"{layer.name}/flat", axis=1)]
        emit_kernel(graph, layer.name, layer.type, layer.config, sources)
    [output] = network.layers[-1].outputs
    graph.output(output, shapes[output])
    return graph.to_bytes()


def network_inputs(network: Network) -> tuple[InputSpec, ...]:
    """The network's inputs, filled with seeded normal numbers."""
    return tuple(
        InputSpec(name=name, dtype="float32", shape=dims, fill=NormalFill(seed=seed))
        for seed, (name, dims) in enumerate(network.inputs)
    )
