"""Likenesses in the store: when a platform is to be compared, and what is kept of it."""

import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import Timing
from benchfarm_core.messages import Task, TaskMessage, TrainingWork
from benchfarm_core.pool import Likeness, MatrixWanted
from benchfarm_store import likenesses
from benchfarm_workloads.probes import probe_set
from tests.store.probing import CONV, KEY, WIDE, Probing

PROBED = [one for one in probe_set().kernels if one.type == CONV]


@pytest.fixture
def probing(farm, ann, agent):
    return Probing(farm, ann, agent)


def likeness(donor: str, target: str, divergence: float, **changes) -> Likeness:
    fields = {
        "donor": donor,
        "target": target,
        "subject": CONV,
        "timing": Timing.ALONE,
        "divergence": divergence,
        "low": divergence / 2,
        "high": divergence * 2,
        "spearman": 0.5,
        "log_ratio_variance": 0.25,
        "count": 16,
        "is_near": divergence < 0.5,
    }
    return Likeness.model_validate(fields | changes)


def due(farm):
    with farm.transaction() as tx:
        return likenesses.due_members(tx)


def keep(farm, key, *found):
    with farm.transaction() as tx:
        (own,) = [one for one in likenesses.probed_platforms(tx) if one.id == key]
        likenesses.keep_platform(tx, own, found)


def test_a_platform_is_due_from_its_first_probes_until_it_is_compared(farm, probing):
    assert due(farm) == []
    probing.measure()
    assert due(farm) == [probing.id_of(KEY)]
    keep(farm, probing.id_of(KEY))
    assert due(farm) == []
    probing.measure(KEY, timing=Timing.IN_SITU)
    assert due(farm) == [probing.id_of(KEY)], "there is more to compare"
    keep(farm, probing.id_of(KEY))
    probing.measure()
    assert due(farm) == [probing.id_of(KEY)], "there is newer to compare"


def test_the_times_are_those_that_predictors_learn_from(farm, probing):
    probing.measure(KEY)
    probing.measure(KEY, timing=Timing.IN_SITU)
    with farm.transaction() as tx:
        (found,) = likenesses.probed_platforms(tx)
    assert found.id == probing.id_of(KEY)
    assert found.board_model == "host-a"
    assert {timing for _, timing in found.times} == set(Timing)
    assert len(found.times) == found.seen[0] == len(PROBED) + 9
    assert all(ms == pytest.approx(1, rel=0.01) for ms in found.times.values())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE summaries SET grade = 'D'",
        "UPDATE summaries SET normalised_ms = NULL",
        "UPDATE summaries SET rule_version = rule_version - 1",
        "UPDATE measurements SET origin_id = 2",
        "UPDATE measurements SET purpose = 'holdout'",
        "UPDATE boards SET generation_id = NULL",
        "UPDATE protocols SET public_id = 'of-another-version'",
    ],
)
def test_what_may_not_teach_is_not_compared_and_what_was_is_forgotten(farm, probing, statement):
    probing.measure(KEY, WIDE)
    own, other = probing.id_of(KEY), probing.id_of(WIDE)
    keep(farm, other)
    keep(farm, own, likeness(own, other, 0.1), likeness(other, own, 0.1))
    assert farm.scalar("SELECT count(*) FROM likenesses") == 2
    farm.run(statement)
    assert set(due(farm)) == {own, other}
    with farm.transaction() as tx:
        assert likenesses.probed_platforms(tx) == []
        for one in (own, other):
            likenesses.forget_platform(tx, one)
        likenesses.forget_platform(tx, "p_nobody")
    assert due(farm) == []
    assert farm.scalar("SELECT count(*) FROM likenesses") == 0


def test_what_was_cancelled_as_a_hold_out_is_compared_all_the_same(farm, probing):
    probing.measure(KEY)
    probing.ask(WIDE)
    farm.run("UPDATE measurements SET purpose = 'holdout' WHERE state = 'wanted'")
    with farm.transaction() as tx:
        assert likenesses.probed_platforms(tx) == []
    farm.run("UPDATE measurements SET state = 'cancelled' WHERE state = 'wanted'")
    with farm.transaction() as tx:
        assert [one.id for one in likenesses.probed_platforms(tx)] == [probing.id_of(KEY)]


def test_what_is_due_is_asked_of_the_process_that_trains(farm, probing):
    probing.measure()
    farm.messages.clear()
    with farm.transaction() as tx:
        assert likenesses.wake(tx) == 1
    wanted = TaskMessage(task=Task.TRAIN, args=(TrainingWork.LIKEN, probing.id_of(KEY)))
    assert farm.messages == [wanted]
    keep(farm, probing.id_of(KEY))
    with farm.transaction() as tx:
        assert likenesses.wake(tx) == 0


def test_donors_are_ranked_and_a_new_comparison_takes_the_place_of_the_old(farm, probing):
    probing.measure(KEY, WIDE)
    own, other = probing.id_of(KEY), probing.id_of(WIDE)
    keep(farm, own, likeness("e_far", own, 0.9), likeness(other, own, 0.2), likeness("e_near", own, 0.1))
    with farm.transaction() as tx:
        found = likenesses.ranked(tx, probing.row_of(KEY), CONV, Timing.ALONE)
        assert [one.donor for one in found] == ["e_near", other, "e_far"]
        assert found[0] == likeness("e_near", own, 0.1)
        assert likenesses.ranked(tx, probing.row_of(KEY), CONV, Timing.ALONE, [other]) == [likeness(other, own, 0.2)]
        assert likenesses.ranked(tx, probing.row_of(KEY), CONV, Timing.IN_SITU) == []
        assert likenesses.ranked(tx, probing.row_of(WIDE), CONV, Timing.ALONE) == []
    keep(farm, own, likeness(other, own, 0.3), likeness(own, other, 0.4))
    with farm.transaction() as tx:
        assert likenesses.ranked(tx, probing.row_of(KEY), CONV, Timing.ALONE) == [likeness(other, own, 0.3)]
        assert likenesses.ranked(tx, probing.row_of(WIDE), CONV, Timing.ALONE) == [likeness(own, other, 0.4)]
    keep(farm, other, likeness(own, other, 0.5))
    with farm.transaction() as tx:
        assert likenesses.ranked(tx, probing.row_of(KEY), CONV, Timing.ALONE) == [], "the pair was compared anew"


def test_the_matrix_has_pages_and_filters(farm, probing):
    probing.measure(KEY, WIDE)
    own, other = probing.id_of(KEY), probing.id_of(WIDE)
    keep(
        farm,
        own,
        likeness(other, own, 0.25),
        likeness(own, other, 0.5, spearman=None),
        likeness(other, own, 0.0, timing=Timing.IN_SITU),
        likeness(other, own, 0.125, subject="linear"),
    )
    with farm.transaction() as tx:
        whole = likenesses.list_likenesses(tx)
        first = likenesses.list_likenesses(tx, limit=3)
        rest = likenesses.list_likenesses(tx, cursor=first.next_cursor, limit=3)
        of_wide = likenesses.list_likenesses(tx, MatrixWanted(target=WIDE)).items
        in_situ = likenesses.list_likenesses(tx, MatrixWanted(subject=CONV, timing=Timing.IN_SITU)).items
        with pytest.raises(InvalidRequest):
            likenesses.list_likenesses(tx, MatrixWanted(target="nowhere"))
        with pytest.raises(InvalidRequest):
            likenesses.list_likenesses(tx, cursor="nonsense")
    assert len(whole.items) == 4
    assert [*first.items, *rest.items] == whole.items
    assert rest.next_cursor is None
    assert [(one.donor, one.target, one.divergence, one.spearman) for one in of_wide] == [(KEY, WIDE, 0.5, None)]
    assert [(one.donor_id, one.target_id, one.divergence, one.is_own) for one in in_situ] == [(other, own, 0.0, True)]


def test_one_compares_at_a_time(farm):
    with farm.transaction() as first:
        assert likenesses.hold(first)
        with farm.transaction() as second:
            assert not likenesses.hold(second)
    with farm.transaction() as third:
        assert likenesses.hold(third)
