"""How the evaluation corpus is measured: what is wanted still, what is kept, what other machines' rows are to it."""

import time
from datetime import UTC, datetime, timedelta
from math import exp
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import corpus_measure
from bench.corpus_generations import read
from bench.corpus_kept import Board, Kept
from bench.corpus_measure import Limits, expected_s, is_next, is_wanted, pack, rows_of
from bench.corpus_plan import Portion, portions
from bench.corpus_rows import Measured, PlatformCorpus, counts_of, read_generations, text_of, workload_of, write
from benchfarm_core.jobs import ItemState, ItemView
from benchfarm_core.measurements import MeasurementState, Purpose
from benchfarm_core.platforms import platform_id
from benchfarm_core.protocols import PROTOCOLS
from benchfarm_core.views import AttemptView, MeasurementView
from tests.benches.made_corpus import GENERATION, HOST, SESSION, made_corpus, made_generation, made_rows
from tests.predictor.training.farm_rows import Platform

MOBILE = "ofa_mobilenet_v3"
ORT, NCNN = HOST.format("onnxruntime"), HOST.format("ncnn")

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

    def submit(self, _: object) -> Any:
        return SimpleNamespace(id="j_1")


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
    assert "2 portions wanted, of 2 nobody knows how long they take" in said
    assert "too few of it could be measured" in said
    assert [one.name for one in read_generations(rows)[0].measured] == ["probe-networks-000"]
    again = Kept(tmp_path / "kept", read_generations(rows))
    assert corpus_measure.measure_on(Farm(), again, board, chosen, run) == 1, "only what was cut short"  # type: ignore[arg-type]
    assert asked[3:] == [f"train-{MOBILE}-000"]


def test_while_one_platform_waits_the_others_are_measured() -> None:
    names = (ORT, NCNN)
    every = [Portion(name, "train", MOBILE, start, 20) for start in (0, 20) for name in names]
    every.append(Portion(ORT, "holdout", MOBILE, 0, 10))
    found = corpus_measure.side_by_side(every, lambda portion: (portion.platform, portion.start) != (NCNN, 0))
    assert [[(one.platform, one.kind, one.start) for one in group] for group in found] == [
        [(ORT, "train", 0), (NCNN, "train", 20)],
        [(ORT, "train", 20)],
        [(ORT, "holdout", 0)],
    ]
    first = every[0]
    done: set[Portion] = set()
    by_list = corpus_measure.side_by_side(every[:3:2], lambda one: one is first or first in done)
    assert next(by_list) == [first]
    done.add(first)
    assert next(by_list) == [every[2]], "asked once the one before it is done"


def test_a_portion_that_does_not_fit_keeps_no_shorter_one_out() -> None:
    long, short, last = (Portion(name, "train", MOBILE, 0, 20) for name in (ORT, NCNN, HOST.format("mnn")))
    found = corpus_measure.fitting_of([(long, 70.0), (short, 30.0), (last, 31.0)], 60.0)
    assert found == [(short, 30.0)]
    assert corpus_measure.fitting_of([(long, 0.0), (short, 30.0), (last, 30.0)], 60.0)[-1] == (last, 30.0)


def test_what_was_done_while_another_was_waited_for_is_expected_to_take_its_time_of_the_board(tmp_path: Path) -> None:
    first, second = [one for one in portions(ORT) if (one.kind, one.space) == ("holdout", "bert")][:2]
    kept = Kept(tmp_path)
    kept.add(first, done(first, board_s=4.0).model_copy(update={"wall_s": 0.1}))
    assert expected_s(kept, second) == 4.0 * first.size


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


def test_what_hangs_does_not_take_the_whole_run() -> None:
    assert corpus_measure.limit_s(0, 1500) == corpus_measure.PORTION_LIMIT_S
    assert corpus_measure.limit_s(5, 1500) == 120
    assert corpus_measure.limit_s(50, 1500) == 300
    assert corpus_measure.limit_s(500, 1500) == corpus_measure.PORTION_LIMIT_S
    assert corpus_measure.limit_s(5, 10) == 70, "a little beyond the run's minutes"


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
