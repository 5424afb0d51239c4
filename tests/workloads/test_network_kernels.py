"""Kernels that are counted layer by layer are those of whole networks, whatever an engine fuses."""

from collections import Counter

import pytest

from benchfarm_workloads import spaces
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.layers import Network, Sketch
from benchfarm_workloads.models import model_recipes
from benchfarm_workloads.network_kernels import NetworkKernels

ACTS = ("Relu", "Clip", "HardSwish", "Sigmoid", "Swish", "Gelu")
HEADS = ("Conv", "DepthwiseConv", "GroupConv", "Gemm", "Linear", "Add", "SqueezeExcite", "LayerNormalization")
RULES = {
    "default": FusionRules(),
    "nothing": FusionRules({(head, act): False for head in HEADS for act in ACTS}),
    "everything": FusionRules({(a, b): True for a in (*HEADS, *ACTS, "MaxPool", "Mul") for b in (*HEADS, *ACTS)}),
    "convolutions": FusionRules({("Conv", "HardSwish"): False, ("Conv", "Add"): True, ("Linear", "Gelu"): False}),
}
NETWORKS = {
    **{recipe.name: recipe.network({}) for recipe in model_recipes() if recipe.name != "operator_pair"},
    **{
        f"{space.name} {number}": space.network(drawn)
        for space in spaces.spaces()
        for number, drawn in enumerate(spaces.draws(space.name, "kernels", 3))
    },
}


def whole(network: Network, rules: FusionRules) -> tuple[Counter[tuple[object, ...]], Counter[str]]:
    """By the network as one."""
    _, chains = spaces.fused_network(network, rules)
    parts = [part for chain in chains for part in chain if not part.is_free]
    known: Counter[tuple[object, ...]] = Counter(
        (part.type, *part.config.items()) for part in parts if part.type and part.config
    )
    others = [part for part in parts if part.type is None or part.config is None]
    names = [[part.type] if part.type else [op for one in part.operators for op in one.ops] for part in others]
    return known, Counter(name for each in names for name in each)


def counted(kernels: NetworkKernels, network: Network) -> tuple[Counter[tuple[object, ...]], Counter[str]]:
    found, unknown = kernels.counts(network)
    return Counter({(name, *config.items()): count for name, config, count in found}), Counter(unknown)


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_layers_one_by_one_come_to_the_kernels_of_the_whole(rules: FusionRules) -> None:
    kernels = NetworkKernels(rules)
    for name, network in NETWORKS.items():
        assert counted(kernels, network) == whole(network, rules), name
        assert counted(kernels, network) == counted(NetworkKernels(rules), network), name


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_an_activation_that_is_a_layer_belongs_to_what_it_alone_uses(rules: FusionRules) -> None:
    """Behind a convolution without one, behind one with one, and where the convolution has another user too."""
    sketch = Sketch("apart", batch=1, hw=8)
    for shared in (False, True):
        for act in ("none", "relu"):
            x = sketch.conv(sketch.image(), 8, 3, act=act)
            behind = sketch._one("act", {"hw": x.hw, "cin": x.channels, "act": "hswish"}, x)
            again = sketch._one("act", {"hw": x.hw, "cin": x.channels, "act": "sigmoid"}, behind)
            sketch.add(again, x if shared else again)
    network = sketch.finish()
    assert counted(NetworkKernels(rules), network) == whole(network, rules)


def test_equal_configurations_are_one_object() -> None:
    kernels = NetworkKernels(FusionRules())
    network = NETWORKS["ofa_mobilenet_v3 0"]
    first, second = (kernels.counts(network)[0] for _ in range(2))
    assert all(one[1] is other[1] for one, other in zip(first, second, strict=True))
