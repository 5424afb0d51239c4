"""Predictors of whole models of every kind that training makes, for one search space, on made-up latencies."""

from dataclasses import replace

import numpy as np

from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_predictor.answers import model_sheet
from benchfarm_predictor.bounded import Boxes, bounded
from benchfarm_predictor.combined import Farther, Mean, Regional, Residual, Scaled, Stacked
from benchfarm_predictor.composition import KernelSum, fit_fallback, fit_kernel_sum, fit_whole_model
from benchfarm_predictor.conformal import calibrate
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernel_lists import KernelLists
from benchfarm_predictor.models import Model
from benchfarm_predictor.predictor_file import Predictor
from benchfarm_predictor.ridge import fit_ridge
from benchfarm_predictor.sums import SumFeatures
from benchfarm_predictor.trained_range import TrainedRange
from benchfarm_predictor.training.learners import smooth_surface
from benchfarm_workloads.fusing import FusionRules
from benchfarm_workloads.network_kernels import NetworkKernels
from benchfarm_workloads.spaces import draws, space
from tests.predictor.predictors import PLATFORM, header
from tests.predictor.rows import noisy, roofline_ms

SHARES = SumFeatures("shares")
RULES = FusionRules()
LEARNT = NetworkKernels(RULES)


def lists_of(name: str, count: int, seed: str = "taught") -> KernelLists:
    """Architectures of a space, as a question has them."""
    batch = model_sheet((at, LEARNT.parts(space(name), one.genes)) for at, one in enumerate(draws(name, seed, count)))
    assert isinstance(batch.batch, KernelLists)
    return batch.batch


def kernel_sum(lists: KernelLists, guessed: str = "") -> KernelSum:
    """A ridge for each type with some configurations; the others are guessed, and so is one more."""
    tables = {name: entries.kernels for name, entries in lists.by_type.items()}
    fits = {
        name: fit_ridge(kernel_features(kernels, "quadratic"), kernels, noisy(roofline_ms(kernels), 0.05)).model
        for name, kernels in tables.items()
        if len(kernels) > 5
    }
    fallback = fit_fallback({name: (kernels, roofline_ms(kernels)) for name, kernels in tables.items()})
    return KernelSum(fits, fallback, guessed=frozenset({guessed} & fits.keys()))


def region(lists: KernelLists, name: str, members: tuple[Model, ...], weights: list[list[float]]) -> Regional:
    """One region around these models, and elsewhere."""
    x = SHARES.matrix(lists)
    centre, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 0.1)
    apart = np.sqrt((((x - centre) / scale) ** 2).mean(axis=1)).max()
    return Regional(
        members=members,
        weights=np.array(weights),
        offsets=np.array([0.01, 0.2]),
        regions=(name,),
        features=SHARES,
        centres=centre[None],
        scales=scale[None],
        radii=np.array([1.05 * apart]),
        widenings=np.array([1.0, 1.5]),
    )


def whole_predictors(name: str, rows: int = 60, platform: str = PLATFORM) -> dict[str, Predictor]:
    """By the name of their kind."""
    lists = lists_of(name, rows)
    latency_ms = noisy(lists.sums(roofline_ms), 0.03)
    plain = kernel_sum(lists, "conv-bn-act" if "conv-bn-act" in lists.by_type else "linear")
    summed = fit_kernel_sum(plain, lists, latency_ms).model
    ridge = fit_whole_model(lists, latency_ms).model
    ratio = fit_ridge(SHARES, lists, latency_ms / summed.predict(lists)).model
    surface = smooth_surface(SHARES, lists, np.log(latency_ms / ridge.predict(lists)), 0, 40)
    corrected = Residual(summed, ratio)
    models: dict[str, Model] = {
        "kernel sum": summed,
        "ridge": ridge,
        "scaled": Scaled(ridge, 1.7),
        "residual": corrected,
        "smooth": Residual(ridge, surface),
        "mean": Mean((summed, ridge, corrected)),
        "stacked": Stacked((ridge, corrected), (0.4, 0.6), 0.02),
    }
    parts = (summed, ratio, ridge, surface, Mean((ridge, summed)))
    boxes = Boxes.around(lists, [name] * len(lists))
    held = bounded(ratio, boxes, np.log(latency_ms / summed.predict(lists)))
    models["bounded"] = Residual(summed, held)
    regional = region(lists, name, parts, [[0.5, 0.5, 0.5, 0.5, 0.0], [0.0, 0.0, 0.7, 0.0, 0.3]])
    models["regional"] = regional
    models["regional, farther"] = replace(regional, farther=Farther(boxes, 0.5, 0.3, 1.0))
    trained = TrainedRange.of(lists)
    return {
        kind: Predictor(header(WHOLE_MODEL, platform), model, calibrate(model.predict(lists), latency_ms), trained)
        for kind, model in models.items()
    }


def narrowed(predictor: Predictor) -> Predictor:
    """Having seen smaller convolutions alone, so that many architectures lie outside."""
    trained = predictor.trained
    assert trained is not None
    high = {name: np.where(values > 40, values // 2, values) for name, values in trained.high.items()}
    return replace(predictor, trained=replace(trained, high=high))
