"""Questions as batches: each thing once, every answer the same as when it is asked alone."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_predictor.answers import answer_sheet, kernel_sheets, model_sheet
from benchfarm_predictor.composition import KernelSum
from benchfarm_predictor.kernel_lists import CountedKernel, KernelLists
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.models import Batch, Model
from benchfarm_predictor.predictions import answer
from benchfarm_predictor.ridge import Ridge
from benchfarm_predictor.sums import SumFeatures
from benchfarm_workloads.columns import Config
from benchfarm_workloads.network_kernels import Part
from tests.predictor.predictors import header, kernel_predictor, model_predictor
from tests.predictor.rows import architectures, whole_ms

MODELS = architectures(60)
SMALL: Config = {"cin": 16, "cout": 8}
LARGE: Config = {"cin": 512, "cout": 1000}


def kernels_of(batch: Batch) -> Kernels:
    assert isinstance(batch, Kernels)
    return batch


def lists_of(batch: Batch) -> KernelLists:
    assert isinstance(batch, KernelLists)
    return batch


def parts(kernels: Sequence[CountedKernel], *unknown: str) -> list[Part]:
    """A model in one part."""
    return [Part(tuple((name, dict(config), count) for name, config, count in kernels), unknown)]


def test_kernels_are_one_sheet_for_each_type_and_one_row_for_each_configuration() -> None:
    act: Config = {"hw": 8, "cin": 8, "act": "relu"}
    sheets = kernel_sheets([(3, "fc", SMALL), (4, "act", act), (7, "fc", LARGE), (9, "fc", dict(SMALL))])
    assert list(sheets) == ["fc", "act"]
    assert sheets["fc"].rows == {3: 0, 7: 1, 9: 0}
    assert kernels_of(sheets["fc"].batch).column("cin").tolist() == [16, 512]
    assert (sheets["act"].subject, sheets["act"].rows) == ("act", {4: 0})
    assert kernel_sheets([]) == {}


def test_answers_of_kernels_are_those_of_each_alone() -> None:
    predictor = kernel_predictor("fc")
    sheet = kernel_sheets([(0, "fc", SMALL), (1, "fc", LARGE), (2, "fc", SMALL)])["fc"]
    found = answer_sheet(predictor, sheet)
    for number, config in enumerate((SMALL, LARGE, SMALL)):
        alone = answer(predictor, Kernels.of_configs("fc", [config]))
        row = sheet.rows[number]
        assert found.latency_ms[row] == pytest.approx(alone.latency_ms[0], rel=1e-12)
        assert found.low_ms[row] <= found.latency_ms[row] <= found.high_ms[row]


def test_answers_of_models_are_those_of_each_alone_and_kernels_are_held_once() -> None:
    predictor = model_predictor(MODELS[:50])
    sheet = model_sheet((10 + number, parts(kernels)) for number, kernels in enumerate(MODELS))
    assert sheet.subject == WHOLE_MODEL
    found = answer_sheet(predictor, sheet)
    for number in (0, 7, 55):
        alone = answer(predictor, KernelLists.of([MODELS[number]]))
        row = sheet.rows[10 + number]
        assert found.latency_ms[row] == pytest.approx(alone.latency_ms[0], rel=1e-9)
        assert found.high_ms[row] == pytest.approx(alone.high_ms[0], rel=1e-9)
        assert (found.unknown[row], found.outside[row]) == (alone.unknown[0], alone.outside[0])
    distinct = {(name, *config.items()) for kernels in MODELS for name, config, _ in kernels}
    assert sum(len(entries.kernels) for entries in lists_of(sheet.batch).by_type.values()) == len(distinct)


def test_predictors_of_two_platforms_share_features() -> None:
    """The second one computes none: they stay with the batch, by what made them."""
    first, second = (model_predictor(MODELS[:50], slower=slower) for slower in (1.0, 3.0))
    sheet = model_sheet((number, parts(kernels)) for number, kernels in enumerate(MODELS))
    one = answer_sheet(first, sheet)
    made = {key: each for key, each in sheet.batch.made.items() if isinstance(key, SumFeatures)}
    other = answer_sheet(second, sheet)
    assert made
    assert all(sheet.batch.made[key] is made[key] for key in made)
    assert other.latency_ms == pytest.approx(3 * one.latency_ms, rel=1e-3)


class Counting:
    """A ridge that counts the rows that it is asked for."""

    kind = "ridge"

    def __init__(self, model: Model) -> None:
        assert isinstance(model, Ridge)
        self.model, self.asked = model, 0

    def predict(self, batch: Batch) -> np.ndarray:
        self.asked += len(batch)
        return self.model.predict(batch)


def test_a_kernel_of_many_models_is_predicted_once() -> None:
    """However many models hold it: rows asked do not grow with the models."""
    kernels = Counting(kernel_predictor("fc").model)
    predictor = replace(kernel_predictor("fc"), header=header(WHOLE_MODEL))
    predictor = replace(predictor, model=KernelSum({"fc": kernels}, None), trained=None)  # type: ignore[dict-item]
    asked = []
    for count in (2, 200):
        kernels.asked = 0
        items = [(number, parts([("fc", SMALL, 1 + number), ("fc", LARGE, 1)])) for number in range(count)]
        answer_sheet(predictor, model_sheet(items))
        asked.append(kernels.asked)
    assert asked[0] == asked[1] > 0


def test_what_is_no_kernel_widens_and_is_named() -> None:
    predictor = model_predictor(MODELS[:50])
    sheet = model_sheet([(0, parts(MODELS[0])), (1, parts(MODELS[0], "Tanh", "Erf", "Tanh"))])
    found = answer_sheet(predictor, sheet)
    assert found.unknown == ((), ("Tanh", "Erf"))
    widths = found.high_ms / found.low_ms
    assert widths[1] > 1.1 * widths[0]
    counts = lists_of(sheet.batch).kernel_counts
    assert counts[1] - counts[0] == 3


def test_a_predictor_of_something_else_is_refused() -> None:
    fc = kernel_sheets([(0, "fc", SMALL)])["fc"]
    for predictor in (kernel_predictor("act"), model_predictor(MODELS[:20])):
        with pytest.raises(InvalidRequest) as refused:
            answer_sheet(predictor, fc)
        assert refused.value.code == "predictor_file_foreign"


def test_a_predictor_that_says_no_number_is_refused() -> None:
    predictor = kernel_predictor("fc")
    assert isinstance(predictor.model, Ridge)
    broken = replace(predictor, model=replace(predictor.model, weights=np.full_like(predictor.model.weights, np.nan)))
    with pytest.raises(InvalidRequest) as refused:
        answer_sheet(broken, kernel_sheets([(0, "fc", SMALL)])["fc"])
    assert refused.value.code == "predictor_file_damaged"


def test_lists_that_come_one_by_one_are_told_apart_by_their_values() -> None:
    """Each configuration is gone before the next comes, so that many lie where others lay."""
    sheet = model_sheet((number, parts([("fc", {"cin": 16 + number % 7, "cout": 8}, 1)])) for number in range(700))
    [entries] = lists_of(sheet.batch).by_type.values()
    assert sorted(entries.kernels.column("cin").tolist()) == [float(size) for size in range(16, 23)]
    assert entries.kernels.column("cin")[entries.kernel].tolist() == [16 + number % 7 for number in range(700)]


def test_a_model_larger_than_all_that_were_seen_says_so() -> None:
    """What widens its interval is named, though each of its kernels was seen."""
    predictor = model_predictor(MODELS[:50])
    most = max(sum(count for *_, count in kernels) for kernels in MODELS[:50])
    [found] = answer_sheet(predictor, model_sheet([(0, parts(MODELS[0] * 20))])).outside
    assert any(said.startswith("model: kernels=") and said.endswith(f" to {most})") for said in found)


def test_made_up_models_follow_their_sums() -> None:
    """What the other tests rest on: the fit is near the truth."""
    found = answer(model_predictor(MODELS[:50]), KernelLists.of(MODELS[50:]))
    assert np.median(np.abs(found.latency_ms / whole_ms(KernelLists.of(MODELS[50:])) - 1)) < 0.05
