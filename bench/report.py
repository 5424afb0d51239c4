"""docs/performance.md: one section per measurement, each replaced by the program that measures it."""

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from benchfarm_core.comparing import COMPARISON_RULE_VERSION
from benchfarm_core.quality import RULE_VERSION

ROOT = Path(__file__).resolve().parents[1]
PERFORMANCE = ROOT / "docs" / "performance.md"
HEAD = """# Measured performance

Each section is written by the program that it names; none is edited by hand.
"""


def write_section(
    name: str,
    command: str,
    table: Sequence[Mapping[str, object]],
    *,
    path: Path = PERFORMANCE,
    where: str = "",
    by: str = "",
) -> None:
    """Write or replace the section `name`: the command that gives it, when, where, by what, and the rows as a table.

    where: what was measured was measured there; by default on this machine. by: the rules and the commit, where they
    are not those of the program that writes.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    measured = f"Measured by `{command}` on {datetime.now(UTC):%Y-%m-%d}: {where or machine()}; {by or measured_by()}."
    section = "\n".join([begin, f"## {name}", "", measured, "", *_lines(table), end])
    text = path.read_text() if path.exists() else HEAD
    known = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if known.search(text):
        text = known.sub(lambda _: section, text)
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def options(described: str | None) -> argparse.ArgumentParser:
    """The options of a program: those that it adds, and `--print`."""
    parser = argparse.ArgumentParser(description=described, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="print the table instead of writing it")
    return parser


def tell(name: str, rows: Sequence[Mapping[str, object]], *, printed: bool) -> int:
    """Print the rows, or write them as the section `name`; the exit status: 1 where a goal is missed."""
    if printed:
        for row in rows:
            print(row)
    else:
        write_section(name, command_run(), rows)
    return 0 if all(row.get("met", "") in ("", True) for row in rows) else 1


def command_run() -> str:
    """The command that runs now, with every option as it was given; of a folder its name alone."""
    program, *given = sys.argv
    shown = [Path(word).name if word.startswith("/") else word for word in given]
    return shlex.join(["python", "-m", f"bench.{Path(program).stem}", *shown])


def measured_by() -> str:
    """The versions of the rules that numbers and comparisons are derived by, and the commit where it is known."""
    rules = f"rules of version {RULE_VERSION} (comparisons {COMPARISON_RULE_VERSION})"
    return f"{rules}, commit {COMMIT}" if COMMIT else rules


def commit_of(root: Path) -> str:
    """The commit of a tree, with `+ changes` where the tree differs; nothing where git does not know it.

    Documents are no change: what is measured does not depend on them, and every bench writes one.
    """
    # a tree without a history of its own may lie in somebody else's
    if _git(root, "rev-parse", "--show-toplevel") != str(root.resolve()):
        return ""
    changes = _git(root, "status", "--porcelain", "--", ".", ":(exclude)docs")
    return f"{_git(root, 'rev-parse', '--short', 'HEAD')}{' + changes' if changes else ''}"


def _git(root: Path, *arguments: str) -> str:
    """What git says; nothing where it is missing or refuses."""
    with suppress(FileNotFoundError):
        asked = ["git", "-C", str(root), *arguments]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return ""


COMMIT = commit_of(ROOT)
"""As the program began: what it runs was read then, and a measurement may take hours."""


def machine() -> str:
    """The machine in a few words: what a number depends on."""
    model = next((line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), "CPU")
    return f"{len(os.sched_getaffinity(0))} cores of {model}, {platform.system()} {platform.machine()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _lines(table: Sequence[Mapping[str, object]]) -> list[str]:
    columns = list(dict.fromkeys(column for row in table for column in row))
    rows = [[_cell(row.get(column, "")) for column in columns] for row in table]
    return [_row(columns), _row(["---"] * len(columns)), *map(_row, rows), ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
