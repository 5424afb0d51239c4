"""`benchfarm evaluate transfer`: no farm, clear errors, the exit codes of the other verbs."""

import json
import sys
from pathlib import Path

import pytest

from benchfarm.commands.main import run
from benchfarm.exit_codes import ExitCode
from benchfarm_core.errors import InvalidRequest
from benchfarm_predictor.evaluation.commands import namings, sizes
from tests.predictor.training.platforms import document, measured, set_of, write_set

NAMING = "conv=conv-bn-act:act=relu"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two boards that measured the same configurations."""
    root = tmp_path_factory.mktemp("sets")
    write_set(root / "mine", set_of(measured(160, seed=1), "mine"))
    write_set(root / "theirs", set_of(measured(160, seed=1, speed=0.8, bandwidth=1.2), "theirs"))
    write_set(root / "third", set_of(measured(160, seed=1, speed=2.0), "third"))
    return root


def evaluate(folders: Path, *more: str, target: str = "mine", pool: tuple[str, ...] = ("theirs",)) -> int:
    sets = ["--target", str(folders / target), "--pool", *(str(folders / name) for name in pool)]
    quick = ["--samples", "20", "--repeats", "1", "--no-baselines"]
    return run(["evaluate", "transfer", *sets, *quick, "--names", NAMING, *more])


def test_tables_and_a_document(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    path = tmp_path / "found.json"
    assert evaluate(folders, "--json", str(path), pool=("theirs", "third")) == ExitCode.OK
    shown = capsys.readouterr()
    assert "conv-bn-act on mine, donors theirs, third" in shown.out
    assert "baselines were not asked for" in shown.err
    found = document(path)
    assert (found["target"], found["pool"], found["samples"]) == ("mine", ["theirs", "third"], [20])
    methods = {each["method"] for each in found["kernels"][0]["methods"]}  # type: ignore[index]
    assert {"scratch", "ours", "stacked"} <= methods


def test_names_come_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"a": "fc"}))
    assert namings([str(path), NAMING]) == {"a": "fc", "conv": "conv-bn-act:act=relu"}


@pytest.mark.parametrize("text", ["no-such-file.json", "=x"])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        namings([text])
    assert refused.value.field == "names"


def test_a_names_file_holds_an_object(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    for content in ("[1]", '{"a": 1}', "{"):
        path.write_text(content)
        with pytest.raises(InvalidRequest):
            namings([str(path)])


def test_sizes_ascend_once_each() -> None:
    assert sizes("300, 30,30") == (30, 300)
    for text in ("", "30,", "x", "-3", "1.5"):
        with pytest.raises(InvalidRequest):
            sizes(text)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--samples", "a few"], "no list of numbers"),
        (["--samples", "3"], "samples must be"),
        (["--repeats", "0"], "repeats must be"),
        (["--kernel", "fc"], "has no kernel 'fc'"),
        (["--json", "/no/such/folder/found.json"], "a folder that exists"),
        (["--pool", "/no/such/set"], "is no measurement set"),
    ],
)
def test_wrong_input_is_told_in_one_line(
    folders: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert evaluate(folders, *more) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.startswith("benchfarm: ")
    assert len(shown.err.splitlines()) == 1


def test_the_target_cannot_be_its_own_donor(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(folders, pool=("mine",)) == ExitCode.USAGE
    assert "[code=invalid_request field=pool]" in capsys.readouterr().err


def test_nothing_is_imported_before_it_is_needed() -> None:
    """Help of `benchfarm` loads every verb."""
    code = "import sys, benchfarm_predictor.evaluation.commands; sys.exit('numpy' in sys.modules)"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
