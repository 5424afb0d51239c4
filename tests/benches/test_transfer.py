"""The bench of transfer: what was kept is taken only where it would come out the same, and no goal is met unseen."""

import json
from pathlib import Path

import pytest

from bench import transfer
from bench.transfer import Cell, Task, evaluated, goals_missed
from benchfarm_predictor.evaluation.report import Method, MethodScores, Runs, method_scores
from benchfarm_predictor.evaluation.transfer import NamedSet, Plan, Shelf
from benchfarm_predictor.metrics import Score
from benchfarm_predictor.training import trees
from tests.predictor.training.platforms import measured, set_of

TASK = Task("graphics cards", "mine", ("theirs",))
SETS = {
    "mine": NamedSet("mine", set_of(measured(100, seed=1), "mine")),
    "theirs": NamedSet("theirs", set_of(measured(100, seed=1, speed=0.8, bandwidth=1.2), "theirs")),
}


@pytest.fixture
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "EXTRA_TREES", 4)
    monkeypatch.setattr(trees, "BOOSTED_TREES", 4)


@pytest.mark.usefixtures("few_trees")
def test_what_was_kept_is_taken_only_where_it_would_come_out_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf, plan = Shelf(), Plan((20,), 1, baselines=False)

    def is_made(plan: Plan, sets: dict[str, NamedSet] = SETS) -> bool:
        """Whether it was evaluated now; what comes is always of this plan."""
        found = evaluated(TASK, sets.__getitem__, plan, shelf, tmp_path)
        assert (found.repeats, found.seed, found.samples) == (plan.repeats, plan.seed, plan.samples)
        return "mine from theirs" in capsys.readouterr().out

    assert is_made(plan)
    assert not is_made(plan)
    assert is_made(Plan((20,), 2, baselines=False))
    assert is_made(plan), "the other repeats took its place"
    path = tmp_path / TASK.file_name
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "made_by": "older code"}))
    assert is_made(plan)
    assert not is_made(plan)
    slower = NamedSet("theirs", set_of(measured(100, seed=1, speed=0.5), "theirs"))
    assert is_made(plan, {**SETS, "theirs": slower})
    for other in (json.dumps(kept["found"]), path.read_text()[:100]):
        path.write_text(other)
        assert transfer._kept(path) is None


def test_the_codes_digest_changes_with_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    before = transfer.code()
    monkeypatch.setattr(transfer, "PACKAGES", ("pydantic",))
    assert transfer.code.__wrapped__() != before


def scores(method: Method, within_10: float, samples: int) -> MethodScores:
    runs = Runs()
    one = Score(mape=0.1, within_5=0.2, within_10=within_10, rmse_ms=1.0, spearman=0.9, count=100)
    for _ in range(2):
        runs.add(one, None, ("ridge",))
    return method_scores(method, samples, runs)


def cell(samples: int, **within_10: float) -> Cell:
    return Cell(TASK, "conv-bn-act", samples, {name: scores(name, share, samples) for name, share in within_10.items()})  # type: ignore[misc, arg-type]


def test_a_goal_that_was_not_looked_at_is_not_met() -> None:
    found = {"ours": 0.9, "scratch": 0.8}
    few, many = cell(100, **found, litepred=0.6), cell(1000, **found, litepred=0.6)
    assert goals_missed([few, many]) == []
    assert goals_missed([cell(100, **found), many]) == ["LitePred's network was not evaluated in 1 of 2 cells"]
    assert goals_missed([few]) == ["few samples and donors were not compared with many samples alone"]
    assert goals_missed([]) == ["nothing was evaluated"]


def test_a_goal_that_was_missed_is_named() -> None:
    found = {"ours": 0.7, "scratch": 0.75, "litepred": 0.69}
    missed = goals_missed([cell(100, **found), cell(1000, **found)])
    assert [line.split(" ")[0] for line in missed] == [
        "mean",
        *[TASK.file_name + ","] * 2,
        "ahead",
        TASK.file_name + ":",
    ]
