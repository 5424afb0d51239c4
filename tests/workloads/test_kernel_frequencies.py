"""How often kernels occur in the search spaces, and how shares lean towards what takes long."""

import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.kernel_frequencies import count_kernels, frequencies_of_spaces, latency_heavy
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.spaces import draws, kernels

FC = {"cin": 8, "cout": 4}


def test_shares_are_those_of_all_kernels_of_a_type() -> None:
    found = count_kernels([[("fc", FC, 1), ("fc", {"cin": 9, "cout": 4}, 1)], [("fc", {**FC, "act": "none"}, 2)]])
    (only,) = found.values()
    assert only.type == "fc"
    assert [config["cin"] for config in only.configs] == [8, 9], "spelled in two ways it is one configuration"
    assert only.shares == (0.75, 0.25)
    with pytest.raises(InvalidRequest):
        count_kernels([[("fc", FC, 0)]])
    with pytest.raises(InvalidRequest):
        count_kernels([[("fc", {"cin": 8}, 1)]])


def test_of_spaces_every_drawn_architecture_counts() -> None:
    found = frequencies_of_spaces(["ofa_mobilenet_v3", "proxylessnas"], seed="a", architectures=2)
    lists = [
        kernels(architecture, FusionRules())
        for name in ("ofa_mobilenet_v3", "proxylessnas")
        for architecture in draws(name, "a", 2)
    ]
    assert found == count_kernels(lists)
    assert found == frequencies_of_spaces(["ofa_mobilenet_v3", "proxylessnas"], seed="a", architectures=2)
    whole = sum(count for one in lists for kind, _, count in one if kind == "dwconv-bn-act")
    assert found["dwconv-bn-act"].shares[0] * whole == pytest.approx(round(found["dwconv-bn-act"].shares[0] * whole))
    assert {name: sum(one.shares) for name, one in found.items()} == pytest.approx(dict.fromkeys(found, 1.0))


def test_heavy_kernels_weigh_more_and_all_of_them_stay() -> None:
    conv = frequencies_of_spaces(["ofa_resnet"], seed="a", architectures=3)["conv-bn-act"]
    heavy = latency_heavy(conv)
    assert heavy.configs == conv.configs
    assert sum(heavy.shares) == pytest.approx(1)
    rule = kernel_type("conv-bn-act").cost_rule
    most = max(range(len(conv.configs)), key=lambda place: rule(conv.configs[place]).flops)
    least = min(range(len(conv.configs)), key=lambda place: rule(conv.configs[place]).flops)
    assert heavy.shares[most] > conv.shares[most]
    assert 0.4 * conv.shares[least] < heavy.shares[least] < conv.shares[least], (
        "half of a share stays whatever it costs"
    )
    assert latency_heavy(conv, 0).shares == pytest.approx(conv.shares)
    assert heavy.content_hash != conv.content_hash
    with pytest.raises(InvalidRequest):
        latency_heavy(conv, 1.5)
