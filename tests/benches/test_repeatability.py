"""The judging of a run beside load: nothing that was measured may fall out of its table unseen."""

from bench.repeatability import Run, beside_load

SHORT = {f"k{number}": 0.1 for number in range(20)}


def run(
    accepted: dict[str, float],
    rejected: dict[str, str] | None = None,
    of_d: dict[str, float] | None = None,
    **times: float,
) -> Run:
    graded = {name: ("A", ms) for name, ms in accepted.items()} | {name: ("D", ms) for name, ms in (of_d or {}).items()}
    return Run(accepted, rejected or {}, graded, **{"began_s": 0.0, "ended_s": 60.0, **times})


QUIET = run({**SHORT, "long": 10.0})


def test_what_agrees_is_met() -> None:
    short, long = beside_load({"e": QUIET}, {"e": run({**SHORT, "long": 10.2}, began_s=60, ended_s=120)})
    assert (short["met"], long["met"]) == (True, True)
    assert (long["highest"], long["farthest"], long["minutes since quiet, at most"]) == ("2.0%", "long", 2.0)


def test_a_long_number_that_is_wrong_is_a_miss_also_with_grade_d() -> None:
    off = run(SHORT, {"long": "grade D"}, {"long": 12.0})
    assert [row["met"] for row in beside_load({"e": QUIET}, {"e": off})] == [True, False]
    silent = run(SHORT, {"long": "inconclusive"})
    assert [row["met"] for row in beside_load({"e": QUIET}, {"e": silent})] == [True, True]


def test_one_short_number_beyond_the_limit_is_a_miss_and_named() -> None:
    short, _ = beside_load({"e": QUIET}, {"e": run({**SHORT, "k7": 0.12, "long": 10.0})})
    assert (short["met"], short["farthest"], short["highest"]) == (False, "k7", "20.0%")


def test_quiet_means_within_ten_minutes() -> None:
    late = run({**SHORT, "long": 10.0}, began_s=60, ended_s=601)
    assert [row["met"] for row in beside_load({"e": QUIET}, {"e": late})] == [False, False]


def test_what_was_not_accepted_when_quiet_is_told() -> None:
    quiet = run(SHORT, {"a": "grade D", "b": "inconclusive"})
    short, _ = beside_load({"e": quiet}, {"e": run(SHORT)})
    assert short["not accepted when quiet, of any length"] == "9.1% (grade D 1) (inconclusive 1)"
