"""Latencies of arrays of architectures, the probability that one meets a limit, and a search as a plain loop."""

from math import isnan
from typing import Any

import numpy as np
import pytest

from benchfarm import (
    BenchfarmError,
    InvalidRequest,
    Judged,
    KernelListRequest,
    LatencyConstraint,
    ListedKernel,
    OnMiss,
    Search,
    latencies,
)
from benchfarm.workload_text import parse_kernel
from benchfarm_api import bodies
from benchfarm_core.latency import LatencyAnswer, Pin, unanswered
from benchfarm_core.measurements import Timing
from benchfarm_core.summaries import Grade
from benchfarm_workloads import spaces
from tests.client.test_predictions import made, publish_again, published
from tests.predictor.predictors import PLATFORM

__all__ = ["made", "published"]

ARCHITECTURES = spaces.draws("bert", "arrays", 40)


def answered(median_ms: float, low_ms: float, high_ms: float, coverage: float = 0.9) -> LatencyAnswer:
    found = unanswered(0, PLATFORM, Timing.ALONE, "no_predictor", "")
    numbers = {"median_ms": median_ms, "low_ms": low_ms, "high_ms": high_ms, "coverage": coverage, "error": None}
    return found.model_copy(update={"source": "predicted", **numbers})


@pytest.mark.usefixtures("published")
def test_arrays_are_answered_in_order_whatever_their_form(farm: Any) -> None:
    with farm.client() as sdk:
        as_json = [{"space": one.space, "genes": one.genes} for one in ARCHITECTURES]
        found = sdk.latency(ARCHITECTURES, [PLATFORM])
        assert (len(found), found.items_count, found.platforms) == (40, 40, (PLATFORM,))
        assert list(found) == list(sdk.latency(as_json, [PLATFORM], pin=found.pin))
        assert [one.item_no for one in found[10:13]] == [10, 11, 12]
        assert found[-1] == found.of_item(39)[0]
        medians_ms = np.asarray(found.numbers("median_ms", platform=PLATFORM))
        assert medians_ms.tolist() == [one.median_ms for one in found]
        with pytest.raises(InvalidRequest, match="was not asked"):
            found.numbers(platform="elsewhere")
        with pytest.raises(InvalidRequest, match="no column"):
            found.numbers("width")


@pytest.mark.usefixtures("published")
def test_what_one_question_cannot_hold_is_asked_in_several_of_the_same_predictors(
    farm: Any, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with farm.client() as sdk:
        whole = sdk.latency(ARCHITECTURES, [PLATFORM])
        sent: list[int] = []
        request = sdk._connection.request

        def counted(method: str, path: str, **options: Any) -> Any:
            sent.append(options["content"].count(b'"genes"'))
            if len(sent) == 2:
                publish_again(farm, made)  # in the middle of an array
            return request(method, path, **options)

        monkeypatch.setattr(sdk._connection, "request", counted)
        monkeypatch.setattr(latencies, "MAX_ITEMS", 15)
        parts = sdk.latency(ARCHITECTURES, [PLATFORM])
        assert sent == [15, 15, 10]
        assert [one.median_ms for one in parts] == [one.median_ms for one in whole]
        assert [one.item_no for one in parts] == list(range(40))
        assert parts.of_item(30)[0] == parts[30]
        assert len({one.predictor_version for one in parts}) == 1
        after = sdk.latency(ARCHITECTURES[:1], [PLATFORM])
        assert after[0].predictor_version == (parts[0].predictor_version or 0) + 1
        monkeypatch.setattr(latencies, "BATCH_BYTES", 300)
        sent.clear()
        sdk.latency(ARCHITECTURES[:4], [PLATFORM])
        assert len(sent) > 1


@pytest.mark.usefixtures("published")
def test_kernel_lists_are_asked_in_as_many_questions_as_their_kernels_take(
    farm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert latencies.BATCH_OBJECTS < bodies.MAX_OBJECTS
    kernels = tuple(ListedKernel(type="fc", config={"cin": 64, "cout": cout}) for cout in range(8, 18))
    with farm.client() as sdk:
        request = sdk._connection.request
        sent: list[int] = []

        def counted(method: str, path: str, **options: Any) -> Any:
            sent.append(options["content"].count(b'"kernels"'))
            return request(method, path, **options)

        monkeypatch.setattr(sdk._connection, "request", counted)
        monkeypatch.setattr(latencies, "BATCH_OBJECTS", 3 * (1 + 2 * len(kernels)))
        found = sdk.latency([KernelListRequest(kernels=kernels)] * 7, [PLATFORM])
        assert sent == [3, 3, 1]
        assert [one.item_no for one in found if one.error is None] == list(range(7))


@pytest.mark.usefixtures("published")
def test_a_wrong_item_is_told_and_the_others_are_answered(farm: Any) -> None:
    listed = KernelListRequest(kernels=(ListedKernel(type="fc", config={"cin": 64, "cout": 32}, count=2),))
    outside = {"space": "bert", "genes": {**ARCHITECTURES[0].genes, "hidden": 1}}
    with farm.client() as sdk:
        found = sdk.latency([ARCHITECTURES[0], outside, listed, parse_kernel("fc cin=99 cout=8")], [PLATFORM])
        assert [one.error for one in found] == [None, "architecture_out_of_range", None, None]
        assert isnan(found.numbers()[1])
        with pytest.raises(InvalidRequest) as refused:
            sdk.latency([ARCHITECTURES[0], {"space": "bert"}], [PLATFORM])
        assert refused.value.field == "items.1.genes"
        for wrong in ("bert layers=1", None, 7, ARCHITECTURES, {"kind": "pair"}, Pin()):
            with pytest.raises(InvalidRequest) as refused:
                sdk.latency([ARCHITECTURES[0], wrong], [PLATFORM])
            assert str(refused.value.field).startswith("items.1"), wrong
        with pytest.raises(InvalidRequest) as refused:
            sdk.latency(ARCHITECTURES, [PLATFORM], tolerance=float("nan"))
        assert refused.value.field == "tolerance"
        with pytest.raises(InvalidRequest):
            sdk.latency([], [PLATFORM])


@pytest.mark.usefixtures("published")
def test_a_wrong_item_is_named_by_its_number_in_whichever_question_it_was(
    farm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = {"space": "bert", "genes": {**ARCHITECTURES[0].genes, "hidden": 1}}
    upload = {"kind": "upload", "model_id": "m_none"}
    monkeypatch.setattr(latencies, "MAX_ITEMS", 3)
    with farm.client() as sdk:
        found = sdk.latency([*ARCHITECTURES[:12], outside, upload], [PLATFORM])
    fields = {one.item_no: one.field for one in found if one.error is not None}
    assert fields == {12: "items.12.genes.hidden", 13: "items.13.model_id"}


@pytest.mark.usefixtures("published")
def test_columns_that_are_none_are_told(farm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with farm.client() as sdk:
        request = sdk._connection.request

        def cut(*arguments: Any, **options: Any) -> Any:
            answer = request(*arguments, **options)
            answer._content = answer.content[:-30]
            return answer

        monkeypatch.setattr(sdk._connection, "request", cut)
        with pytest.raises(BenchfarmError, match="not understood"):
            sdk.latency(ARCHITECTURES, [PLATFORM])


def test_a_probability_follows_from_the_interval() -> None:
    found = answered(10.0, 8.0, 12.5)
    at = {limit_ms: LatencyConstraint(PLATFORM, limit_ms).probability_of(found) for limit_ms in (8.0, 10.0, 12.5)}
    assert at == pytest.approx({8.0: 0.05, 10.0: 0.5, 12.5: 0.95})
    constraint = LatencyConstraint(PLATFORM, 12.0, probability=0.9)
    assert (constraint.is_met(found), constraint.violation(found) < 0) == (True, True)
    assert constraint.is_met(answered(10.0, 8.0, 12.5, coverage=0.0)) is False
    assert LatencyConstraint(PLATFORM, 9.0).violation(found) > 0
    exact = answered(10.0, 10.0, 10.0)
    assert [LatencyConstraint(PLATFORM, limit_ms).probability_of(exact) for limit_ms in (9.9, 10.0)] == [0.0, 1.0]
    nothing = unanswered(0, PLATFORM, Timing.ALONE, "no_predictor", "")
    assert constraint.violation(nothing) == pytest.approx(0.9)


def test_a_single_launch_is_no_certainty() -> None:
    """Its interval has no width and guarantees nothing; rounding gives it one of a millionth of a millionth."""
    once = answered(10.0, 10.0, 10.0, coverage=0.0)
    normalised = once.model_copy(update={"source": "measured", "normalised_ms": 7.1})
    for found, median_ms in ((once, 10.0), (normalised, 7.1)):
        at = [LatencyConstraint(PLATFORM, factor * median_ms).probability_of(found) for factor in (0.5, 1.01, 2.0)]
        assert at == pytest.approx([0.25, 0.75, 0.75])
        assert not LatencyConstraint(PLATFORM, 2 * median_ms).is_met(found)


def test_launches_that_lie_together_by_chance_are_no_certainty() -> None:
    """Two cover the middle every second time, however near they are; their grade says how far apart they may be."""
    for median_ms, high_ms in ((10.0, 10.0), (10.0, 10.0001)):
        two = answered(median_ms, median_ms, high_ms, coverage=0.5)
        two = two.model_copy(update={"source": "measured", "grade": Grade.C})
        at = [LatencyConstraint(PLATFORM, limit_ms).probability_of(two) for limit_ms in (9.5, 10.05, 10.5, 20.0)]
        assert at == pytest.approx([0.24, 0.53, 0.75, 1.0], abs=0.01)
        better = two.model_copy(update={"grade": Grade.A, "coverage": 0.75})
        assert LatencyConstraint(PLATFORM, 10.5).probability_of(better) > 0.99
        rough = two.model_copy(update={"grade": Grade.D})
        assert LatencyConstraint(PLATFORM, 10.5).probability_of(rough) == pytest.approx(at[2])
    wide = answered(10.0, 5.0, 20.0, coverage=0.5).model_copy(update={"source": "measured", "grade": Grade.C})
    assert LatencyConstraint(PLATFORM, 20.0).probability_of(wide) == pytest.approx(0.75), "its own range is wider"
    many = answered(10.0, 9.99, 10.01, coverage=0.97).model_copy(update={"source": "measured", "grade": Grade.A})
    assert LatencyConstraint(PLATFORM, 10.02).probability_of(many) > 0.99, "an interval that means what it says"


def test_intervals_of_any_kind_have_a_probability() -> None:
    sure = answered(10.0, 8.0, 12.5, coverage=1.0)
    assert LatencyConstraint(PLATFORM, 13.0).probability_of(sure) > 0.999
    assert LatencyConstraint(PLATFORM, 7.0).probability_of(sure) < 0.001
    down_to_nothing = answered(10.0, 0.0, 12.5)
    assert LatencyConstraint(PLATFORM, 8.0).probability_of(down_to_nothing) == pytest.approx(0.05), "as far as up"
    assert LatencyConstraint(PLATFORM, 0.001).probability_of(down_to_nothing) < 1e-9


@pytest.mark.parametrize("source", ["measured", "mixed"])
def test_what_a_slow_board_measured_is_held_against_the_limit_as_a_prediction_is(source: str) -> None:
    """A board that was a quarter too slow: the same network predicted is not the better one."""
    predicted = answered(8.0, 6.4, 10.0).model_copy(update={"normalised_ms": 8.0})
    slow = answered(10.0, 8.0, 12.5).model_copy(update={"normalised_ms": 8.0, "source": source})
    for limit_ms in (7.0, 8.0, 9.0):
        constraint = LatencyConstraint(PLATFORM, limit_ms)
        assert constraint.probability_of(slow) == pytest.approx(constraint.probability_of(predicted))
    raw = slow.model_copy(update={"normalised_ms": None})
    assert LatencyConstraint(PLATFORM, 10.0).probability_of(raw) == pytest.approx(0.5)
    assert Judged(ARCHITECTURES[0], (slow, raw, predicted), (), ()).latencies_ms == pytest.approx((8.0, 10.0, 8.0))


@pytest.mark.parametrize("numbers", [(0.0, 0.9), (float("nan"), 0.9), (float("inf"), 0.9), (1.0, 0.0), (1.0, 1.0)])
def test_a_constraint_that_means_nothing_is_refused(numbers: tuple[float, float]) -> None:
    with pytest.raises(InvalidRequest):
        LatencyConstraint(PLATFORM, numbers[0], probability=numbers[1])


@pytest.mark.parametrize("given", ["8", True, None])
def test_a_limit_that_is_no_number_is_refused(given: Any) -> None:
    for fields in ({"limit_ms": given}, {"limit_ms": 8.0, "probability": given}):
        with pytest.raises(InvalidRequest) as refused:
            LatencyConstraint(PLATFORM, **fields)
        assert refused.value.field == [*fields][-1]
    of_numpy: Any = np.float32(8)
    assert LatencyConstraint(PLATFORM, of_numpy).limit_ms == 8


@pytest.mark.usefixtures("published")
def test_a_search_is_answered_by_the_same_predictors_to_its_end(farm: Any, made: Any) -> None:
    with farm.client() as sdk:
        middle_ms = sorted(sdk.latency(ARCHITECTURES, [PLATFORM]).numbers())[20]
        search = Search(sdk, [LatencyConstraint(PLATFORM, middle_ms), LatencyConstraint(PLATFORM, 1e6, 0.99)])
        first = search.judge(ARCHITECTURES)
        assert [len(one.answers) for one in first] == [2] * 40
        assert {one.is_met for one in first} == {True, False}
        for one in first:
            assert one.is_met == (min(one.probabilities[0] - 0.9, one.probabilities[1] - 0.99) >= 0)
        publish_again(farm, made)
        assert search.judge(ARCHITECTURES) == first
        assert search.questions == 80
        other = Search(sdk, search.constraints, pin=search.pin)
        assert [one.latencies_ms for one in other.judge(ARCHITECTURES)] == [one.latencies_ms for one in first]
        assert search.judge([]) == []


@pytest.mark.usefixtures("published")
def test_a_search_has_measured_what_is_not_sure_enough(farm: Any) -> None:
    with farm.client() as sdk:
        found = sdk.latency(ARCHITECTURES[:2], [PLATFORM], tolerance=1e-9, on_miss=OnMiss.MEASURE)
        (measuring,) = found.measuring
        assert (measuring.queued, {one.job_id for one in found}) == (2, {*measuring.jobs})
        farm.measure(measuring.jobs[0])
        assert [one.source for one in sdk.latency(ARCHITECTURES[:2], [PLATFORM])] == ["measured"] * 2


@pytest.mark.usefixtures("published")
def test_what_a_search_has_measured_is_seen_by_the_next_one(farm: Any) -> None:
    with farm.client() as sdk:
        limits = [LatencyConstraint(PLATFORM, 1e6)]
        search = Search(sdk, limits, tolerance=1e-9, on_miss=OnMiss.MEASURE)
        items = ARCHITECTURES[2:4]
        first = search.judge(items)
        (job_id,) = {one.answers[0].job_id for one in first}
        farm.measure(job_id)
        again = search.judge(items)
        assert [one.answers[0].source for one in again] == ["predicted"] * 2
        assert [one.latencies_ms for one in again] == [one.latencies_ms for one in first]
        assert {one.answers[0].job_id for one in again} <= {job_id, None}  # nothing is queued twice
        fresh = Search(sdk, limits).judge(items)
        assert [one.answers[0].source for one in fresh] == ["measured"] * 2
        assert [one.latencies_ms[0] for one in fresh] == [one.answers[0].normalised_ms for one in fresh]


@pytest.mark.usefixtures("published")
def test_an_alias_that_moves_changes_no_search_and_no_array(
    farm: Any, logged_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = PLATFORM.replace("1.31.1", "1.31.1~graph=none")
    with farm.client() as sdk:
        sdk.submit(workloads=[parse_kernel(farm.kernels[0])], platforms=[other])
        assert logged_in("platforms", "alias", PLATFORM, "moving").code == 0
        search = Search(sdk, [LatencyConstraint("moving", 1e6)])
        first = search.judge(ARCHITECTURES[:3])
        request = sdk._connection.request
        sent: list[str] = []

        def moved(method: str, path: str, **options: Any) -> Any:
            answer = request(method, path, **options)
            sent.append(path)
            assert logged_in("platforms", "alias", other, "moving").code == 0
            return answer

        monkeypatch.setattr(sdk._connection, "request", moved)
        monkeypatch.setattr(latencies, "MAX_ITEMS", 2)
        found = sdk.latency(ARCHITECTURES[:3], ["moving"])
        assert (len(sent), {one.platform for one in found}, found.platforms) == (2, {PLATFORM}, (PLATFORM,))
        assert search.judge(ARCHITECTURES[:3]) == first
        assert Search(sdk, search.constraints).judge(ARCHITECTURES[:1])[0].answers[0].platform == other


def test_a_search_needs_a_constraint_and_one_name_for_a_platform(farm: Any, logged_in: Any) -> None:
    assert logged_in("platforms", "alias", PLATFORM, "here").code == 0
    with farm.client() as sdk:
        with pytest.raises(InvalidRequest, match="at least one"):
            Search(sdk, [])
        search = Search(sdk, [LatencyConstraint(PLATFORM, 1.0), LatencyConstraint("here", 1.0)])
        with pytest.raises(InvalidRequest, match="two mean one"):
            search.judge(ARCHITECTURES[:1])
