"""The house rules as checks on syntax trees: sizes, names, named exceptions, units.

Run as a script it prints every finding as ``path:line: rule: message`` and exits 1 when there is one.
Four rules can be lifted for one line by a comment that gives the reason: ``# boundary:`` (a broad handler),
``# environment:`` (reading the process environment), ``# sql:`` (SQL outside the store) and ``# wait:`` (a test
program that is meant to hang).
"""

import argparse
import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

MAX_FUNCTION_LINES: Final = 60
MAX_FILE_LINES: Final = 500

FORBIDDEN_STEMS: Final = frozenset(
    "utils util helpers helper common commons misc base manager managers service services".split()
)
PRODUCT: Final = ("packages", "services")
CODE_ROOTS: Final = (*PRODUCT, "migrations", "bench", "examples", "tests", "docs")
TEXT_SUFFIXES: Final = frozenset({".py", ".md", ".toml", ".txt", ".in", ".yml", ".yaml", ".sh", ".ini", ".cfg"})

UNSAFE_MODULES: Final = frozenset({"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"})
UNSAFE_CALLS: Final = frozenset({"eval", "exec", "os.system", "os.popen", "torch.load", "yaml.load", "yaml.full_load"})
CLOCK_CALLS: Final = frozenset(
    {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "datetime.datetime.now", "uuid.uuid4", "uuid4"}
)
ENVIRONMENT_NAMES: Final = frozenset({"os.environ", "os.getenv", "os.environb"})
ENVIRONMENT_FILES: Final = frozenset({"settings.py", "main.py", "__main__.py"})
# A number with one of these names says nothing without its unit: timeout_s, latency_ms, freq_khz.
BARE_QUANTITIES: Final = frozenset(
    "timeout freq frequency latency duration elapsed temperature memory delay ttl age interval uptime".split()
)
SQL: Final = re.compile(
    r"^\s*(select\s[^;]*\sfrom\s|insert\s+into\s|update\s+\w+\s+set\s|delete\s+from\s|(create|alter|drop)\s+table\s)",
    re.IGNORECASE,
)
# Where packages come from, and where somebody's checkout happens to lie, is never part of the project
# (each written in two halves, so that this file passes its own rule). Tests may try such paths.
REGISTRIES: Final = tuple(a + b for a, b in (("pypi", ".org"), ("python", "hosted"), ("registry.", "npmjs")))
MACHINE_PATHS: Final = tuple(a + b for a, b in (("/wo", "rk/"), ("/ho", "me/"), ("/ro", "ot/")))


@dataclass(frozen=True)
class Finding:
    """One breach of one rule."""

    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


@dataclass(frozen=True)
class Source:
    """One Python file, parsed once for all rules. ``path`` is relative to the root, with slashes."""

    path: str
    lines: list[str]
    tree: ast.Module

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.rsplit("/", 1)[-1]

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Every node of the tree: walking takes longer than looking, and all rules look."""
        return tuple(ast.walk(self.tree))

    @property
    def is_product(self) -> bool:
        """Whether a user runs it."""
        return self.path.startswith(tuple(f"{root}/" for root in PRODUCT))

    @property
    def is_test(self) -> bool:
        """Whether only the suite runs it."""
        return self.path.startswith("tests/")

    def has_marker(self, node: ast.stmt | ast.expr | ast.excepthandler, word: str) -> bool:
        """Whether the node's first line, or the comment line right above it, carries ``# word: reason``."""
        pattern = re.compile(rf"#\s*{word}:\s*\S")
        above = node.lineno - 2
        while above >= 0 and self.lines[above].strip().startswith("#"):
            if pattern.search(self.lines[above]):
                return True
            above -= 1
        return bool(pattern.search(self.lines[node.lineno - 1]))


Rule = Callable[[Source], Iterator[tuple[int, str]]]


def file_name(source: Source) -> Iterator[tuple[int, str]]:
    """A file is named for a noun of the glossary, not for the author's drawer."""
    if Path(source.path).stem in FORBIDDEN_STEMS or set(source.path.split("/")[2:-1]) & FORBIDDEN_STEMS:
        yield 1, f"`{source.path}` says nothing about its content; name the noun"


def file_length(source: Source) -> Iterator[tuple[int, str]]:
    """A file ends before it needs a table of contents."""
    if len(source.lines) > MAX_FILE_LINES:
        yield MAX_FILE_LINES + 1, f"{len(source.lines)} lines, at most {MAX_FILE_LINES}"


def function_length(source: Source) -> Iterator[tuple[int, str]]:
    """A function fits on a screen."""
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield node.lineno, f"`{node.name}` has {length} lines, at most {MAX_FUNCTION_LINES}"


def broad_except(source: Source) -> Iterator[tuple[int, str]]:
    """Catching everything is allowed at a named boundary only."""
    for node in source.nodes:
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and not source.has_marker(node, "boundary"):
            yield node.lineno, "catches everything; name the errors, or say `# boundary: why`"


def _is_broad(caught: ast.expr | None) -> bool:
    if caught is None:
        return True
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(_dotted(name) in {"Exception", "BaseException", "builtins.Exception"} for name in names)


def unsafe_call(source: Source) -> Iterator[tuple[int, str]]:
    """Nothing that runs what a file or a caller says."""
    for node in source.nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in _imported(node):
                if name.split(".")[0] in UNSAFE_MODULES:
                    yield node.lineno, f"imports `{name}`"
        elif isinstance(node, ast.Call):
            called = _dotted(node.func)
            if called in UNSAFE_CALLS:
                yield node.lineno, f"calls `{called}`"
            for word in node.keywords:
                if word.arg in {"shell", "allow_pickle"} and getattr(word.value, "value", True) is not False:
                    yield node.lineno, f"passes `{word.arg}`"


def environment(source: Source) -> Iterator[tuple[int, str]]:
    """Settings are read once, at the edge, and passed inwards."""
    if not source.is_product or source.name in ENVIRONMENT_FILES:
        return
    for node in source.nodes:
        if not isinstance(node, ast.Attribute | ast.Name) or _dotted(node) not in ENVIRONMENT_NAMES:
            continue
        if not source.has_marker(node, "environment"):
            yield node.lineno, f"reads the environment outside {', '.join(sorted(ENVIRONMENT_FILES))}"


def star_import(source: Source) -> Iterator[tuple[int, str]]:
    """A reader can find where a name comes from."""
    for node in source.nodes:
        if isinstance(node, ast.ImportFrom):
            if any(alias.name == "*" for alias in node.names):
                yield node.lineno, "imports everything"
            if node.level:
                yield node.lineno, "imports relatively; write the package's name"


def sql_text(source: Source) -> Iterator[tuple[int, str]]:
    """Only the store speaks SQL."""
    if not source.is_product or source.path.startswith("packages/store/"):
        return
    for node in source.nodes:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or not SQL.match(node.value):
            continue
        if not source.has_marker(node, "sql"):
            yield node.lineno, "holds SQL; only packages/store does"


def unit_suffix(source: Source) -> Iterator[tuple[int, str]]:
    """A number's name ends in its unit."""
    if not source.is_product:
        return
    for node in source.nodes:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, annotation = node.target.id, node.annotation
        elif isinstance(node, ast.arg) and node.annotation is not None:
            name, annotation = node.arg, node.annotation
        else:
            continue
        if name.split("_")[-1] in BARE_QUANTITIES and _is_number(annotation):
            yield node.lineno, f"`{name}` is a number without a unit: `{name}_s`, `{name}_ms`, `{name}_khz`, ..."


def _is_number(annotation: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id in {"int", "float"} for node in ast.walk(annotation))


def core_clock(source: Source) -> Iterator[tuple[int, str]]:
    """Time, chance and files reach core as arguments."""
    if not source.path.startswith("packages/core/") or source.name == "confine.py":
        return
    for node in source.nodes:
        if isinstance(node, ast.Call) and _dotted(node.func) in CLOCK_CALLS | {"open"}:
            yield node.lineno, f"core calls `{_dotted(node.func)}`; take it as an argument"


def unfinished(source: Source) -> Iterator[tuple[int, str]]:
    """Nothing pretends to be there."""
    for node in source.nodes:
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            yield node.lineno, "is not implemented; leave it out until it is"


def fixed_wait(source: Source) -> Iterator[tuple[int, str]]:
    """A test polls a condition with a limit; it never hopes that a second is enough."""
    if not source.is_test:
        return
    looped = {id(inner) for node in source.nodes if isinstance(node, ast.While | ast.For) for inner in ast.walk(node)}
    for node in source.nodes:
        if not isinstance(node, ast.Call) or _dotted(node.func) not in {"time.sleep", "sleep"} or id(node) in looped:
            continue
        if not source.has_marker(node, "wait"):
            yield node.lineno, "waits a fixed time; poll a condition with a limit"


def mock(source: Source) -> Iterator[tuple[int, str]]:
    """Tests use the real part."""
    if not source.is_test:
        return
    for node in source.nodes:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if any(name.split(".")[:2] == ["unittest", "mock"] for name in _imported(node)):
            yield node.lineno, "imports a mock; run the real part"


RULES: Final[dict[str, Rule]] = {
    "file-name": file_name,
    "file-length": file_length,
    "function-length": function_length,
    "broad-except": broad_except,
    "unsafe-call": unsafe_call,
    "environment": environment,
    "star-import": star_import,
    "sql-text": sql_text,
    "unit-suffix": unit_suffix,
    "core-clock": core_clock,
    "unfinished": unfinished,
    "fixed-wait": fixed_wait,
    "mock": mock,
}


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module or ''}.{alias.name}".lstrip(".") for alias in node.names]


def _dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join(reversed([*parts, node.id]))


def foreign_words(root: Path) -> Iterator[Finding]:
    """Registry hosts in any text file of the project, machine paths in any outside the tests."""
    for path in _text_files(root):
        relative = path.relative_to(root).as_posix()
        words = REGISTRIES if relative.startswith("tests/") else REGISTRIES + MACHINE_PATHS
        text = path.read_text(encoding="utf-8")
        found = [word for word in words if word in text]
        for number, line in enumerate(text.splitlines() if found else (), 1):
            for word in found:
                if word in line:
                    yield Finding(relative, number, "foreign-word", f"names `{word}`")


def _text_files(root: Path) -> Iterator[Path]:
    top = [path for path in root.iterdir() if path.is_file()]
    below = [
        path
        for folder in (*CODE_ROOTS, "deploy", "requirements", ".ci")
        for path in (root / folder).rglob("*")
        if path.is_file() and not _is_build_output(path.relative_to(root))
    ]
    for path in sorted(top + below):
        if path.suffix in TEXT_SUFFIXES or path.name in {"Makefile", "Dockerfile", "run", "compile"}:
            yield path


def _is_build_output(relative: Path) -> bool:
    return any(part in {"build", "dist", "__pycache__"} or part.endswith(".egg-info") for part in relative.parts)


def python_files(root: Path) -> Iterator[Source]:
    """Every Python file of ours below ``root``, parsed."""
    for folder in CODE_ROOTS:
        for path in sorted((root / folder).rglob("*.py")):
            relative = path.relative_to(root)
            if not _is_build_output(relative):
                text = path.read_text(encoding="utf-8")
                yield Source(relative.as_posix(), text.splitlines(), ast.parse(text, str(path)))


def findings(root: Path) -> list[Finding]:
    """Every breach in the tree at ``root``, in the order of its files."""
    found = [
        Finding(source.path, line, rule, message)
        for source in python_files(root)
        for rule, check in RULES.items()
        for line, message in check(source)
    ]
    return found + list(foreign_words(root))


def main() -> int:
    """Check the tree given as argument, by default the one this file stands in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[2])
    found = findings(parser.parse_args().root)
    for finding in found:
        print(finding)
    print(f"house rules: {len(found)} findings" if found else f"house rules: {len(RULES) + 1} rules hold")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
