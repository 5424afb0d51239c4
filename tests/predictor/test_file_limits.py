"""What a predictor file within its bytes may ask for: what would take gigabytes is damage, all else takes megabytes."""

import tracemalloc

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.combined import Mean
from benchfarm_predictor.features import KernelFeatures, View, kernel_features
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.models import Model
from benchfarm_predictor.networks import MAX_WIDTH, Layer, Network
from benchfarm_predictor.predictor_file import Header, Lineage, Predictor, read, write
from benchfarm_predictor.registry import MAX_COLUMNS, MAX_TABLES
from benchfarm_predictor.ridge import Ridge
from benchfarm_predictor.smooth import MAX_POINTS, Smooth
from benchfarm_predictor.trees import MAX_TREES, Forest, Trees

HEADER = Header(
    kernel_type="their-conv",
    platform="sim/c0.t1.free/ncnn-1/fp32",
    lineage=Lineage(data_hash="a" * 64, rule_version=3, code_version="0.1.0"),
)
MB = 2**20


def rows(count: int) -> Kernels:
    return Kernels.of_rows("their-conv", ["a"], np.arange(count)[:, None])


def one_column() -> KernelFeatures:
    return kernel_features(rows(0), "lines").select(("a",))


def surface(points: int, columns: tuple[str, ...] = ("a",)) -> Model:
    features = one_column().select(columns)
    at = np.linspace(0, 1000, points * len(columns)).reshape(points, len(columns))
    return Smooth(features, at, np.full(points, 1e-6), reach=2.0, offset=0.0)


def network(width: int) -> Model:
    ones, zeros = np.full((width, 1), 1e-3, dtype=np.float32), np.zeros(width, dtype=np.float32)
    layers = (Layer(ones, zeros, "relu"), Layer(ones.T.copy(), zeros[:1]))
    return Network(one_column(), layers, np.zeros(1), np.ones(1), target="ms")


def forest(trees: int) -> Model:
    """Every tree is the same leaf."""
    leaf = Forest(
        np.array([-1], dtype=np.int32),
        np.zeros(1),
        np.zeros(1, dtype=np.int32),
        np.zeros(1, dtype=np.int32),
        np.zeros(1),
        np.zeros(trees, dtype=np.int32),
    )
    return Trees(one_column(), leaf)


def ridge(columns: int, view: View = "quadratic") -> Model:
    """On one of the products of so many columns."""
    names = tuple(f"c{number}" for number in range(columns))
    features = KernelFeatures("their-conv", names, view).select(("log2_c0",))
    return Ridge(features, np.ones(1), np.zeros(1), np.ones(1), 0.0, "log", 1e-6)


def tables(count: int) -> Model:
    return Mean(tuple(ridge(number + 1) for number in range(count)))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (surface(MAX_POINTS + 1), "points"),
        (surface(MAX_POINTS + 1, columns=()), "points"),
        (network(MAX_WIDTH + 1), "outputs"),
        (forest(MAX_TREES + 1), "trees"),
        (ridge(MAX_COLUMNS + 1), "columns"),
        (tables(MAX_TABLES + 1), "tables"),
    ],
)
def test_what_would_ask_for_gigabytes_is_refused(model: Model, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        read(write(Predictor(HEADER, model)))
    assert refused.value.code == "predictor_file_damaged"


@pytest.mark.parametrize(
    "model", [surface(MAX_POINTS), network(MAX_WIDTH), forest(MAX_TREES), ridge(MAX_COLUMNS), tables(MAX_TABLES)]
)
def test_the_largest_that_is_read_predicts_within_a_hundred_megabytes(model: Model) -> None:
    found, batch = read(write(Predictor(HEADER, model))), rows(5000)
    tracemalloc.start()
    try:
        predicted = found.model.predict(batch)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.isfinite(predicted).all()
    assert peak_bytes < 100 * MB


def test_rows_are_predicted_alike_however_many_there_are() -> None:
    batch = rows(1000)
    for model in (surface(2500), network(MAX_WIDTH), forest(10)):
        one_by_one = [model.predict(batch.take(np.array([row])))[0] for row in (0, 499, 999)]
        assert model.predict(batch)[[0, 499, 999]] == pytest.approx(one_by_one, rel=1e-9)


def test_selected_features_are_not_kept_by_the_batch() -> None:
    """A file may select thousands of times from one view."""
    batch = rows(10)
    for name in ("log2_a", "a_mod4", "a_mod8"):
        kernel_features(batch).select((name,)).matrix(batch)
    assert len(batch.matrices) == 1
