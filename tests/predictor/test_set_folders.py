"""A measurement set's folder, and every recorded set where they lie beside the checkout."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest, TooLarge
from benchfarm_predictor import set_folders
from benchfarm_predictor.features import kernel_features
from benchfarm_predictor.kernels import Kernels
from benchfarm_predictor.set_folders import read_folder

PLATFORM = {
    "board_model": "board",
    "engine": "engine",
    "precision": "fp32",
    "operating_point": {},
    "source": "made for this test",
    "licence": "none",
}
HEADER = "hw,cin,cout,k,s,latency_ms\n"
TABLE = HEADER + "".join(f"{hw},16,{3 * hw},3,1,{0.0123456789 * hw**1.37}\n" for hw in range(8, 28))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "platform.json").write_text(json.dumps(PLATFORM))
    (tmp_path / "conv.csv").write_text(TABLE)
    (tmp_path / "notes.txt").write_text("not a table")
    return tmp_path


def test_a_folder_is_read_and_makes_kernels(folder: Path) -> None:
    found = read_folder(folder, {"conv": "conv-bn-act"})
    kernels = Kernels.of_set(found.kernels["conv-bn-act"])
    assert (found.platform.board_model, found.rows, found.rejected) == ("board", 20, ())
    assert kernels.column("cout").tolist() == [3.0 * hw for hw in range(8, 28)]
    assert np.isfinite(kernel_features(kernels).matrix(kernels)).all()


def test_without_names_kernels_stay_foreign(folder: Path) -> None:
    assert list(read_folder(folder).kernels) == ["conv"]


@pytest.mark.parametrize("missing", ["platform.json", "conv.csv"])
def test_a_folder_that_is_no_set_is_refused(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(InvalidRequest, match="no measurement set"):
        read_folder(folder)


def test_what_is_no_text_is_refused(folder: Path) -> None:
    (folder / "conv.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match=r"conv\.csv"):
        read_folder(folder)


@pytest.mark.parametrize("name", ["conv.csv", "platform.json"])
def test_no_more_is_read_than_a_set_may_have(folder: Path, name: str) -> None:
    with (folder / name).open("r+b") as table:
        table.truncate(10 * 2**20)
    with pytest.raises(TooLarge, match="split"):
        read_folder(folder)


def test_tables_share_the_bytes_of_their_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_folders, "MAX_SET_CHARS", len(TABLE) + 10)
    assert read_folder(folder).rows == 20
    (folder / "more.csv").write_text(HEADER + "8,16,24,3,1,0.25\n")
    with pytest.raises(TooLarge, match="split"):
        read_folder(folder)


@pytest.mark.parametrize(("name", "most", "said"), [("MAX_SET_ROWS", -50, "rows"), ("MAX_SET_TABLES", 0, "at most")])
def test_rows_and_tables_are_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, most: int, said: str
) -> None:
    monkeypatch.setattr(set_folders, name, most)
    with pytest.raises(TooLarge, match=said):
        read_folder(folder)


@pytest.mark.parametrize("name", ["conv.csv", "platform.json"])
def test_what_is_no_regular_file_is_refused(folder: Path, name: str) -> None:
    """A pipe would wait for ever, a device never end."""
    makers: list[Callable[[Path], object]] = [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")]
    for number, make in enumerate(makers):
        (folder / name).rename(folder / f"former {number}")
        make(folder / name)
        with pytest.raises(InvalidRequest, match="no regular file"):
            read_folder(folder)


LARGE_BYTES = 150_000
"""Tables beyond it take seconds."""


def recorded() -> list[Path]:
    root = Path(os.environ.get("BENCHFARM_MEASUREMENT_SETS", Path(__file__).parents[3] / "shared" / "data"))
    found = sorted(path.parent for path in root.glob("kernels/*/platform.json"))
    return [path for path in found if sum(table.stat().st_size for table in path.glob("*.csv")) < LARGE_BYTES]


@pytest.mark.skipif(
    not recorded(), reason="no recorded sets: neither beside the checkout nor BENCHFARM_MEASUREMENT_SETS"
)
def test_recorded_sets_make_features() -> None:
    for path in recorded():
        for rows in read_folder(path).kernels.values():
            kernels = Kernels.of_set(rows)
            matrix = kernel_features(kernels, "full").matrix(kernels)
            assert len(matrix) == len(rows.latency_ms)
            assert np.isfinite(matrix).all()
