"""Judging: by first measurements, beside what a second one would score."""

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest
from benchfarm_core.measurements import Purpose, Timing
from benchfarm_core.summaries import Grade
from benchfarm_predictor.composition import KernelSum
from benchfarm_predictor.kernels import Floats, Kernels
from benchfarm_predictor.models import Model
from benchfarm_predictor.predictor_file import Header, Lineage, Predictor
from benchfarm_predictor.training.judging import judge
from tests.predictor.training.farm_rows import MOBILE, Platform, kernel_rows, later, model_rows, training_rows

PLATFORM = Platform(3)


class Law:
    """Knows the platform's law but for a factor."""

    kind = "law"

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def predict(self, batch: Kernels) -> Floats:
        return self.factor * PLATFORM.alone_ms(batch)


def predictor(subject: str, model: object) -> Predictor:
    lineage = Lineage(data_hash="x", rule_version=6, code_version="0.1.0")
    return Predictor(Header(kernel_type=subject, platform=PLATFORM.key, lineage=lineage), model)  # type: ignore[arg-type]


def test_shares_and_errors_are_of_the_rows_of_the_subject_alone() -> None:
    rows = [*kernel_rows(PLATFORM, "fc", 40), *kernel_rows(PLATFORM, "se", 5)]
    rows += kernel_rows(PLATFORM, "fc", 5, Timing.IN_SITU, seed=8)
    score = judge(predictor("fc", Law()), training_rows(PLATFORM, [], rows))
    assert (score.count, score.within_10, score.coverage) == (40, 1, 1)
    assert 0.004 < score.mape < 0.02
    far = judge(predictor("fc", Law(1.07)), training_rows(PLATFORM, [], rows))
    assert far.within_5 < 0.2 < 0.9 < far.within_10
    assert judge(predictor("fc", Law(3.0)), training_rows(PLATFORM, [], rows)).coverage == 0


def test_the_first_measurement_judges_and_the_second_is_the_floor() -> None:
    rows = kernel_rows(PLATFORM, "fc", 10)
    again = [later(row, 1, 1.07) for row in rows[:4]] + [later(row, 1, 1.02) for row in rows[4:8]]
    third = [later(row, 2, 5.0) for row in rows]
    score = judge(predictor("fc", Law()), training_rows(PLATFORM, [], [*third, *again, *rows[:8]]))
    assert (score.count, score.floor_within_5, score.floor_within_10) == (10, 0.5, 1.0)
    assert score.mape == pytest.approx(
        judge(predictor("fc", Law()), training_rows(PLATFORM, [], [*rows[:8], *third[8:]])).mape
    )


def test_without_a_second_measurement_there_is_no_floor() -> None:
    score = judge(predictor("fc", Law()), training_rows(PLATFORM, [], kernel_rows(PLATFORM, "fc", 10)))
    assert (score.floor_within_5, score.floor_within_10) == (None, None)


def test_grade_d_says_too_little_to_judge_by() -> None:
    rows = kernel_rows(PLATFORM, "fc", 10)
    rough = [row.model_copy(update={"grade": Grade.D, "normalised_ms": 99.0}) for row in rows[:3]]
    assert judge(predictor("fc", Law()), training_rows(PLATFORM, [], [*rough, *rows[3:]])).count == 7
    with pytest.raises(InvalidRequest, match="hold-outs") as caught:
        judge(predictor("fc", Law()), training_rows(PLATFORM, [], rough))
    assert caught.value.code == "training_rows_invalid"


def test_models_with_unknown_operators_are_judged_too() -> None:
    models = model_rows(PLATFORM, MOBILE, 6, purpose=Purpose.HOLDOUT)
    strange = [row.model_copy(update={"unknown": ("Einsum", "Einsum")}) for row in models[:2]]
    knows: dict[str, Model] = {}
    for row in models:
        for name, _, _ in row.kernels:
            knows[name] = Law()  # type: ignore[assignment]
    whole = predictor("model", KernelSum(knows, None))
    score = judge(whole, training_rows(PLATFORM, [*strange, *models[2:]]))
    assert score.count == 6
    assert np.isfinite(score.mape)


def test_a_predictor_of_something_else_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="nothing was measured") as caught:
        judge(predictor("dwconv-bn-act", Law()), training_rows(PLATFORM, [], kernel_rows(PLATFORM, "fc", 10)))
    assert caught.value.field == "rows"
