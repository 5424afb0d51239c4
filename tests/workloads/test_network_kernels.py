"""Kernels that are counted layer by layer are those of whole networks, whatever an engine fuses."""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import pytest

from benchfarm_workloads import spaces
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.layers import Network, Sketch
from benchfarm_workloads.models import model_recipes
from benchfarm_workloads.network_kernels import NetworkKernels, Part, RememberedKernels
from benchfarm_workloads.spaces import Space

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
def test_architectures_have_kernels_of_the_catalogue(rules: FusionRules) -> None:
    """Questions of one space rely on it: an architecture without any would fail them whole."""
    kernels = NetworkKernels(rules)
    for space in spaces.spaces():
        for drawn in spaces.draws(space.name, "kernels", 3):
            assert any(part.kernels for part in kernels.parts(space, drawn.genes)), space.name


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


def joined(parts: Sequence[Part]) -> tuple[Counter[tuple[object, ...]], Counter[str]]:
    kernels: Counter[tuple[object, ...]] = Counter()
    for part in parts:
        for name, config, count in part.kernels:
            kernels[name, *config.items()] += count
    return kernels, Counter(name for part in parts for name in part.unknown)


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("space", spaces.spaces(), ids=lambda space: space.name)
def test_blocks_one_by_one_come_to_the_kernels_of_the_whole(space: Space, rules: FusionRules) -> None:
    """Remembered or new, and the layers of the blocks are those of the network."""
    kernels = NetworkKernels(rules)
    for drawn in spaces.draws(space.name, "blocks", 12):
        network = space.network(drawn)
        expected = whole(network, rules)
        assert joined(kernels.parts(space, drawn.genes)) == expected
        assert joined(kernels.parts(space, drawn.genes)) == expected
        layers = [layer for block in space.plan.blocks(drawn.genes) for layer in space.plan.layers(block)]
        assert [(one.type, one.config) for one in layers] == [(one.type, one.config) for one in network.layers]


def test_equal_blocks_are_one_object() -> None:
    kernels, space = NetworkKernels(FusionRules()), spaces.space("bert")
    [drawn] = spaces.draws("bert", "layers", 1)
    genes = {**drawn.genes, "layers": 3}
    _, *layers, _ = kernels.parts(space, genes)
    assert layers[0] is layers[1] is layers[2]
    held_bytes = kernels.held_bytes
    kernels.parts(space, {**genes, "layers": 12})
    assert kernels.held_bytes == held_bytes


TAKEN_AND_SAID = """
import tracemalloc
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads import spaces
from benchfarm_workloads.network_kernels import NetworkKernels

space = spaces.space("ofa_mobilenet_v3")
drawn = spaces.draws(space.name, "bytes", 60)
for one in drawn:
    space.network(one)
kernels = NetworkKernels(FusionRules())
tracemalloc.start()
for one in drawn:
    kernels.parts(space, one.genes)
print(tracemalloc.get_traced_memory()[0], kernels.held_bytes)
"""
"""For a process of its own: what others have made before is shared, and taken once."""


def test_what_is_remembered_takes_what_it_is_said_to_take() -> None:
    """Beside layers, of which a bounded number is remembered whoever asks."""
    ran = subprocess.run([sys.executable, "-c", TAKEN_AND_SAID], capture_output=True, text=True, check=True)
    taken_bytes, said_bytes = map(int, ran.stdout.split())
    assert 0.6 * said_bytes < taken_bytes < 1.1 * said_bytes


def test_rules_that_were_not_asked_for_are_forgotten_first() -> None:
    space = spaces.space("ofa_mobilenet_v3")
    drawn = spaces.draws(space.name, "forgotten", 20)
    known = [RULES["default"], RULES["nothing"], RULES["everything"]]

    def asked(remembered: RememberedKernels, rules: FusionRules) -> NetworkKernels:
        found = remembered.of(rules)
        for one in drawn:
            found.parts(space, one.genes)
        return found

    sizes_bytes = [asked(RememberedKernels(2**30), rules).held_bytes for rules in known]
    limit_bytes = sum(sizes_bytes) - 1
    remembered = RememberedKernels(limit_bytes)
    first, second = (asked(remembered, rules) for rules in known[:2])
    assert remembered.of(known[0]) is first
    asked(remembered, known[2])
    assert remembered.of(known[0]) is first
    assert remembered.of(known[1]) is not second
    assert remembered.held_bytes <= limit_bytes


def test_the_bound_holds_within_a_question_too() -> None:
    """One of twenty thousand architectures of a space with many widths has a hundred megabytes of blocks."""
    space = spaces.space("fbnet_v3")
    drawn = spaces.draws(space.name, "bound", 20)
    free, bound = NetworkKernels(FusionRules()), NetworkKernels(FusionRules(), 100_000)
    for one in drawn:
        assert joined(bound.parts(space, one.genes)) == joined(free.parts(space, one.genes))
        assert bound.held_bytes <= 100_000
    assert free.held_bytes > 300_000
