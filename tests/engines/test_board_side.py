"""What travels to a board runs there on an older Python: no grammar, no library and no expression that it lacks."""

import ast
import json
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

OLDEST = (3, 9)
START = "benchfarm_engines.runner"
ENGINES = ("onnxruntime", "ncnn", "mnn", "litert", "openvino")
NEWER = {
    "enum": {"StrEnum"},
    "itertools": {"pairwise", "batched"},
    "datetime": {"UTC"},
    "contextlib": {"aclosing", "chdir"},
    "dataclasses": {"KW_ONLY"},
    "asyncio": {"TaskGroup", "timeout", "Runner"},
    "types": {"NoneType", "UnionType", "EllipsisType"},
    "typing": {
        *("Self", "assert_never", "assert_type", "NotRequired", "Required", "Unpack", "ParamSpec", "TypeAlias"),
        *("TypeGuard", "Concatenate", "Never", "LiteralString", "reveal_type", "override", "TypeVarTuple"),
    },
}
NEWER_MODULES = {"tomllib"}
OUR_OWN = {"benchfarm_core", "benchfarm_engines"}


def source_of(module: str) -> Path | None:
    if module.partition(".")[0] not in OUR_OWN:
        return None
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # a name in a module
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def board_side() -> dict[str, Path]:
    """Every module that a launch on a board can import, whether at the top or later."""
    found: dict[str, Path] = {}
    wanted = [START, *(f"benchfarm_engines.{name}_engine" for name in ENGINES)]
    while wanted:
        module = wanted.pop()
        path = None if module in found else source_of(module)
        if path is not None:
            found[module] = path
            wanted += [module.rpartition(".")[0], *imported(ast.parse(path.read_text()))]
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


def too_new(path: Path) -> list[str]:
    """What an older Python would stumble over, with its line."""
    text = path.read_text()
    try:
        tree = ast.parse(text, feature_version=OLDEST)
    except SyntaxError as error:
        return [f"line {error.lineno}: {error.msg}"]
    later = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    return [f"line {line}: {why}" for node in ast.walk(tree) for line, why in _new_in(node, later)]


def _new_in(node: ast.AST, annotations_are_text: bool) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.ImportFrom):
        for name in {each.name for each in node.names} & NEWER.get(node.module or "", set()):
            yield node.lineno, f"{node.module}.{name}"
    if isinstance(node, ast.Import | ast.ImportFrom):
        for name in NEWER_MODULES.intersection(imported(ast.Module([node], []))):
            yield node.lineno, name
    if isinstance(node, ast.Call):
        given = {each.arg for each in node.keywords}
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        if called == "zip" and "strict" in given:
            yield node.lineno, "zip(strict=...)"
        if called == "dataclass" and given & {"slots", "kw_only"}:
            yield node.lineno, "dataclass(slots=..., kw_only=...)"
        if called in ("isinstance", "issubclass") and any(_unions(each) for each in node.args[1:]):
            yield node.lineno, f"{called} of a union"
    annotations = [getattr(node, name, None) for name in ("annotation", "returns")]
    if not annotations_are_text and any(_unions(each) for each in annotations if each is not None):
        yield getattr(node, "lineno", 0), "a union in an annotation that is evaluated"
    if isinstance(node, ast.Assign) and _unions(node.value) and _names_types(node.value):
        yield node.lineno, "a union of types"


def _unions(node: ast.AST) -> bool:
    return any(isinstance(each, ast.BinOp) and isinstance(each.op, ast.BitOr) for each in ast.walk(node))


def _names_types(node: ast.AST) -> bool:
    types = {"bool", "int", "str", "float", "bytes", "None"}
    return isinstance(node, ast.BinOp) and bool(types & {ast.unparse(each) for each in (node.left, node.right)})


def test_modules_that_travel_keep_to_the_oldest_python() -> None:
    modules = board_side()
    assert {START, "benchfarm_core.confine", "benchfarm_engines.ncnn_engine"} <= modules.keys()
    assert {name: found for name, path in modules.items() if (found := too_new(path))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "from enum import StrEnum",
        "import tomllib",
        "pairs = list(zip([1], [2], strict=True))",
        "def half(x: int | None) -> None: ...",
        "def half() -> int | None: ...",
        "whole: int | str = 1",
        "Value = bool | int",
        "ok = isinstance(1, int | str)",
        "match 1:\n    case 1: ...",
        "type X = int",
    ],
)
def test_what_is_too_new_is_found(line: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(f"{line}\n")
    assert too_new(path)


def test_what_an_older_python_has_is_let_be(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    lines = [
        "from __future__ import annotations",
        "def f(x: int | None) -> None: ...",
        "flags = 1 | 2",
        "both = {} | {}",
    ]
    path.write_text("\n".join(lines))
    assert too_new(path) == []


def older_python(name: str) -> str | None:
    """In the path, where it may be a stand-in that starts nothing, or below pyenv."""
    versions = Path.home() / ".pyenv" / "versions"
    below = versions.glob(f"{name.removeprefix('python')}.*/bin/{name}")
    for path in [shutil.which(name), *map(str, below)]:
        if path is not None and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    return None


@pytest.mark.parametrize("name", ["python3.9", "python3.10"])
def test_an_older_python_starts_the_runner(name: str, tmp_path: Path) -> None:
    """Really, where one is at hand: it answers, if only that numpy is not there."""
    python = older_python(name)
    if python is None:
        pytest.skip(f"no {name} here")
    for package in OUR_OWN:
        source = source_of(package)
        assert source is not None
        shutil.copytree(source.parent, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "native"))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv[1:] = ['--probe', 'onnxruntime']\n"
    code += f"import runpy; runpy.run_module({START!r}, run_name='__main__', alter_sys=True)"
    done = subprocess.run([python, "-I", "-B", "-c", code], capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout)["engine"] == "onnxruntime", done.stderr
