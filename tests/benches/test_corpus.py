"""The evaluation corpus: what it is drawn of, how it goes on, and what its tables say of made-up rows."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from math import exp
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import corpus, corpus_cells, corpus_measure, corpus_mix, corpus_plan, corpus_tables
from bench.corpus_cells import (
    KNOWN_GOAL,
    LEAST_POOLED,
    Cell,
    Counted,
    Goal,
    first_within,
    picked,
    picked_elsewhere,
    planned_holdouts,
)
from bench.corpus_generations import read
from bench.corpus_kept import Board, Kept
from bench.corpus_measure import Limits, expected_s, is_next, is_wanted, pack, rows_of
from bench.corpus_plan import Kind, Portion, holdouts, kernels_of, portions, schedule, teachers
from bench.corpus_rows import (
    Measured,
    PlatformCorpus,
    counts_of,
    read_generations,
    text_of,
    workload_of,
    write,
)
from bench.corpus_tables import pooled
from benchfarm_core.jobs import ItemState, ItemView
from benchfarm_core.measurements import MeasurementState, Purpose, Timing
from benchfarm_core.platforms import platform_id
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.summaries import Grade
from benchfarm_core.views import AttemptView, MeasurementView
from benchfarm_core.workloads import ArchitectureWorkload, workload_id
from benchfarm_workloads.probes import probe_set
from benchfarm_workloads.spaces import spaces
from tests.benches.made_corpus import GENERATION, HOST, SESSION, Lists, made_corpus, made_generation, made_rows
from tests.predictor.training.farm_rows import Platform

MOBILE, PROXYLESS = "ofa_mobilenet_v3", "proxylessnas"
ORT, NCNN = HOST.format("onnxruntime"), HOST.format("ncnn")
EVERY_SPACE = [one.name for one in spaces()]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with corpus.one_thread():
        yield


def ids(found: Sequence[ArchitectureWorkload]) -> set[str]:
    return set(map(workload_id, found))


# --- what is drawn


@pytest.mark.parametrize("name", EVERY_SPACE)
def test_what_judges_never_teaches_and_is_in_no_probe_set(name: str) -> None:
    judging, teaching, probes = ids(holdouts(name)), ids(teachers(name)), set(probe_set().workload_ids)
    assert len(judging) == len(holdouts(name)) == corpus_plan.holdout_count(name)
    assert len(teaching) == len(teachers(name)) >= 80
    assert not judging & teaching
    assert not probes & (judging | teaching)


def test_fewer_are_the_first_of_more(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = frozenset(workload_id(one) for one in corpus_plan._drawn(MOBILE, "other", 3, frozenset()))
    five, nine = (corpus_plan._drawn(MOBILE, "other", count, refused) for count in (5, 9))
    assert nine[:5] == five
    assert not ids(nine) & refused
    seen = kernels_of(MOBILE)
    monkeypatch.setattr(corpus_plan, "KERNELS", 10)
    fewer = kernels_of.__wrapped__(MOBILE)
    assert [list(few) for few in fewer] == [list(many[:10]) for many in seen]


def test_portions_are_every_list_once_and_in_order() -> None:
    found = portions(ORT)
    assert len({portion.name for portion in found}) == len(found)
    wanted: list[tuple[Kind, str, int]] = [("holdout", MOBILE, 100), ("again", "bert", 30), ("train", MOBILE, 160)]
    for kind, name, length in wanted:
        own = [portion for portion in found if (portion.kind, portion.space) == (kind, name)]
        assert [portion.start for portion in own] == sorted(portion.start for portion in own)
        assert sum((portion.workloads for portion in own), ()) == corpus_plan.listed(kind, name, ORT)
        assert sum(portion.size for portion in own) == length


def test_stages_begin_with_the_bridge_and_tell_one_main_space_after_the_other() -> None:
    found = portions(ORT)
    assert [portion.stage for portion in found] == sorted(portion.stage for portion in found)
    assert found[0].is_bridge
    first = [portion for portion in found if portion.stage == 1]
    assert {(portion.kind, portion.space) for portion in first} == {("train", MOBILE), ("holdout", MOBILE)}
    assert [sum(one.size for one in first if one.kind == kind) for kind in ("train", "holdout")] == [100, 50]
    second = [portion for portion in found if portion.stage == 2]
    assert {(portion.kind, portion.space) for portion in second} == {
        (kind, MOBILE) for kind in ("in_situ", "alone", "again")
    }
    assert {portion.space for portion in found if portion.stage in {3, 4}} == {PROXYLESS}
    names = [corpus_plan.stage_name(stage) for stage in sorted({portion.stage for portion in found})]
    assert len(set(names)) == len(names) == 10
    assert [portion.turn for portion in found[-30:]] == sorted(portion.turn for portion in found[-30:])


def test_a_stage_of_all_platforms_comes_before_the_next_and_each_family_before_a_second_of_it() -> None:
    int8 = ORT.replace("fp32", "int8")
    every = list(schedule([ORT, int8, NCNN]))
    assert [portion.stage for portion in every] == sorted(portion.stage for portion in every)
    stage = [portion for portion in every if portion.stage == 1]
    platforms = [portion.platform for portion in stage]
    assert platforms.index(int8) > max(at for at, key in enumerate(platforms) if key != int8)
    families = [portion.turn for portion in stage if portion.platform != int8]
    assert families == sorted(families), "they take turns"
    keys = [portion.platform for portion in schedule([ORT, NCNN], one_by_one=True)]
    assert keys == sorted(keys, key=[ORT, NCNN].index)


def test_in_situ_only_where_it_is_timed() -> None:
    assert not [one for one in portions(HOST.format("ncnn").replace("fp32", "int8")) if one.timing is Timing.IN_SITU]


# --- how it goes on


LIMITS = Limits(minutes=1, train_s=60, kernels_s=20)


def done(portion: Portion, **changes: Any) -> Measured:
    rows = [row.model_copy(update=changes) for row in made_rows(portion, Platform(1))]
    name, generation = portion.name, rows[0].generation
    return Measured(key=portion.platform, name=name, wall_s=30.0, generation=generation, rows=tuple(rows))


def test_what_is_done_is_not_measured_again(tmp_path: Path) -> None:
    first, second = [one for one in portions(ORT) if (one.kind, one.space) == ("holdout", "bert")][:2]
    kept = Kept(tmp_path)
    assert is_next(kept, first, LIMITS, GENERATION)
    assert not is_next(kept, second, LIMITS, GENERATION), "its list would be no prefix"
    assert expected_s(kept, second) == 0
    kept.add(first, done(first))
    later = Kept(tmp_path)
    assert [is_next(later, one, LIMITS, GENERATION) for one in (first, second)] == [False, True]
    assert expected_s(later, second) == 30.0
    teaching = next(one for one in portions(ORT) if (one.kind, one.space) == ("train", "bert"))
    assert expected_s(later, teaching) == 60.0, "twice as many"
    assert list(later.own()) == [(ORT, GENERATION)]
    (file,) = tmp_path.glob(f"*/*/{first.name}.json")
    file.write_text('{"key": "cut')
    assert is_wanted(Kept(tmp_path), first, LIMITS, GENERATION), "cut short while it was written"


def measured_by(portion: Portion, generation: str, crooked: float = 0.0) -> Measured:
    """As another generation measured it; `crooked`: every second one so much slower, in log."""
    found = done(portion, generation=generation).model_copy(update={"generation": generation})
    rows = [
        row.model_copy(update={"normalised_ms": row.normalised_ms * exp(crooked * (at % 2))})
        for at, row in enumerate(found.rows)
        if row.normalised_ms
    ]
    return found.model_copy(update={"rows": tuple(rows)})


def committed(folder: Path) -> tuple[Path, Portion, Portion, Portion]:
    """The first machine's rows: the bridge and the first of two portions, which are told too."""
    here, rows = Kept(folder / "here"), folder / "rows"
    judging, later = [one for one in portions(ORT) if (one.kind, one.space) == ("holdout", "bert")][:2]
    (bridge,) = [one for one in portions(ORT) if one.is_bridge]
    here.begin(SESSION)
    for portion in (judging, bridge):
        here.add(portion, done(portion))
    pack(here, rows)
    return rows, bridge, judging, later


def test_another_machine_goes_on_where_the_committed_rows_stop(tmp_path: Path) -> None:
    """All but the bridge, which each generation measures: by it their times are comparable."""
    rows, bridge, judging, later = committed(tmp_path)
    before = {path: path.read_bytes() for path in rows.glob("*/*")}
    there = Kept(tmp_path / "there", read_generations(rows))
    assert not is_wanted(there, bridge, LIMITS, GENERATION)
    assert is_wanted(there, bridge, LIMITS, "other")
    assert not is_wanted(there, later, LIMITS, "other"), "first the bridge tells whose rows count"
    there.begin(SESSION.model_copy(update={"began_unix_s": SESSION.began_unix_s + 9}))
    there.add(bridge, measured_by(bridge, "other"))
    assert not is_wanted(there, judging, LIMITS, "other")
    assert is_next(there, later, LIMITS, "other")
    assert expected_s(there, later) == 30.0
    there.add(later, measured_by(later, "other"))
    added = pack(there, rows)
    assert not {*added} & {*before}, "what another machine committed stays as it is"
    assert {path: path.read_bytes() for path in before} == before
    (found,) = read(rows)
    assert len(found.listed("holdout", "bert")) == judging.size + later.size
    assert {row.session for row in found.rows} == {0, 1}


def test_what_no_bridge_joins_is_measured_again(tmp_path: Path) -> None:
    """Rows that are left out are there for nobody: neither the other machine's for the one that goes on, nor, for a
    third one that is like the first, what the second measured."""
    rows, bridge, judging, later = committed(tmp_path)
    there = Kept(tmp_path / "there", read_generations(rows))
    there.begin(SESSION.model_copy(update={"began_unix_s": SESSION.began_unix_s + 9}))
    there.add(bridge, measured_by(bridge, "other", crooked=0.3))
    assert is_next(there, judging, LIMITS, "other")
    assert not is_next(there, later, LIMITS, "other")
    there.add(judging, measured_by(judging, "other", crooked=0.3))
    there.add(later, measured_by(later, "other", crooked=0.3))
    pack(there, rows)
    third = Kept(tmp_path / "third", read_generations(rows))
    third.add(bridge, measured_by(bridge, "third"))
    assert not is_wanted(third, judging, LIMITS, "third")
    assert is_next(third, later, LIMITS, "third")


class Farm:
    """What `measure_on` asks of a farm beside the measuring."""

    def jobs(self, **_: object) -> list[object]:
        return []

    def platform_fusion(self, _: str) -> Any:
        return SimpleNamespace(measured=[])


def test_every_portion_is_written_as_it_comes_and_a_busy_board_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, asked = tmp_path / "rows", list[str]()
    chosen = [one for one in portions(ORT) if one.is_bridge or (one.kind, one.space, one.turn) == ("train", MOBILE, 0)]
    board = Board({ORT: ORT}, GENERATION, {})

    def measuring(_client: object, _board: object, portion: Portion, *_: object) -> Measured:
        asked.append(portion.name)
        if len(asked) == 3:
            raise SystemExit(143)
        is_busy = len(asked) == 1
        return done(portion, normalised_ms=None, grade=None, failure="inconclusive") if is_busy else done(portion)

    monkeypatch.setattr(corpus_measure, "measured_portion", measuring)
    kept = Kept(tmp_path / "kept")
    kept.note_board(board)
    run = corpus_measure.Run(LIMITS, time.monotonic() + 60, rows)
    with pytest.raises(SystemExit):
        corpus_measure.measure_on(Farm(), kept, board, chosen, run)  # type: ignore[arg-type]
    assert asked == ["probe-networks-000", "probe-networks-000", f"train-{MOBILE}-000"]
    said = capsys.readouterr().out
    assert "2 portions wanted, about 0.0 min, and 2 of which nobody knows" in said
    assert "too few of it could be measured" in said
    assert [one.name for one in read_generations(rows)[0].measured] == ["probe-networks-000"]
    again = Kept(tmp_path / "kept", read_generations(rows))
    assert corpus_measure.measure_on(Farm(), again, board, chosen, run) == 1, "only what was cut short"  # type: ignore[arg-type]
    assert asked[3:] == [f"train-{MOBILE}-000"]


def test_enough_that_teaches_ends_a_list_and_so_does_one_that_cannot_be_measured(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    teaching = [one for one in portions(ORT) if (one.kind, one.space) == ("train", "bert")]
    kept.add(teaching[0], done(teaching[0]))
    assert is_wanted(kept, teaching[1], Limits(1, train_s=10.5, kernels_s=20), GENERATION)
    assert not is_wanted(kept, teaching[1], Limits(1, train_s=10.0, kernels_s=20), GENERATION)
    judging = [one for one in portions(ORT) if (one.kind, one.space) == ("holdout", "autoformer")]
    kept.add(judging[0], done(judging[0], normalised_ms=None, grade=None, failure="wrong_result"))
    assert not is_wanted(kept, judging[1], Limits(1, 60, 20), GENERATION)
    rows = [row for measured in kept.of_list(judging[0], GENERATION) for row in measured.rows]
    assert counts_of(rows)["holdout autoformer"] == "0 of 10, 10 wrong_result"


def test_what_a_busy_board_could_not_measure_is_not_done() -> None:
    portion = Portion(ORT, "train", "bert", 0, 10)
    busy, refused = (
        done(portion, normalised_ms=None, grade=None, failure=why) for why in ("inconclusive", "wrong_result")
    )
    assert corpus_measure.is_crowded(busy)
    assert not corpus_measure.is_crowded(refused)
    assert not corpus_measure.is_crowded(busy.model_copy(update={"rows": (*busy.rows[:5], *refused.rows[5:])}))


def test_the_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "kept")
    kept.begin(SESSION)
    chosen = [one for turn in (0, 2) for one in [each for each in portions(ORT) if each.turn == turn][:30:10]]
    for portion in chosen:
        kept.add(portion, done(portion))
    files = pack(kept, tmp_path / "rows")
    assert [path.name for path in files] == [
        f"{GENERATION}-r00.csv.gz",
        f"{GENERATION}-r02.csv.gz",
        f"{GENERATION}.json",
    ]
    before = [path.read_bytes() for path in files]
    (found,) = read(tmp_path / "rows")
    own = [row for portion in chosen for row in done(portion).rows]
    assert [row.workload for row in found.rows] == [row.workload for row in PlatformCorpus(found.manifest, own).rows]
    assert found.manifest.board_s == pytest.approx(0.5 * len(found.rows), abs=0.1)
    assert all(text_of(workload_of(row)) == row.workload for row in found.rows)
    (generation,) = read_generations(tmp_path / "rows")
    assert {one.name for one in generation.measured} == {portion.name for portion in chosen}
    write(generation, tmp_path / "rows")
    assert [path.read_bytes() for path in files] == before, "the same rows are the same bytes"
    files[0].write_bytes(files[0].read_bytes()[:-20])
    with pytest.raises((ValueError, EOFError)):
        read(tmp_path / "rows")


def test_no_more_is_written_than_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = made_generation(made_corpus("onnxruntime", Platform(1), {("holdout", "bert"): 10}))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "there.csv.gz").write_bytes(bytes(3000))
    monkeypatch.setattr("bench.corpus_rows.MAX_BYTES", 3100)
    with pytest.raises(ValueError, match="more than 3100"):
        write(generation, tmp_path)
    assert not list(tmp_path.glob("*/*.json"))


NOW = datetime(2026, 11, 22, tzinfo=UTC)


def item(portion: Portion, at: int, failure: str | None) -> ItemView:
    return ItemView(
        item_no=at,
        workload_id="w",
        workload=portion.workloads[at],
        label="",
        platform_id=platform_id(portion.platform),
        platform=portion.platform,
        repeat=1,
        state=ItemState.FAILED,
        source=None,
        reason="",
        failure=failure,
        measurement_id=at,
        origin=None,
        board_id=None,
        measured_at=None,
        summary=None,
    )


def view(found: ItemView, lease_id: str, begun_s: float, ended_s: float) -> MeasurementView:
    begun, ended = (NOW + timedelta(seconds=seconds) for seconds in (begun_s, ended_s))
    return MeasurementView(
        measurement_id=found.item_no,
        state=MeasurementState.FAILED,
        workload=found.workload,
        platform=found.platform,
        protocol=PROTOCOLS["kernel"],
        timing=found.timing,
        repeat_no=0,
        purpose=Purpose.JOB,
        attempts=1,
        inconclusive=0,
        failure=None,
        detail="",
        summary=None,
        evidence=AttemptView(
            lease_id=lease_id, board_id="b", started_at=begun, ended_at=ended, end_reason="done", launches=[]
        ),
        samples=[],
    )


def test_a_portion_pays_for_all_its_leases() -> None:
    portion = Portion(ORT, "train", "bert", 20, 3)
    items = [item(portion, at, "noisy" if at == 2 else None) for at in range(3)]
    views = [view(items[0], "8", 0, 4), view(items[1], "8", 1, 4), None]
    rows = rows_of(portion, items, views, 12.0, 3)
    assert [row.board_s for row in rows] == [6.0, 6.0, 0.0]
    assert [(row.lease_id, row.lease_s) for row in rows] == [("8", 4.0), ("8", 4.0), ("", 0.0)]
    assert [(row.number, row.session) for row in rows] == [(20, 3), (21, 3), (22, 3)]
    assert rows_of(portion, items, views, 12.0, 3, GENERATION)[0].generation == GENERATION
    assert [row.failure for row in rows] == ["failed", "failed", "noisy"]
    assert [row.board_s for row in rows_of(portion, items, [None] * 3, 12.0, 3)] == [4.0] * 3


def test_platforms_are_named_by_engine_and_precision(capsys: pytest.CaptureFixture[str]) -> None:
    offered = [ORT, NCNN, ORT.replace("1.0/", "1.0~a=b/")]
    assert corpus_measure.chosen_platforms(offered, ["ncnn:fp32", "onnxruntime:fp32"]) == [NCNN, ORT]
    assert corpus_measure.chosen_platforms(offered, []) == [ORT, NCNN]
    assert "litert fp32 is not offered here" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no platform tvm:fp32 here"):
        corpus_measure.chosen_platforms(offered, ["tvm:fp32"])


# --- what is learnt from, and what comes of it

LISTS: Lists = {
    ("train", MOBILE): 60,
    ("in_situ", MOBILE): 10,
    ("alone", MOBILE): 30,
    ("holdout", MOBILE): 30,
    ("again", MOBILE): 20,
}


@pytest.fixture(scope="module")
def made() -> list[PlatformCorpus]:
    law = Platform(1)
    return [made_corpus("onnxruntime", law, LISTS), made_corpus("ncnn", Platform(2, law), LISTS)]


def test_seconds_are_spent_in_the_order_of_the_draw_failures_included(made: list[PlatformCorpus]) -> None:
    rows = made[0].listed("train", MOBILE)
    assert [row.number for row in first_within(rows, 5.2)] == list(range(10))
    dear = [rows[0], rows[1].model_copy(update={"board_s": 9.0, "grade": Grade.D}), rows[2]]
    assert first_within(dear, 9.6) == dear[:2]
    assert len(made[0].training_rows(dear).models) == 2
    # few models: a quarter goes to kernels in situ; many: nothing does
    few = picked(made[0], MOBILE, 8.0)
    assert [sum(row.kind == kind for row in few) for kind in ("train", "in_situ")] == [12, 4]
    assert {row.kind for row in picked(made[0], MOBILE, 20.0)} == {"train"}
    assert {row.kind for row in picked_elsewhere(made[0], MOBILE, 60.0)} == {"in_situ", "alone"}


def test_donors_are_of_other_families_and_lend_nothing_that_judges(made: list[PlatformCorpus]) -> None:
    assert [other.key for other in corpus_cells.lenders(made[0], made)] == [NCNN]
    twin = PlatformCorpus(made[0].manifest.model_copy(update={"key": ORT.replace("fp32", "int8")}), [])
    assert corpus_cells.lenders(made[0], [*made, twin]) == [made[1]]
    marked = PlatformCorpus(made[1].manifest.model_copy(update={"key": f"shared-{NCNN}"}), made[1].rows)
    assert corpus_cells.lenders(made[0], [*made, marked]) == corpus_cells.others(made[0], [*made, marked]) == [made[1]]
    rows = corpus_cells.lent(made[1])
    assert len(rows.models) == 60
    assert not {row.workload_id for row in rows.models} & corpus_cells.held_out()
    assert not corpus_cells.lent(made[1], MOBILE).models


def test_the_tables_of_made_up_rows_find_the_law(made: list[PlatformCorpus]) -> None:
    lines = corpus_tables.known_spaces(made)
    assert [line["platform"] for line in lines][-1] == "all platforms"
    first = lines[0]
    assert (first["hold-outs"], first["models"], first["board s"]) == (30, 60, "30.0")
    assert float(str(first["within 10 %"])) > 95
    assert float(str(first["ridge: within 10 %"])) > 90
    assert float(str(first["again: within 5 %"])) == 100.0
    assert (lines[-1]["hold-outs"], lines[-1]["goal"]) == (60, ">= 95.0% within 5 %, >= 99.3% within 10 %")
    assert first["measured"] == "partial: 30 of 100"
    assert lines[-1]["met"] == f"partial: 60 of {planned_holdouts(made)}", "and nothing is said to be met"
    assert "(" in str(lines[-1]["within 5 %"])
    helped = corpus_tables.with_donors(made)[0]
    assert float(str(helped["board s"])) <= 10.0
    assert "ncnn" in str(helped["made of"])
    assert float(str(helped["within 10 %"])) > 80


def test_the_sections_are_written_and_an_empty_folder_is_said(
    made: list[PlatformCorpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "predictor.md"
    argv = ["corpus", "--rows", str(tmp_path / "rows"), "tables", "--settings", "known", "--output", str(page)]
    monkeypatch.setattr("sys.argv", argv)
    assert corpus.main() == 0
    assert not page.exists()
    assert "nothing is judged" in capsys.readouterr().out
    write(made_generation(made[0]), tmp_path / "rows")
    assert corpus.main() == 0
    assert "## Known space, no donor" in page.read_text()
    assert "python -m bench.corpus --rows rows tables" in page.read_text()
    assert "train ofa_mobilenet_v3: 60 of 60" in capsys.readouterr().out


def test_too_few_rows_are_a_line_that_says_why(made: list[PlatformCorpus]) -> None:
    found = corpus_cells.cell(made[0], MOBILE, made[0].listed("train", MOBILE)[:2])
    assert found is not None
    line = corpus_tables.table([found], KNOWN_GOAL, 490)[0]
    assert str(line["made of"]).startswith("none: ")
    assert line["hold-outs"] == ""
    assert corpus_cells.cell(made[0], "bert", made[0].listed("train", MOBILE)) is None


def counted(count: int, near: int) -> Counted:
    return Counted(count, near, near, 0.02 * count, near)


def test_thread_twins_are_pooled_once() -> None:
    twin = ORT.replace("c1.t1", "c0-1.t2")
    cells = [Cell(key, MOBILE, 9, 0, 5.0, ours=counted(10, 9)) for key in (ORT, twin, NCNN)]
    assert corpus_tables.table(cells, KNOWN_GOAL, 490)[-1]["hold-outs"] == 20
    assert pooled("none", [Cell(ORT, MOBILE, 0, 0, 0.0, why="too few")]) == []


def test_a_goal_is_met_by_all_hold_outs_together_and_by_every_space() -> None:
    cells = [
        Cell(ORT, MOBILE, 9, 0, 5.0, ours=counted(300, 270), tried=300),
        Cell(NCNN, MOBILE, 9, 0, 5.0, ours=counted(300, 300), tried=300),
    ]
    assert Goal(0.95, 0.95).judged(cells, 600) == {"goal": ">= 95.0% within 5 %, >= 95.0% within 10 %", "met": True}
    assert Goal(0.0, 0.96).judged(cells, 600) == {"goal": ">= 96.0% within 10 %", "met": False}
    refused = Cell(ORT, "bert", 0, 0, 0.0, why="too few", tried=30)
    assert Goal(0.9, 0.9).judged([*cells, refused], 600)["met"] is False


def test_a_partial_corpus_meets_no_goal() -> None:
    whole = Cell(ORT, MOBILE, 9, 0, 5.0, ours=counted(100, 100), tried=100)
    goal = Goal(0.9, 0.9)
    assert goal.judged([], 490)["met"] == "partial: 0 of 490"
    assert goal.judged([whole], 490)["met"] == "partial: 100 of 490"
    assert goal.judged([whole._replace(tried=99)] * 5, 490)["met"] == "partial: 495 of 490", "no cell is whole"
    few = whole._replace(ours=counted(80, 80))
    assert goal.judged([few] * 5, 490)["met"] == f"partial: 400 of {LEAST_POOLED} that judge"
    assert goal.judged([whole] * 5, 490)["met"] is True


def test_what_a_platform_refuses_is_not_planned_for_it() -> None:
    every = 6 * (4 * 100 + 3 * 30)
    assert planned_holdouts([]) == every
    law = Platform(1)
    refusing = made_corpus("onnxruntime", law, {("holdout", "bert"): 10})
    assert planned_holdouts([refusing]) == every
    rows = [row.model_copy(update={"failure": "unsupported_operator", "grade": None}) for row in refusing.rows]
    assert planned_holdouts([PlatformCorpus(refusing.manifest, rows)]) == every - 30
    assert planned_holdouts([made_corpus("tvm", law, {("holdout", "bert"): 10})]) == every + 490


# --- which kinds of evidence teach most


def test_mixes_spend_the_same_seconds_and_are_told_by_engine(
    made: list[PlatformCorpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_mix, "MIX_S", {"known": (10.0,), "unseen": (10.0,)})
    lines = corpus_mix.mixes(made)
    assert [line["setting"] for line in lines] == ["known", "unseen"] * 2
    for line in lines[::2]:
        assert line["best"] in corpus_mix.MIXES
        assert line["whole models"]
        assert line["in situ"] == "", "too few seconds of it were measured"
    for line in lines[1::2]:
        assert (line["best"], line["whole models"]) == ("alone", ""), "no other space was measured"
    rows = corpus_mix.mixed(made[0], MOBILE, "known", {"train": 0.5, "alone": 0.5}, 10.0)
    assert rows is not None
    assert [sum(row.kind == kind for row in rows) for kind in ("train", "alone")] == [10, 10]
    assert corpus_mix.mixed(made[0], MOBILE, "known", {"in_situ": 1.0}, 10.0) is None
