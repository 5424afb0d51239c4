"""What the benches' tables say, on made-up measurements."""

from dataclasses import replace

import pytest

from bench import measuring
from bench.launching import Target, gate_limit
from bench.repeatability import Run, an_hour_apart, beside_load, by_grade

QUIET = {"short": 0.5, "shorter": 0.1, "long": 2.0, "longer": 8.0}


def run(factor: float = 1.0, rejected: dict[str, str] | None = None, began_s: float = 0.0) -> Run:
    rejected = rejected or {}
    accepted = {name: ms * factor for name, ms in QUIET.items() if name not in rejected}
    graded = {name: ("D" if name in rejected else "A", ms * factor) for name, ms in QUIET.items()}
    return Run(accepted, rejected, graded, began_s, began_s + 60)


@pytest.mark.parametrize(
    ("long_factor", "rejected", "met"),
    [
        (1.02, {}, True),
        (1.04, {}, False),
        (1.02, {"longer": "contended"}, True),
    ],
)
def test_every_accepted_long_workload_is_held_to_three_percent(
    long_factor: float, rejected: dict[str, str], met: bool
) -> None:
    loaded = run(rejected=rejected)
    beside = replace(loaded, accepted={**loaded.accepted, "long": QUIET["long"] * long_factor})
    short, long = beside_load({"mnn": run()}, {"mnn": beside})
    assert (short["met"], long["met"]) == (True, met)
    assert long["highest"] == f"{long_factor - 1:.1%}"
    assert long["not accepted"] == ("50.0% (contended 1)" if rejected else "0.0%")


def test_quiet_runs_tell_how_far_apart_they_were_and_what_was_not_accepted() -> None:
    [row] = an_hour_apart({"mnn": run()}, {"mnn": run(1.005, began_s=3720)})
    assert (row["workloads"], row["minutes apart"], row["met"]) == (4, 61.0, True)
    [row] = an_hour_apart({"mnn": run()}, {"mnn": run(1.005, {"long": "grade D"}, began_s=3720)})
    assert (row["workloads"], row["accepted in both"], row["met"]) == (3, "75.0%", False)
    assert row["not accepted"] == "0.0%; 25.0% (grade D 1)"


def test_an_hour_later_pairs_stand_under_the_worse_of_their_grades() -> None:
    later = run(1.05, {"long": "grade D"}, began_s=3720)
    good, bad, every = by_grade({"mnn": run()}, {"mnn": later})
    assert [row["worse grade of the two"] for row in (good, bad, every)] == ["A", "D", "all"]
    assert [row["pairs"] for row in (good, bad, every)] == [3, 1, 4]
    assert (every["median"], every["highest"]) == ("4.76%", "4.8%")


@pytest.mark.parametrize(
    ("target", "limit"), [(Target("mnn"), 1e-2), (Target("ncnn"), 1e-3), (Target("mnn", "int8"), 5e-2)]
)
def test_launches_without_a_farm_have_its_gate(target: Target, limit: float) -> None:
    assert gate_limit(target) == limit


def test_canaries_are_held_to_their_share_of_the_timing() -> None:
    launch = {"began_unix_s": 0.0, "ended_unix_s": 10.0, "timed_ms": 6000.0, "open_ms": 0.0, "import_ms": 0.0}
    for canary_ms, met in ((1700.0, True), (1900.0, False)):
        row = measuring._shares([{**launch, "canary_open_ms": 0.0, "canary_ms": canary_ms}])
        assert (row["canary of timing"], row["met"]) == (f"{canary_ms / 6000:.1%}", met)
        assert "canary < 30% of timing" in str(row["goal"])
