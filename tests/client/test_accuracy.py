"""`benchfarm evaluate accuracy`: fresh architectures through the real API, measured twice by a lab that tests play."""

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchfarm import Client, InvalidRequest, NotFound
from benchfarm.accuracy import LEAST, Accuracy, LeftOut, measure_accuracy
from benchfarm.exit_codes import ExitCode
from benchfarm_core.adapting import AdaptationState
from benchfarm_core.jobs import JobView
from benchfarm_core.predictors import PredictorEvidence
from benchfarm_core.spaces import DrawnArchitecture
from benchfarm_predictor.predictor_file import write
from benchfarm_store import platforms, predictors
from benchfarm_workloads import spaces
from benchfarm_workloads.fusing import FusionRules
from examples import demo
from tests.predictor.predictors import PLATFORM, model_predictor

SPACE = "bert"
DRAWN = 12
UNTIL_S = 60.0


def publish(farm: Any, slower: float = 1.0) -> str:
    """A predictor of whole models that answers from now on; its id."""
    drawn = [spaces.kernels(one, FusionRules()) for one in spaces.draws(SPACE, "taught by nobody", 30)]
    with farm.database.transaction() as tx:
        made = predictors.publish(
            tx,
            platform_id=platforms.find(tx, PLATFORM).id,
            subject="model",
            file=write(model_predictor(drawn, slower=slower)),
            evidence=PredictorEvidence(),
            reason="made up",
            activate=True,
        )
    return made.id


def genes_of(workload: Any) -> str:
    return json.dumps(workload["genes"], sort_keys=True)


class Lab:
    """What the board says of each architecture: so many times the prediction, the first time and the second."""

    def __init__(self, client: Client, drawn: list[DrawnArchitecture]) -> None:
        answers = client.latency([one.request for one in drawn], [PLATFORM])
        self.genes = [genes_of(one.workload.model_dump(mode="json")) for one in drawn]
        self.said_ms = {key: answer.normalised_ms or 0.0 for key, answer in zip(self.genes, answers, strict=True)}
        self.factors: dict[str, list[float | None]] = {key: [1.0, 1.0] for key in self.genes}
        self.rough: set[str] = set()
        self.visits: Counter[str] = Counter()

    def time_ms(self, workload: dict[str, Any], launch: int) -> float | None:
        key = genes_of(workload)
        self.visits[key] += launch == 0
        factor = self.factors[key][(self.visits[key] - 1) % 2]
        spread = 1 + 0.5 * launch if key in self.rough and self.visits[key] == 2 else 1.0
        return None if factor is None else factor * spread * self.said_ms[key]


@contextmanager
def working(farm: Any) -> Iterator[None]:
    """What the farm's worker and its lab do while a command waits."""
    over = threading.Event()

    def work() -> None:
        with farm.client() as client:
            while not over.is_set():
                for job in client.jobs():
                    if job.finished_at is None:
                        farm.measure(job.id)
                time.sleep(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def measured_by(farm: Any, client: Client) -> Any:
    def wait(job_id: str) -> JobView:
        farm.measure(job_id)
        return client.wait(job_id, timeout_s=UNTIL_S)

    return wait


def test_predictions_stand_beside_two_measurements(farm: Any, logged_in: Any, tmp_path: Path) -> None:
    asked = ("evaluate", "accuracy", "--platform", PLATFORM, "--space", SPACE, "--archs", DRAWN, "--seed", "7")
    nothing = logged_in(*asked)
    assert nothing.code == ExitCode.JOB_FAILED
    for told in ("0 of 12 architectures", "12 unpredicted", "none: it takes 5"):
        assert told in " ".join(nothing.out.split()), nothing.out
    with farm.client() as client:
        drawn = list(client.spaces.drawn(SPACE, seed="7", count=DRAWN))
        job = client.submit(workloads=[drawn[0].request], platforms=[PLATFORM])
        farm.measure(job.id)
        assert client.wait(job.id, timeout_s=UNTIL_S).progress.succeeded == 1
        made = publish(farm)
        lab = Lab(client, drawn)
    lab.factors[lab.genes[1]] = [1.0, None]
    lab.rough.add(lab.genes[2])
    lab.factors[lab.genes[3]] = [1 / 1.07, 1 / 1.07]
    lab.factors[lab.genes[4]] = [1 / 1.2, 1.06 / 1.2]
    farm.time_ms = lab.time_ms
    path = tmp_path / "found.json"
    with working(farm):
        ended = logged_in(*asked, "--json", path)
    assert ended.code == ExitCode.PARTIAL, ended.err
    found = Accuracy.model_validate_json(path.read_text())
    assert (found.platform, found.space, found.seed, found.drawn) == (PLATFORM, SPACE, "7", DRAWN)
    assert (found.predictor_id, len(found.architectures), found.comparable) == (made, 9, 11)
    assert [(one.number, one.why) for one in found.left_out] == [
        (1, LeftOut.TAUGHT),
        (2, LeftOut.FAILED),
        (3, LeftOut.ROUGH),
    ]
    figures = found.figures
    assert figures is not None
    assert (figures.predictor.within_5.hits, figures.predictor.within_10.hits) == (7, 8)
    assert (figures.floor.within_5.hits, figures.floor.within_10.hits, figures.floor.within_5.count) == (8, 9, 9)
    assert figures.predictor.mape == pytest.approx((0.07 + 0.2) / 9, abs=2e-3)
    assert figures.floor.mape == pytest.approx(0.06 / 9, abs=2e-3)
    assert figures.inside is not None
    assert figures.inside.hits <= 8, "no interval of a predictor this sure reaches 20 %"
    assert [lab.visits[key] for key in lab.genes] == [0, *[2] * (DRAWN - 1)], "what taught is not measured again"
    assert "taught the predictor (measured on" in ended.err
    told = " ".join(ended.out.split())
    for words in ("9 of 12 architectures", "1 taught", "1 rough (1 grade D)", "out_of_memory", "noise floor", "88.9 %"):
        assert words in told, words


def test_what_was_measured_after_the_predictor_was_made_judges_it_again(farm: Any) -> None:
    publish(farm)
    with farm.client() as client:
        drawn = list(client.spaces.drawn(SPACE, seed="again", count=LEAST))
        lab = Lab(client, drawn)
        farm.time_ms = lab.time_ms
        wait = measured_by(farm, client)
        for _ in range(2):
            found = measure_accuracy(client, PLATFORM, SPACE, archs=LEAST, seed="again", wait=wait)
            assert (len(found.architectures), found.left_out) == (LEAST, ())
        assert set(lab.visits.values()) == {4}
        # a later version may have learnt from them
        publish(farm, slower=1.5)
        found = measure_accuracy(client, PLATFORM, SPACE, archs=LEAST, seed="again", wait=wait)
        assert (found.figures, found.count(LeftOut.TAUGHT), found.comparable) == (None, LEAST, 0)
        assert set(lab.visits.values()) == {4}, "nothing is measured that says nothing"


def test_fewer_than_figures_take_are_told_and_not_judged(farm: Any) -> None:
    publish(farm)
    with farm.client() as client:
        drawn = list(client.spaces.drawn(SPACE, seed="few", count=LEAST))
        lab = Lab(client, drawn)
        lab.factors[lab.genes[0]] = [None, None]
        farm.time_ms = lab.time_ms
        found = measure_accuracy(client, PLATFORM, SPACE, archs=LEAST, seed="few", wait=measured_by(farm, client))
        assert (found.figures, len(found.architectures), found.count(LeftOut.FAILED)) == (None, LEAST - 1, 1)


def test_the_demo_says_plainly_when_too_few_could_be_measured(farm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(farm)
    monkeypatch.setattr(demo, "SPACE", "autoformer")
    out = io.StringIO()
    with farm.client() as client:
        lab = Lab(client, list(client.spaces.drawn(demo.SPACE, seed="busy", count=demo.HELD_OUT)))
        lab.rough |= set(lab.genes[6:])
        farm.time_ms = lab.time_ms
        with working(farm):
            demo.compare(client, PLATFORM, "busy", Console(file=out, width=200))
    told = out.getvalue()
    assert "Only 6 of 20 architectures could be measured well enough twice; left out: 14 rough (14 grade D)." in told
    for words in ("too busy", "autoformer #6 ", "noise floor"):
        assert words in told, told


def test_the_demo_gives_up_an_adaptation_that_does_not_end(farm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "WISH", demo.WISH.model_copy(update={"spaces": (SPACE,)}))
    monkeypatch.setattr(demo, "ADAPTED_WITHIN_S", 0.2)
    out = io.StringIO()
    with farm.client() as client:
        demo.adapt_and_compare(client, PLATFORM, Console(file=out, width=200))
        (left,) = client.adaptations.list()
    assert left.state == AdaptationState.CANCELLED
    for words in ("not done within 0.2 s", "No predictor", "too busy"):
        assert words in out.getvalue(), out.getvalue()


def test_wrong_wishes_are_refused(farm: Any, logged_in: Any, tmp_path: Path) -> None:
    with farm.client() as client:
        with pytest.raises(NotFound):
            measure_accuracy(client, PLATFORM, "nowhere")
        with pytest.raises(InvalidRequest) as refused:
            measure_accuracy(client, "nowhere", SPACE)
        assert refused.value.field == "platforms"
        with pytest.raises(InvalidRequest) as refused:
            measure_accuracy(client, PLATFORM, SPACE, archs=LEAST - 1)
        assert refused.value.field == "archs"
    here = ("evaluate", "accuracy", "--platform", PLATFORM, "--space", SPACE)
    nowhere = logged_in(*here, "--json", tmp_path / "no" / "found.json")
    assert (nowhere.code, "a folder that exists" in nowhere.err) == (ExitCode.USAGE, True)
    assert logged_in(*here, "--archs", LEAST - 1).code == ExitCode.USAGE
    unknown = logged_in("evaluate", "accuracy", "--platform", "nowhere", "--space", SPACE)
    assert (unknown.code, "--platform" in unknown.err) == (ExitCode.USAGE, True)
