"""Two carriers that differ by one kernel and by nothing else, for every kernel of the catalogue."""

import io
from collections import Counter

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.carriers import Carrier, is_stem
from benchfarm_workloads.columns import Config
from benchfarm_workloads.doubled_carriers import FIRST, SECOND, DoubledCarrier, double, why_not_doubled
from benchfarm_workloads.draws import draw_mixed
from benchfarm_workloads.kernels import kernel_type, kernel_types
from benchfarm_workloads.layers import Layer
from benchfarm_workloads.onnx_carriers import build_carrier
from benchfarm_workloads.onnx_reference import write_reference

DRAWN = [(each.type, dict(each.config)) for each in draw_mixed(1, 150)]
DWCONV = ("dwconv-bn-act", {"hw": 14, "cin": 96, "k": 3, "s": 1, "act": "relu6"})
STRIDED = ("dwconv-bn-act", {"hw": 14, "cin": 96, "k": 3, "s": 2})
SPLIT = ("split", {"hw": 14, "cin": 64, "parts": 2})
ADD = ("add-act", {"hw": 14, "cin": 64})
STEM = ("conv-bn-act", {"hw": 32, "cin": 3, "cout": 16, "k": 3, "s": 2})


def what(layer: Layer) -> tuple[object, ...]:
    return (layer.type, *layer.config.items())


def by_name(carrier: Carrier) -> dict[str, Layer]:
    return {layer.name: layer for layer in carrier.layers}


def read_by(carrier: Carrier, tensor: str) -> list[str]:
    return [layer.name for layer in carrier.layers if tensor in layer.sources]


@pytest.fixture(scope="module")
def doubled() -> list[tuple[tuple[str, Config], DoubledCarrier]]:
    return [(kernel, double(*kernel)) for kernel in DRAWN]


def test_the_second_carrier_has_the_kernel_once_more_and_nothing_else(doubled) -> None:
    assert {type_name for (type_name, _), _ in doubled} == {kind.name for kind in kernel_types()}
    for (type_name, config), both in doubled:
        kernel = (type_name, *kernel_type(type_name).validate(config).items())
        once, twice = (Counter(map(what, carrier.layers)) for carrier in (both.once, both.twice))
        assert twice - once == Counter({kernel: 1})
        assert not once - twice
        stems = [dims for dims in kernel_type(type_name).tensor_rule(dict(kernel[1:])).inputs if is_stem(dims)]
        assert [dims for _, dims in both.twice.inputs] == [*(dims for _, dims in both.once.inputs), *stems]
        assert Counter(dims for _, dims in both.once.outputs) == Counter(dims for _, dims in both.twice.outputs)
        assert (both.once.sites, both.twice.sites) == ({0: FIRST}, {0: FIRST, 1: SECOND})


def test_each_copy_has_adapters_of_its_own_around_it(doubled) -> None:
    for _, both in doubled:
        layers = by_name(both.twice)
        first, second = layers[FIRST], layers[SECOND]
        assert not set(first.sources) & set(second.sources)
        for one, other, dims in zip(first.sources, second.sources, first.tensors.inputs, strict=True):
            if is_stem(dims):
                assert {one, other} <= {name for name, _ in both.twice.inputs}
            else:
                assert what(layers[one]) == what(layers[other])
                assert one[0] == other[0] == "a"
        for output in (*first.outputs, *second.outputs):
            assert [name[0] for name in read_by(both.twice, output)] == ["a"]
        assert both.twice.layers.index(first) < both.twice.layers.index(second)


def test_what_the_second_copy_replaces_was_made_by_an_adapter(doubled) -> None:
    for _, both in doubled:
        once, twice = by_name(both.once), by_name(both.twice)
        moved = [name for name, layer in once.items() if layer.sources != twice[name].sources]
        assert len(moved) == len(once[FIRST].outputs)
        for name in moved:
            (stand_in,), (copied,) = once[name].sources, twice[name].sources
            assert stand_in[0] == "a"
            assert copied.partition("/")[0] == SECOND
            assert once[stand_in].tensors.outputs == once[name].tensors.inputs


def test_tensors_fit_and_nothing_is_made_in_vain(doubled) -> None:
    for _, both in doubled:
        for carrier in (both.once, both.twice):
            known, unread = dict(carrier.inputs), set(dict(carrier.inputs))
            for layer in carrier.layers:
                assert tuple(known[source] for source in layer.sources) == layer.tensors.inputs, layer
                known.update(zip(layer.outputs, layer.tensors.outputs, strict=True))
                unread = (unread | set(layer.outputs)) - set(layer.sources)
            assert dict(carrier.outputs) == {name: known[name] for name in unread}
            assert all(name[0] == "a" for name in unread)  # adapters' outputs are small


def test_a_kernel_that_keeps_its_size_is_put_between_two_that_fit() -> None:
    both = double(*DWCONV)
    assert [layer.name for layer in both.once.layers] == ["a0", FIRST, "a1", "a2", "a3"]
    assert [layer.name for layer in both.twice.layers] == ["a0", FIRST, "a1", "a2", SECOND, "a3"]
    assert (read_by(both.once, "a2"), read_by(both.twice, "a2")) == (["a3"], [SECOND])
    strided = double(*STRIDED)
    assert [layer.name for layer in strided.once.layers] == ["a0", FIRST, *(f"a{number}" for number in range(1, 7))]
    assert (read_by(strided.once, "a2"), read_by(strided.twice, "a2")) == (["a3"], ["a3", SECOND])
    assert (read_by(strided.once, "a4"), read_by(strided.twice, "a4")) == (["a5", "a6"], ["a5"])


def test_several_inputs_and_outputs_have_an_adapter_each() -> None:
    add, split, stem = double(*ADD), double(*SPLIT), double(*STEM)
    assert (by_name(add.twice)[FIRST].sources, by_name(add.twice)[SECOND].sources) == (("a0", "a1"), ("a3", "a5"))
    assert (read_by(add.once, "a3"), read_by(add.twice, "a3")) == (["a4"], ["a4", SECOND])
    assert (read_by(add.once, "a5"), read_by(add.twice, "a5")) == (["a6"], [SECOND])
    assert all(by_name(add.once)[name].config["act"] == "none" for name in ("a0", "a1", "a3", "a5"))
    assert [read_by(split.twice, f"{SECOND}/{part}") for part in range(2)] == [["a7"], ["a8"]]
    assert (by_name(stem.twice)[FIRST].sources, by_name(stem.twice)[SECOND].sources) == (("x0",), ("x2",))


def test_what_the_last_exit_and_the_second_copy_read_was_made_just_before(doubled) -> None:
    for _, both in doubled:
        for carrier in (both.once, both.twice):
            layers = by_name(carrier)
            first_exit = layers[carrier.layers[-1].name]
            maker = first_exit.sources[0].partition("/")[0]
            between = carrier.layers[carrier.layers.index(layers[maker]) + 1 : -1]
            assert all(set(layer.sources) <= set(layers[maker].outputs) for layer in between)
        layers = by_name(both.twice)
        entries = [source for source in layers[SECOND].sources if source in layers]
        made = [layer.name for layer in both.twice.layers[: both.twice.layers.index(layers[SECOND])]]
        assert not entries or set(made[-2:]) & set(entries)


def test_the_same_kernel_gives_the_same_bytes_and_its_carriers_differ() -> None:
    one, other = double(*DWCONV), double(*DWCONV)
    assert build_carrier(one.once)[0] == build_carrier(other.once)[0]
    assert build_carrier(one.once)[0] != build_carrier(one.twice)[0]


@pytest.mark.parametrize("kernel", [DWCONV, STRIDED, SPLIT, ADD, STEM])
def test_both_run_and_every_output_says_something(kernel: tuple[str, dict[str, object]]) -> None:
    both = double(*kernel)
    for carrier in (both.once, both.twice):
        content, inputs = build_carrier(carrier)
        file = io.BytesIO()
        assert write_reference(content, inputs, file, max_bytes=2**28) == len(carrier.outputs)
        file.seek(0)
        with np.load(file) as archive:
            assert all(float(np.abs(archive[name]).max()) > 1e-6 for name in archive)


@pytest.mark.parametrize(
    ("type_name", "config", "why"),
    [
        ("resize", {"hw": 200, "cin": 8, "scale": 3}, "reads its output of 1 x 8 x 600 x 600"),
        ("patch-embed", {"hw": 256, "cin": 3, "dim": 16, "k": 2}, "reads its output of 1 x 16384 x 16"),
        ("concat", {"hw": 7, "cin1": 8000, "cin2": 1000}, "reads its output of 1 x 9000 x 7 x 7"),
    ],
)
def test_a_kernel_without_neighbours_is_refused_by_name(type_name: str, config: dict[str, object], why: str) -> None:
    assert str(why_not_doubled(type_name, kernel_type(type_name).validate(config))).endswith(why)
    with pytest.raises(InvalidRequest) as caught:
        double(type_name, config)
    assert (caught.value.code, caught.value.field) == ("timing_impossible", "config")


def test_what_the_catalogue_refuses_is_refused_as_there() -> None:
    with pytest.raises(InvalidRequest) as caught:
        double("conv-bn-act", {"hw": 0})
    assert caught.value.code == "kernel_out_of_range"
