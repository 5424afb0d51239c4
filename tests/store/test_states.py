"""The transition tables of boards and measurements are what the store does: every move in them, and no other.

That no other test moves a state outside its table is looked at when its farm ends, see conftest.
"""

from benchfarm_core.boards import BOARD_TRANSITIONS
from benchfarm_core.measurements import MEASUREMENT_TRANSITIONS
from benchfarm_store import jobs, leases, sweeping


def moves_of(table):
    return {(str(state), str(to)) for state, nexts in table.items() for to in nexts}


def poll(farm, agent):
    with farm.transaction() as tx:
        return leases.offers_for(tx, agent.id, agent.boards)


def fall_silent(farm):
    """The agent is not heard for a while; then it speaks again."""
    farm.run("UPDATE agents SET last_heard_at = now() - interval '5 minutes'")
    sweeping.sweep(farm.database)
    farm.run("UPDATE agents SET last_heard_at = now()")


def test_a_board_makes_every_move_of_its_table_and_no_other(farm, ann, agent, job_of, report_of):
    farm.submit_planned(ann, job_of(4))
    agent.release(agent.must_take())  # offline, idle, leased, idle
    agent.release(agent.must_take(), "gate")  # leased, cooling
    farm.run("UPDATE boards SET cooling_until = now() - interval '1 second'")
    agent.release(agent.must_take(), "gate")  # cooling, leased
    agent.register(report_of("s1"))  # cooling, idle
    agent.release(agent.must_take(), "gate")
    fall_silent(farm)  # cooling, offline
    poll(farm, agent)
    fall_silent(farm)  # idle, offline
    poll(farm, agent)
    agent.must_take()
    agent.register()  # leased, cooling, offline: its lease is over
    agent.register(report_of("s1"))
    grant = agent.must_take()
    farm.run("UPDATE boards SET state = 'offline'")  # what a farm of before left behind: the lease lives on
    poll(farm, agent)  # offline, leased
    agent.release(grant, "drain")  # leased, offline
    assert farm.moves("boards") == moves_of(BOARD_TRANSITIONS)


def test_a_measurement_makes_every_move_of_its_table_and_no_other(farm, ann, agent, job_of, ok_result, failed_result):
    job = farm.submit_planned(ann, job_of(3))
    grant = agent.must_take()
    good, bad, _ = [item.measurement_id for item in grant.items]
    agent.send(grant, ok_result(good), failed_result(bad, "wrong_result"))
    agent.release(grant)
    with farm.transaction() as tx:
        jobs.cancel(tx, job.id, ann)
    assert farm.moves("measurements") == moves_of(MEASUREMENT_TRANSITIONS)
