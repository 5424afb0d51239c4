"""A platform adapted by the people's own farm, while the process that trains dies; then it answers.

The boards are simulated, so that a busy test machine takes nothing from what they say.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchfarm import Client, LatencyConstraint, Search
from benchfarm_core.adapting import AdaptationRequest, AdaptationState, AdaptationView, Target
from benchfarm_standalone.farm_process import FarmProcess
from tests.end_to_end.simulated_lab import UNTIL_S, platform_of, simulated_lab

S = AdaptationState
SPACE = "proxylessnas"


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, farm_home: Callable[[Path], Path]) -> Iterator[FarmProcess]:
    home = farm_home(tmp_path_factory.mktemp("farm"))
    with FarmProcess(home, local_board=False, env={"BENCHFARM_SWEEP_S": "0.5"}) as farm:
        yield farm


@pytest.fixture
def client(farm: FarmProcess, tmp_path: Path) -> Iterator[Client]:
    with simulated_lab(farm, tmp_path) as client:
        yield client


def seen(client: Client, adaptation_id: str, is_there: Callable[[AdaptationView], bool]) -> AdaptationView:
    until_s = time.monotonic() + UNTIL_S
    while not is_there(found := client.adaptations.get(adaptation_id)):
        assert time.monotonic() < until_s, found
        time.sleep(0.05)
    return found


@pytest.mark.slow
def test_a_platform_is_adapted_and_then_answers(farm: FarmProcess, client: Client) -> None:
    platform = platform_of(client)
    request = AdaptationRequest(budget_s=6, spaces=(SPACE,), holdouts=5, target=Target(share=0.8))
    made = client.adaptations.start(platform, request)
    seen(client, made.id, lambda one: one.measured.done > 0)
    farm.wait_until_back("trainer", farm.kill("trainer"))
    assert os.getpriority(os.PRIO_PROCESS, farm.pid("trainer")) == 19
    lines: list[AdaptationView] = []
    done = client.adaptations.wait(made.id, progress=lines.append, timeout_s=200)
    assert done.state is S.SUCCEEDED, done
    assert lines[-1] == done
    assert 0 < done.board_s < 1.5 * request.budget_s
    assert done.measured.done > 5
    assert done.measured.holdouts_done > 0
    model = next(one for one in done.predictors if one.subject == "model")
    assert model.is_active
    assert model.holdout is not None
    assert model.holdout.within_10 > 0.5, "a roofline with little noise"
    assert 0 < done.train_s < 60
    drawn = client.spaces.draw(SPACE, seed="nobody measured these", count=3)
    for answer in client.latency(drawn, [platform]):
        assert answer.source == "predicted", answer
        assert answer.predictor_id == model.predictor_id
        assert answer.low_ms is not None
        assert answer.median_ms is not None
        assert answer.high_ms is not None
        assert 0 < answer.low_ms <= answer.median_ms <= answer.high_ms
    given = client.spaces.draw(SPACE, seed="as if a search had found them", count=12)
    taught = Search(client, [LatencyConstraint(platform, 1e6)]).taught(given, budget_s=6)
    (lesson,) = taught.lessons
    assert lesson.state is S.SUCCEEDED, lesson
    assert (lesson.measured.holdouts, [one.subject for one in lesson.predictors]) == (6, ["model"])
    assert 0 < lesson.measured.done <= 6
    assert lesson.predictors[0].before is not None, "held against what answers"
    assert {one.answers[0].source for one in taught.judge(drawn)} == {"predicted"}
