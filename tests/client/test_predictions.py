"""Predicted latencies from the client's side: which version said so, and what makes it less sure."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchfarm.exit_codes import ExitCode
from benchfarm.workload_text import parse_architecture, parse_kernel
from benchfarm_core.latency import Pin
from benchfarm_core.measurements import Timing
from benchfarm_core.predictors import PredictorEvidence
from benchfarm_predictor.combined import Scaled
from benchfarm_predictor.predictor_file import Predictor, write
from benchfarm_store import platforms, predictors
from benchfarm_workloads import spaces
from benchfarm_workloads.fusing import FusionRules
from tests.predictor.predictors import PLATFORM, kernel_predictor, model_predictor

TINY = "bert layers=1 hidden=128 seq=64 intermediate=512 heads=2"
LARGEST = "bert layers=12 hidden=768 seq=128 intermediate=3072 heads=12"
HERE = ("--platform", PLATFORM)
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def made() -> tuple[Predictor, Predictor]:
    drawn = spaces.draws("bert", "client", 30)
    return kernel_predictor("fc"), model_predictor([spaces.kernels(one, FusionRules()) for one in drawn])


@pytest.fixture
def published(farm: Any, made: tuple[Predictor, Predictor]) -> None:
    """The same again is no new version."""
    publish(farm, *made)


def publish_again(farm: Any, made: tuple[Predictor, Predictor]) -> None:
    """As a refresh does: newer versions, that say more than twice as much."""
    slower = (replace(one, model=Scaled(one.model, 2.0 + next(_numbers) / 1000)) for one in made)
    publish(farm, *slower)


def publish(farm: Any, *made: Predictor) -> None:
    with farm.database.transaction() as tx:
        platform_id = platforms.find(tx, PLATFORM).id
        for one in made:
            predictors.publish(
                tx,
                platform_id=platform_id,
                subject=one.header.kernel_type,
                file=write(one),
                evidence=PredictorEvidence(),
                reason="made up",
                activate=True,
            )


@pytest.mark.usefixtures("published")
def test_the_sdk_tells_measured_from_predicted(farm: Any) -> None:
    with farm.client() as sdk:
        kernel = parse_kernel(farm.kernels[0])
        job = sdk.submit(workloads=[kernel], protocol={"name": "quick"})
        farm.measure(job.id)
        answers = sdk.latency([kernel, parse_kernel("fc cin=99 cout=8"), parse_architecture(TINY)], [PLATFORM])
        assert [answer.source for answer in answers] == ["measured", "predicted", "predicted"]
        assert [answer.predictor_version for answer in answers] == [None, 1, 1]
        subjects = [sdk.predictors.get(str(answer.predictor_id)).subject for answer in answers[1:]]
        assert subjects == ["fc", "model"]
        assert answers[2].median_ms == answers[2].normalised_ms
        (inside,) = sdk.latency([parse_kernel("fc cin=99 cout=8")], [PLATFORM], timing=Timing.IN_SITU)
        assert (inside.timing, inside.error) == (Timing.IN_SITU, "no_predictor")


@pytest.mark.usefixtures("published")
def test_the_table_names_the_version_and_the_doubts(logged_in: Any) -> None:
    sure = logged_in("latency", "--architecture", TINY, *HERE)
    assert (sure.code, "predicted" in sure.out, "version" in sure.out) == (0, True, True), sure.err
    assert "unknown:" not in sure.out
    doubtful = logged_in("latency", "--model", "squeezenet", "--architecture", LARGEST, *HERE).out
    for told in ("predicted", "unknown:", "maxpool", "outside", "kflops="):  # words: cells are folded
        assert told in doubtful
    found = logged_in("latency", "--model", "squeezenet", *HERE, "--json").document[0]
    assert {"maxpool", "concat"} <= set(found["unknown_kernels"])


@pytest.mark.usefixtures("published")
def test_in_situ_is_asked_and_not_predicted(logged_in: Any) -> None:
    ended = logged_in("latency", "--kernel", "fc cin=77 cout=8", "--timing", "in_situ", *HERE)
    assert (ended.code, "no_predictor" in ended.out) == (ExitCode.JOB_FAILED, True)


@pytest.mark.usefixtures("published")
def test_what_is_less_exact_than_was_asked_is_queued_once(farm: Any, logged_in: Any) -> None:
    asked = ("latency", "--kernel", "fc cin=68 cout=32", "--kernel", "fc cin=71 cout=8", *HERE)
    held = logged_in(*asked, "--tolerance", "10", "--json")
    assert (held.code, [one["within_tolerance"] for one in held.document]) == (0, [True, False])
    assert [one["job_id"] for one in held.document] == [None, None]
    first = logged_in(*asked, "--tolerance", "1e-6", "--on-miss", "measure")
    assert (first.code, "of 2 to be measured 2 queued" in first.err) == (0, True), first.err
    again = logged_in(*asked, "--tolerance", "1e-6", "--on-miss", "measure", "--json")
    (job_id,) = {one["job_id"] for one in again.document}
    assert "of 2 to be measured 2 queued before" in again.err
    for word in ("predicted", "less", "tolerance", *job_id.split("-")):  # cells are folded
        assert word in first.out
    farm.measure(job_id)
    after = logged_in(*asked, "--tolerance", "1e-6", "--on-miss", "measure")
    assert (after.code, "all of it is exact enough" in after.err, "predicted" in after.out) == (0, True, False)


@pytest.mark.usefixtures("published")
def test_without_a_measurement_an_error_can_be_asked_for(logged_in: Any) -> None:
    asked = ("latency", "--kernel", "fc cin=72 cout=8", *HERE)
    ended = logged_in(*asked, "--on-miss", "error")
    assert (ended.code, "not_measured" in ended.out) == (ExitCode.JOB_FAILED, True)
    assert logged_in(*asked).code == 0


@pytest.mark.usefixtures("published")
def test_a_pin_is_kept_in_a_file(farm: Any, made: tuple[Predictor, Predictor], logged_in: Any, tmp_path: Path) -> None:
    asked = ("latency", "--kernel", "fc cin=74 cout=8", *HERE, "--json")
    pin = tmp_path / "search.pin"
    (first,) = logged_in(*asked, "--pin", pin).document
    assert first["predictor_id"] in Pin.model_validate_json(pin.read_bytes()).predictors
    publish_again(farm, made)
    (held,) = logged_in(*asked, "--pin", pin).document
    (fresh,) = logged_in(*asked).document
    assert (held["predictor_id"], held["median_ms"]) == (first["predictor_id"], first["median_ms"])
    assert fresh["predictor_version"] > first["predictor_version"]
    assert [each.name for each in tmp_path.glob("search*")] == ["search.pin"]


@pytest.mark.parametrize("content", [None, "", "[]", '{"predictors": 1}'])
def test_a_file_without_a_pin_is_refused(farm: Any, logged_in: Any, tmp_path: Path, content: str | None) -> None:
    pin = tmp_path / "pin"
    if content is None:
        pin.mkdir()
    else:
        pin.write_text(content)
    ended = logged_in("latency", "--kernel", "fc cin=75 cout=8", *HERE, "--pin", pin)
    assert (ended.code, "pin" in ended.err) == (ExitCode.USAGE, True)


@pytest.mark.parametrize("words", ["--tolerance nan", "--tolerance 0", "--on-miss measure", "--on-miss never"])
def test_a_wish_that_means_nothing_is_refused_as_it_was_typed(farm: Any, logged_in: Any, words: str) -> None:
    ended = logged_in("latency", "--kernel", "fc cin=73 cout=8", *HERE, *words.split())
    assert ended.code == ExitCode.USAGE
    assert words.split(maxsplit=1)[0] in ended.err
