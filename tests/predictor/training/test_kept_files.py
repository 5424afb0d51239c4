"""A fit promises what can be kept: its file is written and read before anybody pays for it."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor import predictor_file
from benchfarm_predictor.combined import Mean
from benchfarm_predictor.models import Model
from benchfarm_predictor.predictor_file import read
from benchfarm_predictor.registry import MAX_NESTING
from benchfarm_predictor.training.model_donors import PlatformDonor
from benchfarm_predictor.training.platform_fit import PlatformFit, donor_of, fit_kernel, fit_model
from benchfarm_predictor.training.platform_rows import PlatformRows
from tests.predictor.training.farm_rows import MOBILE, Platform, kernel_rows, model_rows, training_rows

PLATFORM = Platform(1)
BORROWER = Platform(2, likeness=PLATFORM)
TYPE = "linear"
Fit = Callable[[PlatformRows, list[PlatformDonor]], PlatformFit]


def of_kernels(rows: PlatformRows, donors: list[PlatformDonor]) -> PlatformFit:
    return fit_kernel(rows, TYPE, donors)


def of_models(rows: PlatformRows, donors: list[PlatformDonor]) -> PlatformFit:
    return fit_model(rows, donors)


@cache
def lender() -> PlatformDonor:
    rows = training_rows(PLATFORM, model_rows(PLATFORM, MOBILE, 30), kernel_rows(PLATFORM, TYPE, 60))
    return donor_of(PlatformRows.of(rows))


@cache
def own_rows(models: int = 12) -> PlatformRows:
    """Kernels alone would be summed where there are hardly any models."""
    kernels = kernel_rows(BORROWER, TYPE, 12) if models >= 12 else []
    return PlatformRows.of(training_rows(BORROWER, model_rows(BORROWER, MOBILE, models), kernels))


@cache
def fitted(fit: Fit, helped: bool) -> PlatformFit:
    """As it is without a limit."""
    return fit(own_rows(), [lender()] if helped else [])


def deep(model: Model) -> Model:
    for _ in range(MAX_NESTING):
        model = Mean((model,))
    return model


def too_deep() -> PlatformDonor:
    """It says what the lender says, in a way that no file can."""
    donor = lender()
    assert donor.model is not None
    alone = {name: replace(each, model=deep(each.model)) for name, each in donor.alone.items()}
    return replace(donor, model=deep(donor.model), alone=alone)


@pytest.mark.parametrize("fit", [of_kernels, of_models])
def test_what_cannot_be_read_is_fitted_without_donors(fit: Fit) -> None:
    assert fitted(fit, helped=True).donors == (PLATFORM.key,)
    made = fit(own_rows(), [too_deep()])
    assert made.donors == ()
    assert made.file() == fitted(fit, helped=False).file()
    assert read(made.file()).header == made.predictor.header


def test_what_is_too_large_is_fitted_without_donors(monkeypatch: pytest.MonkeyPatch) -> None:
    bare, whole = (len(fitted(of_models, helped).file()) for helped in (False, True))
    assert bare < whole
    monkeypatch.setattr(predictor_file, "MAX_FILE_BYTES", bare)
    assert fit_model(own_rows(), [lender()]).donors == ()


def test_what_is_too_large_by_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    donors = [lender()]
    monkeypatch.setattr(predictor_file, "MAX_FILE_BYTES", 100)
    with pytest.raises(InvalidRequest, match="cannot be kept") as caught:
        fit_model(own_rows(), donors)
    assert caught.value.code == "training_rows_invalid"


def test_a_donor_that_no_file_can_hold_does_not_stand_for_missing_rows() -> None:
    assert fit_model(own_rows(3), [lender()]).donors == (PLATFORM.key,)
    with pytest.raises(InvalidRequest, match="3 whole models are too few"):
        fit_model(own_rows(3), [too_deep()])
