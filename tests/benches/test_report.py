"""What a section of a document says of the measurement that it shows."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import report
from benchfarm_core.comparing import COMPARISON_RULE_VERSION
from benchfarm_core.quality import RULE_VERSION


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    asked = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one commit: a program and a document."""
    root = tmp_path / "tree"
    (root / "docs").mkdir(parents=True)
    (root / "docs" / "performance.md").write_text("old")
    (root / "program.py").write_text("old")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "one")
    return root


def test_a_section_names_the_command_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(Path.cwd() / "records")
    monkeypatch.setattr(sys, "argv", [str(Path(report.__file__).with_name("estimators.py")), "--keep", folder])
    assert report.command_run() == "python -m bench.estimators --keep records"


def test_a_changed_program_is_a_change_of_the_commit_and_a_changed_document_is_none(tree: Path) -> None:
    commit = git(tree, "rev-parse", "--short", "HEAD")
    (tree / "docs" / "performance.md").write_text("new")
    assert report.commit_of(tree) == commit
    (tree / "another.py").write_text("new")
    assert report.commit_of(tree) == f"{commit} + changes"


def test_a_tree_that_git_does_not_know_has_no_commit(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = tree / "unpacked"
    unpacked.mkdir()
    assert report.commit_of(unpacked) == ""
    monkeypatch.setenv("PATH", str(unpacked))
    assert report.commit_of(tree) == ""


@pytest.mark.parametrize(("commit", "said"), [("abc1234 + changes", ", commit abc1234 + changes"), ("", "")])
def test_a_section_says_by_which_rules_and_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: str, said: str
) -> None:
    monkeypatch.setattr(report, "COMMIT", commit)
    path = tmp_path / "performance.md"
    report.write_section("One", "python -m bench.one", [{"a": 1}], path=path, where="there")
    rules = f"rules of version {RULE_VERSION} (comparisons {COMPARISON_RULE_VERSION})"
    assert f": there; {rules}{said}.\n" in path.read_text()
    report.write_section("One", "python -m bench.one", [{"a": 2}], path=path, by="rules of version 3")
    assert "; rules of version 3.\n" in path.read_text()


def test_a_section_of_before_is_replaced_and_its_neighbours_stay(tmp_path: Path) -> None:
    path = tmp_path / "performance.md"
    old = "Measured by `python -m bench.one` on 2026-11-21: 2 cores."
    sections = [f"<!-- {name}: begin -->\n## {name}\n\n{old}\n\n<!-- {name}: end -->" for name in ("One", "Two")]
    path.write_text("\n\n".join(sections) + "\n")
    report.write_section("One", "python -m bench.one", [{"a": 1}], path=path)
    text = path.read_text()
    assert text.count("## One") == text.count("rules of version") == text.count(old) == 1
    assert text.endswith(sections[1] + "\n")
