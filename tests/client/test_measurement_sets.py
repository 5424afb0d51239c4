"""`benchfarm measurements`: folders of other people's latencies, taken in or told why not."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchfarm import InvalidRequest
from benchfarm.exit_codes import ExitCode
from benchfarm.measurement_sets import read_set
from benchfarm_core.errors import TooLarge
from benchfarm_core.measurement_sets import MAX_SET_CHARS

PLATFORM = {
    "board_model": "Tesla P4",
    "engine": "pytorch-2.1",
    "precision": "fp32",
    "operating_point": {"note": "not recorded"},
    "source": "somebody's repository",
    "licence": "MIT",
}
NAME = ("--name", "conv-bn-relu=conv-bn-act:act=relu:fused=0")
RECORDED = Path(
    os.environ.get("BENCHFARM_MEASUREMENT_SETS", "")  # environment: where recorded sets lie
    or Path(__file__).parents[3] / "shared" / "data"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "set"
    made.mkdir()
    (made / "platform.json").write_text(json.dumps(PLATFORM))
    rows = ["28,64,128,3,1,0,0.75", "28,64,128,3,1,1,0.8", "28,64,64,3,1,0,-1", "14,64,64,3,1,0,0.2"]
    (made / "conv-bn-relu.csv").write_text("\n".join(["hw,cin,cout,k,s,fused,latency_ms", *rows]))
    (made / "fc.csv").write_text("cin,cout,latency_us\n64,10,12\n")
    return made


def test_a_folder_is_imported_listed_shown_and_deleted(logged_in: Any, folder: Path) -> None:
    dry = logged_in("measurements", "import", folder, *NAME, "--dry-run")
    assert dry.code == 0, dry.err
    for told in ("conv-bn-relu.csv", "placeholder", "other_value", "unit_unclear", "milliseconds", "2 rows would be"):
        assert told in dry.out
    assert logged_in("measurements", "list", "--json").document == []
    came = logged_in("measurements", "import", folder, *NAME, "--json")
    assert came.code == 0, came.err
    assert (came.document["rows"], came.document["repeated"]) == (2, False)
    assert came.document["rejected_by_reason"] == {"other_value": 1, "placeholder": 1, "unit_unclear": 1}
    again = logged_in("measurements", "import", folder, *NAME)
    assert (again.code, "were there already" in again.out) == (0, True)
    set_id = came.document["id"]
    assert set_id in logged_in("measurements", "list").out
    shown = logged_in("measurements", "show", set_id).out
    for told in ("Tesla P4", "MIT", "somebody's repository", "given as conv-bn-relu", "act=relu"):
        assert told in shown
    assert logged_in("measurements", "delete", set_id).code == 0
    assert logged_in("measurements", "show", set_id).code == ExitCode.NOT_FOUND


def test_a_set_of_which_nothing_can_be_taken_ends_with_the_reasons(logged_in: Any, folder: Path) -> None:
    refused = logged_in("measurements", "import", folder)
    assert (refused.code, "measurement_set_empty" in refused.err) == (ExitCode.USAGE, True)
    assert "kernel_unknown" in refused.err
    dry = logged_in("measurements", "import", folder, "--dry-run")
    assert (dry.code, "conv-bn-act" in dry.out) == (ExitCode.USAGE, True), "our types are listed"


@pytest.mark.parametrize("name", ["conv-bn-relu", "=conv-bn-act", "conv-bn-relu=", "conv=conv-bn-act"])
def test_a_naming_that_is_none_is_refused(logged_in: Any, folder: Path, name: str) -> None:
    assert logged_in("measurements", "import", folder, "--name", name).code == ExitCode.USAGE


def test_what_is_no_folder_of_a_set_is_refused_before_anything_is_sent(folder: Path, tmp_path: Path) -> None:
    def read(path: Path) -> None:
        read_set(path, names={}, dry_run=False)

    with pytest.raises(InvalidRequest, match="no folder"):
        read(tmp_path / "none")
    with pytest.raises(InvalidRequest, match=r"platform\.json"):
        read(tmp_path)
    (folder / "fc.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="UTF-8"):
        read(folder)
    with (folder / "fc.csv").open("wb") as file:
        file.truncate(MAX_SET_CHARS + 1)
    with pytest.raises(TooLarge, match="split"):
        read(folder)
    (folder / "fc.csv").unlink()
    os.mkfifo(folder / "fc.csv")
    with pytest.raises(InvalidRequest, match="no regular file"):
        read(folder)
    (folder / "fc.csv").unlink()
    for number in range(70):
        (folder / f"t{number}.csv").write_text("x")
    with pytest.raises(TooLarge, match="at most"):
        read(folder)


@pytest.mark.skipif(not (RECORDED / "kernels").is_dir(), reason=f"no recorded measurement sets at {RECORDED}")
def test_the_largest_recorded_set_is_imported(logged_in: Any) -> None:
    folder = RECORDED / "kernels" / "v100-tensorrt-fp32"
    names = [
        part
        for kind in ("conv", "dwconv")
        for part in ("--name", f"{kind}-bn-relu={kind}-bn-act:act=relu:fused_elementwise=0")
    ]
    came = logged_in("measurements", "import", folder, *names, "--json")
    assert came.code == 0, came.err
    assert came.document["rows"] + sum(came.document["rejected_by_reason"].values()) == 27_839 + 3_060
    assert set(came.document["rejected_by_reason"]) <= {"other_value", "out_of_range"}
    assert {kernel["type"] for kernel in came.document["kernels"]} == {"conv-bn-act", "dwconv-bn-act"}
