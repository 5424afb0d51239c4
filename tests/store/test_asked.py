"""What a latency question knows of the rest that is not measured: who predicts it, and its kernels."""

import pytest

from benchfarm_core.boards import EngineReport
from benchfarm_core.errors import Conflict, InvalidRequest, NotFound, TooLarge
from benchfarm_core.fusion import FusionReport, FusionRow
from benchfarm_core.latency import LatencyRequest
from benchfarm_core.platforms import Precision
from benchfarm_core.predictors import WHOLE_MODEL, PredictorEvidence
from benchfarm_store import asked_kernels, fusions, latency, models, pins, predictors
from benchfarm_workloads.network_kernels import NetworkKernels
from tests.store.predictor_bytes import predictor_bytes
from tests.store.test_models import new_model

ONE = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
TWO = "host-a/c0-1.t2.free/onnxruntime-1.31.1/fp32"
OTHER = "host-a/c0.t1.free/ncnn-20250503/fp32"
GENES = {"layers": 1, "hidden": 128, "seq": 64, "intermediate": 512, "heads": 2}
TINY = {"kind": "architecture", "space": "bert", "genes": GENES}
FC = {"kind": "kernel", "type": "fc", "config": {"cin": 64, "cout": 32}}
OTHER_FC = {"kind": "kernel", "type": "fc", "config": {"cin": 65, "cout": 32}}
ACT = {"kind": "kernel", "type": "act", "config": {"hw": 8, "cin": 8, "act": "relu"}}
GRAPH = {
    "nodes": [
        {"op": op, "name": op, "inputs": [source], "outputs": [made], "attributes": {}}
        for op, source, made in (("Relu", "x", "r"), ("Tanh", "r", "t"), ("Tanh", "t", "y"))
    ],
    "values": {
        name: {"role": role, "dtype": "float32", "shape": [1, 3, 8, 8]}
        for name, role in (("x", "input"), ("r", "inner"), ("t", "inner"), ("y", "output"))
    },
}


def publish(farm, key, subject, number=0):
    with farm.transaction() as tx:
        id_ = farm.scalar("SELECT id FROM platforms WHERE key = :key", key=key)
        file = predictor_bytes(key, subject, bytes([number]))
        return predictors.publish(
            tx,
            platform_id=id_,
            subject=subject,
            file=file,
            evidence=PredictorEvidence(),
            reason="better",
            activate=True,
        )


def ask(farm, by, *items, platforms=(ONE, TWO), **changes):
    question = LatencyRequest.model_validate({"platforms": platforms, "items": items, **changes})
    items = latency.named(question)
    with farm.database.transaction(read_only=True) as tx:
        return latency.ask(tx, question, by, items)


def add_upload(farm, by, content, graph=GRAPH):
    with farm.transaction() as tx:
        model = models.add(tx, new_model(content=content, graph=graph), by=by)
    return {"kind": "upload", "model_id": model.id}


def upload_parts(farm, asked):
    """With a transaction for each few graphs that are read."""

    def read(model_ids):
        with farm.database.transaction(read_only=True) as tx:
            return asked_kernels.graphs(tx, model_ids)

    return asked_kernels.upload_parts(asked.kernels, read)


def kernels(asked, number, fusing=0, uploads=None):
    """Of a workload in one part."""
    known = NetworkKernels(asked.kernels.rules[fusing])
    workload = asked.workloads[number]
    return asked_kernels.kernel_parts(asked.kernels, uploads or {}, number, workload, fusing, known)


def test_gaps_have_the_versions_that_answer_there(farm, ann, agent, job_of):
    farm.submit_planned(ann, job_of(1, platforms=[ONE]).model_copy(update={"workloads": _workloads(FC)}))
    agent.measure_all()
    publish(farm, ONE, "fc")
    second = publish(farm, ONE, "fc", 1)
    publish(farm, ONE, WHOLE_MODEL)
    publish(farm, TWO, "act")
    asked = ask(farm, ann, FC, ACT, FC, TINY)
    assert (asked.numbers, asked.subjects) == ([0, 1, 0, 2], ["fc", "act", WHOLE_MODEL])
    one, two = asked.platforms
    assert (one.key, one.gaps, one.fusing) == (ONE, (1, 2), 0)
    assert (two.key, two.gaps, two.fusing) == (TWO, (0, 1, 2), None)
    assert {name: head.version for name, head in one.heads.items()} == {WHOLE_MODEL: 1}  # fc is measured
    assert list(two.heads) == ["act"]
    (other,) = ask(farm, ann, OTHER_FC, platforms=(ONE,)).platforms
    assert (other.heads["fc"].id, other.heads["fc"].sha256) == (second.id, second.sha256)
    assert set(asked.best) == {(0, 0)}


def _workloads(*items):
    return LatencyRequest.model_validate({"platforms": [ONE], "items": items}).items


def test_nothing_predicts_times_in_situ(farm, ann, agent):
    publish(farm, ONE, "fc")
    assert ask(farm, ann, FC).platforms[0].heads
    asked = ask(farm, ann, FC, TINY, timing="in_situ")
    assert [(one.heads, one.fusing, one.gaps) for one in asked.platforms] == [({}, None, (0, 1))] * 2


def test_what_is_measured_everywhere_asks_for_no_predictor(farm, ann, agent, job_of):
    publish(farm, ONE, "fc")
    farm.submit_planned(ann, job_of(1, platforms=[ONE]).model_copy(update={"workloads": _workloads(FC)}))
    agent.measure_all()
    (one,) = ask(farm, ann, FC, platforms=(ONE,)).platforms
    assert (one.gaps, one.heads) == ((), {})


def test_kernel_lists_are_made_for_each_different_way_to_fuse(farm, ann, report_of):
    engines = (
        EngineReport(name="onnxruntime", available=True, version="1.31.1", precisions=(Precision.FP32,)),
        EngineReport(name="ncnn", available=True, version="20250503", precisions=(Precision.FP32,)),
    )
    farm.agent(ann, report_of(engines=engines))
    keys = (ONE, TWO, OTHER)
    for key in keys:
        publish(farm, key, WHOLE_MODEL)
    with farm.statements() as sent:
        asked = ask(farm, ann, TINY, platforms=keys)
    assert ([one.fusing for one in asked.platforms], len(asked.kernels.rules)) == ([0, 0, 0], 1)
    assert len([one for one in sent if "fusions" in one]) == 1, "of both engines at once"
    apart = FusionRow(first="Linear", second="Gelu", by_profile=False)
    with farm.transaction() as tx:
        fusions.report(tx, OTHER, FusionReport(rows=(apart,)))
    asked = ask(farm, ann, TINY, platforms=keys)
    assert [one.fusing for one in asked.platforms] == [0, 0, 1]
    fused, split = (kernels(asked, 0, fusing) for fusing in (0, 1))
    assert "gelu" not in {type_name for part in fused for type_name, _, _ in part.kernels}
    assert "gelu" in {type_name for part in split for type_name, _, _ in part.kernels}


def test_no_kernel_list_is_asked_for_where_no_model_is_to_be_predicted(farm, ann, agent):
    publish(farm, ONE, WHOLE_MODEL)
    with farm.statements() as sent:
        asked = ask(farm, ann, FC)
    assert (asked.platforms[0].fusing, asked.kernels.rules) == (None, ())
    assert not [one for one in sent if "fusions" in one or "graph" in one]


def test_uploads_come_with_their_kernels(farm, ann, agent):
    upload = add_upload(farm, ann, b"one")
    with farm.statements() as sent:
        ask(farm, ann, upload)
    assert not [one for one in sent if "graph" in one]
    publish(farm, ONE, WHOLE_MODEL)
    asked = ask(farm, ann, FC, upload)
    (found,) = kernels(asked, 1, uploads=upload_parts(farm, asked))
    assert [(type_name, count) for type_name, _, count in found.kernels] == [("act", 1)]
    assert found.unknown == ("Tanh", "Tanh")


def test_graphs_are_read_a_few_at_a_time_with_no_connection_between(farm, ann, agent, monkeypatch):
    """The kernels of a large graph take a second: whoever makes them holds no connection meanwhile."""
    publish(farm, ONE, WHOLE_MODEL)
    asked = ask(farm, ann, *(add_upload(farm, ann, b"%d" % number) for number in range(3)))
    monkeypatch.setattr(asked_kernels, "_GRAPHS_AT_ONCE", 2)
    with farm.statements() as sent:
        found = upload_parts(farm, asked)
    assert sum("graph" in one for one in sent) == 2
    assert [len(found[number, 0].kernels) for number in range(3)] == [1, 1, 1]


def test_a_model_that_was_deleted_meanwhile_is_not_there(farm, ann, agent):
    publish(farm, ONE, WHOLE_MODEL)
    asked = ask(farm, ann, add_upload(farm, ann, b"one"))
    uploads = asked_kernels.upload_parts(asked.kernels, lambda _: {})
    with pytest.raises(NotFound, match="deleted meanwhile"):
        kernels(asked, 0, uploads=uploads)


def test_items_are_named_without_a_connection_and_errors_say_which(farm, ann, agent):
    question = LatencyRequest.model_validate({"platforms": [ONE], "items": [FC, TINY, {**TINY, "genes": {}}]})
    with farm.statements() as sent:
        found = latency.named(question)
    assert (sent, list(found.refusals)) == ([], [2])
    assert found.refusals[2].field == "items.2.genes.layers"
    assert [one is None for one in found.workloads] == [False, False, True]


def test_uploads_beyond_the_bound_are_refused_one_by_one(farm, ann, agent, monkeypatch):
    monkeypatch.setattr(asked_kernels, "MAX_UPLOADS", 2)
    publish(farm, ONE, WHOLE_MODEL)
    uploads = [add_upload(farm, ann, content) for content in (b"one", b"two", b"three")]
    asked = ask(farm, ann, *uploads, uploads[0])
    parts = upload_parts(farm, asked)
    assert [len(kernels(asked, number, uploads=parts)[0].kernels) for number in (0, 1)] == [1, 1]
    with pytest.raises(InvalidRequest, match="at most 2 different uploaded models") as refused:
        kernels(asked, 2, uploads=parts)
    assert refused.value.code == "too_large"


LISTED = {"kind": "kernel_list", "kernels": [{k: v for k, v in one.items() if k != "kind"} for one in (FC, ACT)]}


def test_kernels_of_lists_are_asked_for_where_they_are_summed_up_alone(farm, ann, agent):
    publish(farm, ONE, WHOLE_MODEL)
    publish(farm, TWO, "fc")
    asked = ask(farm, ann, LISTED, OTHER_FC)
    assert [one.gaps for one in asked.platforms] == [(0, 1), (0, 1, 2, 3)]
    assert (asked.lists, asked.subjects) == ({0: [(2, 1), (3, 1)]}, [WHOLE_MODEL, "fc", "fc", "act"])
    assert [sorted(one.heads) for one in asked.platforms] == [[WHOLE_MODEL], ["fc"]]
    for changes in ({"on_miss": "error"}, {"timing": "in_situ"}, {"platforms": (ONE,)}):
        assert not ask(farm, ann, LISTED, **changes).lists


def test_kernels_that_are_summed_up_count_as_answers(farm, ann, agent, monkeypatch):
    monkeypatch.setattr(latency, "MAX_ANSWERS", 5)
    with pytest.raises(TooLarge, match=r"2 answers .* and 4 kernels of kernel lists to sum up"):
        ask(farm, ann, LISTED)
    publish(farm, ONE, WHOLE_MODEL)
    assert ask(farm, ann, LISTED).lists


def pin_of(asked):
    return asked.pin.model_dump(mode="json")


def test_a_pin_is_of_no_moment_to_come(farm, ann, agent):
    pin = pin_of(ask(farm, ann, FC))
    assert ask(farm, ann, FC, pin=pin).as_of.isoformat() == pin["as_of"].replace("Z", "+00:00")
    with pytest.raises(InvalidRequest, match="not come yet") as refused:
        ask(farm, ann, FC, pin={"as_of": "2100-01-01T00:00:00Z"})
    assert refused.value.field == "pin.as_of"


def test_a_pin_is_held_where_it_answers(farm, ann, agent):
    """A kernel's predictor that is gone ends no search of models; one that is asked for is named."""
    publish(farm, ONE, "fc")
    version = publish(farm, ONE, WHOLE_MODEL)
    pin = pin_of(ask(farm, ann, FC, TINY))
    assert pin_of(ask(farm, ann, TINY))["predictors"] == [version.id]
    farm.run("UPDATE predictors SET file = NULL, state = 'superseded' WHERE subject = 'fc'")
    assert ask(farm, ann, TINY, pin=pin).pin.predictors == tuple(pin["predictors"])
    assert ask(farm, ann, FC, platforms=(TWO,), pin=pin)
    with pytest.raises(Conflict, match=f"version 1 of fc on {ONE}") as refused:
        ask(farm, ann, FC, pin=pin)
    assert (refused.value.code, refused.value.field) == ("pinned_predictor_gone", "pin.predictors")


@pytest.mark.parametrize("name", ["pr_999999", "x"])
def test_a_pin_of_nothing_is_told_as_the_pins(farm, ann, agent, name):
    pin = pin_of(ask(farm, ann, TINY))
    with pytest.raises(NotFound, match=r"no such predictor|no predictor pr_999999") as refused:
        ask(farm, ann, TINY, pin={**pin, "predictors": [name]})
    assert refused.value.field == "pin.predictors"


def test_a_pin_that_would_name_too_much_is_refused(farm, ann, agent, monkeypatch):
    monkeypatch.setattr(pins, "MAX_PINNED", 1)
    publish(farm, ONE, "fc")
    publish(farm, ONE, WHOLE_MODEL)
    pin = pin_of(ask(farm, ann, FC))
    with pytest.raises(InvalidRequest, match="2 versions and 1 platforms; the limit is 1") as refused:
        ask(farm, ann, TINY, pin=pin)
    assert refused.value.field == "pin.predictors"


def test_a_pin_holds_how_engines_fuse(farm, ann, agent):
    for key in (ONE, TWO):
        publish(farm, key, WHOLE_MODEL)
    pin = pin_of(ask(farm, ann, TINY, platforms=(ONE,)))
    assert list(pin["fusions"]) == [ONE]
    assert set(ask(farm, ann, TINY, pin=pin).pin.fusions) == {ONE, TWO}
    apart = FusionRow(first="Linear", second="Gelu", by_profile=False)
    with farm.transaction() as tx:
        fusions.report(tx, ONE, FusionReport(rows=(apart,)))
    with pytest.raises(Conflict, match=f"the engine of {ONE} is known to fuse otherwise") as refused:
        ask(farm, ann, TINY, pin=pin)
    assert (refused.value.code, refused.value.field) == ("pinned_predictor_gone", "pin.fusions")
    assert ask(farm, ann, FC, pin=pin)  # no model is predicted
