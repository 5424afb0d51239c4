"""Candidates: what each says of a row never depends on that row."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from benchfarm_predictor.registry import Registry
from benchfarm_predictor.ridge import Ridge
from benchfarm_predictor.training.candidates import Candidate, Problem, candidates, problem_of
from benchfarm_predictor.training.donors import Donor
from benchfarm_predictor.training.losses import losses
from benchfarm_predictor.training.measured import Measured
from tests.predictor.rows import drawn
from tests.predictor.training.platforms import TYPE, donor, measured

pytest.importorskip("sklearn", reason="scikit-learn is not installed")


@pytest.fixture(scope="module")
def rows() -> Measured:
    return measured(60, seed=1)


@pytest.fixture(scope="module")
def donors() -> tuple[Donor, ...]:
    """One that measured the same configurations and one that measured others."""
    return replace(donor(60, seed=1), name="same"), replace(donor(90, seed=5), name="other")


@pytest.fixture(scope="module")
def problem(rows: Measured, donors: tuple[Donor, ...]) -> Problem:
    return problem_of(rows, tuple(each.over(rows.kernels) for each in donors), seed=3)


@pytest.fixture(scope="module")
def found(problem: Problem) -> list[Candidate]:
    return list(candidates(problem))


def test_every_way_to_use_donors_is_tried_once(found: list[Candidate]) -> None:
    names = [candidate.name for candidate in found]
    assert len(set(names)) == len(names)
    assert {candidate.family for candidate in found} == {"scratch", "scale-only", "residual", "stacked"}
    assert {
        "ridge",
        "ridge+smooth",
        "ridge+extra-trees",
        "same (paired)+smooth",
        "stack (paired)",
        "stack (paired)+ridge",
    } <= set(names)
    assert not any(name.startswith("other (paired)") for name in names), "it measured none of the rows"


def test_of_many_rows_trees_correct_the_ridge_and_the_best_of_the_other_bases(
    problem: Problem, found: list[Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take most of the time, and a refresh with a thousand rows has to end in ten seconds."""

    def with_trees(some: list[Candidate]) -> set[str]:
        return {each.name.partition("+")[0] for each in some if each.name.endswith("-trees")}

    assert len(with_trees(found)) > 3
    monkeypatch.setattr("benchfarm_predictor.training.candidates.MANY_ROWS", len(problem.measured) - 1)
    of_many = list(candidates(problem))
    [other] = with_trees(of_many) - {"ridge"}
    light = [each for each in of_many if not each.name.endswith("-trees") and not each.name.startswith("ridge")]
    lost = {each.name: losses(each.unseen - problem.target).mean() for each in light if each.family != "scale-only"}
    assert min(lost, key=lost.__getitem__).partition("+")[0] == other
    assert {each.name for each in light} == {each.name for each in found} - {
        each.name for each in found if each.name.endswith("-trees") or each.name.startswith("ridge")
    }


def test_without_donors_nothing_is_transferred(rows: Measured) -> None:
    assert {each.family for each in candidates(problem_of(rows, (), seed=3))} == {"scratch"}


def changed(problem: Problem, at: int) -> Iterator[tuple[Candidate, Candidate]]:
    """Every candidate, and the same after the rows of one fold became ten times as slow; the folds stay."""
    latency_ms = problem.measured.latency_ms.copy()
    latency_ms[problem.folds[at].held] *= 10
    other = Problem(Measured(problem.kernels, latency_ms), problem.donors, problem.folds, problem.seed)
    return zip(candidates(problem), candidates(other), strict=True)


def test_what_is_said_of_a_fold_does_not_depend_on_its_rows(problem: Problem) -> None:
    held = problem.folds[2].held
    for before, after in changed(problem, 2):
        assert after.unseen[held] == pytest.approx(before.unseen[held], rel=1e-9), before.name
        others = np.setdiff1d(np.arange(len(before.unseen)), held)
        assert np.abs(after.unseen[others] - before.unseen[others]).max() > 1e-3, before.name


def test_what_is_said_unseen_is_as_good_as_what_is_said_of_new_rows(found: list[Candidate], rows: Measured) -> None:
    new = measured(300, seed=8)
    for candidate in found:
        unseen = np.abs(candidate.unseen - rows.log_ms).mean()
        met = np.abs(np.log(candidate.model.predict(new.kernels)) - new.log_ms).mean()
        assert met < 2.5 * unseen + 0.02, candidate.name


def test_scratch_falls_back_to_a_ridge_where_its_rows_end(found: list[Candidate]) -> None:
    for candidate in found:
        if candidate.family == "scratch":
            base = getattr(candidate.model, "base", candidate.model)
            assert isinstance(base, Ridge), candidate.name


def test_scale_only_is_the_donor_times_the_median_ratio(found: list[Candidate], problem: Problem) -> None:
    scaled = next(candidate for candidate in found if candidate.family == "scale-only")
    other = drawn(TYPE, 20, seed=7)
    ratio = scaled.model.predict(other) / problem.donors[0].donor.model.predict(other)
    expected = np.exp(np.median(problem.target - problem.donors[0].predicted))
    assert ratio == pytest.approx([expected] * 20)


def test_a_donor_helps_where_rows_are_few(rows: Measured, donors: tuple[Donor, ...]) -> None:
    few = rows.take(np.arange(20))
    problem = problem_of(few, tuple(each.over(few.kernels) for each in donors), seed=3)
    new = measured(300, seed=8)
    off = {
        each.name: np.abs(np.log(each.model.predict(new.kernels)) - new.log_ms).mean() for each in candidates(problem)
    }
    assert off["stack (paired)"] < 0.5 * off["ridge"]


def test_a_candidate_without_donors_is_a_predictor_file(rows: Measured) -> None:
    other = drawn(TYPE, 40, seed=4)
    for candidate in candidates(problem_of(rows, (), seed=3)):
        arrays, meta = candidate.model.to_arrays()
        said = Registry().model(arrays, meta).predict(other)
        assert said == pytest.approx(candidate.model.predict(other), rel=1e-6), candidate.name
