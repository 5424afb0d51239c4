"""Tables of search spaces against the predictor itself: the same numbers, bit for bit, however they are asked for."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchfarm_core.architectures import Architecture
from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor import table_file
from benchfarm_predictor.answers import answer_sheet, model_sheet
from benchfarm_predictor.combined import Mean, Regional, Scaled
from benchfarm_predictor.composition import KernelSum, TabledSum
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.predictions import Predictions
from benchfarm_predictor.predictor_file import Predictor, read, write
from benchfarm_predictor.space_tables import NOT_THERE, ROWS_AT_ONCE, Bools, SpaceTable, compiled
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.network_kernels import NetworkKernels
from benchfarm_workloads.spaces import draws, space
from benchfarm_workloads.spaces.every_block import every_block
from tests.predictor.test_table_file import HEAD, KEYS, sign
from tests.predictor.whole_predictors import LEARNT, lists_of, narrowed, whole_predictors

SPACES = ("ofa_mobilenet_v3", "bert", "bignas")
KINDS = ("kernel sum", "ridge", "scaled", "residual", "smooth", "mean", "stacked", "regional")
COLUMNS = ("latency_ms", "low_ms", "high_ms", "coverage")


@cache
def predictors(name: str) -> dict[str, Predictor]:
    return whole_predictors(name)


@cache
def drawn(name: str) -> list[Architecture]:
    return draws(name, "asked", 150)


def table_of(predictor: Predictor, name: str, only: dict[str, tuple[int, ...]] | None = None) -> SpaceTable:
    blocks, slots = every_block(space(name), only or {})
    parts = [LEARNT.block(space(name), block) for block in blocks]
    return compiled(predictor, space(name), blocks, parts, slots, draws(name, "looked at", 50))


@cache
def table(name: str, kind: str) -> SpaceTable:
    return table_of(predictors(name)[kind], name)


def asked(predictor: Predictor, architectures: list[Architecture]) -> Predictions:
    """As the farm answers; kernels are counted anew, so that nothing is in the order of before."""
    known = NetworkKernels(FusionRules())
    items = [(at, known.parts(space(one.space), one.genes)) for at, one in enumerate(architectures)]
    return answer_sheet(predictor, model_sheet(items))


def said(made: SpaceTable, name: str, architectures: list[Architecture]) -> dict[str, Floats]:
    found = [part.numbers for part in made.answers(made.encode(space(name), architectures))]
    return {column: np.concatenate([getattr(part, column) for part in found]) for column in COLUMNS}


def check_same(predictor: Predictor, made: SpaceTable, architectures: list[Architecture]) -> dict[str, Floats]:
    own = said(made, architectures[0].space, architectures)
    farms = asked(predictor, architectures)
    for column in COLUMNS:
        np.testing.assert_array_equal(own[column], getattr(farms, column), err_msg=column)
    return own


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SPACES)
def test_a_table_says_what_its_predictor_says(name: str, kind: str) -> None:
    own = check_same(predictors(name)[kind], table(name, kind), drawn(name))
    assert len(np.unique(own["latency_ms"])) > 100
    assert (own["high_ms"] > own["low_ms"]).all()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KINDS), st.lists(st.integers(0, 149), min_size=1, max_size=40), st.sampled_from(SPACES))
def test_it_does_so_in_any_company(kind: str, rows: list[int], name: str) -> None:
    """Few or many at once, in any order, some of them twice: the same bits, of the farm and of the table."""
    check_same(predictors(name)[kind], table(name, kind), [drawn(name)[row] for row in rows])


def test_more_than_are_held_at_once_come_in_order() -> None:
    architectures = drawn("bert") * 120
    assert len(architectures) > ROWS_AT_ONCE
    made = table("bert", "regional")
    own, few = (said(made, "bert", each)["latency_ms"] for each in (architectures, drawn("bert")))
    np.testing.assert_array_equal(own, np.tile(few, 120))


@pytest.mark.parametrize("kind", ["kernel sum", "regional"])
def test_what_lies_outside_the_trained_range_is_widened_alike(kind: str) -> None:
    predictor = narrowed(predictors("ofa_mobilenet_v3")[kind])
    own = check_same(predictor, table_of(predictor, "ofa_mobilenet_v3"), drawn("ofa_mobilenet_v3"))
    plain = said(table("ofa_mobilenet_v3", kind), "ofa_mobilenet_v3", drawn("ofa_mobilenet_v3"))
    assert (own["high_ms"] > plain["high_ms"]).any()
    assert (own["coverage"] == 0).any()


def test_guessed_kernels_widen_alike() -> None:
    """Where no whole model with such kernels was seen a guess is unknown."""
    guessing = replace(predictors("ofa_mobilenet_v3")["kernel sum"], trained=None)
    own = check_same(guessing, table_of(guessing, "ofa_mobilenet_v3"), drawn("ofa_mobilenet_v3"))
    assert (own["coverage"] == 0).all()
    assert isinstance(guessing.model, KernelSum)
    seen = check_same(
        predictors("ofa_mobilenet_v3")["kernel sum"], table("ofa_mobilenet_v3", "kernel sum"), drawn("ofa_mobilenet_v3")
    )
    assert (own["high_ms"] > seen["high_ms"]).all()


def test_without_a_trained_range_or_intervals() -> None:
    predictor = replace(predictors("bert")["regional"], trained=None, intervals=None)
    own = check_same(predictor, table_of(predictor, "bert"), drawn("bert"))
    assert (own["coverage"] == 0).all()


def test_restricted_tables_lack_the_other_blocks() -> None:
    made = table_of(predictors("ofa_mobilenet_v3")["ridge"], "ofa_mobilenet_v3", {"hw": (128, 224)})
    codes = made.encode(space("ofa_mobilenet_v3"), drawn("ofa_mobilenet_v3"))
    sizes = np.array([one.genes["hw"] for one in drawn("ofa_mobilenet_v3")])
    lacks = (codes == NOT_THERE).any(axis=0)
    assert not lacks[np.isin(sizes, (128, 224))].any()
    assert lacks.any()
    assert len(made.blocks) < len(table("ofa_mobilenet_v3", "ridge").blocks)


def test_a_space_whose_kernels_were_never_seen_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="never saw kernels") as refused:
        table_of(predictors("bert")["ridge"], "ofa_mobilenet_v3")
    assert refused.value.code == "export_impossible"
    unguessing = predictors("bert")["kernel sum"]
    assert isinstance(unguessing.model, KernelSum)
    with pytest.raises(InvalidRequest, match="never saw kernels"):
        table_of(replace(unguessing, model=replace(unguessing.model, fallback=None)), "bignas")


def strangers_elsewhere(predictor: Predictor) -> Regional:
    """Regions of which elsewhere a model counts that never saw convolutions; what lies in the region is known."""
    assert isinstance(predictor.model, Regional)
    return replace(
        predictor.model,
        members=(*predictor.model.members, predictors("bert")["ridge"].model),
        weights=np.column_stack([predictor.model.weights, [0.0, 0.5]]),
        radii=0.6 * predictor.model.radii,
    )


def check_known(predictor: Predictor, made: SpaceTable) -> Bools:
    """What is known is told by the table as by the predictor itself: bool[n]."""
    architectures = drawn("ofa_mobilenet_v3")
    ((_, found, is_known),) = made.answers(made.encode(space("ofa_mobilenet_v3"), architectures))
    farms = asked(predictor, architectures)
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(found, column)[is_known], getattr(farms, column)[is_known], column)
    return is_known


def test_regions_of_other_kernels_are_left_out_and_their_architectures_have_no_number() -> None:
    predictor = predictors("ofa_mobilenet_v3")["regional"]
    strange = replace(predictor, model=strangers_elsewhere(predictor))
    made = table_of(strange, "ofa_mobilenet_v3")
    assert made.regions == ((0,),)
    assert isinstance(made.predictor.model, Regional)
    assert len(made.predictor.model.members) == 4  # neither the stranger nor what is used elsewhere alone
    is_known = check_known(strange, made)
    assert 0 < is_known.sum() < len(is_known)


def test_of_a_donor_within_only_the_regions_that_count_are_missed() -> None:
    """A donor has regions of its own, and may count in some regions of its borrower alone."""
    predictor, ridge = predictors("ofa_mobilenet_v3")["regional"], predictors("ofa_mobilenet_v3")["ridge"].model
    assert isinstance(predictor.model, Regional)
    lent = strangers_elsewhere(predictor)
    everywhere = replace(predictor, model=Mean((Scaled(lent, 1.2), ridge, lent)))
    outer = replace(
        predictor.model,
        members=(ridge, Scaled(lent, 1.2)),
        weights=np.array([[0.4, 0.6], [1.0, 0.0]]),
        radii=0.8 * predictor.model.radii,
    )
    within = replace(predictor, model=outer)
    known = []
    for one, regions in ((everywhere, ((0,),)), (within, ((0, 1), (0,)))):
        made = table_of(one, "ofa_mobilenet_v3")
        file = table_file.write(made, HEAD, "key_1", sign)
        kept, _ = table_file.read(file, KEYS)
        assert made.regions == kept.regions == regions
        known.append(check_known(one, made))
        np.testing.assert_array_equal(check_known(one, kept), known[-1])
    places = outer.places(lists_of("ofa_mobilenet_v3", 150, "asked"))
    np.testing.assert_array_equal(known[1], known[0] | (places == 1))
    assert known[0].sum() < known[1].sum() < 150


def test_sums_too_large_to_be_exact_are_refused() -> None:
    predictor = predictors("bert")["kernel sum"]
    assert isinstance(predictor.model, KernelSum)

    days = Scaled(predictor.model.kernels["linear"], 1e9)
    slow = replace(predictor.model, kernels={"linear": days}, guessed=frozenset())
    with pytest.raises(InvalidRequest, match="an architecture may have") as refused:
        table_of(replace(predictor, model=slow), "bert")
    assert refused.value.code == "export_impossible"


def test_a_part_of_a_table_is_no_predictor_of_kernel_lists() -> None:
    predictor = replace(predictors("bert")["ridge"], model=TabledSum(0, 1.0, 0.0, 0.0))
    with pytest.raises(InvalidRequest) as refused:
        read(write(predictor)).model.predict(lists_of("bert", 3))
    assert refused.value.code == "predictor_file_foreign"
