"""The cache of what peers are made of."""

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
    built = []
    first = peer_cache.cached("thing", "1", builder(built))
    assert peer_cache.cached("thing", "1", builder(built)) == first
    assert len(built) == 1
    assert (first / "file").read_text() == "content"


def test_another_recipe_replaces_it():
    built = []
    first = peer_cache.cached("thing", "1", builder(built))
    second = peer_cache.cached("thing", "2", builder(built))
    assert len(built) == 2
    assert second.is_dir()
    assert not first.exists()


def test_a_failed_build_leaves_nothing_and_is_tried_again():
    def fail(folder):
        (folder / "half").write_text("done")
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        peer_cache.cached("thing", "1", fail)
    assert [path.name for path in peer_cache.CACHE.iterdir()] == ["thing.lock"]
    assert (peer_cache.cached("thing", "1", builder([])) / "file").exists()
