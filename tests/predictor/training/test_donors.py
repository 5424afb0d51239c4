"""Donors: of rows that they know by heart they say what they said before they knew them."""

from dataclasses import replace

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.training.candidates import problem_of
from benchfarm_predictor.training.donor_fits import fit_donor
from tests.predictor.rows import drawn
from tests.predictor.training.platforms import TYPE, donor, measured


def test_a_donors_own_rows_are_predicted_unseen() -> None:
    known = donor(30, seed=2)
    new = drawn(TYPE, 30, seed=11)
    both = Kernels(TYPE, new.columns, np.concatenate([new.values, known.measured.kernels.values[::-1]]))
    view = known.over(both)
    assert np.exp(view.predicted[30:]) == pytest.approx(known.unseen_ms[::-1])
    assert np.exp(view.measured[30:]) == pytest.approx(known.measured.latency_ms[::-1])
    assert np.exp(view.predicted[:30]) == pytest.approx(known.model.predict(new))
    assert np.isnan(view.measured[:30]).all()


def test_a_view_of_some_rows() -> None:
    known = donor(30, seed=2)
    view = known.over(known.measured.kernels)
    some = view.take(np.array([4, 1]))
    assert some.predicted.tolist() == [view.predicted[4], view.predicted[1]]
    assert some.measured.tolist() == [view.measured[4], view.measured[1]]


def test_the_most_alike_donor_comes_first() -> None:
    rows = measured(40, seed=1)
    good = replace(donor(30, seed=2), name="good")
    bad = replace(good, name="bad", model=Uneven(good.model))  # type: ignore[arg-type]
    for order in ((good, bad), (bad, good)):
        problem = problem_of(rows, tuple(each.over(rows.kernels) for each in order), seed=0)
        assert [view.donor.name for view in problem.donors] == ["good", "bad"]
        assert problem.far == ()


def test_a_donor_that_is_not_alike_is_left_out() -> None:
    rows = measured(40, seed=1)
    near = replace(donor(30, seed=2), name="near")
    far = replace(near, name="far", model=Reversed(near.model))  # type: ignore[arg-type]
    problem = problem_of(rows, tuple(each.over(rows.kernels) for each in (far, near)), seed=0)
    assert ([view.donor.name for view in problem.donors], problem.far) == (["near"], ("far",))


class Uneven:
    """Faster by half in every other row."""

    kind = "uneven"

    def __init__(self, model):
        self.model = model

    def predict(self, batch):
        return self.model.predict(batch) * np.where(np.arange(len(batch)) % 2, 1.5, 1 / 1.5)


class Reversed:
    """Slow where the other is fast."""

    kind = "reversed"

    def __init__(self, model):
        self.model = model

    def predict(self, batch):
        return 1 / self.model.predict(batch)


def test_a_donor_is_fitted_to_its_rows() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    rows, new = measured(150, seed=3), measured(150, seed=4)
    fitted = fit_donor("board", rows, seed=1)
    assert np.abs(np.log(fitted.model.predict(new.kernels)) - new.log_ms).mean() < 0.3
    said = np.abs(np.log(fitted.unseen_ms) - fitted.measured.log_ms).mean()
    by_heart = np.abs(np.log(fitted.model.predict(rows.kernels)) - rows.log_ms).mean()
    assert by_heart < said < 0.4


def test_a_donor_needs_rows_to_learn_from() -> None:
    rows = measured(30)
    with pytest.raises(InvalidRequest, match="nothing can be learnt"):
        fit_donor("board", replace(rows, latency_ms=np.full(30, 2.0)), seed=1)
