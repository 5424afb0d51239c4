"""Whole predictors, fitted on made-up latencies, for tests of what answers with them."""

from collections.abc import Sequence

from benchfarm_core.predictor_headers import Header, Lineage
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_predictor.composition import fit_whole_model
from benchfarm_predictor.conformal import calibrate
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernel_lists import CountedKernel, KernelLists
from benchfarm_predictor.predictor_file import Predictor
from benchfarm_predictor.ridge import fit_ridge
from benchfarm_predictor.trained_range import TrainedRange
from tests.predictor.rows import drawn, roofline_ms, whole_ms

PLATFORM = "sim-1/c0.t1.free/onnxruntime-1.31.1/fp32"
LINEAGE = Lineage(data_hash="d" * 32, rule_version=6, code_version="0.1.0")


def header(subject: str, platform: str = PLATFORM) -> Header:
    return Header(kernel_type=subject, platform=platform, lineage=LINEAGE)


def kernel_predictor(type_name: str, platform: str = PLATFORM, *, slower: float = 1.0, rows: int = 60) -> Predictor:
    """Of kernels that take `slower` times the roofline; kernels of one type are not quite on it."""
    kernels = drawn(type_name, rows)
    latency_ms = slower * roofline_ms(kernels)
    fit = fit_ridge(kernel_features(kernels, "quadratic"), kernels, latency_ms)
    intervals = calibrate(fit.left_out_ms, latency_ms)
    return Predictor(header(type_name, platform), fit.model, intervals, TrainedRange.of(kernels))


def model_predictor(
    lists: Sequence[Sequence[CountedKernel]], platform: str = PLATFORM, *, slower: float = 1.0
) -> Predictor:
    """Of models that take `slower` times the sum of their kernels' roofline."""
    batch = KernelLists.of(lists)
    latency_ms = slower * whole_ms(batch)
    fit = fit_whole_model(batch, latency_ms)
    intervals = calibrate(fit.left_out_ms, latency_ms)
    return Predictor(header(WHOLE_MODEL, platform), fit.model, intervals, TrainedRange.of(batch))
