"""`benchfarm predictors` and the SDK: versions, their files by hash, and the way back."""

from typing import Any

import pytest

from benchfarm import Conflict, InvalidRequest, NotFound
from benchfarm.exit_codes import ExitCode
from benchfarm_core.predictors import HoldoutScore, PredictorEvidence, RollbackRequest
from benchfarm_store import predictors
from tests.store.predictor_bytes import predictor_bytes

PLATFORM = "sim-1/c0.t1.free/onnxruntime-1.31.1/fp32"
SCORE = HoldoutScore(
    count=50, within_5=0.9, within_10=0.98, mape=0.021, coverage=0.91, floor_within_5=0.95, floor_within_10=1.0
)


def publish(farm: Any, subject: str, number: int, **evidence: Any) -> str:
    with farm.database.transaction() as tx:
        made = predictors.publish(
            tx,
            platform_id=1,
            subject=subject,
            file=predictor_bytes(PLATFORM, subject, bytes([number])),
            evidence=PredictorEvidence(chosen=("ridge",), rows={"alone": 120, "models": 3}, board_s=41.5, **evidence),
            reason="better on the hold-out",
            activate=True,
        )
    return made.id


def test_versions_are_listed_shown_and_rolled_back(farm: Any, logged_in: Any) -> None:
    first, second = publish(farm, "fc", 1, unseen=SCORE), publish(farm, "fc", 2, holdout=SCORE, donors=("donor-a",))
    listed = logged_in("predictors", "list", "--platform", PLATFORM, "--subject", "fc")
    assert listed.code == 0, listed.err
    for told in (first, second, "98.0% of 50 hold-outs", "98.0% of 50 rows", "superseded", "123", "41.5"):
        assert told in listed.out
    (answering,) = logged_in("predictors", "list", "--subject", "fc", "--state", "active", "--json").document
    assert (answering["id"], answering["version"]) == (second, 2)
    shown = logged_in("predictors", "show", second).out
    for told in ("ridge", "donor-a", "MAPE 2.1%", "measured again: 100.0% and 95.0%", "better on the hold-out"):
        assert told in shown
    assert logged_in("predictors", "show", first).code == 0
    arguments = ("predictors", "rollback", PLATFORM, "fc", "--version", "2", "--reason", "too slow on wide layers")
    back = logged_in(*arguments)
    assert (back.code, "version 1 answers again" in back.out) == (0, True), back.err
    assert logged_in(*arguments).code == ExitCode.CONFLICT
    assert logged_in("predictors", "rollback", PLATFORM, "fc", "--reason", "").code == ExitCode.USAGE
    assert logged_in("predictors", "show", "pr_none").code == ExitCode.NOT_FOUND


def test_the_sdk_reads_files_by_their_hash(farm: Any) -> None:
    made = publish(farm, "model", 1)
    with farm.client() as sdk:
        assert sdk.predictors.get(made).subject == "model"
        assert sdk.predictors.file(made) == predictor_bytes(PLATFORM, "model", b"\1")
        assert [one.id for one in sdk.predictors.list(platform=PLATFORM, subject="model")] == [made]
        with pytest.raises(NotFound):
            sdk.predictors.file("pr_none")
        with pytest.raises(InvalidRequest):
            list(sdk.predictors.list(platform="nowhere"))
    with farm.client("operator") as sdk, pytest.raises(Conflict):
        sdk.predictors.rollback(PLATFORM, "model", RollbackRequest(reason="nothing before it"))
