"""The cache of what peers are made of."""

import os
from pathlib import Path

import pytest

from tests.peers import peer_cache


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(peer_cache, "CACHE", tmp_path / "cache")


def builder(built):
    def build(folder):
        built.append(folder)
        (folder / "file").write_text("content")

    return build


def test_it_is_built_once_for_a_recipe():
    built: list[Path] = []
    first = peer_cache.cached("thing", "1", builder(built))
    assert peer_cache.cached("thing", "1", builder(built)) == first
    assert len(built) == 1
    assert (first / "file").read_text() == "content"


def test_a_recipe_that_nobody_used_for_a_day_goes_when_another_is_built():
    built: list[Path] = []
    old, used = (peer_cache.cached("thing", recipe, builder(built)) for recipe in ("1", "2"))
    os.utime(old, (0, 0))
    new = peer_cache.cached("thing", "3", builder(built))
    assert len(built) == 3
    assert used.is_dir()
    assert new.is_dir()
    assert not old.exists()


def test_a_failed_build_leaves_nothing_and_is_tried_again():
    def fail(folder):
        (folder / "half").write_text("done")
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        peer_cache.cached("thing", "1", fail)
    assert [path.name for path in peer_cache.CACHE.iterdir()] == ["thing.lock"]
    assert (peer_cache.cached("thing", "1", builder([])) / "file").exists()
