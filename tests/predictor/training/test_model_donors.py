"""Donors of whole models: judged by what they will be asked, the kernels that the target's engine makes of them."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from benchfarm_core.measurements import Purpose
from benchfarm_predictor.smooth import Smooth
from benchfarm_predictor.training import model_candidates, platform_fit
from benchfarm_predictor.training.candidates import problem_of
from benchfarm_predictor.training.model_donors import PlatformDonor, model_views
from benchfarm_predictor.training.platform_fit import donor_of, fit_model, judge
from benchfarm_predictor.training.platform_rows import PlatformRows
from tests.predictor.training.farm_rows import MOBILE, Platform, kernel_rows, model_rows, training_rows

PLATFORM = Platform(1)
BORROWER = Platform(2, likeness=PLATFORM)


@cache
def lender() -> PlatformDonor:
    """Its engine computes a layer with its activation."""
    return donor_of(PlatformRows.of(training_rows(PLATFORM, model_rows(PLATFORM, MOBILE, 40))))


def own_rows(count: int, fused: bool, start: int = 0) -> PlatformRows:
    return PlatformRows.of(training_rows(BORROWER, model_rows(BORROWER, MOBILE, count, start=start, fused=fused)))


@pytest.mark.parametrize("fused", [True, False])
def test_what_is_said_unseen_is_of_the_kernels_that_will_be_asked(fused: bool) -> None:
    """How far the donor was off when it had not seen a network is what it was off there, on the kernels of here."""
    donor, rows = lender(), own_rows(20, fused).models
    [view] = model_views([donor], rows, 0)
    assert donor.model is not None
    assert donor.models is not None
    places = [donor.models.ids.index(name) for name in rows.ids]
    off = np.log(donor.unseen_ms / donor.model.predict(donor.models.lists))[places]
    assert view.predicted - np.log(donor.model.predict(rows.lists)) == pytest.approx(off, abs=1e-9)
    assert np.abs(off).max() > 1e-4, "else this would say nothing"
    measured = donor.models.latency_ms[places]
    assert np.exp(view.measured - view.predicted) == pytest.approx(measured / donor.unseen_ms[places])


def test_engines_that_fuse_otherwise_are_judged_as_they_will_answer() -> None:
    fit = fit_model(own_rows(15, fused=False), [lender()])
    assert fit.unseen is not None
    assert fit.donors == (PLATFORM.key,)
    held = model_rows(BORROWER, MOBILE, 40, start=40, fused=False, purpose=Purpose.HOLDOUT)
    met = judge(fit.predictor, training_rows(BORROWER, held))
    assert met.mape < 1.2 * fit.unseen.mape
    assert met.coverage >= 0.9


def test_networks_that_the_donor_never_measured_are_said_as_predicted() -> None:
    donor, rows = lender(), own_rows(12, fused=True, start=60).models
    [view] = model_views([donor], rows, 0)
    assert donor.model is not None
    assert np.exp(view.predicted) == pytest.approx(donor.model.predict(rows.lists))
    assert np.isnan(view.measured).all()


def test_few_rows_call_a_donor_alike_only_where_that_is_asked() -> None:
    rows = own_rows(4, fused=True).models
    assert model_views([lender()], rows, 0) == ()
    assert [view.name for view in model_views([lender()], rows, 0, least=3)] == [PLATFORM.key]


def test_of_two_donors_of_one_name_the_first_lends() -> None:
    first, rows = lender(), own_rows(12, fused=True).models
    second = replace(first, unseen_ms=2 * first.unseen_ms)
    [view], [alone] = (model_views(donors, rows, 0) for donors in ([first, second], [first]))
    assert view.predicted.tolist() == alone.predicted.tolist()
    kernels = PlatformRows.of(training_rows(PLATFORM, [], kernel_rows(PLATFORM, "fc", 12))).alone["fc"]
    donor = platform_fit.donor_of(PlatformRows.of(training_rows(PLATFORM, [], kernel_rows(PLATFORM, "fc", 20)))).alone[
        "fc"
    ]
    views = [each.over(kernels.kernels) for each in (donor, replace(donor, unseen_ms=2 * donor.unseen_ms))]
    assert problem_of(kernels, tuple(views), 0).donors == (views[0],)


def test_what_a_donor_and_a_surface_learn_from_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they cost is a power of three of the rows."""
    monkeypatch.setattr(platform_fit, "DONOR_MODELS", 15)
    monkeypatch.setattr(model_candidates, "SURFACE_ROWS", 12)
    own = PlatformRows.of(training_rows(PLATFORM, model_rows(PLATFORM, MOBILE, 20)))
    donor, again = donor_of(own), donor_of(own)
    assert donor.models is not None
    assert (len(donor.models), len(donor.unseen_ms)) == (15, 15)
    assert again.models is not None
    assert donor.models.ids == again.models.ids
    assert donor.models.ids != own.models.ids[:15], "drawn"
    surface = dict(model_candidates._CORRECTIONS)["smooth"](own.models.lists, own.models.log_ms, 0)
    assert isinstance(surface, Smooth)
    assert len(surface.points) == 12
    assert np.abs(np.log(surface.predict(own.models.lists)) - own.models.log_ms).max() < 0.5
