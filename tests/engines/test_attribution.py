"""Operators' times by kernel: names as the engines really give them, and every nanosecond accounted for."""

import pytest

from benchfarm_engines.attribution import SiteTime, attribute
from benchfarm_engines.engine import NodeTime


def nodes(*listed: tuple[str, str, int]) -> list[NodeTime]:
    return [NodeTime(*each) for each in listed]


def test_a_node_goes_to_the_site_that_its_name_begins_with() -> None:
    listed = nodes(("k1_nchwc", "Conv", 5), ("k10/linear_token_2", "QLinearConv", 7), ("k1/flat", "Flatten", 1))
    found = attribute(listed, ["k1", "k10"])
    assert found.sites == {"k1": SiteTime(6), "k10": SiteTime(7)}
    assert (dict(found.fused), found.unattributed, found.total_ns) == ({}, (), 13)


def test_onnxruntime_reorders_are_paid_by_the_plain_neighbour() -> None:
    listed = nodes(
        ("k0_nchwc", "Conv", 100),
        ("ReorderOutput_token_7", "ReorderOutput", 10),
        ("k1/pool", "GlobalAveragePool", 4),
        ("ReorderInput", "ReorderInput", 3),
        ("k1/relu_nchwc", "Conv", 2),
        ("ReorderOutput", "ReorderOutput", 1),
        ("k1", "Mul", 6),
        ("ReorderInput_token_9", "ReorderInput", 20),
        ("k2_nchwc", "Conv", 200),
    )
    found = attribute(listed, ["k0", "k1", "k2"])
    assert found.sites["k0"] == SiteTime(100)
    assert found.sites["k1"] == SiteTime(own_ns=12, entry_ns=11, exit_ns=23)
    assert found.sites["k2"] == SiteTime(200)


def test_openvino_reorders_name_both_neighbours() -> None:
    listed = nodes(
        ("x_abcd_acdb_k0/WithoutBiases", "Reorder", 9),
        ("k0/WithoutBiases", "Convolution", 50),
        ("k0/WithoutBiases_acdb_abcd_k1/flat", "Reorder", 8),
        ("k1", "FullyConnected", 30),
        ("k1_abcd_acdb_k2", "Reorder", 7),
        ("k2", "Convolution", 20),
        ("k2_f32_u8_k3/WithoutBiases", "Reorder", 6),
        ("k3/WithoutBiases", "Convolution", 10),
    )
    found = attribute(listed, ["k0", "k1", "k2", "k3"])
    assert found.sites == {
        "k0": SiteTime(50, entry_ns=9),  # nothing else is there to pay
        "k1": SiteTime(30, entry_ns=8, exit_ns=7),
        "k2": SiteTime(20),
        "k3": SiteTime(10, entry_ns=6),
    }


def test_quantising_is_paid_by_what_computes_in_fp32() -> None:
    listed = nodes(
        ("Transpose", "Transpose", 40),
        ("k0_token_2", "QLinearConv", 100),
        ("Transpose_token_3", "Transpose", 30),
        ("k0/restored", "DequantizeLinear", 5),
        ("k1", "LayerNormalization", 50),
        ("k1/quantised", "QuantizeLinear", 4),
        ("Transpose_token_4", "Transpose", 20),
        ("k2_token_5", "QLinearConv", 70),
    )
    found = attribute(listed, ["k0", "k1", "k2"])
    assert found.sites["k0"] == SiteTime(100, entry_ns=40)
    assert found.sites["k1"] == SiteTime(50, entry_ns=35, exit_ns=24)
    assert found.sites["k2"] == SiteTime(70)


def test_a_site_that_another_covers_costs_nothing_and_is_listed() -> None:
    covered = NodeTime("k0/WithoutBiases", "Convolution", 80, ("k0/WithoutBiases", "k0", "k1"))
    found = attribute([covered, NodeTime("k2_nchwc", "Conv", 20)], ["k0", "k1", "k2", "k3"])
    assert found.sites == {"k0": SiteTime(80), "k1": SiteTime(), "k2": SiteTime(20), "k3": SiteTime()}
    assert found.fused == {"k1": "k0", "k3": ""}


@pytest.mark.parametrize(
    ("listed", "paid"),
    [
        # an activation that the engine writes in nodes of its own: nothing else bears its site's name
        ([("k0", "Conv"), ("HardSigmoid_3", "HardSigmoid"), ("Mul_4", "Mul"), ("k2", "Conv")], "k1"),
        # the same behind a product of the same site, whose last node has not run yet
        ([("k0", "Conv"), ("k1/linear", "Gemm"), ("HardSigmoid_180", "HardSigmoid"), ("k2", "Gemm")], "k1"),
        # the first half of a site: the one before has ended
        ([("k0", "Conv"), ("k1", "Add"), ("MVN_32233", "MVN"), ("k2", "Subgraph")], "k2"),
        ([("MVN_1", "MVN"), ("k0", "Subgraph"), ("k1", "Add"), ("k2", "Conv")], "k0"),
    ],
)
def test_a_made_up_name_goes_where_a_site_is_missing_or_has_not_ended(listed: list[tuple[str, str]], paid: str) -> None:
    times = [NodeTime(name, kind, 1 if name.startswith("k") else 1000) for name, kind in listed]
    found = attribute(times, ["k0", "k1", "k2"])
    assert found.sites[paid].own_ns >= 1000
    assert found.total_ns == sum(node.ns for node in times)


def test_what_belongs_to_no_site_is_listed() -> None:
    listed = nodes(("a", "Reorder", 3), ("b", "Conv", 4))
    found = attribute(listed, [])
    assert (found.unattributed, found.total_ns) == (tuple(listed), 7)
