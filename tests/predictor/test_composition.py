"""Whole models from their kernels: model A, model B, unknown kernels, and the answer with what widened it."""

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.composition import (
    KernelSum,
    SumCorrection,
    fit_fallback,
    fit_kernel_sum,
    fit_sum_correction,
    fit_whole_model,
)
from benchfarm_predictor.conformal import calibrate
from benchfarm_predictor.features import general_features, kernel_features
from benchfarm_predictor.kernel_lists import CountedKernel, KernelLists
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.metrics import score
from benchfarm_predictor.models import Model
from benchfarm_predictor.predictions import ALL_MISSING, PER_OCTAVE, UNCALIBRATED, UNKNOWN, answer
from benchfarm_predictor.predictor_file import Header, Lineage, Predictor
from benchfarm_predictor.registry import Registry
from benchfarm_predictor.ridge import LARGE_PENALTIES, PENALTIES, fit_on_matrix, fit_ridge
from benchfarm_predictor.trained_range import TrainedRange
from benchfarm_predictor.unknown_kernels import FOREIGN_SHARE
from tests.predictor.rows import FAMILIES, architectures, drawn, noisy, roofline_ms, whole_ms

HEADER = Header(
    kernel_type="model",
    platform="sim/c0.t1.free/onnxruntime-1.31.1/fp32",
    lineage=Lineage(data_hash="0" * 64, rule_version=1, code_version="0.1.0"),
)
FOREIGN: CountedKernel = ("their-conv", {"a": 3}, 1)


def measured(type_name: str) -> tuple[Kernels, Floats]:
    kernels = drawn(type_name, 150)
    return kernels, roofline_ms(kernels)


@pytest.fixture(scope="module")
def kernel_models() -> dict[str, Model]:
    models: dict[str, Model] = {}
    for name in FAMILIES:
        kernels, latency_ms = measured(name)
        models[name] = fit_ridge(kernel_features(kernels, "lines"), kernels, latency_ms, target="ms").model
    return models


@pytest.fixture(scope="module")
def fallback() -> Model:
    return fit_fallback({name: measured(name) for name in FAMILIES})


def test_a_sum_of_kernels_is_corrected(kernel_models: dict[str, Model]) -> None:
    lists = KernelLists.of(architectures(5))
    sums = sum_by_hand(kernel_models, 5)
    assert KernelSum(kernel_models, None).predict(lists) == pytest.approx(sums)
    corrected = KernelSum(kernel_models, None, factor=1.5, offset_ms=0.25, per_kernel_ms=0.125)
    assert corrected.predict(lists) == pytest.approx(1.5 * sums + 0.25 + 0.125 * lists.kernel_counts)


def test_a_small_model_keeps_a_tenth_of_its_sum(kernel_models: dict[str, Model]) -> None:
    """An offset below zero that large models taught is more than all of a small one."""
    lists = KernelLists.of(architectures(20))
    sums = KernelSum(kernel_models, None).kernel_sums(lists)
    small = KernelLists.of([[("fc", {"cin": 16, "cout": 16}, 1)]])
    fit = fit_kernel_sum(KernelSum(kernel_models, None), lists, 1.2 * sums - 0.9 * sums.min())
    assert fit.model.offset_ms < -0.5 * sums.min()
    own = KernelSum(kernel_models, None).predict(small)
    assert fit.model.predict(small) == pytest.approx(0.1 * fit.model.factor * own)
    assert fit.model.predict(lists) == pytest.approx(1.2 * sums - 0.9 * sums.min(), rel=0.05)
    correction = SumCorrection(1.0, -100.0, 0.0, 1.0, np.zeros(0))
    assert correction.applied(sums, lists.kernel_counts) == pytest.approx(0.1 * sums)


def test_a_sum_that_the_correction_undoes_stays_undone() -> None:
    """A tenth of a sum that is a million times too large is a hundred thousand times too large."""
    lists = KernelLists.of(architectures(20))
    true_ms, counts = whole_ms(lists), lists.kernel_counts
    found = fit_sum_correction(1.3e6 * true_ms, counts, true_ms)
    assert found.left_out_ms == pytest.approx(true_ms, rel=0.02)
    assert found.applied(1.3e6 * true_ms, counts) == pytest.approx(true_ms, rel=0.02)
    backwards = SumCorrection(-0.5, 1.0, 0.0, 1.0, np.zeros(0))
    assert backwards.applied(np.array([1.0]), np.array([3.0])) == pytest.approx(0.5), "no floor below zero"


def test_a_fallback_tries_large_penalties_alone() -> None:
    """Rows of few types say little of another one, however many they are."""
    features = general_features()
    drawn_of = {name: drawn(name, 150) for name in FAMILIES}
    # of one feature alone, and without noise: then the smallest penalty is best
    rows = {name: (kernels, np.exp(0.2 * features.matrix(kernels)[:, 0])) for name, kernels in drawn_of.items()}
    x = np.concatenate([features.matrix(kernels) for kernels in drawn_of.values()])
    latency_ms = np.concatenate([each_ms for _, each_ms in rows.values()])
    every = (LARGE_PENALTIES, PENALTIES)
    fits = [fit_on_matrix(features, x, latency_ms, target="log", penalties=each) for each in every]
    strange = drawn("group-conv", 20)
    large, any_ = (fit.model.predict(strange) for fit in fits)
    assert fits[1].penalty < LARGE_PENALTIES[0], "else this would say nothing"
    assert fit_fallback(rows).predict(strange).tolist() == large.tolist() != any_.tolist()


def sum_by_hand(models: dict[str, Model], count: int) -> Floats:
    return np.array(
        [
            sum(times * models[name].predict(Kernels.of_configs(name, [config]))[0] for name, config, times in kernels)
            for kernels in architectures(count)
        ]
    )


def test_the_correction_is_found_from_few_whole_models(kernel_models: dict[str, Model]) -> None:
    lists = KernelLists.of(architectures(12))
    truth = KernelSum(kernel_models, None, factor=1.4, offset_ms=0.1, per_kernel_ms=0.02)
    fit = fit_kernel_sum(KernelSum(kernel_models, None), lists, truth.predict(lists))
    found = (fit.model.factor, fit.model.offset_ms, fit.model.per_kernel_ms)
    assert found == pytest.approx((1.4, 0.1, 0.02), rel=0.02)
    assert score(fit.left_out_ms, truth.predict(lists)).mape < 0.01


def test_leaving_a_whole_model_out_is_what_it_says(kernel_models: dict[str, Model]) -> None:
    lists = KernelLists.of(architectures(8))
    latency_ms = noisy(1.3 * KernelSum(kernel_models, None).predict(lists) + 0.05, 0.05)
    fit = fit_kernel_sum(KernelSum(kernel_models, None), lists, latency_ms)
    sums, counts = KernelSum(kernel_models, None).kernel_sums(lists), lists.kernel_counts
    unit = np.array([1, np.median(latency_ms), np.median(latency_ms) / np.median(counts)])
    columns = np.stack([sums, np.ones(8), counts], axis=1) * unit / latency_ms[:, None]
    for out in range(8):
        keep = np.arange(8) != out
        fines = fit.penalty * np.diag([0.01, 1.0, 1.0])
        steps = np.linalg.solve(
            columns[keep].T @ columns[keep] + fines, columns[keep].T @ (1 - sums / latency_ms)[keep]
        )
        assert fit.left_out_ms[out] == pytest.approx(sums[out] + latency_ms[out] * columns[out] @ steps, rel=1e-6)


def test_two_whole_models_already_correct_a_factor(kernel_models: dict[str, Model]) -> None:
    lists, fresh = KernelLists.of(architectures(2)), KernelLists.of(architectures(30, seed=0))
    fit = fit_kernel_sum(KernelSum(kernel_models, None), lists, 1.5 * whole_ms(lists))
    assert score(fit.model.predict(fresh), 1.5 * whole_ms(fresh)).mape < 0.1


def test_sums_of_whole_models_are_learnt() -> None:
    lists = KernelLists.of(architectures(150))
    train, test = lists.take(slice(0, 80)), lists.take(slice(80, None))
    fit = fit_whole_model(train, noisy(whole_ms(train), 0.01))
    assert score(fit.model.predict(test), whole_ms(test)).within_5 > 0.98
    assert fit.model.target == "ms"


def test_a_fallback_guesses_types_that_it_never_saw(fallback: Model) -> None:
    kernels = drawn("group-conv", 50)
    ratio = fallback.predict(kernels) / roofline_ms(kernels)
    assert ratio.min() > 1 / UNKNOWN
    assert ratio.max() < UNKNOWN


def known_count(kernels: list[CountedKernel]) -> int:
    return sum(count for _, _, count in kernels)


def test_single_kernels_are_refused(kernel_models: dict[str, Model]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        KernelSum(kernel_models, None).predict(drawn("fc", 1))
    assert caught.value.code == "kernel_unknown"


@pytest.mark.parametrize("latency_ms", [[], [1.0], [1.0, float("nan")], [1.0, 0.0]])
def test_what_cannot_be_learnt_from_is_refused(kernel_models: dict[str, Model], latency_ms: list[float]) -> None:
    lists, given = KernelLists.of(architectures(len(latency_ms))), np.array(latency_ms)
    for fit in (
        lambda: fit_whole_model(lists, given),
        lambda: fit_kernel_sum(KernelSum(kernel_models, None), lists, given),
        lambda: fit_fallback({}),
    ):
        with pytest.raises(InvalidRequest) as caught:
            fit()
        assert caught.value.code == "training_rows_invalid"


def test_constant_whole_models_are_predicted_as_they_are(kernel_models: dict[str, Model]) -> None:
    lists = KernelLists.of(architectures(20))
    assert fit_whole_model(lists, np.full(20, 3.0)).model.predict(lists) == pytest.approx(3)


def test_a_kernel_sum_survives_its_arrays(kernel_models: dict[str, Model], fallback: Model) -> None:
    lists = KernelLists.of([*architectures(3), [FOREIGN]])
    whole = KernelSum(kernel_models, fallback, 1.1, 0.2, 0.3, frozenset({"fc", "add-act"}))
    for model in (whole, KernelSum({}, None)):
        again = Registry().model(*model.to_arrays())
        assert isinstance(again, KernelSum)
        assert again.predict(lists).tolist() == model.predict(lists).tolist()
        assert again.guessed == model.guessed


def test_types_and_models_must_fit(kernel_models: dict[str, Model]) -> None:
    arrays, meta = KernelSum(kernel_models, None).to_arrays()
    changes = [{"types": meta["types"][1:]}, {"types": ["fc"] * len(meta["types"])}, {"guessed": ["matmul"]}]
    for change in changes:
        with pytest.raises(InvalidRequest) as caught:
            Registry().model(arrays, {**meta, **change})
        assert caught.value.code == "predictor_file_damaged"


def test_an_answer_inside_the_range_has_the_calibrated_interval() -> None:
    lists = KernelLists.of(architectures(60))
    latency_ms = noisy(whole_ms(lists), 0.02)
    fit = fit_whole_model(lists, latency_ms)
    intervals = calibrate(fit.left_out_ms, latency_ms)
    found = answer(Predictor(HEADER, fit.model, intervals, TrainedRange.of(lists)), lists)
    low, high = intervals.bounds(found.latency_ms)
    assert (found.low_ms.tolist(), found.high_ms.tolist()) == (low.tolist(), high.tolist())
    assert found.coverage.tolist() == [0.9] * 60
    assert not any(found.unknown)
    assert not any(found.outside)


def test_an_answer_outside_is_wider_and_says_why(kernel_models: dict[str, Model]) -> None:
    kernels, _ = measured("fc")
    trained = TrainedRange.of(kernels)
    largest = int(kernels.column("cin").max())
    far = Kernels.of_configs("fc", [{"cin": 2 * largest, "cout": 100}, {"cin": largest, "cout": 100}])
    found = answer(Predictor(HEADER, kernel_models["fc"], None, trained), far)
    factor = UNCALIBRATED.widths[0]
    assert found.high_ms / found.latency_ms == pytest.approx([factor * PER_OCTAVE, factor])
    assert found.low_ms / found.latency_ms == pytest.approx([1 / factor / PER_OCTAVE, 1 / factor])
    assert found.coverage.tolist() == [0.0, 0.0]
    assert found.outside == ((f"fc: cin={2 * largest} ({int(kernels.column('cin').min())} to {largest})",), ())


def test_an_answer_lists_unknown_kernels_and_widens_by_their_share(kernel_models: dict[str, Model]) -> None:
    known = architectures(1)[0]
    lists = KernelLists.of([known, [*known, FOREIGN, FOREIGN], [FOREIGN]])
    found = answer(Predictor(HEADER, KernelSum(kernel_models, None)), lists)
    assert found.unknown == ((), ("their-conv",), ("their-conv",))
    factor, share = UNCALIBRATED.widths[0], max(2 / (known_count(known) + 2), FOREIGN_SHARE)
    assert found.high_ms / found.latency_ms == pytest.approx(
        [factor, factor * (1 + (UNKNOWN - 1) * share), factor * ALL_MISSING]
    )


def test_whole_model_sums_do_not_know_foreign_kernels_either() -> None:
    lists = KernelLists.of(architectures(10))
    model = fit_whole_model(lists, whole_ms(lists)).model
    found = answer(
        Predictor(HEADER, model, None, TrainedRange.of(lists)), KernelLists.of([architectures(1)[0], [FOREIGN]])
    )
    assert found.unknown == ((), ("their-conv",))
    assert found.high_ms[1] / found.latency_ms[1] > found.high_ms[0] / found.latency_ms[0]
