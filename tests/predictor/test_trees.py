"""Trees as arrays: by hand, against following one row after the other, and what a file may not hold."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.registry import Registry
from benchfarm_predictor.trees import Forest, Tree, Trees

# x0 <= 2 ? (x1 <= 5 ? 10 : 20) : 30
STUMPED = Tree(
    feature=np.array([0, 1, -1, -1, -1]),
    threshold=np.array([2.0, 5.0, 0, 0, 0]),
    left=np.array([1, 2, 0, 0, 0]),
    right=np.array([4, 3, 0, 0, 0]),
    value=np.array([0, 0, 10.0, 20.0, 30.0]),
)
LEAF = Tree(*(np.array([each]) for each in (-1, 0.0, 0, 0, 7.0)))
COLUMNS = ["a", "b"]


def rows(*values: tuple[int, int]) -> Kernels:
    return Kernels.of_rows("their-conv", COLUMNS, values)


def made(*trees: Tree, **fields: Any) -> Trees:
    features = kernel_features(rows(), "lines").select(tuple(COLUMNS))
    return Trees(features, Forest.of(trees), **{"target": "ms", **fields})


@st.composite
def random_trees(draw: st.DrawFn) -> tuple[Tree, ...]:
    """Grown at random: every leaf may split, children stand behind their parent."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32)))
    return tuple(grown(chance, draw(st.integers(0, 12))) for _ in range(draw(st.integers(1, 5))))


def grown(chance: np.random.Generator, splits: int) -> Tree:
    feature, threshold, left, right = [-1], [0.0], [0], [0]
    for _ in range(splits):
        at = int(chance.choice([node for node, each in enumerate(feature) if each < 0]))
        feature[at], threshold[at] = int(chance.integers(2)), float(chance.integers(-5, 5))
        left[at], right[at] = len(feature), len(feature) + 1
        for column, value in ((feature, -1), (threshold, 0.0), (left, 0), (right, 0)):
            column += [value, value]
    values = chance.standard_normal(len(feature))
    return Tree(np.array(feature), np.array(threshold), np.array(left), np.array(right), values)


def followed(tree: Tree, row: Floats) -> float:
    at = 0
    while tree.feature[at] >= 0:
        at = tree.left[at] if row[tree.feature[at]] <= tree.threshold[at] else tree.right[at]
    return float(tree.value[at])


def test_each_row_reaches_its_leaf() -> None:
    x = np.array([[2.0, 5.0], [2.0, 5.1], [2.1, 0.0]])
    assert Forest.of([STUMPED, LEAF]).leaves(x).tolist() == [[10, 7], [20, 7], [30, 7]]
    assert Forest.of([STUMPED, LEAF]).depth == 2


def test_leaves_are_summed_or_averaged_onto_a_base() -> None:
    assert made(STUMPED, LEAF, base=1.0).predict(rows((2, 5), (3, 0))).tolist() == [18, 38]
    assert made(STUMPED, LEAF, combine="mean").predict(rows((2, 5), (3, 0))).tolist() == [8.5, 18.5]
    assert made(LEAF, target="log").predict(rows((0, 0))) == pytest.approx(np.exp(7))


def test_trees_of_float32_compare_in_float32() -> None:
    """2^24 + 1 is no float32: it is 2^24 there, and not above a threshold of 2^24."""
    edge = 2**24
    tree = STUMPED._replace(threshold=np.array([float(edge), 5.0, 0, 0, 0]))
    row = rows((edge + 1, 0))
    assert made(tree, compare="float64").predict(row).tolist() == [30]
    assert made(tree, compare="float32").predict(row).tolist() == [10]


@given(random_trees(), st.lists(st.tuples(st.integers(-6, 6), st.integers(-6, 6)), max_size=8))
def test_all_at_once_is_one_after_the_other(trees: tuple[Tree, ...], values: list[tuple[int, int]]) -> None:
    x = np.array(values, dtype=np.float64).reshape(len(values), 2)
    found = made(*trees).output(x)
    assert found.tolist() == pytest.approx([sum(followed(tree, row) for tree in trees) for row in x])


def test_many_rows_are_followed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).integers(-6, 6, size=(50, 2)).astype(np.float64)
    whole = made(STUMPED, LEAF).output(x)
    monkeypatch.setattr("benchfarm_predictor.trees._CELLS", 14)
    assert made(STUMPED, LEAF).output(x).tolist() == whole.tolist()


def test_no_tree_at_all_says_the_base() -> None:
    assert made(base=3.0).predict(rows((1, 1))).tolist() == [3.0]
    assert made(base=3.0, combine="mean").predict(rows((1, 1))).tolist() == [3.0]


@settings(max_examples=30)
@given(random_trees())
def test_from_arrays_undoes_to_arrays(trees: tuple[Tree, ...]) -> None:
    model = made(*trees, base=0.5, floor_ms=0.25)
    again = Registry().model(*model.to_arrays())
    batch = rows((0, 0), (-3, 4), (5, -5))
    assert again.predict(batch) == pytest.approx(model.predict(batch), rel=1e-5, abs=1e-6)
    arrays, _ = again.to_arrays()
    assert all(np.array_equal(arrays[name], each) for name, each in model.to_arrays()[0].items())


@given(st.floats(-1e6, 1e6), st.integers(-3, 3))
def test_a_file_sends_float32_rows_the_same_way(threshold: float, steps: int) -> None:
    """Its thresholds are float32 too, rounded down; rows lie a few float32 around the threshold."""
    row = np.float32(threshold)
    for _ in range(abs(steps)):
        row = np.nextafter(row, np.float32(np.inf if steps > 0 else -np.inf))
    model = made(STUMPED._replace(threshold=np.array([threshold, 5.0, 0, 0, 0])), compare="float32")
    again = Registry().model(*model.to_arrays())
    assert isinstance(again, Trees)
    x = np.array([[float(row), 0.0]])
    assert again.output(x).tolist() == model.output(x).tolist() == [10.0 if float(row) <= threshold else 30.0]


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("feature", 0, 2),  # there are two features
        ("feature", 0, -2),
        ("left", 0, 0),  # a circle
        ("left", 1, 0),  # back to its parent
        ("right", 0, 5),  # behind the last node
        ("left", 2, 3),  # a leaf that leads on
        ("roots", 0, 5),
        ("roots", 0, -1),
        ("threshold", 0, float("nan")),
        ("value", 2, float("inf")),
    ],
)
def test_a_tree_that_is_none_is_damaged(name: str, place: int, value: float) -> None:
    arrays, meta = made(STUMPED).to_arrays()
    changed = arrays[name].copy()
    changed[place] = value
    with pytest.raises(InvalidRequest) as caught:
        Registry().model({**arrays, name: changed}, meta)
    assert caught.value.code == "predictor_file_damaged"


def test_a_tree_as_deep_as_a_well_is_damaged() -> None:
    deep = 300
    inner, leaf = np.arange(deep), np.full(deep + 1, -1)
    chain = Tree(
        feature=np.concatenate([0 * inner, leaf]),
        threshold=np.zeros(2 * deep + 1),
        left=np.concatenate([inner + deep, 0 * leaf]),
        right=np.concatenate([inner[1:], [2 * deep], 0 * leaf]),
        value=np.zeros(2 * deep + 1),
    )
    with pytest.raises(InvalidRequest, match="deeper"):
        Registry().model(*made(chain).to_arrays())
