import pytest
from pydantic import ValidationError

from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.workloads import GeneratedModelRequest
from benchfarm_store import latency, specs
from tests.store.asking import measured_answers

ONE = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
TWO = "host-a/c0-1.t2.free/onnxruntime-1.31.1/fp32"


def ask(farm, by, request, **changes):
    question = LatencyRequest.model_validate({"platforms": [ONE, TWO], "items": request.workloads, **changes})
    with farm.transaction() as tx:
        return measured_answers(latency.ask(tx, question, by))


def test_answers_are_items_outer_platforms_inner(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(3, platforms=[ONE]))
    agent.measure_all()
    answers = ask(farm, ann, job_of(3))
    assert [(a.item_no, a.platform) for a in answers] == [(n, p) for n in range(3) for p in (ONE, TWO)]
    for answer in answers:
        assert (answer.source == "measured") == (answer.platform == ONE)
        assert (answer.error is None) == (answer.platform == ONE)
        if answer.platform == TWO:
            assert (answer.error, answer.median_ms) == ("no_predictor", None)
        else:
            assert answer.low_ms <= answer.median_ms <= answer.high_ms
            assert (answer.origin, answer.grade, answer.clock_proof) == ("local", "A", "unpinned")


def test_platforms_that_are_known_are_one_look(farm, ann, agent, job_of):
    """Whoever asks for one architecture waits for each statement."""
    farm.submit_planned(ann, job_of(1, platforms=[ONE, TWO]))
    with farm.statements() as sent:
        ask(farm, ann, job_of(1))
    assert sum("platforms" in one and "is_merged" in one for one in sent) == 1
    assert not any(one.lstrip().startswith("SELECT board_model, merged_into") for one in sent)


def test_what_is_old_or_from_an_older_generation_is_no_answer(farm, ann, agent, job_of, report_of):
    farm.submit_planned(ann, job_of(1))
    agent.measure_all()
    farm.run("UPDATE results SET measured_at = measured_at - interval '10 minutes'")
    assert ask(farm, ann, job_of(1))[0].source == "measured"
    assert ask(farm, ann, job_of(1), max_age_s=300)[0].error == "no_predictor"
    agent.register(report_of(generation="g2"))
    assert ask(farm, ann, job_of(1))[0].error == "no_predictor"


def test_a_grade_below_the_wish_is_no_answer_and_d_never_is(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(1))
    agent.measure_all()
    farm.run("UPDATE summaries SET grade = 'C'")
    assert ask(farm, ann, job_of(1))[0].source == "measured"
    assert ask(farm, ann, job_of(1), min_grade="B")[0].error == "no_predictor"
    farm.run("UPDATE summaries SET grade = 'D'")
    assert ask(farm, ann, job_of(1))[0].error == "no_predictor"
    with pytest.raises(ValidationError, match="grade D is delivered to whoever has it measured and never reused"):
        ask(farm, ann, job_of(1), min_grade="D")


def test_more_launches_go_before_a_newer_quick_visit(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(1))
    agent.measure_all(run_ns=1_000_000)
    farm.submit_planned(ann, job_of(1, protocol={"name": "quick"}))
    agent.measure_all(run_ns=3_000_000, launches=1)
    assert ask(farm, ann, job_of(1))[0].median_ms == pytest.approx(1.0, rel=0.01)


def test_a_better_grade_goes_before_a_newer_one_as_long_as_it_is_fresh(farm, ann, agent, job_of, ok_result):
    def measure(run_ns: int, grade: str, protocol: str, minutes_ago: int) -> None:
        farm.submit_planned(ann, job_of(1, protocol={"name": protocol}, platforms=[ONE], max_age_s=0))
        grant = agent.must_take()
        [id_] = [item.measurement_id for item in grant.items]
        agent.send(grant, ok_result(id_, launches=6, run_ns=run_ns))
        agent.release(grant)
        farm.run("UPDATE summaries SET grade = :grade WHERE measurement_id = :id", grade=grade, id=id_)
        age = "UPDATE results SET measured_at = now() - make_interval(mins => :mins) WHERE measurement_id = :id"
        farm.run(age, mins=minutes_ago, id=id_)

    measure(1_000_000, "A", "standard", 30)
    measure(2_000_000, "B", "kernel", 20)
    measure(3_000_000, "C", "kernel", 10)
    found = [ask(farm, ann, job_of(1), platforms=[ONE], max_age_s=60 * age)[0] for age in (60, 25, 15, 5)]
    assert [one.grade for one in found] == ["A", "B", "C", None]
    assert [one.median_ms and round(one.median_ms) for one in found] == [1, 2, 3, None]
    measure(4_000_000, "A", "kernel", 5)
    assert round(ask(farm, ann, job_of(1), platforms=[ONE])[0].median_ms) == 4, "of one grade the newest"


def test_bad_questions_name_the_item(farm, ann, agent, job_of):
    items = [*job_of(1).workloads, {"kind": "kernel", "type": "warp", "config": {}}]
    found = ask(farm, ann, job_of(1), platforms=[ONE], items=items)
    assert [one.error for one in found] == ["no_predictor", "kernel_unknown"]
    assert str(found[1].field).startswith("items.1")
    with pytest.raises(InvalidRequest):
        ask(farm, ann, job_of(1), platforms=["nonsense"])


def test_what_is_asked_again_is_named_once():
    """A network is laid out in milliseconds, and a question may name twenty thousand times the same one."""
    model = {"kind": "model", "name": "resnet18"}
    fc = {"kind": "kernel", "type": "fc", "config": {"cin": 8, "cout": 8}}
    listed = {"kind": "kernel_list", "kernels": [{"type": "fc", "config": {"cin": 8, "cout": 8}}]}
    wrong = {"kind": "kernel", "type": "warp", "config": {}}
    upload = {"kind": "upload", "model_id": "m_1"}
    items = [model, fc, listed, wrong, upload]
    found = latency.named(LatencyRequest.model_validate({"platforms": [ONE], "items": items * 3}))
    assert len({found.ids[at] for at in range(3)}) == 3
    for at in range(3):
        assert found.workloads[at] is found.workloads[at + 5] is found.workloads[at + 10] is not None
        assert found.ids[at] == found.ids[at + 5] == found.ids[at + 10]
    assert [found.workloads[at] for at in (3, 4, 8, 9)] == [None] * 4
    assert {at: one.field for at, one in found.refusals.items()} == {at: f"items.{at}.type" for at in (3, 8, 13)}
    named = specs.resolve_generated(GeneratedModelRequest(name="resnet18"))
    assert named is not None
    assert named.cost is None  # nobody asks for it, and the network is laid out for it


def test_a_platform_is_asked_once_however_often_and_however_it_is_named(farm, ann, agent, job_of):
    farm.run("INSERT INTO platform_aliases SELECT 'one', id, now() FROM platforms WHERE key = :key", key=ONE)
    with farm.statements() as few:
        ask(farm, ann, job_of(2), platforms=[ONE])
    with farm.statements() as many:
        answers = ask(farm, ann, job_of(2), platforms=[ONE, "one", TWO, ONE, *["one"] * 50])
    assert [(a.item_no, a.platform) for a in answers] == [(0, ONE), (0, TWO), (1, ONE), (1, TWO)]
    assert len(many) == len(few)


def test_too_many_answers_are_refused_before_an_item_is_looked_at(farm, ann, report_of, job_of):
    points = [{"mode": "free", "cores": [core], "threads": 1} for core in range(11)]
    farm.agent(ann, report_of(operating_points=points))
    keys = [f"host-a/c{core}.t1.free/onnxruntime-1.31.1/fp32" for core in range(11)]
    items = [{"kind": "kernel", "type": "warp", "config": {}}] * 20_000
    with pytest.raises(TooLarge, match="220000 answers"):
        ask(farm, ann, job_of(1), platforms=keys, items=items)
    with pytest.raises(TooLarge, match="20001 items"):
        ask(farm, ann, job_of(1), items=[*items, items[0]])
    # 20,000 are within the limit: now the items are looked at
    found = ask(farm, ann, job_of(1), platforms=[keys[0], keys[0]], items=items)
    assert {one.error for one in found} == {"kernel_unknown"}
