"""Generations of the corpus: on one clock where a bridge holds, left out and said so where none does."""

from math import exp

import pytest

from bench.corpus_generations import BRIDGED_MIN, bridge, counting, generation_name, hardware_key, joined
from bench.corpus_rows import Generation, Row
from tests.benches.made_corpus import BOARD_S, SESSION, made_corpus, made_generation
from tests.predictor.training.farm_rows import Platform

LISTS = {("probe", "networks"): 11, ("holdout", "bert"): 10}


def first() -> Generation:
    return made_generation(made_corpus("onnxruntime", Platform(1), LISTS))  # type: ignore[arg-type]


def other(factor: float = 1.25, crooked: float = 0.0) -> Generation:
    """A later machine by the clock of another farm, on which times are so many times as long; `crooked`: every second
    one by so much more, in log."""
    made = first()
    manifest = made.manifest.model_copy(
        update={
            "generation": "later",
            "sessions": (SESSION.model_copy(update={"began_unix_s": SESSION.began_unix_s + 100}),),
        }
    )
    rows = [moved(row, factor * exp(crooked * (at % 2))) for at, row in enumerate(made.rows)]
    return Generation(manifest, tuple(rows), made.wall_s)


def moved(row: Row, factor: float) -> Row:
    """Of hold-outs the next ones."""
    assert row.normalised_ms is not None
    number = row.number + (10 if row.kind == "holdout" else 0)
    return row.model_copy(update={"normalised_ms": row.normalised_ms * factor, "generation": "later", "number": number})


def test_the_later_clock_is_brought_to_the_first_one() -> None:
    found = joined([other(), first()])
    assert len(found.rows) == len(first().rows) + 10, "the bridge is not there twice"
    early, late = (
        {row.workload: row for row in found.listed("holdout", "bert") if row.generation == name}
        for name in (first().manifest.generation, "later")
    )
    assert len(early) == len(late) == 10
    for name, row in late.items():
        assert row.normalised_ms == pytest.approx(early[name].normalised_ms)
        assert row.median_ms == early[name].median_ms, "what was seen stays"
        assert row.session == 1
    assert found.manifest.sessions == (SESSION, other().manifest.sessions[0])
    assert found.manifest.board_s == pytest.approx(BOARD_S * len(found.rows), abs=0.1)
    (note,) = found.notes
    assert "factor 0.800" in note
    assert "brought to the clock" in note


def test_without_a_bridge_that_holds_nothing_is_mixed() -> None:
    shapeless = joined([first(), other(crooked=0.3)])
    assert {row.generation for row in shapeless.rows} == {first().manifest.generation}
    assert "left out, not comparable" in shapeless.notes[0]
    rows = [row for row in other().rows if row.kind != "probe" or row.number < BRIDGED_MIN - 1]
    few = joined([first(), other()._replace(rows=tuple(rows))])
    assert {row.generation for row in few.rows} == {first().manifest.generation}
    assert not bridge(first().rows, []).holds


def test_of_generations_that_are_not_comparable_those_are_told_that_are_more() -> None:
    """A first one of a few rows leaves out nobody who measured more."""
    small = first()
    rows = [row for row in small.rows if row.kind == "probe" or row.number < 2]
    told = joined([small._replace(rows=tuple(rows)), other(crooked=0.3)])
    assert {row.generation for row in told.rows} == {"later"}
    assert told.manifest.generation == "later"
    (note,) = told.notes
    assert note.startswith(f"generation {small.manifest.generation}: {len(rows)} rows left out")


def test_what_counts_beside_a_generation_is_what_is_told_with_it() -> None:
    early, late, apart = first().rows, other().rows, other(crooked=0.3).rows
    by_name = {"early": early, "late": late, "apart": apart}
    assert counting(by_name, "early") == counting(by_name, "late") == {"early", "late"}
    assert counting(by_name, "apart") == {"apart"}
    assert counting(by_name, "new") == {"new"}, "its bridge was not measured"
    probes = [row for row in early if row.kind == "probe"]
    assert counting(by_name | {"new": probes}, "new") == {"early", "late", "new"}


def test_a_bridge_looks_past_a_few_that_are_off() -> None:
    rows = list(other().rows)
    at = next(at for at, row in enumerate(rows) if row.kind == "probe")
    rows[at] = moved(rows[at], 3.0)
    found = bridge(first().rows, rows)
    assert found.holds
    assert found.factor == pytest.approx(0.8)


def test_equal_hardware_is_one_platform_and_each_machine_a_generation() -> None:
    keys = [f"host-{serial}/c0.t1.free/onnxruntime-1.31.1/fp32" for serial in ("a1b2", "c3d4")]
    found = {hardware_key(key, "0123abcd") for key in keys}
    assert len(found) == 1
    assert hardware_key(keys[0], "4567abcd") not in found
    assert hardware_key(keys[0], "0123abcd", "shared-").startswith("shared-host-")
    names = {generation_name(*each) for each in (("b1", "g", 7), ("b2", "g", 7), ("b1", "h", 7), ("b1", "g", 8))}
    assert len(names) == 4, "another machine, another system, other rules"
