"""The table of predictors' accuracy: what the verb found, a line for each way to say it."""

from bench.accuracy import rows_of
from benchfarm.accuracy import Accuracy, Figures, LeftOut, LeftOutArchitecture, Nearness
from benchfarm_core.shares import Share

MEASURED = [10.0, 20.0, 40.0, 80.0]


def found(figures: Figures | None) -> Accuracy:
    rough = LeftOutArchitecture(number=5, workload_id="w_5", genes="hw=224", why=LeftOut.ROUGH, detail="grade D")
    return Accuracy(
        platform="m/c0.t1.free/engine-1/fp32", space="bert", seed="7", drawn=5, predictor_id="pr_1",
        predictor_version=3, figures=figures, board_s=4.0, architectures=(), left_out=(rough,),
    )  # fmt: skip


def test_a_predictor_stands_beside_the_noise_floor() -> None:
    figures = Figures(
        predictor=Nearness.of([10.5, 20.0, 42.4, 100.0], MEASURED),
        floor=Nearness.of(MEASURED, MEASURED),
        of_medians=Nearness.of([11.0, 22.0, 44.0, 88.0], MEASURED),
        inside=Share.of(3, 4),
        promised=0.9,
    )
    predictor, floor, medians = rows_of(found(figures))
    assert (predictor["method"], floor["method"]) == ("predictor, version 3", "a second measurement")
    assert str(predictor["within 5 %"]).startswith("50.0 % (")
    assert str(predictor["within 10 %"]).startswith("75.0 % (")
    assert (predictor["mean error"], floor["mean error"], medians["mean error"]) == ("9.00%", "0.00%", "10.00%")
    assert predictor["left out"] == "1 rough (1 grade D)"
    assert str(predictor["inside"]).startswith("75.0 %")


def test_too_few_are_said_and_not_judged() -> None:
    (row,) = rows_of(found(None))
    assert row["method"] == "none: too few could be compared"
    assert row["left out"] == "1 rough (1 grade D)"
