"""The exit codes are complete, and docs/cli.md lists them as they are."""

import re
from pathlib import Path

import pytest

from benchfarm.exit_codes import MEANINGS, ExitCode, exit_code_of_counts, exit_code_of_error, exit_code_of_job
from benchfarm_core import errors
from benchfarm_core.errors import BenchfarmError, QuotaExceeded
from benchfarm_core.jobs import JobState

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"
ROW = re.compile(r"^\| (\d+) \| (.+) \|$", re.MULTILINE)


def error_classes() -> list[type[BenchfarmError]]:
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BenchfarmError)]
    return sorted(found, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", error_classes())
def test_every_error_has_one(kind: type[BenchfarmError]) -> None:
    error = kind("x", limit=1, retry_after_s=1) if issubclass(kind, QuotaExceeded) else kind("x")
    assert exit_code_of_error(error) not in (ExitCode.OK, ExitCode.JOB_FAILED, ExitCode.PARTIAL)


def test_the_nearest_class_decides() -> None:
    assert exit_code_of_error(errors.LeaseLost("x")) == ExitCode.CONFLICT
    assert exit_code_of_error(errors.TransientDeviceError("x")) == ExitCode.FAULT


@pytest.mark.parametrize("state", list(JobState))
def test_every_job_state_has_one(state: JobState) -> None:
    wanted = {"succeeded": 0, "partial": 5, "failed": 1, "cancelled": 1}
    assert exit_code_of_job(state) == wanted.get(state, 0)


@pytest.mark.parametrize(("answered", "total", "code"), [(3, 3, 0), (1, 3, 5), (0, 3, 1), (0, 0, 0)])
def test_counts(answered: int, total: int, code: int) -> None:
    assert exit_code_of_counts(answered, total) == code


def test_the_document_lists_them() -> None:
    listed = {int(number): meaning for number, meaning in ROW.findall(DOCUMENT.read_text())}
    assert listed == {int(code): MEANINGS[code] for code in ExitCode}
