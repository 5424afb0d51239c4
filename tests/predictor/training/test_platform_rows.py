"""What of a platform's rows trains: grades A to C, no hold-out, each workload once."""

import random

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.summaries import Grade
from benchfarm_predictor.sums import SumFeatures
from benchfarm_predictor.training.platform_rows import HELD_OUT, NOT_ALL_KNOWN, TOO_ROUGH, PlatformRows
from tests.predictor.training.farm_rows import MOBILE, RESNET, Platform, kernel_rows, later, model_rows, training_rows

PLATFORM = Platform()


def test_kernels_alone_and_in_situ_stay_apart() -> None:
    alone = kernel_rows(PLATFORM, "fc", 12)
    in_situ = kernel_rows(PLATFORM, "fc", 9, Timing.IN_SITU)
    rows = PlatformRows.of(training_rows(PLATFORM, model_rows(PLATFORM, MOBILE, 3), alone + in_situ))
    assert rows.counts == {"alone": 12, "in_situ": 9, "models": 3}
    assert (rows.platform, rows.rule_version) == (PLATFORM.key, 6)
    fc = rows.alone["fc"]
    said = dict(zip(zip(fc.kernels.column("cin"), fc.kernels.column("cout"), strict=True), fc.latency_ms, strict=True))
    for row in alone:
        assert said[row.config["cin"], row.config["cout"]] == pytest.approx(row.normalised_ms)


def test_what_is_measured_twice_is_one_row() -> None:
    row, other = model_rows(PLATFORM, MOBILE, 2)
    rows = PlatformRows.of(training_rows(PLATFORM, [row, later(row, 1, 1.21), other]))
    found = dict(zip(rows.models.ids, rows.models.latency_ms, strict=True))
    assert found == pytest.approx({row.workload_id: 1.1 * row.normalised_ms, other.workload_id: other.normalised_ms})


def test_grade_d_does_not_train() -> None:
    kernels = kernel_rows(PLATFORM, "fc", 12)
    rough = [*kernels[:10], *(row.model_copy(update={"grade": Grade.D}) for row in kernels[10:])]
    rows = PlatformRows.of(training_rows(PLATFORM, [], rough))
    assert (rows.counts["alone"], rows.left_out) == (10, {TOO_ROUGH: 2})


def test_hold_outs_never_train_under_any_purpose() -> None:
    held, train, named = model_rows(PLATFORM, MOBILE, 3)
    held = held.model_copy(update={"purpose": Purpose.HOLDOUT})
    leaked = later(held, 2, purpose=Purpose.TRAIN)
    rows = PlatformRows.of(training_rows(PLATFORM, [held, leaked, train, named]), held=[named.workload_id])
    assert rows.models.ids == (train.workload_id,)
    assert rows.left_out == {HELD_OUT: 3}


def test_models_with_operators_that_nobody_knows_do_not_train() -> None:
    row, other = model_rows(PLATFORM, MOBILE, 2)
    rows = PlatformRows.of(training_rows(PLATFORM, [row.model_copy(update={"unknown": ("Einsum",)}), other]))
    assert (rows.models.ids, rows.left_out) == ((other.workload_id,), {NOT_ALL_KNOWN: 1})


def test_the_order_of_rows_says_nothing() -> None:
    models, kernels = model_rows(PLATFORM, MOBILE, 6), kernel_rows(PLATFORM, "fc", 10)
    one = PlatformRows.of(training_rows(PLATFORM, models, kernels))
    random.Random(1).shuffle(models)
    random.Random(2).shuffle(kernels)
    other = PlatformRows.of(training_rows(PLATFORM, models, kernels))
    assert one.models.ids == other.models.ids
    assert one.models.latency_ms.tolist() == other.models.latency_ms.tolist()
    assert one.alone["fc"].latency_ms.tolist() == other.alone["fc"].latency_ms.tolist()


def test_some_of_the_models_keep_what_they_are() -> None:
    models = PlatformRows.of(
        training_rows(PLATFORM, model_rows(PLATFORM, MOBILE, 4) + model_rows(PLATFORM, RESNET, 4))
    ).models
    rows = models.of_space(RESNET)
    some = models.take(rows)
    assert set(some.spaces) == {RESNET}
    assert some.ids == tuple(models.ids[at] for at in rows)
    for view in (SumFeatures(), SumFeatures("shares")):
        given = some.lists.matrices.pop(view)
        assert view.matrix(some.lists) == pytest.approx(given)
        assert given == pytest.approx(view.matrix(models.lists)[rows])
    assert len(models.take(np.zeros(0, dtype=np.int64))) == 0


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (training_rows(PLATFORM), "0 whole models are too few"),
        (training_rows(PLATFORM, model_rows(PLATFORM, MOBILE, 9)), "at least 10"),
        (training_rows(PLATFORM, model_rows(PLATFORM, MOBILE, 12, grade=Grade.D)), "12 with grade D"),
        (training_rows(PLATFORM, model_rows(PLATFORM, MOBILE, 12, normalised_ms=2.0)), "all 12 whole models take 2 ms"),
        (training_rows(PLATFORM, model_rows(PLATFORM, MOBILE, 12, purpose=Purpose.HOLDOUT)), "12 held out"),
        (training_rows(PLATFORM, model_rows(PLATFORM, MOBILE, 12, kernels=())), "no kernel in common"),
    ],
)
def test_whole_models_that_teach_nothing_are_refused(rows: object, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        PlatformRows.of(rows).whole_models()  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.field) == ("training_rows_invalid", "rows")
    assert "measure" in caught.value.detail
    assert PLATFORM.key in caught.value.detail


def test_kernels_that_teach_nothing_are_refused_with_what_to_do() -> None:
    kernels = kernel_rows(PLATFORM, "fc", 9) + kernel_rows(PLATFORM, "se", 12, Timing.IN_SITU)
    rows = PlatformRows.of(training_rows(PLATFORM, [], kernels))
    for name, says in (
        ("fc", "9 rows of kernel fc are too few"),
        ("se", "no kernel se was measured alone; there are fc"),
    ):
        with pytest.raises(InvalidRequest, match=says) as caught:
            rows.kernel(name)
        assert caught.value.code == "training_rows_invalid"
    rough = [row.model_copy(update={"grade": Grade.D}) for row in kernel_rows(PLATFORM, "fc", 30)]
    with pytest.raises(InvalidRequest, match=r"30 with grade D.*quiet"):
        PlatformRows.of(training_rows(PLATFORM, [], rough)).kernel("fc")
