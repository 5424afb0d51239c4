"""Tables of predictors as training makes them, files in between: regions, sums of kernels and donors included."""

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.answers import answer_sheet, model_sheet
from benchfarm_predictor.combined import Regional
from benchfarm_predictor.predictor_file import Predictor, read
from benchfarm_predictor.space_tables import SpaceTable, compiled
from benchfarm_predictor.training.platform_fit import donor_of, fit_model
from benchfarm_predictor.training.platform_rows import PlatformRows
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.network_kernels import NetworkKernels
from benchfarm_workloads.spaces import draws, space
from benchfarm_workloads.spaces.every_block import every_block
from tests.predictor.training.farm_rows import MOBILE, RESNET, TOKENS, Platform, in_situ_rows, model_rows, training_rows

LENDER = Platform(1)
BORROWER = Platform(2, likeness=LENDER)
RULES = FusionRules()
ASKED = 80


def fitted(models: int, *, spaces: tuple[str, ...] = (MOBILE, RESNET), kernels: bool, lent: bool) -> Predictor:
    rows = [row for name in spaces for row in model_rows(BORROWER, name, models)]
    timed = in_situ_rows(BORROWER, MOBILE, 5, 12) if kernels else []
    donors = []
    if lent:
        own = training_rows(LENDER, model_rows(LENDER, MOBILE, 30), in_situ_rows(LENDER, MOBILE, 10, 15))
        donors = [donor_of(PlatformRows.of(own))]
    return read(fit_model(PlatformRows.of(training_rows(BORROWER, rows, timed)), donors).file())


def table_of(predictor: Predictor, name: str) -> SpaceTable:
    known, (blocks, slots) = NetworkKernels(RULES), every_block(space(name), {})
    parts = [known.block(space(name), block) for block in blocks]
    return compiled(predictor, space(name), blocks, parts, slots, draws(name, "looked at", 50))


def check_same(predictor: Predictor, name: str) -> None:
    known, asked, made = NetworkKernels(RULES), draws(name, "asked", ASKED), table_of(predictor, name)
    farms = answer_sheet(
        predictor, model_sheet((at, known.parts(space(name), one.genes)) for at, one in enumerate(asked))
    )
    ((_, own, is_known),) = made.answers(made.encode(space(name), asked))
    assert is_known.any()
    for column in ("latency_ms", "low_ms", "high_ms", "coverage"):
        np.testing.assert_array_equal(getattr(own, column)[is_known], getattr(farms, column)[is_known], column)


@pytest.mark.parametrize(("name", "lent"), [(MOBILE, True), (RESNET, False)])
def test_regions_with_kernels(name: str, lent: bool) -> None:
    predictor = fitted(20, kernels=True, lent=lent)
    assert isinstance(predictor.model, Regional)
    check_same(predictor, name)


@pytest.mark.parametrize(("kernels", "lent"), [(True, False), (False, True)])
def test_few_models(kernels: bool, lent: bool) -> None:
    check_same(fitted(4, spaces=(MOBILE,), kernels=kernels, lent=lent), MOBILE)


def test_a_space_of_other_kernels_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        table_of(fitted(12, spaces=(MOBILE,), kernels=False, lent=False), TOKENS)
    assert refused.value.code == "export_impossible"
