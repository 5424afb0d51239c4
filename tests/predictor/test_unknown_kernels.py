"""What a predictor of whole models does not know: listed, weighed, and its interval wider."""

import numpy as np
import pytest

from benchfarm_predictor.combined import Mean, Regional, Residual, Scaled, Stacked
from benchfarm_predictor.composition import KernelSum, fit_fallback, fit_whole_model
from benchfarm_predictor.conformal import calibrate
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernel_lists import CountedKernel, KernelLists
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.models import Model
from benchfarm_predictor.predictions import ALL_MISSING, UNCALIBRATED, UNKNOWN, answer
from benchfarm_predictor.predictor_file import Header, Lineage, Predictor, read, write
from benchfarm_predictor.ridge import Ridge, fit_ridge
from benchfarm_predictor.sums import SumFeatures
from benchfarm_predictor.trained_range import TrainedRange
from benchfarm_predictor.unknown_kernels import FOREIGN_SHARE, unknown_of
from benchfarm_workloads.draws import draw
from tests.predictor.rows import FAMILIES, architectures, costs, drawn, roofline_ms, whole_ms

HEADER = Header(
    kernel_type="model",
    platform="sim/c0.t1.free/onnxruntime-1.31.1/fp32",
    lineage=Lineage(data_hash="0" * 64, rule_version=1, code_version="0.1.0"),
)
FOREIGN: CountedKernel = ("their-conv", {"a": 3}, 1)
GROUP: CountedKernel = ("group-conv", {"hw": 14, "cin": 32, "cout": 32, "k": 3, "groups": 4}, 2)
ATTENTION: CountedKernel = ("attention", {"seq": 1024, "heads": 16, "head_dim": 64}, 12)


def share_by_hand(kernels: list[CountedKernel], part: list[CountedKernel]) -> float:
    """The largest of the part's shares of kernels, FLOPs and bytes."""

    def total(of: list[CountedKernel], measure: str) -> float:
        found = [(costs(Kernels.of_configs(name, [config])), count) for name, config, count in of]
        return float(sum(count * (1 if measure == "count" else getattr(cost, measure)[0]) for cost, count in found))

    return max(total(part, measure) / total(kernels, measure) for measure in ("count", "flops", "total_bytes"))


@pytest.fixture(scope="module")
def sums() -> Ridge:
    """A ridge on sums of convolutions, full connections, sums and means."""
    lists = KernelLists.of(architectures(40))
    return fit_whole_model(lists, whole_ms(lists)).model


@pytest.fixture(scope="module")
def trained() -> TrainedRange:
    return TrainedRange.of(KernelLists.of(architectures(40)))


@pytest.fixture(scope="module")
def kernel_models() -> dict[str, Model]:
    models: dict[str, Model] = {}
    for name in FAMILIES:
        kernels = drawn(name, 100)
        fit = fit_ridge(kernel_features(kernels, "lines"), kernels, roofline_ms(kernels), target="ms")
        models[name] = fit.model
    return models


@pytest.fixture(scope="module")
def fallback() -> Model:
    rows = {name: drawn(name, 100) for name in FAMILIES}
    return fit_fallback({name: (kernels, roofline_ms(kernels)) for name, kernels in rows.items()})


def test_a_kernel_of_the_catalogue_that_sums_never_saw_is_listed_and_widens(sums: Ridge, trained: TrainedRange) -> None:
    known = architectures(1)[0]
    lists = KernelLists.of([known, [*known, GROUP], [*known, ATTENTION], [ATTENTION]])
    found = answer(read(write(Predictor(HEADER, sums, None, trained))), lists)
    assert found.unknown == ((), ("group-conv",), ("attention",), ("attention",))
    factor = UNCALIBRATED.widths[0]
    wide = found.high_ms / found.latency_ms / factor
    share = share_by_hand([*known, ATTENTION], [ATTENTION])
    assert wide[1] > 1
    assert share > 0.9, "twelve kernels that are nearly all of the work"
    assert wide[2] >= 0.999 * min(1 / (1 - share), ALL_MISSING)
    assert wide[3] >= 0.999 * ALL_MISSING


def test_what_a_ridge_never_saw_is_known_without_a_trained_range(sums: Ridge) -> None:
    known = architectures(1)[0]
    lists = KernelLists.of([known, [*known, GROUP], [*known, FOREIGN]])
    found = unknown_of(sums, lists, None)
    assert found.by_row() == [[], ["group-conv"], ["their-conv"]]
    assert found.missing == pytest.approx([0, share_by_hand([*known, GROUP], [GROUP]), FOREIGN_SHARE])
    assert not found.guessed.any()


def test_one_operator_of_unknown_costs_among_many_kernels_widens_well(sums: Ridge, trained: TrainedRange) -> None:
    """By count it is less than a hundredth of the model, and it may take longest."""
    known = [(name, config, 40 * count) for name, config, count in architectures(1)[0]]
    found = answer(Predictor(HEADER, sums, None, trained), KernelLists.of([known, [*known, FOREIGN]]))
    factors = found.high_ms / found.latency_ms
    assert factors[1] / factors[0] == pytest.approx(1 + (UNKNOWN - 1) * FOREIGN_SHARE, rel=0.01)
    assert found.unknown == ((), ("their-conv",))


def test_windows_that_were_never_there_are_missing_although_their_type_was() -> None:
    """Convolutions of one pixel and others are two families."""
    points = [{**config, "k": 1, "s": 1} for config in draw("conv-bn-act", 0, 30)]
    heads = draw("fc", 0, 30)
    models: list[list[CountedKernel]] = [
        [("conv-bn-act", point, 1), ("fc", head, 1)] for point, head in zip(points, heads, strict=True)
    ]
    lists = KernelLists.of(models)
    model = fit_whole_model(lists, whole_ms(lists)).model
    window: CountedKernel = ("conv-bn-act", {**points[0], "k": 3}, 1)
    found = unknown_of(model, KernelLists.of([models[0], [*models[0], window]]), TrainedRange.of(lists))
    assert found.by_row() == [[], ["conv-bn-act"]]
    assert found.missing == pytest.approx([0, share_by_hand([*models[0], window], [window])])


def test_another_type_of_a_family_that_was_seen_is_guessed() -> None:
    """Maximum and mean pools are one family: the sums have its numbers, from mean pools alone."""
    pools, heads = draw("avgpool", 0, 30), draw("fc", 0, 30)
    models: list[list[CountedKernel]] = [
        [("avgpool", pool, 1), ("fc", head, 1)] for pool, head in zip(pools, heads, strict=True)
    ]
    lists = KernelLists.of(models)
    model = fit_whole_model(lists, whole_ms(lists)).model
    other: CountedKernel = ("maxpool", draw("maxpool", 0, 1)[0], 1)
    asked = KernelLists.of([[*models[0], other]])
    found = unknown_of(model, asked, TrainedRange.of(lists))
    assert found.by_row() == [["maxpool"]]
    assert found.guessed == pytest.approx([share_by_hand([*models[0], other], [other])])
    assert not found.missing.any()
    assert unknown_of(model, asked, None).by_row() == [[]], "without a range nobody knows which of the family it was"


def test_a_sum_of_kernels_guesses_what_its_fallback_knows(kernel_models: dict[str, Model], fallback: Model) -> None:
    known = architectures(1)[0]
    lists = KernelLists.of([known, [*known, GROUP], [*known, FOREIGN]])
    model = KernelSum(kernel_models, fallback)
    total = model.predict(lists)
    found = unknown_of(model, lists, None)
    assert total[2] == pytest.approx(total[0])
    assert found.guessed == pytest.approx([0, 1 - total[0] / total[1], 0])
    assert found.missing == pytest.approx([0, 0, FOREIGN_SHARE])
    assert found.by_row() == [[], ["group-conv"], ["their-conv"]]


def test_kernels_that_were_timed_otherwise_are_guesses(kernel_models: dict[str, Model], fallback: Model) -> None:
    known = architectures(1)[0]
    lists = KernelLists.of([known, [kernel for kernel in known if kernel[0] != "fc"]])
    model = KernelSum(kernel_models, fallback, guessed=frozenset({"fc"}))
    sums_ms = model.kernel_sums(lists)
    assert sums_ms.tolist() == KernelSum(kernel_models, fallback).kernel_sums(lists).tolist()
    found = unknown_of(model, lists, None)
    assert found.by_row() == [["fc"], []]
    assert found.guessed == pytest.approx([1 - sums_ms[1] / sums_ms[0], 0])
    assert not found.missing.any()
    intervals = calibrate(sums_ms, 1.01 * sums_ms)
    for trained in (None, TrainedRange.of(lists.by_type["fc"].kernels)):
        said = answer(Predictor(HEADER, model, intervals, trained), lists)
        assert (said.coverage > 0).tolist() == [False, True], "that kernels were timed is no reason to trust the sum"


def test_guesses_that_whole_models_judged_are_in_the_interval(kernel_models: dict[str, Model], fallback: Model) -> None:
    known = architectures(1)[0]
    lists = KernelLists.of([[*known, GROUP], [*known, ATTENTION]])
    model = KernelSum(kernel_models, fallback, guessed=frozenset({"fc"}))
    found = unknown_of(model, lists, TrainedRange.of(lists.take(slice(0, 1))))
    assert found.by_row() == [[], ["attention"]]
    assert found.guessed[0] == 0 < found.guessed[1]
    bare = unknown_of(KernelSum(kernel_models, None), lists, TrainedRange.of(lists))
    assert bare.by_row() == [["group-conv"], ["attention"]], "what is predicted as nothing is missing all the same"
    assert (bare.missing > 0).all()


def test_without_a_fallback_its_kernels_are_missing(kernel_models: dict[str, Model]) -> None:
    known = architectures(1)[0]
    lists = KernelLists.of([known, [*known, GROUP], [FOREIGN]])
    model = KernelSum(kernel_models, None)
    found = unknown_of(model, lists, None)
    assert found.missing == pytest.approx([0, share_by_hand([*known, GROUP], [GROUP]), 1])
    assert not found.guessed.any()
    assert (model.predict(lists) > 0).all()


def test_a_model_made_of_others_knows_what_all_of_them_know(
    sums: Ridge, kernel_models: dict[str, Model], fallback: Model
) -> None:
    known = architectures(1)[0]
    lists = KernelLists.of([known, [*known, GROUP]])
    parts = (KernelSum(kernel_models, fallback), sums)
    share = share_by_hand([*known, GROUP], [GROUP])
    for model in (
        Mean(parts),
        Stacked(parts, (0.5, 0.5), 0.0),
        Residual(*parts),
        Scaled(Mean(parts), 2.0),
    ):
        found = unknown_of(model, lists, None)
        assert found.by_row() == [[], ["group-conv"]], model.kind
        assert found.missing == pytest.approx([0, share]), model.kind
        assert found.guessed[1] > 0, model.kind
        assert np.array_equal(found.guessed[:1], [0]), model.kind


def test_what_counts_nothing_in_a_region_need_not_know_it(sums: Ridge) -> None:
    """Two regions by what models are made of: of convolutions, and of attention; each has a ridge of its own."""
    tokens: list[list[CountedKernel]] = [
        [
            ("attention", {"seq": 32 + 4 * at, "heads": 2, "head_dim": 32}, 2),
            ("layernorm", {"seq": 32, "dim": 64}, at + 1),
        ]
        for at in range(20)
    ]
    images, words = KernelLists.of(architectures(40)), KernelLists.of(tokens)
    of_words = fit_whole_model(words, whole_ms(words)).model
    features = SumFeatures("shares")
    centres = [features.matrix(lists).mean(axis=0) for lists in (images, words)]
    regional = Regional(
        members=(sums, of_words),
        weights=np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]),
        offsets=np.zeros(3),
        regions=("images", "words"),
        features=features,
        centres=np.stack(centres),
        scales=np.ones((2, len(features.names))),
        radii=np.ones(2),
        widenings=np.ones(3),
    )
    far: list[CountedKernel] = [("fc", {"cin": 8, "cout": 8}, 1), ("layernorm", {"seq": 8, "dim": 8}, 500)]
    lists = KernelLists.of([architectures(1)[0], tokens[5], far])
    assert regional.places(lists).tolist() == [0, 1, 2]
    found = unknown_of(regional, lists, None)
    assert found.by_row()[:2] == [[], []]
    assert sorted(found.by_row()[2]) == ["fc", "layernorm"], "elsewhere both count, and each lacks one of them"
    assert np.array_equal(found.missing[:2], [0, 0])
