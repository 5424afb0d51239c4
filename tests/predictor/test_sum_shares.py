"""What whole models are made of, whatever their size."""

import numpy as np
import pytest

from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.registry import Registry
from benchfarm_predictor.sums import SumFeatures
from tests.predictor.rows import architectures

SHARES = SumFeatures("shares")


def of(lists: KernelLists, row: int = 0) -> dict[str, float]:
    return dict(zip(SHARES.names, SHARES.matrix(lists)[row].tolist(), strict=True))


def test_shares_of_a_measure_are_four_quarters() -> None:
    found = of(KernelLists.of(architectures(3)))
    for measure in ("mmacs", "count", "activation_mb", "weight_mb"):
        assert sum(value for name, value in found.items() if name.endswith(f"_{measure}_share")) == pytest.approx(4)
    assert 0 < sum(found[f"dwconv_k{k}_share"] for k in (3, 5, 7)) < 4 + 1e-9


def test_twice_everything_has_the_same_shares_and_is_an_octave_larger() -> None:
    [kernels] = architectures(1)
    twice = [(name, config, 2 * count) for name, config, count in kernels]
    lists = KernelLists.of([kernels, twice])
    one, other = of(lists), of(lists, 1)
    for name in SHARES.names:
        grows = name in ("log2_mmacs", "log2_activation_mb", "log2_weight_mb", "log2_kernels")
        assert other[name] == pytest.approx(one[name] + grows), name


def test_models_without_kernels_are_all_zeros() -> None:
    assert not SHARES.matrix(KernelLists.of([[]])).any()
    assert SHARES.matrix(KernelLists.of([])).shape == (0, len(SHARES.names))


def test_both_views_are_kept_apart() -> None:
    lists = KernelLists.of(architectures(4))
    plain, shares = SumFeatures().matrix(lists), SHARES.matrix(lists)
    assert plain is SumFeatures().matrix(lists)
    assert shares is SHARES.matrix(lists)
    assert not np.array_equal(plain[:, :8], shares[:, :8])
    for view in (SumFeatures(), SHARES):
        assert Registry().features(view.spec()) == view
