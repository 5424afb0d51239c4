"""The support matrix counts outcomes: each once, whoever reports at once, and without anybody's secrets."""

import threading

import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.jobs import JobRequest
from benchfarm_core.support import support_text
from benchfarm_store import models, support

ENGINE = ("onnxruntime", "1.31.1", "", "fp32", "host-a")


def fc(count, cout=8):
    workloads = [{"kind": "kernel", "type": "fc", "config": {"cin": 8 + n, "cout": cout}} for n in range(count)]
    platforms = ["host-a/c0.t1.free/onnxruntime-1.31.1/fp32"]
    return JobRequest.model_validate({"workloads": workloads, "platforms": platforms})


def matrix(farm, **wanted):
    with farm.transaction() as tx:
        return support.list_support(tx, **wanted).items


def test_outcomes_are_counted_by_family_engine_and_code(farm, ann, agent, ok_result, failed_result):
    farm.submit_planned(ann, fc(4))
    grant = agent.must_take()
    ids = [item.measurement_id for item in grant.items]
    lacking = failed_result(ids[2], "unsupported_operator").model_copy(update={"subject": "HardSwish"})
    agent.send(grant, *map(ok_result, ids[:2]), lacking, failed_result(ids[3], "engine_unavailable"))
    lost, good, lacks = matrix(farm)
    assert [(row.engine, row.version, row.options, row.precision, row.board_model) for row in (good, lacks)] == [
        ENGINE,
        ENGINE,
    ]
    assert (good.family, good.outcome, good.code, good.fault, good.count) == ("fc", "ok", "ok", None, 2)
    assert good.max_relative_l2 == good.last_relative_l2 == 1e-6
    assert good.mean_s == pytest.approx(3 * (1.5 + 2.25 + 60 + 3) / 1000)
    assert good.measurement_id == ids[1]
    assert (lacks.code, lacks.fault, lacks.subject, lacks.count) == ("unsupported_operator", "user", "HardSwish", 1)
    assert (lacks.mean_s, lacks.max_relative_l2) == (None, None)
    assert (lost.code, lost.fault, lost.subject) == ("engine_unavailable", "transient", "")


def test_a_result_that_comes_again_counts_once(farm, ann, agent, ok_result):
    farm.submit_planned(ann, fc(1))
    grant = agent.must_take()
    good = ok_result(grant.items[0].measurement_id)
    for _ in range(3):
        agent.send(grant, good)
    agent.release(grant)
    agent.send(grant, good)
    (row,) = matrix(farm)
    assert row.count == 1


def test_a_refused_chunk_counts_nothing(farm, ann, agent, ok_result):
    farm.submit_planned(ann, fc(1))
    grant = agent.must_take()
    with pytest.raises(InvalidRequest):
        agent.send(grant, ok_result(grant.items[0].measurement_id), ok_result(999_999))
    assert matrix(farm) == []


def test_a_larger_error_stays_and_the_latest_is_kept_beside_it(farm, ann, agent, ok_result):
    farm.submit_planned(ann, fc(3))
    grant = agent.must_take()
    for item, error in zip(grant.items, (1e-7, 3e-5, 2e-6), strict=True):
        good = ok_result(item.measurement_id)
        launches = tuple(one.model_copy(update={"gate_relative_l2": error}) for one in good.launches)
        agent.send(grant, good.model_copy(update={"launches": launches}))
    (row,) = matrix(farm)
    assert (row.count, row.max_relative_l2, row.last_relative_l2) == (3, 3e-5, 2e-6)


def told(result, word):
    return result.model_copy(update={"effective_precision": word})


def test_what_was_computed_in_another_precision_is_a_row_of_its_own(farm, ann, agent, ok_result, failed_result):
    farm.submit_planned(ann, fc(6))
    grant = agent.must_take()
    *ids, bad = [item.measurement_id for item in grant.items]
    words = ("fp32", "bf16", "bf16", "other", None)
    agent.send(
        grant,
        *(told(ok_result(id_), word) for id_, word in zip(ids, words, strict=True)),
        told(failed_result(bad, "wrong_result"), "bf16"),
    )
    found = {(row.code, row.effective_precision): row.count for row in matrix(farm)}
    assert found == {
        ("ok", None): 1, ("ok", "bf16"): 2, ("ok", "fp32"): 1, ("ok", "other"): 1, ("wrong_result", None): 1,
    }  # fmt: skip
    assert support_text(matrix(farm)) == (
        "mixed: ok (2 of 5 in bf16, 1 of 5 in an unknown precision, 1 of 5 in another precision), wrong_result"
    )
    with farm.transaction() as tx:
        page = support.list_support(tx, limit=2)
        rest = support.list_support(tx, cursor=page.next_cursor, limit=10)
    assert [*page.items, *rest.items] == matrix(farm)


def test_many_agents_at_once_count_every_outcome(farm, ann, report_of, ok_result, failed_result):
    agents = [farm.agent(ann, report_of(f"s{n}"), name=f"lab{n}") for n in range(4)]
    errors = []
    grants = []
    for place, agent in enumerate(agents):
        farm.submit_planned(ann, fc(6, cout=16 + place))
        grants.append((agent, agent.must_take()))
    codes = ["unsupported_operator", "conversion_failed", "out_of_memory"]

    def report(agent, grant, turn):
        try:
            for place, item in enumerate(grant.items[::turn]):
                bad = failed_result(item.measurement_id, codes[place % 3])
                agent.send(grant, bad if place % 2 else ok_result(item.measurement_id))
        except Exception as error:  # boundary: a thread of the test
            errors.append(error)

    threads = [
        threading.Thread(target=report, args=(agent, grant, 1 if place % 2 else -1))
        for place, (agent, grant) in enumerate(grants)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert sum(row.count for row in matrix(farm)) == sum(len(grant.items) for _, grant in grants) == 24


@pytest.mark.parametrize(("said", "kept"), [("HardSwish", "HardSwish"), ("ann_secret_block", ""), ("", "")])
def test_an_upload_shows_its_family_and_operators_only(farm, ann, agent, failed_result, said, kept):
    graph = {"nodes": [{"op": "HardSwish", "name": "ann_secret_block"}], "values": {}}
    upload = models.NewModel(
        name="ann_secret_model",
        sha256="a" * 64,
        size_bytes=100,
        opset=13,
        dims={},
        inputs=(),
        graph=graph,
        flops=None,
        parameters=1,
        reference_sha256="b" * 64,
    )
    with farm.transaction() as tx:
        model = models.add(tx, upload, by=ann)
    named = {"kind": "upload", "model_id": model.id}
    key = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
    farm.submit_planned(ann, JobRequest.model_validate({"workloads": [named], "platforms": [key]}))
    grant = agent.must_take()
    lacking = failed_result(grant.items[0].measurement_id, "unsupported_operator")
    agent.send(grant, lacking.model_copy(update={"subject": said}))
    (row,) = matrix(farm)
    assert (row.family, row.subject, row.measurement_id) == ("upload", kept, None)
    assert "secret" not in row.model_dump_json()


def test_the_matrix_by_its_parts_and_page_by_page(farm, ann, agent, failed_result):
    farm.submit_planned(ann, fc(3))
    grant = agent.must_take()
    for item, code in zip(grant.items, ("wrong_result", "out_of_memory", "conversion_failed"), strict=True):
        agent.send(grant, failed_result(item.measurement_id, code))
    assert len(matrix(farm, family="fc", engine="onnxruntime", precision="fp32", board_model="host-a")) == 3
    for nothing in ({"family": "se"}, {"engine": "ncnn"}, {"precision": "int8"}, {"board_model": "host-b"}):
        assert matrix(farm, **nothing) == []
    found, cursor = [], None
    while True:
        with farm.transaction() as tx:
            page = support.list_support(tx, cursor=cursor, limit=2)
        found += [row.code for row in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert found == ["conversion_failed", "out_of_memory", "wrong_result"]
    with farm.transaction() as tx, pytest.raises(InvalidRequest, match="cursor"):
        support.list_support(tx, cursor="nonsense")
