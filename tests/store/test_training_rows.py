"""What predictors learn from and what judges them: which results become rows, and which never do."""

import pytest

from benchfarm_core.errors import NotFound
from benchfarm_core.fusion import FusionReport, FusionRow
from benchfarm_core.jobs import JobRequest
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.quality import RULE_VERSION
from benchfarm_core.summaries import Grade
from benchfarm_core.workloads import workload_id
from benchfarm_store import fusions
from benchfarm_store.training_rows import find_networks, former_rows, fused_by, holdout_rows, training_rows
from benchfarm_workloads import spaces
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.kernels import kernel_type
from benchfarm_workloads.models import model_recipe

KEY = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
WIDE = "host-a/c0-1.t2.free/onnxruntime-1.31.1/fp32"
FC = {"cin": 64, "cout": 32}
SMALL = {"layers": 1, "hidden": 128, "seq": 64, "intermediate": 512, "heads": 2}
KERNEL = {"kind": "kernel", "type": "fc", "config": FC}
CONV = {"kind": "kernel", "type": "conv-bn-act", "config": {"hw": 28, "cin": 16, "cout": 16, "k": 3}}
SQUEEZENET = {"hw": 64}
MODEL = {"kind": "model", "name": "squeezenet", "config": SQUEEZENET}
ARCHITECTURE = {"kind": "architecture", "space": "bert", "genes": SMALL}
PAIR = {"kind": "model", "name": "operator_pair", "config": {"first": "Conv", "second": "Relu", "part": "both"}}
OTHER_VERSIONS = """
    UPDATE workloads SET spec = CAST(CAST(spec AS jsonb) || jsonb_build_object(
        CASE kind WHEN 'kernel' THEN 'catalogue_version' ELSE 'zoo_version' END, 9) AS json)
"""


class Lab:
    """Measures on one platform and asks for the rows of it."""

    def __init__(self, farm, ann, agent):
        self.farm, self.ann, self.agent = farm, ann, agent

    def measure(self, *workloads, run_ns=1_000_000, launches=3, **changes):
        fields = {"workloads": workloads, "platforms": [KEY], "max_age_s": 0, **changes}
        job = self.farm.submit_planned(self.ann, JobRequest.model_validate(fields))
        self.agent.measure_all(run_ns=run_ns, launches=launches)
        return self.farm.job(job.id, self.ann)

    def rows(self, key=KEY, subject=None):
        with self.farm.transaction() as tx:
            return training_rows(tx, self.id_of(key), subject)

    def holdouts(self, key=KEY, **changes):
        with self.farm.transaction() as tx:
            return holdout_rows(tx, self.id_of(key), **changes)

    def id_of(self, key):
        return self.farm.scalar("SELECT id FROM platforms WHERE key = :key", key=key)

    def judge_from(self, subject):
        """What was measured until now is of another board."""
        self.farm.run(
            "INSERT INTO predictor_looks (platform_id, subject, looked_at, seen, attempts, is_done, judges_from)"
            " SELECT :id, :subject, now(), '', 0, true, max(measured_at) FROM results",
            id=self.id_of(KEY),
            subject=subject,
        )

    def hold_out(self, *types):
        """What is measured of these families becomes hold-outs, on the first platform."""
        self.farm.run(
            "UPDATE measurements m SET purpose = 'holdout' FROM workloads w, platforms p WHERE w.id = m.workload_id"
            " AND w.family = ANY(:types) AND p.id = m.platform_id AND p.key = :key",
            types=list(types),
            key=KEY,
        )


@pytest.fixture
def lab(farm, ann, agent):
    return Lab(farm, ann, agent)


def families(rows):
    return sorted(row.kernel_type for row in rows.kernels), sorted(row.space or "-" for row in rows.models)


def test_results_become_rows_with_their_kernels(lab):
    lab.measure(KERNEL, CONV, MODEL, ARCHITECTURE)
    lab.measure(KERNEL, timing="in_situ", run_ns=700_000)
    found = lab.rows()
    assert (found.platform, found.rule_version, len(found.data_hash)) == (KEY, RULE_VERSION, 32)
    assert families(found) == (["conv-bn-act", "fc", "fc"], ["-", "bert"])
    alone, inside = sorted((row for row in found.kernels if row.kernel_type == "fc"), key=lambda row: row.timing)
    canonical = kernel_type("fc").workload(FC)
    assert (alone.timing, inside.timing) == (Timing.ALONE, Timing.IN_SITU)
    assert alone.workload_id == inside.workload_id == workload_id(canonical)
    assert (alone.config, alone.grade, alone.purpose) == (canonical.config, Grade.A, Purpose.JOB)
    assert alone.normalised_ms == pytest.approx(1.0, rel=0.01)
    assert inside.normalised_ms == pytest.approx(0.7, rel=0.01)
    model, architecture = sorted(found.models, key=lambda row: row.space or "")
    drawn = spaces.space("bert").workload(SMALL)
    assert architecture.workload_id == workload_id(drawn)
    assert list(architecture.kernels) == spaces.kernels(drawn, FusionRules())
    layers = model_recipe("squeezenet").network(SQUEEZENET).layers
    assert sum(count for _, _, count in model.kernels) == len(layers)
    assert (model.space, model.unknown, architecture.unknown) == (None, (), ())
    assert [row.workload_id for row in found.kernels] == sorted(row.workload_id for row in found.kernels)
    assert lab.rows(WIDE).kernels == ()


def test_a_model_is_told_as_the_engine_fuses_it(lab):
    lab.measure(MODEL)
    before = lab.rows()
    apart = FusionRow(first="Conv", second="Relu", by_profile=False)
    with lab.farm.transaction() as tx:
        fusions.report(tx, KEY, FusionReport(rows=(apart,)))
    (fused,), (split,) = before.models, lab.rows().models
    assert "act" not in {kind for kind, _, _ in fused.kernels}
    assert "act" in {kind for kind, _, _ in split.kernels}
    assert {config["act"] for kind, config, _ in split.kernels if kind == "conv-bn-act"} == {"none"}
    assert lab.rows().data_hash != before.data_hash
    with lab.farm.transaction() as tx:
        networks = find_networks(tx, before)
    assert fused_by(lab.rows(), networks, FusionRules()) == before.model_copy(
        update={"data_hash": lab.rows().data_hash}
    ), "what learnt by the rules of before is judged by them"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE summaries SET grade = 'D'",
        "UPDATE summaries SET normalised_ms = NULL",
        "UPDATE summaries SET rule_version = rule_version - 1",
        "UPDATE measurements SET origin_id = 2",
        "UPDATE boards SET generation_id = NULL",
        "UPDATE protocols SET public_id = 'of-another-version'",
        OTHER_VERSIONS,
    ],
)
def test_what_may_not_teach(lab, statement):
    lab.measure(KERNEL, MODEL)
    assert [len(rows) for rows in families(lab.rows())] == [1, 1]
    lab.farm.run(statement)
    assert families(lab.rows()) == ([], [])


def test_other_protocols_pairs_and_other_generations_do_not_teach(lab, report_of):
    lab.measure(KERNEL, protocol={"name": "kernel", "parameters": {"visit_ms": 20}})
    lab.measure(PAIR)
    assert lab.farm.scalar("SELECT count(*) FROM summaries") == 2
    assert families(lab.rows()) == ([], [])
    lab.measure(KERNEL, protocol={"name": "quick"}, launches=1)
    assert [row.grade for row in lab.rows().kernels] == [Grade.C]
    lab.agent.register(report_of(generation="g2"))
    assert families(lab.rows()) == ([], [])


def test_uploads_are_private_and_teach_nobody(lab):
    lab.measure(KERNEL)
    lab.farm.run("UPDATE workloads SET kind = 'upload'")
    assert families(lab.rows()) == ([], [])


def test_the_steadiest_result_then_the_newest(lab):
    lab.measure(KERNEL, run_ns=1_000_000)
    lab.measure(KERNEL, run_ns=1_200_000)
    lab.measure(KERNEL, run_ns=3_000_000, launches=1, protocol={"name": "quick"})
    (row,) = lab.rows().kernels
    assert row.normalised_ms == pytest.approx(1.2, rel=0.01)


def test_a_row_tells_when_it_was_first_measured(lab):
    lab.measure(KERNEL)
    (first,) = lab.rows().kernels
    lab.measure(KERNEL)
    (again,) = lab.rows().kernels
    assert (first.first_at, again.first_at) == (None, first.measured_at)
    assert again.measured_at > first.measured_at


def test_what_was_measured_of_another_board_is_former(lab):
    lab.measure(KERNEL, CONV, ARCHITECTURE, run_ns=1_000_000)
    lab.judge_from("fc")
    assert families(lab.rows(subject="fc")) == ([], [])
    assert families(lab.rows()) == (["conv-bn-act"], ["bert"]), "of others nobody knows it"
    lab.measure(KERNEL, run_ns=1_600_000)
    with lab.farm.transaction() as tx:
        (former,) = former_rows(tx, lab.id_of(KEY), "fc").kernels
    (own,) = lab.rows(subject="fc").kernels
    assert (former.normalised_ms, own.normalised_ms) == (pytest.approx(1.0, rel=0.01), pytest.approx(1.6, rel=0.01))
    lab.judge_from("model")
    assert families(lab.rows()) == ([], []), "kernels of before teach no whole model"


def test_a_subject_has_its_own_kernels_alone(lab):
    lab.measure(KERNEL, CONV, MODEL)
    assert families(lab.rows(subject="fc")) == (["fc"], [])
    assert lab.rows(subject="model") == lab.rows()
    assert families(lab.rows(subject="warp")) == ([], [])


def test_the_hash_names_the_rows(lab):
    lab.measure(KERNEL, CONV)
    before = lab.rows()
    assert lab.rows() == before
    first = lab.farm.scalar("SELECT min(id) FROM measurements")
    lab.farm.run("UPDATE summaries SET normalised_ms = normalised_ms * 1.01 WHERE measurement_id = :id", id=first)
    other = lab.rows()
    assert other.data_hash != before.data_hash
    assert lab.rows(subject="fc").data_hash not in (other.data_hash, before.data_hash)


def test_a_hold_out_teaches_nobody_anywhere(lab):
    lab.measure(KERNEL, CONV, ARCHITECTURE, platforms=[KEY, WIDE])
    lab.measure(KERNEL, timing="in_situ")
    lab.hold_out("fc", "bert")
    lab.farm.run("UPDATE measurements SET purpose = 'job' WHERE timing = 'in_situ'")
    for key in (KEY, WIDE):
        assert families(lab.rows(key)) == (["conv-bn-act"], []), key
    held = lab.holdouts()
    assert families(held) == (["fc"], ["bert"])
    assert {row.purpose for row in (*held.kernels, *held.models)} == {Purpose.HOLDOUT}
    assert families(lab.holdouts(WIDE)) == ([], []), "there it was measured for a job"
    (kernel,) = held.kernels
    assert families(lab.holdouts(workload_ids=[kernel.workload_id])) == (["fc"], [])
    assert families(lab.holdouts(workload_ids=[])) == ([], [])


def test_one_that_is_only_declared_teaches_nobody_either(lab):
    lab.measure(KERNEL)
    request = JobRequest.model_validate({"workloads": [KERNEL], "platforms": [WIDE], "max_age_s": 0})
    lab.farm.submit_planned(lab.ann, request)
    lab.farm.run("UPDATE measurements SET purpose = 'holdout' WHERE state = 'wanted'")
    assert families(lab.rows()) == ([], [])
    assert families(lab.holdouts(WIDE)) == ([], [])
    lab.farm.run("UPDATE measurements SET state = 'cancelled' WHERE state = 'wanted'")
    assert families(lab.rows()) == (["fc"], []), "it will judge nobody"


def test_a_hold_out_cannot_be_replaced_and_the_second_time_is_its_noise(lab):
    lab.measure(KERNEL, run_ns=1_000_000)
    lab.measure(KERNEL, CONV, run_ns=1_100_000)
    lab.hold_out("fc", "conv-bn-act")

    def times(occasion):
        return {row.kernel_type: row.normalised_ms for row in lab.holdouts(occasion=occasion).kernels}

    assert times(1) == {"fc": pytest.approx(1.0, rel=0.01), "conv-bn-act": pytest.approx(1.1, rel=0.01)}
    assert times(2) == {"fc": pytest.approx(1.1, rel=0.01)}
    assert times(3) == {}


def test_a_platform_or_an_id_that_is_none(farm, agent):
    with farm.transaction() as tx:
        with pytest.raises(NotFound):
            training_rows(tx, 9999)
        with pytest.raises(NotFound):
            holdout_rows(tx, 9999)
        with pytest.raises(NotFound):
            holdout_rows(tx, 1, workload_ids=["w_none"])
