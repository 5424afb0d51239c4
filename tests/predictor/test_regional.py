"""Weights by region: told by what models are made of, the same from a file, and never what nobody wrote."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.combined import Regional
from benchfarm_predictor.composition import fit_whole_model
from benchfarm_predictor.conformal import calibrate
from benchfarm_predictor.kernel_lists import CountedKernel, KernelLists
from benchfarm_predictor.models import Model
from benchfarm_predictor.predictions import answer
from benchfarm_predictor.predictor_file import Header, Lineage, Predictor
from benchfarm_predictor.registry import Registry
from benchfarm_predictor.sums import SumFeatures
from benchfarm_predictor.trained_range import TrainedRange
from tests.predictor.rows import noisy, whole_ms

CONVS: list[CountedKernel] = [("conv-bn-act", {"hw": 28, "cin": 32, "cout": 64, "k": 3, "s": 1, "act": "relu"}, 4)]
TOKENS: list[CountedKernel] = [("linear", {"seq": 64, "cin": 192, "cout": 192, "act": "none"}, 6)]
STRANGE: list[CountedKernel] = [("dwconv-bn-act", {"hw": 14, "cin": 96, "k": 5, "s": 1, "act": "relu"}, 9)]
FEATURES = SumFeatures("shares")


def lists(*kinds: list[CountedKernel], count: int = 12) -> KernelLists:
    """Of each kind, ever more kernels."""
    return KernelLists.of(
        [(name, config, times + at) for name, config, times in kind] for kind in kinds for at in range(count)
    )


def whole(factor: float) -> Model:
    rows = lists(CONVS, TOKENS, STRANGE)
    return fit_whole_model(rows, factor * whole_ms(rows)).model


@pytest.fixture(scope="module")
def regional() -> Regional:
    """Twice the sums for convolutions, three times for tokens, the geometric mean of both elsewhere."""
    x = [FEATURES.matrix(lists(kind)) for kind in (CONVS, TOKENS)]
    return Regional(
        members=(whole(1.0), whole(4.0)),
        weights=np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]),
        offsets=np.array([np.log(2.0), np.log(0.75), 0.0]),
        regions=("convs", "tokens"),
        features=FEATURES,
        centres=np.stack([each.mean(axis=0) for each in x]),
        scales=np.stack([np.maximum(each.std(axis=0), 0.1) for each in x]),
        radii=np.array([1.0, 1.0]),
        widenings=np.array([1.0, 1.5, 4.0]),
    )


def test_each_region_has_its_own_weights(regional: Regional) -> None:
    batch = lists(CONVS, TOKENS, STRANGE)
    assert regional.places(batch).tolist() == [0] * 12 + [1] * 12 + [2] * 12
    ratio = regional.predict(batch) / whole_ms(batch)
    assert ratio == pytest.approx([2.0] * 12 + [3.0] * 12 + [2.0] * 12, rel=0.05)


def test_rows_do_not_see_each_other(regional: Regional) -> None:
    batch = lists(CONVS, TOKENS, STRANGE)
    alone = [regional.predict(batch.take(slice(at, at + 1)))[0] for at in range(len(batch))]
    assert alone == pytest.approx(regional.predict(batch).tolist())
    assert regional.predict(KernelLists.of([])).tolist() == []


def test_it_survives_its_arrays(regional: Regional) -> None:
    batch = lists(CONVS, TOKENS, STRANGE)
    again = Registry().model(*regional.to_arrays())
    assert again.predict(batch).tolist() == regional.predict(batch).tolist()


def test_without_regions_it_is_elsewhere_everywhere(regional: Regional) -> None:
    none = replace(
        regional,
        weights=regional.weights[2:],
        offsets=regional.offsets[2:],
        regions=(),
        centres=regional.centres[:0],
        scales=regional.scales[:0],
        radii=regional.radii[:0],
        widenings=regional.widenings[2:],
    )
    batch = lists(CONVS, TOKENS)
    assert Registry().model(*none.to_arrays()).predict(batch).tolist() == none.predict(batch).tolist()
    assert not none.is_sampled(none.places(batch)).any()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights", np.zeros((2, 2))),
        ("offsets", np.zeros(2)),
        ("radii", np.array([1.0, 0.0])),
        ("scales", np.zeros((2, len(FEATURES.names)))),
        ("centres", np.full((2, len(FEATURES.names)), np.nan)),
        ("widenings", np.array([1.0, 0.5, 1.0])),
        ("widenings", np.array([1.0, 1e9, 1.0])),
    ],
)
def test_damage_is_refused(regional: Regional, name: str, value: Any) -> None:
    arrays, meta = regional.to_arrays()
    with pytest.raises(InvalidRequest) as caught:
        Registry().model({**arrays, name: value}, meta)
    assert caught.value.code == "predictor_file_damaged"


def test_an_answer_is_wider_in_its_region_and_strange_elsewhere(regional: Regional) -> None:
    rows = lists(CONVS, TOKENS, STRANGE)
    intervals = calibrate(whole_ms(rows), noisy(whole_ms(rows), 0.02))
    header = Header(
        kernel_type="model", platform="p", lineage=Lineage(data_hash="x", rule_version=1, code_version="0.1.0")
    )
    found = answer(
        Predictor(header, regional, intervals, TrainedRange.of(rows)), lists(CONVS, TOKENS, STRANGE, count=2)
    )
    width = intervals.widths[0]
    assert found.high_ms / found.latency_ms == pytest.approx([width] * 2 + [1.5 * width] * 2 + [4 * width] * 2)
    assert [bool(said) for said in found.outside] == [False] * 4 + [True] * 2
    assert not any(found.unknown)
    assert found.coverage.tolist() == [0.9] * 4 + [0.0] * 2


def test_a_region_that_is_lent_promises_nothing(regional: Regional) -> None:
    """No row of this platform lies in it: how wide its intervals are is a rule."""
    rows = lists(CONVS, TOKENS, STRANGE)
    header = Header(
        kernel_type="model", platform="p", lineage=Lineage(data_hash="x", rule_version=1, code_version="0.1.0")
    )
    model = Registry().model(*replace(regional, lent=1).to_arrays())
    found = answer(
        Predictor(header, model, calibrate(whole_ms(rows), noisy(whole_ms(rows), 0.02)), TrainedRange.of(rows)),
        lists(CONVS, TOKENS, STRANGE, count=2),
    )
    assert found.coverage.tolist() == [0.9] * 2 + [0.0] * 4
    assert [any("like no measured" in said for said in each) for each in found.outside] == [False] * 4 + [True] * 2
    arrays, meta = regional.to_arrays()
    with pytest.raises(InvalidRequest, match="lent"):
        Registry().model(arrays, {**meta, "lent": 3})


def test_members_that_a_region_does_not_use_say_nothing_of_what_is_unknown(regional: Regional) -> None:
    """A ridge of token networks never saw a convolution, and needs not."""
    convs, tokens = (fit_whole_model(lists(kind), whole_ms(lists(kind))).model for kind in (CONVS, TOKENS))
    both = lists(CONVS, TOKENS)
    model = replace(regional, members=(convs, tokens))
    header = Header(
        kernel_type="model", platform="p", lineage=Lineage(data_hash="x", rule_version=1, code_version="0.1.0")
    )
    found = answer(Predictor(header, model, None, TrainedRange.of(both)), lists(CONVS, TOKENS, STRANGE, count=1))
    assert found.unknown == ((), (), ("dwconv-bn-act",))
