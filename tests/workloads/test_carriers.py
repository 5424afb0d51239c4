"""Carriers hold every wanted kernel once, between adapters, within limits, and run."""

import io
import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.carriers import (
    MAX_CARRIER_BYTES,
    MAX_CARRIER_FLOPS,
    MAX_CHAIN,
    MAX_SITES,
    MIN_WEIGHT_BYTES,
    Carrier,
    WantedKernel,
    pack,
)
from benchfarm_workloads.draws import draw_mixed
from benchfarm_workloads.kernels import kernel_type, kernel_types
from benchfarm_workloads.layers import Layer
from benchfarm_workloads.models import model_recipe, model_recipes
from benchfarm_workloads.onnx_carriers import build_carrier
from benchfarm_workloads.onnx_reference import write_reference


def drawn(count: int, seed: int = 1) -> list[WantedKernel]:
    return [(each.type, dict(each.config)) for each in draw_mixed(seed, count)]


def pairs(layers: Iterable[Layer]) -> set[object]:
    """Every layer with one that reads it, both by what they are."""
    layers = list(layers)
    makers = {output: layer for layer in layers for output in layer.outputs}
    return {(what(makers[source]), what(layer)) for layer in layers for source in layer.sources if source in makers}


def what(layer: Layer) -> tuple[object, ...]:
    return (layer.type, *layer.config.items())


@pytest.fixture(scope="module")
def wanted() -> list[WantedKernel]:
    return drawn(3 * MAX_SITES)


@pytest.fixture(scope="module")
def packed(wanted: list[WantedKernel]) -> list[Carrier]:
    return pack(wanted)


def test_every_wanted_kernel_is_carried_once(wanted: Sequence[WantedKernel], packed: Sequence[Carrier]) -> None:
    assert {type_name for type_name, _ in wanted} == {kind.name for kind in kernel_types()}
    assert [place for carrier in packed for place in carrier.sites] == list(range(len(wanted)))
    for carrier in packed:
        layers = {layer.name: layer for layer in carrier.layers}
        for place, name in carrier.sites.items():
            type_name, config = wanted[place]
            assert (layers[name].type, layers[name].config) == (type_name, kernel_type(type_name).validate(config))


def test_tensors_fit_their_readers_and_nothing_is_made_in_vain(packed: Sequence[Carrier]) -> None:
    for carrier in packed:
        known = dict(carrier.inputs)
        unread = set(known)
        for layer in carrier.layers:
            assert tuple(known[source] for source in layer.sources) == layer.tensors.inputs, layer
            known.update(zip(layer.outputs, layer.tensors.outputs, strict=True))
            unread = (unread | set(layer.outputs)) - set(layer.sources)
        assert dict(carrier.outputs) == {name: known[name] for name in unread}
        assert len(known) == len(set(known))


def test_carriers_are_few_and_within_limits(wanted: Sequence[WantedKernel], packed: Sequence[Carrier]) -> None:
    assert len(wanted) / len(packed) >= 20
    for carrier in packed:
        cost = carrier.cost()
        assert len(carrier.sites) <= MAX_SITES
        assert cost.flops <= MAX_CARRIER_FLOPS
        assert cost.weight_bytes + cost.input_bytes + cost.output_bytes <= MAX_CARRIER_BYTES
    sizes = [len(carrier.sites) for carrier in packed]
    assert min(sizes) >= max(sizes) / 4  # the drawn kernels come by type, and their sizes with them


def test_few_kernels_do_not_find_their_weights_in_the_caches() -> None:
    few: list[WantedKernel] = [("conv-bn-act", {"hw": 14, "cin": 96, "cout": 96, "k": 1})]
    [carrier] = pack(few)
    assert MIN_WEIGHT_BYTES <= carrier.cost().weight_bytes <= 1.01 * MIN_WEIGHT_BYTES
    assert [layer.name for layer in carrier.layers] == ["a0", "a1", "k0", "a2", "a3"]


def test_a_kernel_above_the_limits_has_a_carrier_of_its_own() -> None:
    large = ("conv-bn-act", {"hw": 112, "cin": 256, "cout": 256, "k": 3})
    assert kernel_type(large[0]).cost(large[1]).flops > MAX_CARRIER_FLOPS
    small = ("act", {"hw": 7, "cin": 16, "act": "relu"})
    assert [list(carrier.sites) for carrier in pack([small, large, small])] == [[0], [1], [2]]


@pytest.mark.parametrize("name", [recipe.name for recipe in model_recipes()])
def test_a_carrier_of_a_models_kernels_shares_no_two_neighbours_with_it(name: str) -> None:
    layers = model_recipe(name).network({}).layers
    for carrier in pack([(layer.type, layer.config) for layer in layers]):
        assert not pairs(carrier.layers) & pairs(layers)
        assert not {source for layer in carrier.layers if layer.name[0] == "k" for source in layer.sources} & set(
            carrier.sites.values()
        )


def test_chains_of_kernels_are_short() -> None:
    kernels: list[WantedKernel] = [("conv-bn-act", {"hw": 14, "cin": 32, "cout": 32 + n, "k": 1}) for n in range(20)]
    for carrier in [*pack(kernels), *pack(drawn(60))]:
        depths: dict[str, int] = {}
        for layer in carrier.layers:
            depth = max(depths.get(source, 0) for source in layer.sources) + (layer.name[0] == "k")
            depths.update(dict.fromkeys(layer.outputs, depth))
        assert max(depths.values()) <= MAX_CHAIN
    # one for each chain, and that of the layer which keeps the caches busy
    assert len(pack(kernels)[0].outputs) == math.ceil(len(kernels) / MAX_CHAIN) + 1


def test_the_same_kernels_give_the_same_bytes() -> None:
    kernels = drawn(20)
    one, other = ([build_carrier(each)[0] for each in pack(kernels)] for _ in range(2))
    assert one == other
    assert build_carrier(pack(drawn(20, seed=2))[0])[0] != one[0]


def test_a_carrier_runs_and_its_outputs_can_be_held_against_a_reference() -> None:
    [carrier, *_] = pack(drawn(40))
    content, inputs = build_carrier(carrier)
    file = io.BytesIO()
    assert write_reference(content, inputs, file, max_bytes=2**28) == len(carrier.outputs)
    file.seek(0)
    with np.load(file) as archive:
        found = [archive[f"out{number}"] for number in range(len(carrier.outputs))]
    assert [each.shape for each in found] == [dims for _, dims in carrier.outputs]
    assert all(float(np.abs(each).max()) > 1e-6 for each in found)


def test_unknown_kernels_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        pack([("conv-bn-act", {"hw": 0})])
    assert pack([]) == []
