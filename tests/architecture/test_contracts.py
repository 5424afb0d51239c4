"""The directions of DESIGN section 2 hold, indirect imports included."""

import subprocess
import sys


def test_every_import_contract_is_kept(lint_imports, root):
    done = lint_imports(root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_distribution_is_under_contract(root, package_folders):
    """A new package cannot slip past the contracts or the types."""
    settings = (root / "pyproject.toml").read_text()
    for folder in package_folders:
        imported = next(path.parent.name for path in folder.glob("benchfarm*/__init__.py"))
        assert f'"{imported}"' in settings, f"{imported} is missing in [tool.importlinter] root_packages"
        path = f"$MYPY_CONFIG_FILE_DIR/{folder.relative_to(root).as_posix()}"
        assert path in settings, f"{path} is missing in [tool.mypy] mypy_path"
        assert (folder / imported / "py.typed").exists(), f"{imported} ships no py.typed"
        assert '"py.typed"' in (folder / "pyproject.toml").read_text()


def test_ten_distributions_are_the_ceiling(package_folders):
    assert len(package_folders) <= 10


def test_the_confinement_needs_the_standard_library_alone():
    """Decision 0002: the runner imports this one module of core, on boards without pydantic."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, benchfarm_core.confine; print(*sorted(sys.modules))"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    third_party = loaded - set(sys.stdlib_module_names) - {"benchfarm_core", "__main__", "sitecustomize"}
    assert {name for name in third_party if not name.startswith(("_", "__editable__"))} == set()


def test_the_runner_needs_the_standard_library_and_numpy_alone():
    """Until an engine is named, loading the runner may bring in nothing but numpy (a small board has no more)."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, benchfarm_engines.runner; print(*sorted(sys.modules))"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"pydantic", "onnx", "onnxruntime", "openvino", "httpx2", "typer", "rich"})


def test_the_api_starts_without_what_trains_and_without_engines(tmp_path):
    """As it runs: an application is made, and what answers a question of predictors is loaded."""
    program = (
        "import sys; from benchfarm_api.main import create_app; from benchfarm_api.settings import Settings;"
        "create_app(Settings.model_validate({'database_url': 'postgresql://nowhere/x', 'redis_url': 'redis://nowhere',"
        f" 'benchfarm_data_dir': {str(tmp_path)!r}, 'benchfarm_api_port': 0}})); print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "benchfarm_predictor.answers" in loaded
    assert {name.split(".")[0] for name in loaded}.isdisjoint(
        {"torch", "sklearn", "scipy", "lightgbm", "pandas", "onnx", "onnxruntime", "openvino", "benchfarm_engines"}
    )
    assert loaded.isdisjoint({"benchfarm_predictor.training", "benchfarm_predictor.evaluation"})
