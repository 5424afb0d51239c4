"""The example search, on the real API with a board that the test plays: it searches, looks closer, measures, tells."""

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchfarm import ArchitectureRequest, BenchfarmError, LatencyConstraint, Search
from benchfarm_workloads import spaces
from benchfarm_workloads.fusing import FusionRules
from examples import nas_ofa
from examples.nas_report import Limit, write_report
from tests.client.test_predictions import publish
from tests.client.test_taught_searches import player
from tests.predictor.predictors import PLATFORM, model_predictor

SMALL = nas_ofa.Options(population=20, generations=4, winners=3, tolerance=1e-6, lessons=0)


@pytest.fixture(scope="module")
def made() -> Any:
    drawn = spaces.draws("ofa_mobilenet_v3", "example", 40)
    return model_predictor([spaces.kernels(one, FusionRules()) for one in drawn])


def request(genome: nas_ofa.Genome) -> ArchitectureRequest:
    return ArchitectureRequest(space=nas_ofa.SPACE.name, genes=genome.architecture.genes)


@pytest.fixture
def searched(farm: Any, made: Any) -> Any:
    """The farm with a predictor, and a board that takes about what is predicted."""
    publish(farm, made)
    with farm.client() as sdk:
        some = spaces.draws("ofa_mobilenet_v3", "rate", 30)
        taken_ms = sdk.latency(some, [PLATFORM]).numbers()
        rates = sorted(
            spaces.space("ofa_mobilenet_v3").cost(one).flops / ms for one, ms in zip(some, taken_ms, strict=True)
        )

    def time_ms(workload: dict[str, Any], _launch: int) -> float:
        drawing = spaces.space("ofa_mobilenet_v3")
        return float(drawing.cost(drawing.validate(workload["genes"])).flops / rates[15])

    farm.time_ms = time_ms
    return farm


def test_a_search_finds_measures_and_tells(searched: Any, tmp_path: Path) -> None:
    report = tmp_path / "nas.html"
    with searched.client() as sdk:
        limits = nas_ofa.limits_of(sdk, [(PLATFORM, ())], SMALL)
        assert [len(one.limits_ms) for one in limits] == [1, 1, 1]
        wanted = [(PLATFORM, limits[1].limits_ms)]
        picked = nas_ofa.run(sdk, wanted, SMALL, report, wait=searched.measure)
    ours = [one for one in picked if one.chosen_by == "ours"]
    assert 1 <= len(ours) <= SMALL.winners
    assert {one.chosen_by for one in picked} == {"ours", "FLOPs"}
    assert all(one.measured_ms is not None and one.predicted_ms is not None for one in picked)
    page = report.read_text()
    assert "The accuracy is made up" in page
    assert "http" not in re.sub(r"<td>.*?</td>", "", page)  # it needs nothing from elsewhere
    plots = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(plots) == 2
    for plot in plots:
        circles = ElementTree.fromstring(plot).iter("circle")
        assert len(list(circles)) >= len(ours)
    needed = re.search(r"routing needed</td><td>(\d+)", page)
    assert needed is not None
    assert 0 < int(needed[1]) <= 3 * SMALL.winners


def test_what_was_measured_before_is_no_prediction_and_is_measured_again(searched: Any) -> None:
    genome = nas_ofa.Genome.drawn(random.Random(5))
    jobs: list[str] = []
    with searched.client() as sdk:

        def wait(job_id: str) -> None:
            jobs.append(job_id)
            searched.measure(job_id)

        wait(sdk.submit(workloads=[request(genome)], platforms=[PLATFORM]).id)
        search = Search(sdk, [LatencyConstraint(PLATFORM, 1e6)])
        assert search.judge([genome.architecture])[0].answers[0].source == "measured"
        limit = Limit((PLATFORM,), (PLATFORM,), (1e6,), 1.0)
        (picked,) = nas_ofa.measured_picks(sdk, limit, [(genome, "ours")], search, wait)
        assert (picked.predicted_ms, picked.low_ms, picked.is_met) == (None, None, True)
        ids = {item.measurement_id for job_id in jobs for item in sdk.items(job_id)}
        assert len(ids) == len(jobs) == 2


def test_what_violates_a_limit_stands_behind_what_does_not(searched: Any) -> None:
    with searched.client() as sdk:
        middle_ms = nas_ofa.limits_of(sdk, [(PLATFORM, ())], SMALL)[1].limits_ms[0]
        search = Search(sdk, [LatencyConstraint(PLATFORM, middle_ms)])
        found = nas_ofa.evolve(nas_ofa.by_latency(search), SMALL, random.Random(1))
        best = found.best(5)
        assert best
        assert all(found.seen[one].is_met for one in best)
        scores = [found.seen[one].score for one in best]
        assert scores == sorted(scores, reverse=True)
        again = nas_ofa.evolve(nas_ofa.by_latency(search), SMALL, random.Random(1))
        assert list(again.seen) == list(found.seen)


def test_its_predictors_learn_from_winners_first(
    searched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play = player(searched)
    with searched.client() as sdk:
        monkeypatch.setattr(sdk.adaptations, "wait", play)
        middle_ms = nas_ofa.limits_of(sdk, [(PLATFORM, ())], SMALL)[1].limits_ms[0]
        plain = Search(sdk, [LatencyConstraint(PLATFORM, middle_ms)])
        taught, asked = nas_ofa.taught_by_winners(plain, replace(SMALL, lessons=1), "lessons")
        assert asked == plain.questions > 0
        (lesson,) = taught.lessons
        assert f"{PLATFORM} learnt from winners: {lesson.reason}" in capsys.readouterr().err
        assert len(lesson.request.architectures) == nas_ofa.TAUGHT
        impossible = Search(sdk, [LatencyConstraint(PLATFORM, 1e-6)])
        assert nas_ofa.taught_by_winners(impossible, replace(SMALL, lessons=1), "nobody") == (impossible, 0)


def test_a_genome_s_architectures_are_of_the_space() -> None:
    rng = random.Random(3)
    parents = [nas_ofa.Genome.drawn(rng) for _ in range(2)]
    for genome in (*parents, parents[0].crossed(parents[1], rng), parents[0].mutated(rng)):
        assert spaces.space("ofa_mobilenet_v3").validate(genome.architecture.genes) == genome.architecture
    assert nas_ofa.platform_of("b/c0.t1.free/e-1~edges=none/fp32") == ("b/c0.t1.free/e-1~edges=none/fp32", ())
    assert nas_ofa.platform_of("b/e~edges=none=6.5,9") == ("b/e~edges=none", (6.5, 9.0))


def test_genomes_that_differ_in_blocks_that_are_not_there_are_one_architecture() -> None:
    shallow = nas_ofa.Genome(224, (2,) * 5, (3,) * 20, (3,) * 20)
    clones = [replace(shallow, kernel=(3, 3, 5, window, *(3,) * 16)) for window in (3, 5, 7)]
    other = replace(shallow, hw=192)
    assert nas_ofa.distinct([shallow, *clones, other, clones[0]], 9) == [shallow, other]
    assert nas_ofa.distinct([shallow, *clones, other], 1) == [shallow]


def test_a_platform_without_a_predictor_is_told(farm: Any, tmp_path: Path) -> None:
    other = PLATFORM.replace("1.31.1", "1.31.1~graph=none")
    with farm.client() as sdk, pytest.raises((SystemExit, BenchfarmError), match="no predictor"):
        nas_ofa.run(sdk, [(other, ())], SMALL, tmp_path / "nas.html")


def test_a_report_of_nothing_is_a_report(tmp_path: Path) -> None:
    write_report(tmp_path / "nas.html", [], [])
    assert "Nothing to show" in (tmp_path / "nas.html").read_text()
