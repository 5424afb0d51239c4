"""The package's front page is complete, sorted, and light."""

import subprocess
import sys

import benchfarm

HEAVY = ("torch", "sqlalchemy", "celery", "kombu", "redis", "fastapi", "starlette", "uvicorn", "numpy", "onnx")


def test_the_list_is_sorted_and_complete() -> None:
    public = {
        name for name, value in vars(benchfarm).items() if not name.startswith("_") and type(value).__name__ != "module"
    }
    assert benchfarm.__all__ == sorted(benchfarm.__all__)
    assert set(benchfarm.__all__) == public


def test_nothing_heavy_is_imported_by_the_sdk_or_the_command() -> None:
    code = (
        "import sys, benchfarm, benchfarm.commands.main\n"
        f"sys.exit(', '.join(name for name in {HEAVY!r} if name in sys.modules) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
