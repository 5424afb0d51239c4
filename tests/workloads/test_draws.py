"""Seeded draws: valid, distinct, repeatable, small."""

from collections import Counter

import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.workloads import workload_id
from benchfarm_workloads import draws
from benchfarm_workloads.draws import MAX_DRAW_BYTES, MAX_DRAW_FLOPS, draw, draw_mixed
from benchfarm_workloads.kernels import kernel_type, kernel_types

PINNED_CONV = [{"hw": 11, "cin": 40, "cout": 24, "k": 5, "s": 1, "act": "relu", "batch": 1}]
PINNED_CONCAT = [{"hw": 8, "cin1": 16, "cin2": 192, "cin3": 0, "cin4": 0, "batch": 1}]
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
def test_the_seed_decides(name: str) -> None:
    assert draw(name, 1, 20) == draw(name, 1, 20)
    assert draw(name, 1, 20) != draw(name, 2, 20)
    assert draw(name, 1, 20)[:5] == draw(name, 1, 5)


def test_draws_do_not_change_between_releases() -> None:
    """Jobs name a seed; another draw for it would silently measure something else."""
    assert draw("conv-bn-act", 0, 1) == PINNED_CONV
    assert draw("concat", 0, 1) == PINNED_CONCAT


def test_some_channels_are_no_multiple_of_eight() -> None:
    channels = [int(config["cout"]) for config in draw("conv-bn-act", 3, 500)]
    odd = sum(count % 8 != 0 for count in channels)
    assert 100 < odd < 300


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
