"""The comparison of runners starts by itself, as `make bench` starts it, or says what it lacks."""

from pathlib import Path

import pytest

from bench import native_runner


def test_nothing_has_to_be_named() -> None:
    assert native_runner.options([]).cache == native_runner.CACHE


def test_what_cannot_be_built_is_said(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(SystemExit, match="none can be built"):
        native_runner.found_or_built(tmp_path / "cache")
