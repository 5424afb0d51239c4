"""A measurement set's folder, and every recorded set where they lie beside the checkout."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from benchfarm_core.errors import InvalidRequest, TooLarge
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


def test_a_set_that_is_too_large_is_refused_before_it_is_read(folder: Path) -> None:
    with (folder / "conv.csv").open("r+b") as table:
        table.truncate(10 * 2**20)
    with pytest.raises(TooLarge):
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
