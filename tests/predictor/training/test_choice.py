"""The automatic choice: by what is said of rows unseen, and nothing else."""

import numpy as np
import pytest

from benchfarm_predictor.combined import Stacked
from benchfarm_predictor.conformal import calibrate
from benchfarm_predictor.kernels import Floats
from benchfarm_predictor.training.candidates import Candidate, problem_of
from benchfarm_predictor.training.choice import MEMBERS_MAX, choose, choose_model, of_families
from benchfarm_predictor.training.losses import HALF, losses
from tests.predictor.rows import drawn
from tests.predictor.training.platforms import TYPE, donor, measured

ROWS = 200
TARGET = np.linspace(-2, 2, ROWS)


def candidate(name: str, errors: Floats) -> Candidate:
    return Candidate(name, "scratch", donor(12).model, TARGET + errors)


def errors(scale: float, seed: int) -> Floats:
    return scale * np.random.default_rng(seed).standard_normal(ROWS)


def test_the_best_stands_alone_where_it_is_clear() -> None:
    choice = choose(TARGET, [candidate("poor", errors(0.5, 1)), candidate("good", errors(0.03, 2))])
    assert (choice.names, choice.weights) == (("good",), (1.0,))
    assert choice.loss == pytest.approx(losses(choice.unseen - TARGET).mean())


def test_equals_share_and_are_better_together() -> None:
    found = [candidate(str(seed), errors(0.1, seed)) for seed in range(3)]
    choice = choose(TARGET, found)
    assert sorted(choice.names) == ["0", "1", "2"]
    assert sum(choice.weights) == pytest.approx(1)
    assert choice.loss < min(losses(each.unseen - TARGET).mean() for each in found)


def test_a_mean_that_is_worse_than_its_best_member_is_not_taken() -> None:
    """Each is right where the other is far off: the mean is off everywhere."""
    odd = np.arange(ROWS) % 2 == 1
    found = [candidate("odd", np.where(odd, 0.0, 3.0)), candidate("even", np.where(odd, 3.0, 0.0))]
    choice = choose(TARGET, found)
    assert len(choice.names) == 1
    assert 0.5 <= choice.loss < 0.7, "either is as good: the other parts of the rows now choose this, now that"


def test_the_number_of_members_is_bounded() -> None:
    assert len(choose(TARGET, [candidate(str(seed), errors(0.1, seed)) for seed in range(20)]).names) <= MEMBERS_MAX


def test_the_best_comes_first() -> None:
    found = [candidate(str(seed), errors(0.1 + 0.01 * seed, seed)) for seed in range(4)]
    means = {each.name: losses(each.unseen - TARGET).mean() for each in found}
    assert choose(TARGET, found).names[0] == min(means, key=means.__getitem__)


def test_the_model_is_the_members_weighted_geometric_mean() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    rows, other = measured(40, seed=1), drawn(TYPE, 30, seed=9)
    choice = choose_model(problem_of(rows, (donor(40, seed=1).over(rows.kernels),), seed=2))
    logs = np.stack([np.log(member.model.predict(other)) for member in choice.members])
    assert choice.model.predict(other) == pytest.approx(np.exp(np.array(choice.weights) @ logs))
    assert isinstance(choice.model, Stacked) == (len(choice.members) > 1)


def test_losses_are_a_smooth_share_beyond_ten_percent() -> None:
    assert losses(np.array([0.0, HALF, -HALF, 100.0])).tolist() == pytest.approx([0, 0.5, 0.5, 1])


def test_what_is_said_of_a_row_was_not_chosen_by_it() -> None:
    """One row becomes much easier for one candidate: others may be predicted by another choice now, this one not."""
    found = [candidate(str(seed), errors(0.1, seed)) for seed in range(8)]
    before = choose(TARGET, found).unseen
    for row in (0, 7, 101):
        changed = TARGET.copy()
        changed[row] = found[3].unseen[row]
        after = choose(changed, found).unseen
        assert after[row] == before[row]
        assert (after != before).any()


GROUPS = np.repeat([0, 1, 2], [ROWS - 20, 10, 10])


def test_of_groups_that_were_held_back_each_counts_as_much_as_any_other() -> None:
    narrow = candidate("narrow", np.where(GROUPS == 0, errors(0.02, 1), 0.3 + errors(0.02, 1)))
    broad = candidate("broad", errors(0.08, 2))
    assert choose(TARGET, [narrow, broad]).names[0] == "narrow"
    assert choose(TARGET, [narrow, broad], GROUPS).names[0] == "broad"


def test_what_is_said_of_a_row_was_not_chosen_by_its_group() -> None:
    found = [candidate(str(seed), errors(0.1, seed)) for seed in range(8)]
    before = choose(TARGET, found, GROUPS).unseen
    for group in range(3):
        own = group == GROUPS
        changed = np.where(own, found[3].unseen, TARGET)
        after = choose(changed, found, GROUPS).unseen
        assert (after[own] == before[own]).all()
        assert (after != before).any()


def test_one_group_alone_tells_by_its_rows() -> None:
    found = [candidate("good", errors(0.1, 1)), candidate("poor", errors(0.3, 2)), candidate("as good", errors(0.1, 3))]
    alone = choose(TARGET, found, np.zeros(ROWS, dtype=np.int64))
    assert set(alone.names) == {"good", "as good"}
    assert (alone.unseen != np.array(alone.weights) @ [TARGET + errors(0.1, 1), TARGET + errors(0.1, 3)]).any()


def test_of_groups_it_counts_how_far_off_hopeless_ones_are() -> None:
    """Both lose all that is to be lost: only one of them is off by a factor of twenty."""
    far = candidate("far", np.where(GROUPS == 1, 3.0, 0.3))
    near = candidate("near", np.where(GROUPS == 1, 0.6, 0.32))
    found = [far, near]
    assert choose(TARGET, found).names[0] == "far"
    assert choose(TARGET, found, GROUPS).names[0] == "near"


def test_intervals_of_a_choice_hold_for_new_rows() -> None:
    """Forty candidates that nobody can tell apart and thirty rows: those that look best on them are not the best."""
    chance, model = np.random.default_rng(5), donor(12).model
    shares = []
    for _ in range(150):
        off = 0.12 * chance.standard_normal((40, 230)) * chance.lognormal(0, 0.5, 230)
        target = np.zeros(30)
        found = [Candidate(str(at), "scratch", model, row[:30]) for at, row in enumerate(off)]
        choice = choose(target, found)
        said = np.array(choice.weights) @ off[[int(name) for name in choice.names], 30:]
        low, high = calibrate(np.exp(choice.unseen), np.ones(30)).bounds(np.exp(said))
        shares.append(np.mean((low <= 1) & (high >= 1)))
    assert 0.88 <= np.mean(shares) <= 0.95


def test_families() -> None:
    found = [Candidate(family, family, donor(12).model, TARGET) for family in ("scratch", "stacked", "residual")]
    assert [each.name for each in of_families(found, "stacked", "scratch")] == ["scratch", "stacked"]
