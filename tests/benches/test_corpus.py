"""The evaluation corpus: what it is drawn of, in which order, and what its tables say of made-up rows."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bench import corpus, corpus_cells, corpus_mix, corpus_plan, corpus_tables
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
from bench.corpus_plan import BRIDGE, Chosen, Kind, holdouts, kernels_of, portions, schedule, teachers
from bench.corpus_rows import PlatformCorpus, write
from bench.corpus_tables import pooled
from benchfarm_core.measurements import Timing
from benchfarm_core.summaries import Grade
from benchfarm_core.workloads import ArchitectureWorkload, workload_id
from benchfarm_workloads.probes import probe_set
from benchfarm_workloads.spaces import spaces
from tests.benches.made_corpus import HOST, Lists, made_corpus, made_generation
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


def test_lists_that_are_named_are_measured_alone_and_the_bridge() -> None:
    found = Chosen(kinds=("train", "alone"), spaces=(MOBILE,)).of([ORT])
    assert {(one.kind, one.space) for one in found} == {BRIDGE, ("train", MOBILE), ("alone", MOBILE)}
    assert Chosen().of([ORT, NCNN]) == list(schedule([ORT, NCNN]))


def test_in_situ_only_where_it_is_timed() -> None:
    assert not [one for one in portions(HOST.format("ncnn").replace("fp32", "int8")) if one.timing is Timing.IN_SITU]


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
