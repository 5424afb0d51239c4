"""Trees are candidates wherever scikit-learn is beside the process that trains, with nothing to be set."""

import subprocess
import sys

import pytest

CODE = """
import sys
from benchfarm_worker.fitting import Known, fit_or_why
from tests.predictor.training.farm_rows import Platform, kernel_rows, training_rows

own = training_rows(Platform(1), [], kernel_rows(Platform(1), "linear", 40))
made = fit_or_why(Known.of(own, [], []), "linear")
assert not isinstance(made, str), made
sys.exit(0 if "sklearn.ensemble" in sys.modules else "no trees were tried")
"""


def test_a_training_worker_tries_trees_where_they_are_installed(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    ended = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
