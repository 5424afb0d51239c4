"""Claims of adaptations: who holds one, who has lost it, and how often a step is begun."""

import pytest

from benchfarm_core.adapting import AdaptationState, AdaptedPredictor
from benchfarm_store import adaptations
from tests.adapting_lab import AdaptingLab


@pytest.fixture
def lab(farm, ann, agent):
    return AdaptingLab(farm, ann, agent)


def claim(lab, adaptation_id, for_s=60.0):
    with lab.farm.transaction() as tx:
        found = adaptations.claim(tx, adaptation_id, for_s)
    assert found is not None
    return found


def test_who_lost_a_claim_neither_renews_nor_gives_back_anothers(lab):
    made = lab.start()
    first = claim(lab, made.id, for_s=-1)
    second = claim(lab, made.id)
    with lab.farm.transaction() as tx:
        assert adaptations.renew(tx, first) is None
        adaptations.release(tx, first)
    with lab.farm.transaction() as tx:
        assert adaptations.claim(tx, made.id) is None, "the second one's claim stands"
        renewed = adaptations.renew(tx, second, for_s=600)
        assert renewed is not None
        assert renewed.claimed_until > second.claimed_until
        assert adaptations.renew(tx, second) is None, "a claim that was renewed is another one"
        adaptations.release(tx, renewed)
    assert claim(lab, made.id)


def test_steps_that_came_to_no_end_are_counted_and_waiting_is_none(lab):
    made = lab.start()
    for _ in range(5):
        one = claim(lab, made.id)
        assert one.attempts == 1
        with lab.farm.transaction() as tx:
            adaptations.release(tx, one)
    assert [claim(lab, made.id, for_s=-1).attempts for _ in range(3)] == [1, 2, 3]
    late = claim(lab, made.id)
    with lab.farm.transaction() as tx:
        assert adaptations.hold(tx, late)
        adaptations.move(tx, late, AdaptationState.PROBING)
    assert claim(lab, made.id).attempts == 1, "it was brought on"


def test_whether_any_step_is_due(lab):
    with lab.farm.transaction() as tx:
        assert not adaptations.is_any_due(tx)
    made = lab.start()
    with lab.farm.transaction() as tx:
        assert adaptations.is_any_due(tx)
    claim(lab, made.id)
    with lab.farm.transaction() as tx:
        assert not adaptations.is_any_due(tx), "somebody takes it"


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_one_that_is_broken_off_while_it_is_judged_says_what_answers(lab, end):
    made = lab.start()
    lab.move(made.id, "probing", "training", "judging")
    one = lab.claimed(made.id)
    answers = AdaptedPredictor(
        subject="model", predictor_id="pr_1", version=1, is_active=True, detail="the first one", holdout=None,
        unseen=None, before=None,
    )  # fmt: skip
    with lab.farm.transaction() as tx:
        adaptations.keep_predictor(tx, one, answers)
        if end == "cancelled":
            adaptations.cancel(tx, made.id, by=lab.by)
        else:
            adaptations.move(tx, one, AdaptationState.FAILED, "three tries")
    ended = lab.view(made.id)
    begins = "cancelled by ann" if end == "cancelled" else "three tries"
    assert (ended.state, ended.reason) == (end, f"{begins}; published before that: model")
