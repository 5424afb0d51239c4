"""The benches of questions, at a small size on a farm of their own, and what they make of figures."""

import math
from collections.abc import Iterator

import numpy as np
import pytest

from bench import asked_farm, asking, asking_growth, asking_peers, asking_together, report
from bench.asked_farm import Asking, Taken
from bench.asking_growth import Cell, Law
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.networks import Network
from benchfarm_predictor.predictor_file import Predictor
from benchfarm_predictor.training import trees


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return asked_farm.whole_model()


@pytest.fixture(scope="module")
def farm(predictor: Predictor) -> Iterator[Asking]:
    with asked_farm.asked_farm(2) as made:
        made.publish(predictor, made.keys)
        yield made


def test_many_requests_and_the_same_again_and_again(farm: Asking) -> None:
    row = asking.many_row(farm, farm.keys[:1], 20, 1)
    assert row["question"] == "20 requests of 1 architecture"
    assert isinstance(row["p99 ms"], float)
    assert row["p99 ms"] > 0
    assert str(asking.same_row(farm, farm.keys[:1], 500)["question"]).startswith("500 times the same")


def test_another_process_is_asked_cold_then_warm(farm: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "REPEATS", 1)
    monkeypatch.setattr(asked_farm, "APART_S", 0.0)
    rows = asking.asked_rows(farm, 50, farm.keys, 500.0)
    assert [row["question"] for row in rows] == ["50 architectures x 2, cold", "50 architectures x 2, warm"]
    assert farm.resident_mb() > 20
    assert asking.asked_row("warm", 5_000, 1, 0.2, 0.2, 500.0)["met"] is False
    assert asking.asked_row("cold", 20_000, 4, 3.9, 0.2, 500.0)["met"] is True


@pytest.mark.parametrize(
    ("size", "slowest_ms", "after_mb", "met"),
    [(1, 10.0, 101.0, True), (1, 40.0, 101.0, False), (1, 10.0, 104.0, False), (100, 40.0, 101.0, True)],
)
def test_single_requests_are_held_to_their_time_and_all_to_flat_memory(
    size: int, slowest_ms: float, after_mb: float, met: bool
) -> None:
    assert asking.told_many(size, [5.0, 6.0, slowest_ms], [80.0, 100.0, after_mb])["met"] is met


def test_searches_at_once_and_a_refresh_in_their_middle(farm: Asking, predictor: Predictor) -> None:
    one, both = asking_together.rounds(farm, 2, 4, 10)
    assert (one["searches"], one["questions"], one["architectures"], one["lost"]) == (1, 8, 80, 0)
    assert (both["searches"], both["questions"], both["architectures"], both["lost"]) == (2, 16, 160, 0)
    pinned, free = asking_together.refreshed_rows(farm, predictor, 2, 60, 30)
    assert (pinned["lost"], pinned["told other numbers"], pinned["met"]) == (0, 0, True)
    assert free["lost"] == 0
    assert isinstance(free["told other numbers"], int)
    assert 0 < free["told other numbers"] < 60
    farm.publish(predictor, farm.keys[:1])


def test_a_question_without_an_answer_is_lost(farm: Asking) -> None:
    bodies = [asked_farm.body_of(farm.fresh(2), keys) for keys in (farm.keys[:1], ["nowhere"], farm.keys[:1])]
    found = asking_together.searches(farm, [bodies])
    assert (len(found.taken_ms), len(found.lost), found.answered) == (2, 1, 4)
    row = asking_together.together_row(2, [found], 1e-9)
    assert (row["lost"], row["met"]) == (1, False)


def test_cells_are_measured_and_split_as_questions_hold_them(farm: Asking) -> None:
    cells = asking_growth.measured_cells(farm, [5, 20], [1, 2])
    assert [(one.architectures, one.platforms, one.questions) for one in cells] == [
        (5, 1, 1), (20, 1, 1), (5, 2, 1), (20, 2, 1),
    ]  # fmt: skip
    law = asking_growth.law_of(cells)
    assert min(law) >= 0 < max(law)
    rows = [*asking_growth.cell_rows(cells, law), *asking_growth.bend_rows(cells, law)]
    assert len(rows) == 4 + 1 + 2 + 2
    assert [len(part) for part in asking_growth.questions_of([{}] * 4_500, 100)] == [2_000, 2_000, 500]
    assert [len(part) for part in asking_growth.questions_of([{}] * 20_001, 1)] == [20_000, 1]


def test_the_law_is_found_and_what_bends_away_from_it() -> None:
    truth = Law(4e-3, 1e-3, 50e-6, 10e-6)
    sizes = [(count, width) for width in (1, 10, 100) for count in (10, 100, 1_000, 10_000, 100_000)]
    plain = [
        Cell(count, width, len(asking_growth.questions_of([{}] * count, width)), 0.0, 0.0) for count, width in sizes
    ]
    cells = [cell._replace(wall_s=truth.wall_s(cell)) for cell in plain]
    law = asking_growth.law_of(cells)
    assert law == pytest.approx(truth, rel=1e-6)
    assert law.bend_architectures(1) == pytest.approx(5e-3 / 60e-6)
    assert law.bend_platforms(100) == pytest.approx(9e-3 / 2e-3)
    cells[-1] = cells[-1]._replace(wall_s=3 * cells[-1].wall_s)
    bent = [row["bends"] for row in asking_growth.cell_rows(cells, asking_growth.law_of(cells))]
    assert bent[-1] == "yes"
    of_questions = asking_growth.law_of([cell._replace(wall_s=1e-3 * cell.questions) for cell in plain])
    assert of_questions == pytest.approx((1e-3, 0.0, 0.0, 0.0), abs=1e-12)
    assert math.isinf(Law(1e-3, 0.0, 0.0, 0.0).bend_architectures(1))


def test_peers_say_the_same_called_one_by_one_and_batched(farm: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    items = farm.fresh(12)
    kernels = asking_peers.asked_kernels(items)
    models = asking_peers.models_of(kernels, len(items))
    monkeypatch.setattr(asking_peers, "ROWS_AT_ONCE", 50)
    monkeypatch.setattr(trees, "FOREST_TREES", 10)
    for calls in (asking_peers.forests(kernels), asking_peers.networks(kernels)):
        said = asking_peers.one_by_one(calls, models)
        assert len(set(said.tolist())) > 6
        for is_once in (False, True):
            assert asking_peers.batched(calls, kernels, len(items), is_once=is_once) == pytest.approx(said, rel=1e-4)
    times = {"cold": Taken(2e-3, 1e-3), "warm": Taken(1e-3, 1e-3)}
    rows = asking_peers.compared(items, {"columns": times, "rows": {**times, "warm": Taken(4e-3, 1e-3)}})
    assert len(rows) == 2 * 2 + 2 * 3
    of_rest = [(row["times REST, warm, columns"], row["times REST, warm, rows"]) for row in rows[:4]]
    assert of_rest == [pytest.approx(pair) for pair in ((2, 0.5), (1, 0.25), (2, 0.5), (4, 1))]
    assert [row["goal"] for row in rows] == ["", "", "", "", ">= 100", ">= 3", "", ">= 100", ">= 3", ""]


def test_the_layers_by_numpy_are_the_predictor_s_own(farm: Asking) -> None:
    kernels = asking_peers.asked_kernels(farm.fresh(3))["conv-bn-act"]
    layers, width = asking_peers.drawn_layers(kernels.rows.shape[1]), kernels.rows.shape[1]
    features = kernel_features(kernels.kernels, "published")
    own = Network(features, layers, np.zeros(width), np.ones(width), target="ms")
    said = asking_peers.numpy_call(layers)(kernels.rows)
    assert said == pytest.approx(own.output(kernels.rows.astype(np.float64)), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(("each_us", "met"), [(100.0, True), (99.0, False)])
def test_a_peer_is_held_to_its_goal(each_us: float, met: bool) -> None:
    ours = asking_peers.Ours(columns_us=1.0, rows_us=2.0)
    row = asking_peers.peer_row("a peer", 10, Taken(each_us * 1e-5, 0.0), ours, 100.0)
    assert row["met"] == met
    assert asking_peers.peer_row("a peer", 10, Taken(1.0, 0.0), ours, None)["met"] == ""


def test_a_missed_goal_is_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.tell("any", [{"met": True}, {"met": ""}, {}], printed=True) == 0
    assert report.tell("any", [{"met": True}, {"met": False}], printed=True) == 1
    assert len(capsys.readouterr().out.splitlines()) == 5
