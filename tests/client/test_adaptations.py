"""`benchfarm adapt` and `benchfarm adaptations`: asked for, followed to the end, shown with the whole story."""

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from benchfarm.commands.adaptations import progress_text
from benchfarm.exit_codes import ExitCode
from benchfarm_core.adapting import AdaptationState, AdaptationView, AdaptedPredictor, CurvePoint
from benchfarm_core.predictors import HoldoutScore
from benchfarm_store import adaptations

SCORE = HoldoutScore(count=20, within_5=0.9, within_10=0.95, mape=0.031, coverage=0.9)


@pytest.fixture
def platform(farm: Any) -> str:
    with farm.client() as client:
        return str(next(iter(client.platforms())).key)


@pytest.fixture(autouse=True)
def nothing_left(farm: Any) -> Iterator[None]:
    """One platform has one adaptation at a time, and the file's tests share one farm."""
    yield
    with farm.client("operator") as client:
        for one in client.adaptations.list():
            if one.finished_at is None:
                client.adaptations.cancel(one.id)


def advance(farm: Any, adaptation_id: str, *states: str, told: bool = True) -> None:
    """What the worker does, without a measurement."""
    for state in states:
        with farm.database.transaction() as tx:
            one = adaptations.claim(tx, adaptation_id)
            assert one is not None
        with farm.database.transaction() as tx:
            assert adaptations.hold(tx, one)
            if state == "judging" and told:
                point = CurvePoint(
                    round=0, at=tx.now, board_s=1.5, rows={"models": 9}, unseen=SCORE, chosen=["ridge"], train_s=0.1
                )
                adaptations.keep_round(tx, one, point, ["other/c0.t1.free/ncnn-1/fp32"])
                made = AdaptedPredictor(
                    subject="model", predictor_id="pr_7", version=3, is_active=True, detail="the first one",
                    holdout=SCORE, unseen=SCORE, before=None,
                )  # fmt: skip
                adaptations.keep_predictor(tx, one, made)
            adaptations.move(tx, one, AdaptationState(state), "because")


def only(farm: Any) -> AdaptationView:
    with farm.client() as client:
        found: AdaptationView = next(one for one in client.adaptations.list() if one.finished_at is None)
    return found


def test_it_is_followed_to_its_end_and_told(farm: Any, logged_in: Any, platform: str) -> None:
    ended: list[Any] = []
    asked = ("adapt", platform, "--budget", "10s", "--space", "proxylessnas", "--target", "0.9@10%", "--timeout", "60")

    def work() -> None:
        while True:
            with farm.client() as client:
                found = [one for one in client.adaptations.list() if one.finished_at is None]
            if found:
                advance(farm, found[0].id, "probing", "training", "judging", "succeeded")
                return

    worker = threading.Thread(target=work)
    worker.start()
    ended.append(logged_in(*asked))
    worker.join()
    (found,) = ended
    assert found.code == 0, found.err
    assert "adaptation " in found.err
    for told in ("succeeded", "90 % / 95 % of 20", "3.1 % off", "ridge", "pr_7", "ncnn-1", "proxylessnas", "0.9@10%"):
        assert told in found.out, told


def test_without_waiting_it_is_asked_for_and_looked_at_later(farm: Any, logged_in: Any, platform: str) -> None:
    asked = logged_in("adapt", platform, "--no-wait", "--json")
    assert (asked.code, asked.document["state"]) == (0, "queued"), asked.err
    made = asked.document["id"]
    assert made in logged_in("adaptations", "list", "--state", "queued").out
    assert logged_in("adaptations", "show", made, "--json").document == asked.document
    assert logged_in("adapt", platform, "--no-wait").code == ExitCode.CONFLICT
    advance(farm, made, "probing", "training", told=False)
    waited = logged_in("adaptations", "watch", made, "--timeout", "1s")
    assert (waited.code, "still training" in waited.err) == (ExitCode.TIMEOUT, True)
    assert "cancelled" in logged_in("adaptations", "cancel", made).out
    assert logged_in("adaptations", "watch", made).code == ExitCode.JOB_FAILED


BERTS = tuple(f"bert layers={layers} hidden=128 seq=64 intermediate=512 heads=2" for layers in (1, 2, 3))


def test_the_winners_of_a_search_can_be_given(logged_in: Any, platform: str) -> None:
    """What a search found fast teaches the predictor that it asked; each names its space."""
    given = [part for text in BERTS for part in ("--architecture", text)]
    asked = logged_in("adapt", platform, "--no-wait", "--json", "--holdouts", "5", *given)
    assert asked.code == 0, asked.err
    request = asked.document["request"]
    assert [one["genes"]["layers"] for one in request["architectures"]] == [1, 2, 3]
    assert request["spaces"] == ["bert"]
    shown = logged_in("adaptations", "show", asked.document["id"]).out
    assert re.search(r"given architectures\s+3\b", shown), shown


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--architecture", "bert layers=two"), "layers=two"),
        (("--architecture", "nowhere layers=2"), "nowhere"),
        (("--architecture", BERTS[0], "--unseen-space", "autoformer"), "unseen"),
        (("--budget", "soon"), "--budget"),
        (("--target", "perfect"), "--target"),
        (("--space", "nowhere"), "nowhere"),
        (("--unseen-space", "nowhere"), "nowhere"),
        (("--space", "bert", "--unseen-space", "bert"), "cannot be both"),
        (("--budget", "0"), "--budget"),
        (("--donors", "mine"), "--donors"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    logged_in: Any, platform: str, options: tuple[str, ...], told: str
) -> None:
    refused = logged_in("adapt", platform, *options)
    assert (refused.code, told in refused.err) == (ExitCode.USAGE, True), refused.err


def test_what_is_not_there_is_not_found(logged_in: Any) -> None:
    assert logged_in("adapt", "nobody", "--no-wait").code == ExitCode.NOT_FOUND
    assert logged_in("adaptations", "show", "nothing").code == ExitCode.NOT_FOUND


def test_progress_is_one_line(farm: Any, logged_in: Any, platform: str) -> None:
    made = logged_in("adapt", platform, "--no-wait", "--json").document["id"]
    assert progress_text(only(farm)) == ("queued, round 0, 0/0 measured, 0.0 s of 3 min 0 s, nothing expected yet")
    advance(farm, made, "probing", "training", "judging")
    assert progress_text(only(farm)).endswith("0/0 hold-outs, expected 90 % / 95 % of 20, 3.1 % off")


@pytest.mark.parametrize("verb", ["show", "cancel", "watch"])
def test_an_unknown_one_is_called_what_it_is(logged_in: Any, verb: str) -> None:
    for name in ("foo", "00000000-0000-7000-8000-000000000000"):
        ended = logged_in("adaptations", verb, name)
        assert ended.code == ExitCode.NOT_FOUND
        assert "no such adaptation" in ended.err
