"""What runs in many leases, told at once: as one by one, and a lease that is over takes no other along."""

import pytest

from benchfarm_core.agent_protocol import LeaseReport, ReportsRequest
from benchfarm_core.errors import InvalidRequest
from benchfarm_core.leases import LeaseTimes
from benchfarm_store import endings, jobs, leases

TIMES = LeaseTimes()
PLATFORM = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"


@pytest.fixture
def lab(farm, ann, report_of):
    """One agent with three boards."""
    return farm.agent(ann, *(report_of(f"s{n}") for n in range(3)))


@pytest.fixture
def grants(farm, ann, lab, job_of):
    """A lease on each board."""
    farm.submit_planned(ann, job_of(400, platforms=[PLATFORM]))
    return [lab.must_take(board) for board in lab.boards]


def ids_of(grant):
    return tuple(item.measurement_id for item in grant.items)


def report(farm, agent, *told):
    with farm.transaction() as tx:
        return leases.report(tx, agent.id, ReportsRequest(leases=told), TIMES)


def told(grant, *ids, **more):
    return LeaseReport(lease_token=grant.lease_token, measurement_ids=ids, **more)


def attempts(farm, ids):
    return [farm.scalar("SELECT attempts FROM measurements WHERE id = :id", id=id_) for id_ in ids]


def pass_time(farm):
    farm.run("UPDATE leases SET expires_at = now() - interval '1 second' WHERE ended_at IS NULL")
    with farm.transaction() as tx:
        endings.expire(tx, None)


def test_of_each_lease_what_was_named_last_pays(farm, lab, grants):
    one, two, three = grants
    first, second, third = ids_of(one)[:3], ids_of(two)[:2], ids_of(three)[:2]
    for _ in range(2):  # twice changes nothing
        answer = report(farm, lab, told(one, *first), told(two, *second), told(three, *third))
        assert (answer.lost, answer.renewed) == ([], [])
    assert report(farm, lab, told(three, over=True)).lost == []
    pass_time(farm)
    assert attempts(farm, first) == [0, 0, 1]
    assert attempts(farm, second) == [0, 1]
    assert attempts(farm, third) == [0, 0], "nothing of it ran any more"
    assert farm.scalar("SELECT count(*) FROM lease_items WHERE started_at IS NOT NULL") == 7


def test_a_report_that_only_renews_leaves_what_runs(farm, lab, grants):
    one = grants[0]
    report(farm, lab, told(one, ids_of(one)[0]))
    farm.run("UPDATE leases SET expires_at = now() + interval '5 seconds'")
    answer = report(farm, lab, told(one, renew=True), told(grants[1]))
    assert [renewed.lease_token for renewed in answer.renewed] == [one.lease_token]
    assert (answer.expires_in_s, answer.renew_in_s) == (TIMES.lease_s, TIMES.renew_s)
    lives = farm.scalar("SELECT array_agg(expires_at > now() + interval '50 seconds' ORDER BY id) FROM leases")
    assert lives == [True, False, False]
    pass_time(farm)
    assert attempts(farm, ids_of(one)[:1]) == [1]


def test_renewing_tells_what_nobody_wants(farm, ann, lab, grants):
    one, two, _ = grants
    job = farm.scalar("SELECT id::text FROM jobs")
    with farm.transaction() as tx:
        jobs.cancel(tx, job, ann)
    answer = report(farm, lab, told(one, renew=True), told(two))
    assert [(renewed.lease_token, renewed.cancelled) for renewed in answer.renewed] == [
        (one.lease_token, sorted(ids_of(one)))
    ]


def test_a_lease_that_is_over_takes_no_other_along(farm, ann, lab, grants, report_of):
    one, two, three = grants
    other = farm.agent(ann, report_of("other"), name="other")
    lab.release(one)
    farm.run("UPDATE leases SET expires_at = now() - interval '1 second' WHERE token = CAST(:token AS uuid)",
             token=two.lease_token.removeprefix("l_"))  # fmt: skip
    unknown = LeaseReport(lease_token="l_" + "0" * 32, renew=True)
    answer = report(farm, lab, told(one, *ids_of(one)), told(two, renew=True), told(three, *ids_of(three)), unknown)
    assert answer.lost == [one.lease_token, two.lease_token, unknown.lease_token]
    assert answer.renewed == []
    assert farm.scalar("SELECT count(*) FROM lease_items WHERE started_at IS NOT NULL") == len(ids_of(three))
    assert report(farm, other, told(three, renew=True)).lost == [three.lease_token]


def test_an_offer_that_was_not_accepted_is_no_lease(farm, lab, grants):
    farm.run("UPDATE leases SET accepted_at = NULL")
    assert report(farm, lab, told(grants[0], renew=True)).lost == [grants[0].lease_token]


def test_a_stranger_among_them_refuses_the_whole_report(farm, lab, grants):
    one, two, _ = grants
    with pytest.raises(InvalidRequest) as refused:
        report(farm, lab, told(one, ids_of(one)[0]), told(two, ids_of(one)[1]))
    assert (refused.value.code, refused.value.field) == ("result_invalid", "leases")
    assert farm.scalar("SELECT count(*) FROM lease_items WHERE started_at IS NOT NULL") == 0


def test_a_lease_that_is_named_twice_is_reported_as_one(farm, lab, grants):
    one = grants[0]
    a, b, *_ = ids_of(one)
    answer = report(farm, lab, told(one, a, b, renew=True), told(one, a))
    assert len(answer.renewed) == 1
    pass_time(farm)
    assert attempts(farm, (a, b)) == [1, 0]


def test_many_leases_take_no_more_statements_than_one(farm, lab, grants):
    reports = [told(grant, *ids_of(grant), renew=True) for grant in grants]
    report(farm, lab, *reports)
    counts = []
    for some in (reports[:1], reports):
        with farm.statements() as sent:
            report(farm, lab, *some)
        counts.append(len(sent))
    assert counts[0] == counts[1] <= 7, sent


def test_reporting_is_hearing(farm, lab, grants):
    farm.run("UPDATE agents SET last_heard_at = now() - interval '5 minutes'")
    report(farm, lab, told(grants[0]))
    assert farm.scalar("SELECT now() - last_heard_at < interval '1 minute' FROM agents")
