"""The table of sums: what is measured, that carriers share nothing with a model, what is kept, and what rows say."""

import json
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from bench import in_situ, in_situ_plan
from bench.architectures import FAMILIES
from bench.in_situ import Asked, Ratios
from bench.in_situ_measure import Answers, Kept, NotMeasured, identity_of, measure
from bench.in_situ_plan import KNOWN_MODELS, Plan, kernel_of, neighbours, plan, portions, refuse_shared
from benchfarm_workloads.carriers import Carrier, pack
from benchfarm_workloads.doubled_carriers import double, why_not_doubled
from benchfarm_workloads.layers import Layer
from benchfarm_workloads.spaces import spaces
from benchfarm_workloads.spaces.transformers import AUTOFORMER, BERT
from tests.core.test_differences import doubled


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    """What the bench measures by default."""
    return portions(in_situ.MODELS)


def test_ten_architectures_of_each_space_of_convolutional_networks_stand_beside_known_models(
    plans: dict[str, Plan],
) -> None:
    assert set(FAMILIES) == {one.name for one in spaces()} - {AUTOFORMER.name, BERT.name}
    assert list(plans) == [KNOWN_MODELS, *FAMILIES]
    assert [len(planned.models) for planned in plans.values()] == [len(in_situ.MODELS), *[10] * len(FAMILIES)]
    assert {"resnet18", "mobilenet_v2", "mobilenet_v3_large"} <= set(plans[KNOWN_MODELS].models)


def test_no_carrier_shares_more_than_a_kernel_with_a_model(plans: dict[str, Plan]) -> None:
    for planned in plans.values():
        of_models = {pair for network in planned.models.values() for pair in neighbours(network.layers)}
        carried = [layer for carrier in planned.carriers for layer in carrier.layers]
        assert {kernel_of(layer) for layer in carried} >= set(planned.kernels)
        assert not of_models & {pair for carrier in planned.carriers for pair in neighbours(carrier.layers)}


@pytest.mark.parametrize("portion", [KNOWN_MODELS, *FAMILIES])
def test_no_doubled_carrier_does_either(plans: dict[str, Plan], portion: str) -> None:
    planned = plans[portion]
    taken = frozenset(planned.kernels)
    wanted = [layer for layer in planned.kernels.values() if why_not_doubled(layer.type, layer.config) is None]
    both = [double(layer.type, layer.config, taken) for layer in wanted]
    carriers = [carrier for one in both for carrier in (one.once, one.twice)]
    refuse_shared(carriers, planned.models.values())
    of_models = {pair for network in planned.models.values() for pair in neighbours(network.layers)}
    assert not of_models & {pair for carrier in carriers for pair in neighbours(carrier.layers)}


def test_a_carrier_with_two_neighbours_of_a_model_is_refused() -> None:
    planned = plan(["squeezenet"])
    network = planned.models["squeezenet"]
    alike = Carrier(network.inputs, _renamed(network.layers[:3]), (), {})
    with pytest.raises(ValueError, match="shares two neighbours"):
        refuse_shared([*planned.carriers, alike], [network])
    refuse_shared([Carrier(network.inputs, _renamed(network.layers[:1]), (), {})], [network])


def test_the_guard_stands_before_every_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def chained(wanted: list[tuple[str, Any]]) -> list[Carrier]:
        one, other = planned.models["squeezenet"].layers[:2]
        return [*pack(wanted), Carrier((), (one, other), (), {})]

    planned = plan(["squeezenet"])
    monkeypatch.setattr(in_situ_plan, "pack", chained)
    with pytest.raises(ValueError, match="shares two neighbours"):
        plan(["squeezenet"])


def _renamed(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The same kernels under other names."""
    names = {layer.name: f"k{number}" for number, layer in enumerate(layers)}
    return tuple(
        Layer(names[layer.name], layer.type, layer.config, tuple(names.get(each, each) for each in layer.sources))
        for layer in layers
    )


def ratios(stored: float, **others: float) -> Ratios:
    known = {"composed": stored, "with_cost": stored, "alone": 0.9, "profile": 1.0, "unclear": 0.0}
    return Ratios(model_ms=1.0, stored=stored, rounds=1, **(known | others))


SPREAD = {str(one): ratios(one) for one in (0.80, 0.90, 0.94, 0.96, 0.98, 1.00, 1.02, 1.04, 1.06, 1.08, 1.20)}


def test_kernels_in_situ_say_how_far_their_ratios_spread() -> None:
    *rows, verdict = in_situ.rows_of("mnn", SPREAD, {})
    assert (verdict["10th to 90th percentile"], verdict["met"]) == ("0.900-1.080", False)
    assert (verdict["alone"], verdict["own profile, 10th to 90th"]) == ("0.900", "1.000-1.000")
    assert len(rows) == len(SPREAD)
    assert in_situ.rows_of("mnn", {"one": ratios(1.0)}, {})[-1]["met"] is True


def test_a_goal_is_missed_where_a_portion_is_missing() -> None:
    one, missing, verdict = in_situ.rows_of("mnn", {"one": ratios(1.0)}, {"bignas": "no time was left"})
    assert (one["model"], missing["model"]) == ("one", "bignas: not measured: no time was left")
    assert verdict["met"] is False
    _, nothing = in_situ.rows_of("mnn", {}, {"bignas": "no time was left"})
    assert nothing["met"] is False


def test_a_sum_without_one_of_its_kernels_is_not_told() -> None:
    row, verdict = in_situ.rows_of("ncnn", {"one": ratios(math.inf, alone=math.inf)}, {})
    assert (row[in_situ.DIFFERENCE], row["alone"], verdict[in_situ.DIFFERENCE]) == ("", "", "")


@pytest.mark.parametrize("engine", ["mnn", "ncnn"])
def test_the_row_of_all_says_how_many_models_it_leaves_out(engine: str) -> None:
    found = {"one": ratios(1.0), "two": ratios(1.0, alone=math.inf), "three": ratios(math.inf, alone=math.inf)}
    told = [in_situ.rows_of(engine, dict(list(found.items())[:count]), {})[-1] for count in (1, 2, 3)]
    assert [row[in_situ.LEFT_OUT] for row in told] == ["none", "alone 1 of 2", "in situ 1 of 3, alone 2 of 3"]
    assert told[2]["alone"] == "0.900", "of the one that is left"


def made_answers(planned: Plan, without: int | None = None) -> tuple[dict[str, dict[str, Any]], dict[object, int]]:
    """One round by difference: each kernel's time in ns is known, the first one's difference is unclear."""
    kernels = list(planned.kernels)
    made: dict[object, int] = {kernel: 10_000 * (place + 1) for place, kernel in enumerate(kernels)}
    answers: dict[str, dict[str, Any]] = {name: {"plain_ns": 1e6} for name in planned.models}
    for place, kernel in enumerate(kernels):
        launch = doubled(0, 0 if place == 0 else made[kernel], luck=0.01 if place == 0 else 0.0)
        if place != without:
            answers[f"doubled{place}"] = {"samples": [launch.model_dump(mode="json")]}
            answers[f"alone{place}"] = {"plain_ns": made[kernel]}
    return answers, made


def test_kernels_by_difference_add_up_over_layers_and_have_no_goal() -> None:
    planned = plan(["squeezenet"])
    unclear, layers = next(iter(planned.kernels)), planned.models["squeezenet"].layers
    answers, made = made_answers(planned)
    [found] = in_situ.difference_sums(planned, answers).values()
    wanted = [made[kernel_of(layer)] for layer in layers if kernel_of(layer) != unclear]
    assert found.stored_ns == pytest.approx(sum(wanted), rel=0.02)
    share = sum(kernel_of(layer) == unclear for layer in layers) / len(layers)
    assert found.unclear == pytest.approx(share)
    row, verdict = in_situ.rows_of("ncnn", in_situ.ratios_of(planned, "ncnn", [answers], floor=False), {})
    assert row[in_situ.DIFFERENCE] == f"{found.stored_ns / 1e6:.3f}"
    assert row["alone"] == f"{sum(made[kernel_of(layer)] for layer in layers) / 1e6:.3f}"
    assert row[in_situ.UNCLEAR] == f"{share:.0%}"
    assert "own profile" not in row
    assert not {"goal", "met"} & set(verdict)


def test_a_model_with_a_kernel_that_has_no_neighbours_has_no_sum() -> None:
    planned = plan(["squeezenet"])
    answers, _ = made_answers(planned, without=1)
    [found] = in_situ.difference_sums(planned, answers).values()
    assert (found.stored_ns, found.alone_ns) == (math.inf, math.inf)


TWO = {name: plan([name]) for name in ("squeezenet", "resnet18")}
ROUND: Answers = {"one": {"plain_ns": 1.0}}


def test_rounds_are_added_to_what_is_kept(tmp_path: Path) -> None:
    Kept(tmp_path).add("mnn", "bignas", "plan 1", [ROUND])
    kept = Kept(tmp_path)
    assert kept.rounds("mnn", "bignas", "plan 1") == [ROUND]
    kept.add("mnn", "bignas", "plan 1", [ROUND, ROUND])
    assert len(Kept(tmp_path).rounds("mnn", "bignas", "plan 1")) == 3
    assert kept.by().startswith("rules of version ")
    assert [path.name for path in tmp_path.iterdir()] == ["mnn.bignas.json"]
    with pytest.raises(ValueError, match="another folder"):
        Kept(tmp_path).rounds("mnn", "bignas", "plan 2")


def test_rounds_are_of_one_plan_one_reading_and_one_version_of_the_engine() -> None:
    squeezenet, resnet18 = TWO.values()
    of = identity_of(squeezenet, "onnxruntime", floor=True)
    assert of == identity_of(plan(["squeezenet"]), "onnxruntime", floor=True)
    assert f" onnxruntime {version('onnxruntime')}, " in of
    others = [identity_of(resnet18, "onnxruntime", floor=True), identity_of(squeezenet, "onnxruntime", floor=False)]
    assert of not in others


def measured_by_then(monkeypatch: pytest.MonkeyPatch, *, ends: Callable[[str], bool]) -> list[tuple[str, int]]:
    """Takes the place of engines: which portions were measured, and how many rounds were asked for."""
    seen: list[tuple[str, int]] = []

    def fake(planned: Plan, engine: str, rounds: int, **_: object) -> list[Answers]:
        name = next(iter(planned.models))
        seen.append((name, rounds))
        if ends(name):
            raise NotMeasured("the child ended with code 9")
        return [ROUND]

    monkeypatch.setattr(in_situ, "measure", fake)
    return seen


def test_the_portion_with_the_fewest_rounds_is_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = measured_by_then(monkeypatch, ends=lambda _: False)
    later = Asked(2, floor=True, until_s=math.inf)
    assert in_situ.measure_portions(["onnxruntime"], {"squeezenet": TWO["squeezenet"]}, Kept(tmp_path), later) == {
        "onnxruntime": {}
    }
    in_situ.measure_portions(["onnxruntime"], TWO, Kept(tmp_path), later)
    in_situ.measure_portions(["onnxruntime"], TWO, Kept(tmp_path), later)
    assert seen == [("squeezenet", 2), ("resnet18", 2), ("squeezenet", 1), ("resnet18", 1)]


def test_a_portion_that_fails_or_comes_too_late_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    measured_by_then(monkeypatch, ends=lambda name: name == "resnet18")
    later, past = (Asked(1, floor=True, until_s=until_s) for until_s in (math.inf, 0.0))
    assert in_situ.measure_portions(["onnxruntime"], TWO, Kept(None), later) == {
        "onnxruntime": {"resnet18": "the child ended with code 9"}
    }
    assert in_situ.measure_portions(["onnxruntime"], TWO, Kept(None), past) == {
        "onnxruntime": dict.fromkeys(TWO, "no time was left")
    }


def test_a_child_gives_whole_rounds_and_is_ended_in_time() -> None:
    planned = plan(["squeezenet"])
    [round_] = measure(planned, "onnxruntime", 3, floor=True, limit_s=0.0)
    json.dumps(round_)
    kernels = len(planned.kernels)
    assert set(round_) == {
        "squeezenet", "canary", *(f"carrier{n}" for n in range(len(planned.carriers))),
        *(f"alone{n}" for n in range(kernels)),
    }  # fmt: skip
    found = in_situ.ratios_of(planned, "onnxruntime", [round_], floor=True)["squeezenet"]
    assert all(0.2 < each < 5 for each in (found.stored, found.alone, found.profile))
    with pytest.raises(NotMeasured, match="ended after 1 s"):
        measure(plan(["resnet18"]), "onnxruntime", 1, floor=True, end_s=0.0)  # no machine has a round of it in a second
