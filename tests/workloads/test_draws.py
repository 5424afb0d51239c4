"""Seeded draws: valid, distinct, repeatable, small."""

import hashlib
import json
from collections import Counter

import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import workload_id
from benchfarm_workloads import draws
from benchfarm_workloads.draws import MAX_DRAW_BYTES, MAX_DRAW_FLOPS, draw, draw_mixed
from benchfarm_workloads.kernels import kernel_type, kernel_types

PINNED_CONV = [{"hw": 11, "cin": 40, "cout": 24, "k": 5, "s": 1, "act": "relu", "batch": 1}]
PINNED_CONCAT = [{"hw": 8, "cin1": 16, "cin2": 192, "cin3": 0, "cin4": 0, "batch": 1}]
PINNED = {
    "conv-bn-act": "97955b53b2db",
    "dwconv-bn-act": "62ca9d3c2970",
    "fc": "54252a13ab7d",
    "maxpool": "8491565f4c60",
    "avgpool": "8c1750c313c6",
    "global-avgpool": "27eee108c370",
    "add-act": "04795a7e060a",
    "se": "9da8b1b48f38",
    "act": "e708f23db813",
    "concat": "104cb4bf1aca",
    "group-conv": "541fd93a595f",
    "deconv-bn-act": "4c7c970226aa",
    "mul": "2ef6ccef2ac4",
    "split": "ae570d54bf34",
    "channel-shuffle": "72bda069c897",
    "resize": "2509ec23172b",
    "linear": "227526d03db6",
    "matmul": "85c7a4f7396b",
    "attention": "fee4fd6e12f6",
    "layernorm": "991ae2f01829",
    "gelu": "fc94368a847a",
    "softmax": "ea130be55912",
    "token-add": "764b7b503985",
    "pos-embed": "3c956b8295ce",
    "reduce-mean": "e9b38159cbe4",
    "patch-embed": "548da1a8c3ff",
}
TYPES = [kind.name for kind in kernel_types()]


@pytest.mark.parametrize("name", TYPES)
def test_draws_are_canonical_distinct_and_small(name: str) -> None:
    kind, configs = kernel_type(name), draw(name, 7, 300)
    assert len({tuple(config.items()) for config in configs}) == 300
    for config in configs:
        assert kind.validate(config) == config
        cost = kind.cost(config)
        assert cost.flops <= MAX_DRAW_FLOPS
        assert cost.total_bytes <= MAX_DRAW_BYTES


@pytest.mark.parametrize("name", TYPES)
def test_every_type_gives_a_thousand(name: str) -> None:
    """Predictors learn from as many."""
    assert len(draw(name, 1, 1000)) == 1000


@pytest.mark.parametrize("name", TYPES)
def test_the_seed_decides(name: str) -> None:
    assert draw(name, 1, 20) == draw(name, 1, 20)
    assert draw(name, 1, 20) != draw(name, 2, 20)
    assert draw(name, 1, 20)[:5] == draw(name, 1, 5)


def test_draws_do_not_change_between_releases() -> None:
    """Jobs name a seed; another draw for it would silently measure something else."""
    assert draw("conv-bn-act", 0, 1) == PINNED_CONV
    assert draw("concat", 0, 1) == PINNED_CONCAT


@pytest.mark.parametrize(("name", "expected"), PINNED.items())
def test_older_draws_stay_whatever_is_added(name: str, expected: str) -> None:
    """Over 300 kernels: a column or an activation that a new type brings must not shift the generator."""
    assert hashlib.sha256(json.dumps(draw(name, 0, 300)).encode()).hexdigest()[:12] == expected


@pytest.mark.parametrize(
    ("name", "column"),
    [("conv-bn-act", "cout"), ("linear", "cin"), ("attention", "seq"), ("layernorm", "dim"), ("matmul", "m")],
)
def test_some_sizes_are_no_multiple_of_eight(name: str, column: str) -> None:
    odd = sum(int(config[column]) % 8 != 0 for config in draw(name, 3, 500))
    assert 100 < odd < 300


def test_tokens_have_the_sizes_of_transformers() -> None:
    for config in draw("attention", 3, 300):
        assert 16 <= int(config["seq"]) <= 256
        assert 1 <= int(config["heads"]) <= 16
        assert int(config["heads"]) * int(config["head_dim"]) <= 1024
    assert {config["form"] for config in draw("matmul", 3, 50)} == {"weight", "input"}


def test_the_mix_has_every_type_and_the_asked_number() -> None:
    kernels = draw_mixed(2024, 60)
    counts = Counter(kernel.type for kernel in kernels)
    assert len({workload_id(kernel) for kernel in kernels}) == 60
    assert set(counts) == set(TYPES)
    assert counts["conv-bn-act"] == max(counts.values())
    assert len(draw_mixed(1, 7)) == 7


def test_impossible_draws_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="must be from 0"):
        draw("fc", 0, -1)
    with pytest.raises(InvalidRequest, match="no kernel type"):
        draw("lstm", 0, 1)
    monkeypatch.setattr(draws, "MAX_DRAW_BYTES", 2_000)
    with pytest.raises(InvalidRequest, match="distinct draws"):
        draw("global-avgpool", 0, 100)
