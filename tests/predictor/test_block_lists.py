"""Kernel lists that are made of blocks are the same as lists of all their kernels, and each block is looked at once."""

import numpy as np
import pytest

from benchfarm_predictor.combined import Regional
from benchfarm_predictor.composition import fit_whole_model
from benchfarm_predictor.kernel_lists import CountedKernel, KernelLists
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.predictions import MAX_LISTED, MAX_TEXT, answer
from benchfarm_predictor.predictor_file import Predictor
from benchfarm_predictor.quantities import quantities
from benchfarm_predictor.sums import SumFeatures
from benchfarm_predictor.trained_range import TrainedRange, totals
from tests.predictor.predictors import header
from tests.predictor.rows import architectures, roofline_ms, whole_ms

BLOCKS = architectures(9, seed=3)
CHANCE = np.random.default_rng(0)
SHAPES = [[*CHANCE.integers(0, 9, size=size)] for size in (1, 4, 0, 7, 2, 4, 0, 3)]
"""Numbers of blocks of each list; some lists have none."""


def of_blocks(shapes: list[list[int]] = SHAPES) -> KernelLists:
    return KernelLists.of_blocks([[BLOCKS[at] for at in shape] for shape in shapes], lambda block: block)


def flat(shapes: list[list[int]] = SHAPES) -> KernelLists:
    return KernelLists.of([kernel for at in shape for kernel in BLOCKS[at]] for shape in shapes)


def check_same(one: KernelLists, other: KernelLists) -> None:
    assert len(one) == len(other)
    assert {*one.by_type} == {*other.by_type}
    assert one.kernel_counts == pytest.approx(other.kernel_counts)
    assert whole_ms(one) == pytest.approx(whole_ms(other), rel=1e-12)
    for view in ("plain", "shares"):
        features = SumFeatures(view)
        assert features.matrix(one) == pytest.approx(features.matrix(other), rel=1e-12)
    for name, entries in one.by_type.items():
        of_other = other.by_type[name]
        for lists, each in ((one, entries), (other, of_other)):
            assert len(each.owner) == len(each.kernel) == len(each.count)
            weights = roofline_ms(each.kernels)[each.kernel] * each.count
            added = np.bincount(each.owner, weights=weights, minlength=len(lists))
            assert added == pytest.approx(lists.sums_of(each, roofline_ms(each.kernels)), rel=1e-12)
        largest = [
            lists.maxima_of(each, roofline_ms(each.kernels)) for lists, each in ((one, entries), (other, of_other))
        ]
        assert largest[0] == pytest.approx(largest[1], rel=1e-12)


def test_sums_maxima_and_entries_are_those_of_all_kernels() -> None:
    check_same(of_blocks(), flat())
    check_same(of_blocks([[2, 2, 2]]), flat([[2, 2, 2]]))


@pytest.mark.parametrize("rows", [[3], [5, 0, 3, 3], [2], slice(1, 6), [0, 1, 3, 4, 5, 7, 2, 6]])
def test_some_of_the_lists_hold_only_their_own_kernels(rows: list[int] | slice) -> None:
    chosen = rows if isinstance(rows, slice) else np.array(rows)
    one, other = of_blocks().take(chosen), flat().take(chosen)
    check_same(one, other)
    assert {name: len(each.kernels) for name, each in one.by_type.items()} == {
        name: len(each.kernels) for name, each in other.by_type.items()
    }


def test_a_block_of_many_lists_is_read_once() -> None:
    asked: list[int] = []

    def kernels(number: int) -> list[CountedKernel]:
        asked.append(number)
        return BLOCKS[number]

    numbers = list(range(1000, 1009))  # objects of their own
    lists = KernelLists.of_blocks(
        [[numbers[at % 9], numbers[(at + 1) % 9]] for at in range(500)], lambda n: kernels(n - 1000)
    )
    assert sorted(asked) == list(range(9))
    assert len(lists) == 500


def test_what_is_worked_out_of_lists_is_kept_with_them() -> None:
    """Where they lie, what they come to and what their kernels cost is wanted several times for one answer."""
    lists, features = of_blocks(), SumFeatures("shares")
    fit = fit_whole_model(KernelLists.of(architectures(40)), whole_ms(KernelLists.of(architectures(40))))
    d = len(features.names)
    regional = Regional(
        members=(fit.model,),
        weights=np.ones((2, 1)),
        offsets=np.zeros(2),
        regions=("somewhere",),
        features=features,
        centres=np.zeros((1, d)),
        scales=np.ones((1, d)),
        radii=np.ones(1),
        widenings=np.ones(2),
    )
    assert regional.places(lists) is regional.places(lists)
    assert totals(lists) is totals(lists)
    for entries in lists.by_type.values():
        assert quantities(entries.kernels) is quantities(entries.kernels)
    kernels = next(iter(lists.by_type.values())).kernels
    found = quantities(kernels)
    assert found is not None
    with pytest.raises(ValueError, match="read-only"):
        found.flops[0] = 1.0


def test_an_answer_tells_as_many_texts_as_are_asked_for() -> None:
    """A question of 200,000 answers would say the same in hundreds of megabytes."""
    trained = KernelLists.of([[("fc", {"cin": 8, "cout": 8}, 1)], [("fc", {"cin": 9, "cout": 9}, 1)]])
    model = fit_whole_model(trained, whole_ms(trained)).model
    predictor = Predictor(header("model"), model, None, TrainedRange.of(trained))
    long_name = "x" * 1000
    far: list[CountedKernel] = [("fc", {"cin": 100 + at, "cout": 100 + at}, 1) for at in range(40)]
    foreign: list[CountedKernel] = [(f"{at}{long_name}", {}, 1) for at in range(30)]
    lists = KernelLists.of([[*far, *foreign], [*far, *foreign]])
    for listed in (3, MAX_LISTED):
        found = answer(predictor, lists, listed)
        assert {len(each) for each in (*found.unknown, *found.outside)} == {listed}
        assert {len(text) for each in found.unknown for text in each} == {MAX_TEXT}
        assert all(one is other for one, other in zip(*found.unknown, strict=True)), "equal texts are one object"
    alone = Kernels.of_configs("fc", [{"cin": 8, "cout": 8}])
    assert TrainedRange.of(alone).octaves_outside(alone).tolist() == [0]
