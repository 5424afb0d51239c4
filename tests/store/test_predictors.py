"""Predictors in the store: whole or not at all, one active version, the way back, and what a reader sees meanwhile."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchfarm_core.access import Role
from benchfarm_core.boards import MARK_PREFIXES
from benchfarm_core.errors import Conflict, InvalidRequest, NotFound, TooLarge
from benchfarm_core.predictor_headers import MAX_FILE_BYTES
from benchfarm_core.predictors import (
    KEPT_FILES,
    PREDICTOR_TRANSITIONS,
    HoldoutScore,
    PredictorEvidence,
    PredictorState,
    PredictorsWanted,
)
from benchfarm_store import cursors, predictors
from tests.store.conftest import moves_of
from tests.store.predictor_bytes import LINEAGE, predictor_bytes

KEY = "host-a/c0.t1.free/onnxruntime-1.31.1/fp32"
WIDE = "host-a/c0-1.t2.free/onnxruntime-1.31.1/fp32"
SCORE = HoldoutScore(count=50, within_5=0.9, within_10=0.98, mape=0.02, coverage=0.91)
EVIDENCE = PredictorEvidence(
    chosen=("ridge", "smooth"), rows={"alone": 120}, donors=("donor",), board_s=41.5, holdout=SCORE, adaptation_id="a"
)


class Bench:
    """Publishes made-up predictors on one platform."""

    def __init__(self, farm, key=KEY):
        self.farm, self.key = farm, key
        self.id = farm.scalar("SELECT id FROM platforms WHERE key = :key", key=key)

    def publish(self, number, **changes):
        """The file `number`, which is another one for each number."""
        with self.farm.transaction() as tx:
            return self.publish_in(tx, number, **changes)

    def publish_in(self, tx, number, *, subject="fc", activate=True, **changes):
        given = {"file": predictor_bytes(self.key, subject, bytes([number])), "evidence": EVIDENCE, "reason": "better"}
        place = {"platform_id": self.id, "subject": subject, "activate": activate}
        return predictors.publish(tx, **{**place, **given, **changes})

    def rollback(self, by, subject="fc", **changes):
        with self.farm.transaction() as tx:
            return predictors.rollback(tx, self.key, subject, by=by, **{"reason": "it is off", **changes})

    def heads(self):
        with self.farm.transaction() as tx:
            return predictors.active(tx, [self.id])

    def versions(self, subject="fc"):
        """State by version, the newest first."""
        with self.farm.transaction() as tx:
            wanted = PredictorsWanted(platform=self.key, subject=subject)
            return {one.version: one.state for one in predictors.list_predictors(tx, wanted).items}


@pytest.fixture
def bench(farm, agent):
    return Bench(farm)


@pytest.fixture
def operator(farm):
    return farm.account("lab", Role.OPERATOR)


def test_a_published_predictor_is_there_whole(farm, bench):
    made = bench.publish(1)
    data = predictor_bytes(KEY, "fc", b"\1")
    assert (made.platform, made.subject, made.version, made.state) == (KEY, "fc", 1, PredictorState.ACTIVE)
    assert (made.size_bytes, made.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (made.reason, made.evidence, made.has_file) == ("better", EVIDENCE, True)
    assert made.lineage.model_dump(mode="json") == LINEAGE
    assert made.activated_at == made.created_at
    (head,) = bench.heads()
    assert head == predictors.Head(made.id, bench.id, "fc", 1, made.sha256, len(data))
    with farm.transaction() as tx:
        assert predictors.file(tx, made.id) == data
        assert predictors.get_predictor(tx, made.id) == made


def test_versions_count_up_for_each_subject_and_platform_and_one_answers(farm, bench):
    other = Bench(farm, WIDE)
    for number in (1, 2):
        assert bench.publish(number).version == number
    assert bench.publish(3, activate=False).state == PredictorState.CANDIDATE
    assert (bench.publish(1, subject="model").version, other.publish(1).version) == (1, 1)
    assert bench.versions() == {3: "candidate", 2: "active", 1: "superseded"}
    assert [(head.subject, head.version) for head in bench.heads()] == [("fc", 2), ("model", 1)]
    with farm.transaction() as tx:
        both = predictors.active(tx, [bench.id, other.id, bench.id])
        expected = sorted([(bench.id, "fc"), (bench.id, "model"), (other.id, "fc")])
        assert [(head.platform_id, head.subject) for head in both] == expected
        assert predictors.active(tx, []) == []
        superseded = predictors.list_predictors(tx, PredictorsWanted(state=PredictorState.SUPERSEDED)).items
    assert [one.reason for one in superseded] == ["version 2 took its place: better"]


def test_the_same_file_twice_is_one_version(bench):
    first = bench.publish(1, activate=False)
    assert bench.publish(1, activate=False, reason="again") == first
    active = bench.publish(1, reason="better after all")
    assert (active.id, active.state, active.reason) == (first.id, "active", "better after all")
    assert bench.publish(1, reason="again") == active
    bench.publish(2)
    assert bench.publish(1).version == 3, "an older version's file again is a new version: something changed between"


def test_what_was_rolled_back_or_rejected_is_not_published_again_by_itself(farm, bench, operator):
    bench.publish(1)
    bench.publish(2)
    bench.rollback(operator)
    assert bench.publish(2).state == PredictorState.SUPERSEDED
    candidate = bench.publish(3, activate=False)
    with farm.transaction() as tx:
        predictors.reject(tx, candidate.id, "worse on the hold-out")
    assert bench.publish(3).state == PredictorState.REJECTED
    assert bench.versions() == {3: "rejected", 2: "superseded", 1: "active"}


@pytest.mark.parametrize(
    ("changes", "error", "code"),
    [
        ({"file": predictor_bytes(WIDE)}, InvalidRequest, "predictor_file_foreign"),
        ({"file": predictor_bytes(KEY, "model")}, InvalidRequest, "predictor_file_foreign"),
        ({"file": predictor_bytes(KEY, format=3)}, InvalidRequest, "predictor_file_foreign"),
        ({"file": b"PK\3\4" + bytes(60)}, InvalidRequest, "predictor_file_damaged"),
        ({"file": predictor_bytes(KEY, header={"kernel_type": "fc"})}, InvalidRequest, "predictor_file_damaged"),
        ({"file": b""}, InvalidRequest, "predictor_file_damaged"),
        ({"file": predictor_bytes(KEY, arrays=bytes(MAX_FILE_BYTES))}, TooLarge, "too_large"),
        ({"subject": "warp"}, InvalidRequest, "kernel_unknown"),
        ({"platform_id": 9999}, NotFound, "not_found"),
    ],
)
def test_what_is_no_predictor_of_the_platform_is_refused_and_leaves_nothing(bench, changes, error, code):
    bench.publish(1)
    with pytest.raises(error) as refused:
        bench.publish(2, **changes)
    assert refused.value.code == code
    assert bench.versions() == {1: "active"}


def test_a_rollback_returns_version_by_version_and_says_who_and_why(farm, bench, operator):
    for number in (1, 2, 3):
        bench.publish(number)
    assert bench.rollback(operator, version=3).version == 2
    with pytest.raises(Conflict, match="version 2 answers"):
        bench.rollback(operator, version=3)  # the same request again
    assert [head.version for head in bench.heads()] == [2]
    back = bench.rollback(operator)
    assert (back.version, back.state) == (1, "active")
    assert back.reason.startswith("returned to by lab/")
    with farm.transaction() as tx:
        left = predictors.list_predictors(tx, PredictorsWanted(state=PredictorState.SUPERSEDED)).items
        assert predictors.file(tx, back.id) == predictor_bytes(KEY, "fc", b"\1")
    assert all("rolled back by lab/" in one.reason and one.reason.endswith(": it is off") for one in left)
    with pytest.raises(Conflict, match="no version before version 1"):
        bench.rollback(operator)
    assert bench.publish(4).version == 4
    assert bench.rollback(operator).version == 1, "what answered before, not what was rolled back"


def test_a_rollback_of_nothing(bench, operator):
    for name in ({"subject": "fc"}, {"subject": "\N{SNOWMAN}"}):
        with pytest.raises(NotFound, match="no predictor"):
            bench.rollback(operator, **name)
    bench.key = "nowhere"
    with pytest.raises(NotFound):
        bench.rollback(operator)


def test_every_move_of_the_table_and_no_other(farm, bench, operator):
    bench.publish(1)
    candidate, other = bench.publish(2, activate=False), bench.publish(3, activate=False)
    with farm.transaction() as tx:
        assert predictors.activate(tx, candidate.id, "better").state == "active"
        assert predictors.activate(tx, candidate.id, "twice").reason == "better"
        assert predictors.reject(tx, other.id, "worse").state == "rejected"
        assert predictors.reject(tx, other.id, "twice").reason == "worse"
        first = predictors.list_predictors(tx, PredictorsWanted(state=PredictorState.SUPERSEDED)).items[0]
        for move, id_ in (
            (predictors.activate, first.id),
            (predictors.activate, other.id),
            (predictors.reject, first.id),
            (predictors.reject, candidate.id),
        ):
            with pytest.raises(Conflict):
                move(tx, id_, "no")
    bench.rollback(operator)
    assert farm.moves("predictors") == moves_of(PREDICTOR_TRANSITIONS)


def test_old_files_go_and_what_a_rollback_needs_stays(farm, bench, operator):
    for number in range(KEPT_FILES + 2):
        bench.publish(number)
    for number in range(50, 50 + 2 * KEPT_FILES):
        candidate = bench.publish(number, activate=False)
        with farm.transaction() as tx:
            predictors.reject(tx, candidate.id, "worse")
    with farm.transaction() as tx:
        found = predictors.list_predictors(tx, PredictorsWanted(platform=KEY)).items
        with pytest.raises(NotFound, match="not kept any more"):
            predictors.file(tx, found[-1].id)
    kept = [(one.version, one.state) for one in found if one.has_file]
    first_rejected = KEPT_FILES + 3
    newest = range(first_rejected + 2 * KEPT_FILES - 1, first_rejected + KEPT_FILES - 1, -1)
    assert kept == [
        *((version, "rejected") for version in newest),
        (KEPT_FILES + 2, "active"),
        *((version, "superseded") for version in range(KEPT_FILES + 1, 1, -1)),
    ]
    assert [bench.rollback(operator).version for _ in range(KEPT_FILES)] == list(range(KEPT_FILES + 1, 1, -1))
    with pytest.raises(Conflict, match="to return to"):
        bench.rollback(operator)  # version 1 is there without its file


def test_who_publish_at_once_get_versions_of_their_own(bench):
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(bench.publish, range(1, 13)))
    assert sorted(one.version for one in made) == list(range(1, 13))
    assert list(bench.versions().values()).count(PredictorState.ACTIVE) == 1
    assert [head.version for head in bench.heads()] == [12]


def test_a_question_sees_the_version_before_or_the_one_after(farm, bench):
    bench.publish(1)
    with farm.transaction() as writing:
        bench.publish_in(writing, 2)
        (before,) = bench.heads()  # another connection, and no lock in its way
    (after,) = bench.heads()
    assert (before.version, after.version) == (1, 2)
    with farm.transaction() as tx:
        assert hashlib.sha256(predictors.file(tx, before.id)).hexdigest() == before.sha256, "late readers still get it"


def test_what_fails_in_the_same_transaction_takes_the_swap_back(farm, bench):
    bench.publish(1)

    def publish_and_fail():
        with farm.transaction() as tx:
            assert bench.publish_in(tx, 2).version == 2
            raise Conflict("what comes after it fails")

    with pytest.raises(Conflict, match="comes after"):
        publish_and_fail()
    assert bench.versions() == {1: "active"}


@pytest.mark.parametrize("mark", sorted(MARK_PREFIXES))
def test_boards_with_marks_teach_no_real_ones(farm, ann, agent, report_of, mark):
    model = f"{MARK_PREFIXES[mark]}host-m"
    farm.agent(ann, report_of("m", board_model=model, marks=[mark]), name="marked lab")
    farm.agent(ann, report_of("b", board_model="host-b"), name="second lab")
    ours, marked, real = (Bench(farm, KEY.replace("host-a", name)) for name in ("host-a", model, "host-b"))
    for one in (ours, marked, real):
        one.publish(1)
        one.publish(2, activate=False)

    def donors(platform_id, subject="fc"):
        with farm.transaction() as tx:
            return [(head.platform_id, head.version) for head in predictors.donors(tx, platform_id, subject)]

    assert donors(ours.id) == [(real.id, 1)]
    assert donors(marked.id) == [(ours.id, 1), (real.id, 1)]
    assert donors(ours.id, "model") == []
    with pytest.raises(NotFound):
        donors(9999)


def test_the_list_has_filters_and_pages(farm, bench):
    made = [bench.publish(number) for number in range(3)] + [bench.publish(1, subject="model")]
    with farm.transaction() as tx:
        first = predictors.list_predictors(tx, limit=3)
        second = predictors.list_predictors(tx, limit=3, cursor=first.next_cursor)
        of_model = predictors.list_predictors(tx, PredictorsWanted(subject="model", state=PredictorState.ACTIVE)).items
        assert len(predictors.list_predictors(tx, cursor=cursors.encode("predictors", 2**40)).items) == 4
    assert [one.id for one in (*first.items, *second.items)] == [one.id for one in made[::-1]]
    assert second.next_cursor is None
    assert [one.id for one in of_model] == [made[3].id]
    with farm.transaction() as tx, pytest.raises(InvalidRequest, match="platform"):
        predictors.list_predictors(tx, PredictorsWanted(platform="nowhere"))


@pytest.mark.parametrize("name", ["", "pr_", "1", "pr_x", "pr_99999999999", "pr_-1", "pr_\N{SUPERSCRIPT TWO}", "pr_77"])
def test_an_id_that_is_none(farm, bench, name):
    bench.publish(1)
    with farm.transaction() as tx:
        for look in (predictors.get_predictor, predictors.file):
            with pytest.raises(NotFound):
                look(tx, name)


def test_what_answers_is_told_with_its_file_and_held(farm, bench, operator):
    with farm.transaction() as tx:
        assert predictors.answering(tx, bench.id, "fc") is None
        assert predictors.hold_answering(tx, bench.id, "fc") is None
    first, second = bench.publish(1), bench.publish(2)
    with farm.transaction() as tx:
        found = predictors.answering(tx, bench.id, "fc")
        assert predictors.hold_answering(tx, bench.id, "fc") == second.id
    assert found == (second.id, second.created_at, SCORE, predictor_bytes(KEY, "fc", b"\2"), None)
    bench.rollback(operator)
    with farm.transaction() as tx:
        assert predictors.hold_answering(tx, bench.id, "fc") == first.id
        with pytest.raises(NotFound):
            predictors.hold_answering(tx, 9999, "fc")


def test_nobody_swaps_what_answers_while_it_is_held(farm, bench):
    first = bench.publish(1)
    with ThreadPoolExecutor(1) as pool:
        with farm.transaction() as tx:
            held = predictors.hold_answering(tx, bench.id, "fc")
            other = pool.submit(bench.publish, 2)
            with pytest.raises(TimeoutError):
                other.result(timeout=0.3)
            (head,) = predictors.active(tx, [bench.id])
        assert held == head.id == first.id
        assert other.result(timeout=10).state == PredictorState.ACTIVE
