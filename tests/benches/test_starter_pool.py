"""The starter pool of made-up rows: what a farm takes in, without anything that judges, and the same bytes again."""

from pathlib import Path

import pytest

from bench import starter_pool
from bench.corpus_cells import held_out
from bench.corpus_generations import read as read_rows
from bench.corpus_rows import DATA, PlatformCorpus, write
from benchfarm_core.pool_files import MAX_POOL_BYTES, open_entries, read
from benchfarm_core.predictors import WHOLE_MODEL
from benchfarm_core.quality import RULE_VERSION
from benchfarm_predictor import predictor_file
from benchfarm_store.starter_pool import FILE
from benchfarm_workloads.kernels import CATALOGUE_VERSION
from benchfarm_workloads.own_kernels import OwnKernels
from tests.benches.made_corpus import HOST, Lists, made_corpus, made_generation
from tests.predictor.training.farm_rows import Platform

MOBILE = "ofa_mobilenet_v3"
LISTS: Lists = {
    ("train", MOBILE): 30,
    ("in_situ", MOBILE): 10,
    ("alone", MOBILE): 20,
    ("holdout", MOBILE): 10,
    ("again", MOBILE): 10,
    ("probe", "networks"): 11,
    ("probe", "alone"): 42,
}


@pytest.fixture(scope="module")
def corpus() -> PlatformCorpus:
    return made_corpus("onnxruntime", Platform(1), LISTS)


def test_the_pool_that_ships_is_of_the_rows_beside_it_and_of_todays_rules() -> None:
    """A farm that is upgraded says nothing of a pool that teaches nobody: this does, before it ships."""
    sources = {each.key: starter_pool.source_of(each) for each in read_rows(DATA)}
    opened = open_entries(FILE.read_bytes(), OwnKernels(), CATALOGUE_VERSION, predictor_file.read)
    assert {one.entry.platform.key: one.entry.source for one in opened} == sources
    assert all(one.left_out == () for one in opened)
    assert {one.rows.rule_version for one in opened} == {RULE_VERSION}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["starter_pool", *arguments])
    return starter_pool.main()


def test_it_holds_what_teaches_with_predictors_and_provenance(
    corpus: PlatformCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, rows = tmp_path / "made.pool", tmp_path / "rows"
    assert run(monkeypatch, "--rows", str(rows), "--out", str(out)) == 0
    assert "no starter pool is made" in capsys.readouterr().out
    write(made_generation(corpus), rows)
    assert run(monkeypatch, "--rows", str(rows), "--out", str(out), "--models", "20") == 0
    said = capsys.readouterr().out
    assert HOST.format("onnxruntime") in said
    data = out.read_bytes()
    assert len(data) < MAX_POOL_BYTES
    (opened,) = open_entries(data, OwnKernels(), CATALOGUE_VERSION, predictor_file.read)
    assert (opened.entry.origin, opened.entry.licence) == (starter_pool.ORIGIN, "Apache-2.0, as the project")
    assert "commits 0123456789ab" in opened.entry.source
    assert WHOLE_MODEL in opened.files
    assert opened.left_out == ()
    assert opened.entry.rows.models == 20 + 11
    assert not {row.workload_id for row in opened.rows.every} & held_out()
    assert run(monkeypatch, "--rows", str(rows), "--out", str(out), "--models", "20") == 0
    assert out.read_bytes() == data, "the same rows are the same bytes"
    assert read(data).manifest.farm == starter_pool.ORIGIN


def test_what_a_marked_machine_measured_is_lent_to_nobody(corpus: PlatformCorpus) -> None:
    marked = corpus.manifest.model_copy(update={"key": f"shared-{corpus.key}"})
    assert starter_pool.entry_of(PlatformCorpus(marked, corpus.rows), 20) is None


def test_of_few_rows_nothing_is_lent(corpus: PlatformCorpus) -> None:
    few = PlatformCorpus(corpus.manifest, [row for row in corpus.rows if row.number < 4 and row.kind == "train"])
    assert starter_pool.entry_of(few, 20) is None
    judging = PlatformCorpus(corpus.manifest, [row for row in corpus.rows if row.split == "holdout"])
    assert starter_pool.lent_rows(judging, 20) == []
