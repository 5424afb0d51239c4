"""The search spaces, without onnx: genes, draws, published sizes, kernels."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from benchfarm_core.architectures import Architecture, genes_text
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.values import canonical_json
from benchfarm_core.workloads import workload_id, workload_label
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.layers import INPUT, Network
from benchfarm_workloads.models import model_recipe
from benchfarm_workloads.spaces import MAX_DRAWS, Space, draws, kernels, space, spaces
from tests.workloads.architectures import NAMES, extreme, light

DRAWN = {
    "ofa_mobilenet_v3": "df907f008c0c",
    "proxylessnas": "25016b4b6df2",
    "ofa_resnet": "c0167ce45372",
    "bignas": "7923d6952348",
    "fbnet_v3": "669d8c8783fe",
    "autoformer": "35c9d881409a",
    "bert": "499f0b4847e5",
}
"""A digest of the first 20 draws of seed `0`: stored hold-outs are named by such draws."""

MULTIPLY_ADDS = {
    "ofa_mobilenet_v3": (40e6, 600e6),  # the paper's figures show subnets up to 600 M
    "proxylessnas": (30e6, 630e6),  # the network for phones has 320 M
    "ofa_resnet": (300e6, 7.6e9),  # published ones are 0.6 to 4.1 G
    "bignas": (200e6, 2.0e9),  # children of 200 to 1,000 M were chosen
    "fbnet_v3": (180e6, 2.3e9),  # published ones are 357 to 762 M, with smaller maps
    "autoformer": (1.1e9, 2.4e9),  # 1.3 G for 5.7 M parameters
    "bert": (10e6, 11.5e9),
}
"""Of the smallest and the largest network; published counts leave activations, sums and pools out."""

SUBNETS = [
    (
        {
            "hw": 140,
            "depth": [2, 2, 2, 2, 2],
            "kernel": [3, 3, 5, 5, 7, 3, 5, 3, 3, 7],
            "expand": [3, 3, 3, 3, 4, 3, 3, 4, 6, 6],
        },
        4.3e6,
        70.9e6,
    ),
    (
        {
            "hw": 152,
            "depth": [2, 2, 3, 3, 4],
            "kernel": [5, 3, 5, 5, 3, 3, 5, 3, 5, 7, 3, 3, 5, 5],
            "expand": [3, 3, 4, 3, 4, 4, 4, 4, 3, 4, 6, 3, 3, 3],
        },
        4.6e6,
        105.4e6,
    ),
    ({"hw": 224, "depth": [4] * 5, "kernel": [7] * 20, "expand": [6] * 20}, 7.6e6, None),
]
"""Of Once-for-All, published for a phone at 22 and 31 ms, and the largest: genes, parameters, multiply-adds. The counts
are those of the networks as mmrazor converted them, of parameters to two digits."""

FBNETS = {
    "A": (224, [16, 16, 24, 40, 72, 120, 184, 224], [2, 4, 5, 5, 6, 6], "3555335", "355355", "45556", "23334"),
    "B": (248, [16, 16, 24, 40, 72, 120, 184, 224], [2, 4, 5, 5, 6, 6], "3555335", "355355", "45556", "23334"),
    "C": (248, [16, 16, 24, 48, 84, 120, 216, 216], [2, 5, 5, 5, 6, 6], "3555355", "335355", "55445", "32335"),
    "D": (248, [24, 16, 24, 40, 72, 128, 208, 240], [2, 6, 5, 5, 7, 6], "3353335", "333355", "54556", "23335"),
}
"""Published FBNetV3 networks: size, channels (of C before 84 is rounded to 88), blocks, then windows and expansions of
first blocks and of the others."""

BERTS = {128: 48, 256: 108, 384: 144, 512: 72, 640: 72, 768: 48}
"""How many configurations of each size of a token are in BERTPerf's repository: of layers, heads and inner layers."""

B0: dict[str, Any] = {"hw": 224, "width": [32, 16, 24, 40, 80, 112, 192, 320, 1280], "depth": [1, 2, 2, 3, 3, 4, 1]}
PHONE = {
    "hw": 224,
    "depth": [2, 4, 4, 4, 4],
    "kernel": [5, 3, 7, 3, 5, 5, 7, 5, 5, 5, 5, 5, 5, 5, 7, 7, 7, 7, 7],
    "expand": [3, 3, 3, 3, 3, 3, 6, 3, 3, 3, 6, 3, 3, 3, 6, 6, 3, 3, 6],
}
"""Proxyless-Mobile as its published configuration has it, but for one width."""


def of(name: str, genes: Mapping[str, Any]) -> Network:
    return space(name).network(space(name).validate(genes))


def normalised_channels(network: Network) -> int:
    """Channels behind a convolution on a map: published counts have two numbers for each, folding leaves the bias."""
    convolutions = [layer for layer in network.layers if layer.type in ("conv-bn-act", "dwconv-bn-act")]
    return sum(layer.tensors.outputs[0][1] for layer in convolutions if layer.config["hw"] != 1)


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_valid_different_and_repeatable(name: str) -> None:
    drawn = draws(name, "t", 200)
    assert len({str(one.genes) for one in drawn}) == 200
    assert drawn[:5] == draws(name, "t", 5)
    assert drawn[:5] != draws(name, "u", 5)
    for one in drawn[:40]:
        assert space(name).validate(one.genes) == one
        assert Architecture.model_validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_means_the_same_on_every_machine(name: str) -> None:
    text = "".join(canonical_json(one) for one in draws(name, "0", 20))
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == DRAWN[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_choice_of_every_gene_is_drawn(name: str) -> None:
    """What depends on other genes is compared over all draws."""
    wanted: dict[str, set[int]] = {}
    found: dict[str, set[int]] = {}
    for one in draws(name, "all", 400):
        for gene in space(name).genes:
            values = one.genes[gene.name]
            found.setdefault(gene.name, set()).update(values if isinstance(values, tuple) else [values])
            wanted.setdefault(gene.name, set()).update(*gene.places(one.genes))
    assert found == wanted


def test_absent_blocks_of_proxylessnas_are_as_rare_as_in_the_paper() -> None:
    depths = [depth for one in draws("proxylessnas", "d", 400) for depth in tuple_of(one, "depth")]
    assert sum(depths) / len(depths) == pytest.approx(1 + 3 * 6 / 7, abs=0.05)
    uniform = [depth for one in draws("ofa_mobilenet_v3", "d", 400) for depth in tuple_of(one, "depth")]
    assert sum(uniform) / len(uniform) == pytest.approx(3, abs=0.05)


def tuple_of(one: Architecture, gene: str) -> tuple[int, ...]:
    values = one.genes[gene]
    assert isinstance(values, tuple)
    return values


def test_a_small_space_ends() -> None:
    with pytest.raises(InvalidRequest, match="gives only 9") as ended:
        draws("bert", "0", MAX_DRAWS)
    assert ended.value.field == "count"
    for count in (-1, MAX_DRAWS + 1):
        with pytest.raises(InvalidRequest, match="must be from 0"):
            draws("bert", "0", count)
    with pytest.raises(InvalidRequest, match="bignas") as unknown:
        space("darts")
    assert (unknown.value.code, unknown.value.field) == ("space_unknown", "space")


@pytest.mark.parametrize("name", NAMES)
def test_networks_are_as_large_as_the_papers_say(name: str) -> None:
    low, high = MULTIPLY_ADDS[name]
    smallest, largest = (space(name).cost(extreme(space(name), pick)).flops / 2 for pick in (min, max))
    assert low <= smallest < 1.5 * low
    assert high >= largest > 0.9 * high
    for drawn in draws(name, "size", 8):
        assert smallest <= space(name).cost(drawn).flops / 2 <= largest


@pytest.mark.parametrize("name", NAMES)
def test_layers_fit_together_and_nothing_is_computed_in_vain(name: str) -> None:
    for drawn in (extreme(space(name), min), extreme(space(name), max), *draws(name, "fit", 3)):
        network = space(name).network(drawn)
        shapes = {INPUT: network.input_shape}
        for layer in network.layers:
            for source, wanted in zip(layer.sources, layer.tensors.inputs, strict=True):
                assert shapes[source] == wanted or (layer.type == "fc" and shapes[source] == (*wanted, 1, 1))
            shapes.update(zip(layer.outputs, layer.tensors.outputs, strict=True))
        made = {INPUT, *(output for layer in network.layers for output in layer.outputs)}
        assert made - {source for layer in network.layers for source in layer.sources} == {network.layers[-1].name}


@pytest.mark.parametrize(("genes", "parameters", "multiply_adds"), SUBNETS, ids=["22 ms", "31 ms", "largest"])
def test_ofa_mobilenet_v3_holds_published_subnets(
    genes: dict[str, Any], parameters: float, multiply_adds: float | None
) -> None:
    network = of("ofa_mobilenet_v3", genes)
    assert network.cost().parameters + normalised_channels(network) == pytest.approx(parameters, abs=0.07e6)
    if multiply_adds is not None:
        assert network.cost().flops / 2 == pytest.approx(multiply_adds, rel=0.03)


def test_bignas_holds_efficientnet_b0_but_for_its_shortcuts() -> None:
    network = of("bignas", {**B0, "kernel": [5, 3, 5, 5, 3]})
    widths = B0["width"][:-1]
    shortcuts = sum(cin * cout + cout for cin, cout in pairwise(widths))
    assert network.cost().parameters == model_recipe("efficientnet_b0").cost({}).parameters + shortcuts


def test_ofa_resnet_holds_resnet_50_d() -> None:
    genes = {"hw": 224, "stem_block": 1, "depth": [1, 2, 2, 1], "expand": [25] * 16, "width": [100] * 6}
    network = of("ofa_resnet", genes)
    assert network.cost().parameters + normalised_channels(network) == 25_576_264  # timm, resnet50d
    assert network.cost().flops / 2 == pytest.approx(4.35e9, rel=0.01)


def test_proxylessnas_holds_its_network_for_phones_but_for_the_width_of_a_stage() -> None:
    """Published are 4.08 M parameters and 320 M multiply-adds, with 32 channels in the first stage instead of 24."""
    network = of("proxylessnas", PHONE)
    assert network.cost().parameters + normalised_channels(network) == pytest.approx(4.08e6, rel=0.005)
    assert network.cost().flops / 2 == pytest.approx(320e6, rel=0.04)


def fbnet(name: str) -> dict[str, Any]:
    """The genes of a published network."""
    hw, width, depth, *digits = FBNETS[name]
    lists = ("kernel_first", "kernel_rest", "expand_first", "expand_rest")
    genes = dict(zip(lists, ([int(one) for one in text] for text in digits), strict=True))
    return {"hw": hw, "width": width, "depth": depth, **genes}


def test_fbnet_v3_holds_the_published_a_to_c() -> None:
    """A and B are one network for two sizes of image."""
    for name in ("A", "B"):
        assert of("fbnet_v3", fbnet(name)).cost().parameters == pytest.approx(8.6e6, rel=0.01)
    assert of("fbnet_v3", fbnet("C")).cost().parameters > of("fbnet_v3", fbnet("A")).cost().parameters
    with pytest.raises(InvalidRequest, match=r"width\[7\]=240 must be 180 to 224"):
        of("fbnet_v3", fbnet("D"))
    of("fbnet_v3", fbnet("D") | {"width": [*fbnet("D")["width"][:-1], 224]})


def test_bert_has_the_configurations_of_its_repository() -> None:
    genes = {gene.name: gene for gene in space("bert").genes}
    found = {}
    for hidden in BERTS:
        known = {"layers": 1, "hidden": hidden, "seq": 64}
        choices = [genes[name].places(known) for name in ("layers", "intermediate", "heads")]
        found[hidden] = math.prod(len(values) for [values] in choices)
    assert found == BERTS


def test_autoformer_holds_the_vision_transformer_of_the_zoo() -> None:
    network = of("autoformer", {"embed_dim": 192, "depth": 12, "heads": [3] * 12, "mlp_ratio": [400] * 12})
    assert network.layers == model_recipe("vit_tiny").network({}).layers


def test_bert_holds_bert_base_and_the_tiny_one_of_the_zoo() -> None:
    base = of("bert", {"layers": 12, "hidden": 768, "seq": 128, "intermediate": 3072, "heads": 12})
    encoder, embeddings, span = 85_054_464, 128 * 768 + 2 * 768, 2 * 768 + 2
    assert base.cost().parameters == encoder + embeddings + span
    tiny = of("bert", {"layers": 2, "hidden": 128, "seq": 128, "intermediate": 512, "heads": 2})
    assert tiny.layers[:-1] == model_recipe("bert_tiny").network({}).layers[:-2]


@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_the_layers_where_nothing_is_measured(name: str) -> None:
    drawn = light(space(name))
    layers = space(name).network(drawn).layers
    found = kernels(drawn, FusionRules({("Linear", "Gelu"): False}))
    assert sum(count for _, _, count in found) == len(layers)
    listed = {(kind, str(config)) for kind, config, _ in found}
    assert listed == {(layer.type, str(layer.config)) for layer in layers}
    assert len(listed) == len(found)


def test_kernels_follow_the_rules_of_an_engine() -> None:
    drawn = light(space("ofa_mobilenet_v3"))
    apart = kernels(drawn, FusionRules({("Conv", "HardSwish"): False, ("Conv", "Relu"): False}))
    acts = sum(count for kind, _, count in apart if kind == "act")
    layers = [layer for layer in space("ofa_mobilenet_v3").network(drawn).layers if layer.type.endswith("conv-bn-act")]
    assert acts == sum(layer.config["act"] != "none" for layer in layers)


def good(name: str) -> dict[str, Any]:
    """The smallest architecture's genes as JSON has them."""
    genes = extreme(space(name), min).model_dump(mode="json")["genes"]
    assert isinstance(genes, dict)
    return genes


@pytest.mark.parametrize(
    ("name", "changes", "gene", "words"),
    [
        ("ofa_mobilenet_v3", {"hw": 130}, "hw", "hw=130 must be 128 to 224 in steps of 4"),
        ("ofa_mobilenet_v3", {"width": 1}, "width", "there is no gene 'width'; genes are hw, depth, kernel, expand"),
        ("ofa_mobilenet_v3", {"kernel": [3] * 9}, "kernel", "kernel has 9 values, not 10"),
        ("ofa_mobilenet_v3", {"kernel": [3] * 9 + [9]}, "kernel", r"kernel\[9\]=9 must be 3, 5 or 7"),
        ("ofa_mobilenet_v3", {"depth": [2, 2, 2, 2]}, "depth", "depth has 4 values, not 5"),
        ("ofa_mobilenet_v3", {"depth": [2, 2, 2, 2, 3]}, "kernel", "kernel has 10 values, not 11"),
        ("ofa_mobilenet_v3", {"depth": 2}, "depth", "depth=2 must be a list: 5 values, each 2, 3 or 4"),
        ("ofa_mobilenet_v3", {"hw": [128]}, "hw", r"hw=\[128\] must be 128 to 224"),
        ("ofa_resnet", {"stem_block": True}, "stem_block", "stem_block=True must be 0 or 1"),
        ("ofa_resnet", {"width": [100, 100, 100, 100, 100, 90]}, "width", r"width\[5\]=90 must be 65, 80 or 100"),
        ("proxylessnas", {"expand": ["3"] * 6}, "expand", r"expand\[0\]='3' must be 3 or 6"),
        ("bignas", {"width": [32, 16, 24, 40, 80, 112, 192, 336, 1280]}, "width", r"width\[7\]=336 must be 320 or 352"),
        ("fbnet_v3", {"hw": 230}, "hw", "224 to 272 in steps of 8"),
        ("autoformer", {"heads": [3] * 13}, "heads", "heads has 13 values, not 12"),
        ("bert", {"heads": 8}, "heads", "heads=8 must be 2 or 4"),
        ("bert", {"seq": 256}, "seq", "seq=256 must be 64 or 128"),
        ("bert", {"heads": None}, "heads", "heads=None must be 2 or 4"),
    ],
)
def test_wrong_genes_are_named(name: str, changes: dict[str, Any], gene: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        space(name).validate({**good(name), **changes})
    assert (refused.value.code, refused.value.field) == ("architecture_out_of_range", f"genes.{gene}")


@pytest.mark.parametrize("name", NAMES)
def test_no_gene_can_be_left_out(name: str) -> None:
    for gene in good(name):
        with pytest.raises(InvalidRequest, match=f"the gene {gene} is missing; it must be") as refused:
            space(name).validate({other: values for other, values in good(name).items() if other != gene})
        assert refused.value.field == f"genes.{gene}"


@pytest.mark.parametrize("name", NAMES)
def test_spellings_are_one_workload(name: str) -> None:
    genes = good(name)
    one, other = space(name).workload(genes), space(name).workload(dict(reversed(genes.items())))
    assert list(other.genes) == [gene.name for gene in space(name).genes]
    assert workload_id(one) == workload_id(other)
    assert workload_label(one) == f"{name} {genes_text(one.genes)}"
    assert workload_id(space(name).workload(light(space(name)).genes)) != workload_id(one)


def test_other_versions_and_spaces_are_refused() -> None:
    of_bert: Space = space("bert")
    drawn = of_bert.draw("0")
    with pytest.raises(InvalidRequest, match="space_version=2 is not built here; this build knows 1"):
        of_bert.network(drawn.model_copy(update={"space_version": 2}))
    with pytest.raises(InvalidRequest, match="of bert, not of bignas"):
        space("bignas").network(drawn)


def test_every_space_says_what_it_reproduces() -> None:
    for one in spaces():
        assert all((one.paper, one.kept, one.read, one.left, one.drawn_as, one.title))
        assert all(gene.meaning and gene.allowed for gene in one.genes)


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_costs_what_its_network_costs(name: str) -> None:
    of = space(name)
    for drawn in (*draws(name, "costs", 40), extreme(of, min), extreme(of, max)):
        assert of.cost(drawn) == of.network(drawn).cost()


def test_a_block_is_laid_out_once_however_many_architectures_hold_it() -> None:
    """To lay out each network takes a millisecond: a job has twenty thousand."""
    laid_out: list[Any] = []
    plan = space("ofa_mobilenet_v3").plan

    def append(sketch: Any, x: Any, block: Any) -> Any:
        laid_out.append(block)
        return plan.append(sketch, x, block)

    counted = replace(plan, append=append)
    genes = [one.genes for one in draws("ofa_mobilenet_v3", "costs", 200)]
    for each in genes:
        counted.cost(each)
    assert len(laid_out) == len({*laid_out}) < sum(len([*plan.blocks(each)]) for each in genes)


def test_what_an_architecture_of_another_space_costs_is_not_told() -> None:
    with pytest.raises(InvalidRequest, match="an architecture of bert"):
        space("bignas").cost(draws("bert", "costs", 1)[0])
    with pytest.raises(InvalidRequest, match="space_version=9"):
        space("bert").cost(draws("bert", "costs", 1)[0].model_copy(update={"space_version": 9}))
