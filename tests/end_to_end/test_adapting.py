"""A platform of this host adapted by the people's own farm, while a process of it dies; then it answers."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchfarm import Client
from benchfarm_core.adapting import AdaptationRequest, AdaptationState, AdaptationView, Target
from benchfarm_standalone.farm_process import FarmProcess

S = AdaptationState
SPACE = "proxylessnas"


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarmProcess]:
    home: Path = tmp_path_factory.mktemp("farm")
    with FarmProcess(home, env={"BENCHFARM_SWEEP_S": "0.5", "BENCHFARM_TRAIN_WAIT_S": "5"}) as farm:
        yield farm


def seen(client: Client, adaptation_id: str, is_there: Callable[[AdaptationView], bool]) -> AdaptationView:
    until_s = time.monotonic() + 120
    while not is_there(found := client.adaptations.get(adaptation_id)):
        assert time.monotonic() < until_s, found
        time.sleep(0.1)
    return found


@pytest.mark.slow
def test_a_platform_of_this_host_is_adapted_and_then_answers(farm: FarmProcess) -> None:
    with Client(farm.url, farm.admin_token) as client:
        platform = next(iter(client.platforms(engine=["onnxruntime"], threads=[1], precision=["fp32"]))).key
        request = AdaptationRequest(budget_s=6, spaces=(SPACE,), holdouts=5, target=Target(share=0.8))
        made = client.adaptations.start(platform, request)
        seen(client, made.id, lambda one: one.state in (S.PROBING, S.TRAINING, S.MEASURING))
        farm.wait_until_back("trainer", farm.kill("trainer"))
        lines: list[AdaptationView] = []
        done = client.adaptations.wait(made.id, progress=lines.append, timeout_s=250)
        assert done.state is S.SUCCEEDED, done
        assert lines[-1] == done
        assert 0 < done.board_s < 60
        assert done.measured.done > 5
        assert done.measured.holdouts_done > 0
        model = next(one for one in done.predictors if one.subject == "model")
        assert model.is_active
        assert done.curve[-1].train_s < 60
        drawn = client.spaces.draw(SPACE, seed="nobody measured these", count=3)
        for answer in client.latency(drawn, [platform]):
            assert answer.source == "predicted", answer
            assert answer.predictor_id == model.predictor_id
            assert answer.low_ms is not None
            assert answer.median_ms is not None
            assert answer.high_ms is not None
            assert 0 < answer.low_ms <= answer.median_ms <= answer.high_ms
