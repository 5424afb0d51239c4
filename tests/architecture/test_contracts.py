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
