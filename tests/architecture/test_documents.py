"""What the documents say is so: names of files, generated pages, links, commands."""

import re
import subprocess
import sys
import tomllib

import pytest

from benchfarm_core.error_codes import ERROR_CODES
from benchfarm_core.failures import FailureCode

PROSE = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/glossary.md", "docs/operations.md"]
SUFFIXES = (".py", ".md", ".toml", ".yml", ".json", ".txt", ".in", ".service", ".mako", ".ini")
ROOTS = ("packages/", "services/", "docs/", "tests/", "deploy/", "migrations/", "bench/", "examples/", "requirements/")


def mentioned(text: str) -> list[str]:
    """What a text names between backticks as a file or folder of this tree."""
    names = re.findall(r"`([\w./\-]+)`", text)
    return [name for name in names if name.startswith(ROOTS) or ("/" in name and name.endswith(SUFFIXES))]


@pytest.mark.parametrize("page", PROSE)
def test_every_file_that_a_page_names_exists(root, page):
    text = (root / page).read_text()
    missing = [name for name in mentioned(text) if not (root / name).exists() and not _below_a_package(root, name)]
    assert missing == []


def _below_a_package(root, name):
    """ARCHITECTURE names files as `benchfarm_store/jobs.py`, without their distribution's folder."""
    return any(root.glob(f"packages/*/{name}")) or any(root.glob(f"services/*/{name}"))


@pytest.mark.parametrize("page", PROSE)
def test_every_link_leads_somewhere(root, page):
    source = root / page
    links = re.findall(r"\]\(([^)#\s]+)", source.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (source.parent / link).exists()] == []


def test_architecture_names_every_package(root):
    text = (root / "ARCHITECTURE.md").read_text()
    for path in [*root.glob("packages/*/pyproject.toml"), *root.glob("services/*/pyproject.toml")]:
        assert f"`{path.parent.relative_to(root).as_posix()}/`" in text


@pytest.mark.parametrize("codes", [ERROR_CODES, FailureCode], ids=["errors", "failures"])
def test_every_code_that_is_listed_is_said_somewhere(root, codes):
    tables = {"error_codes.py", "failures.py"}
    sources = [*root.glob("packages/*/benchfarm*/**/*.py"), *root.glob("services/*/benchfarm*/**/*.py")]
    said = "".join(source.read_text() for source in sources if source.name not in tables)
    silent = [code for code in codes if f'"{code}"' not in said and f"FailureCode.{code.upper()}" not in said]
    assert silent == []


def test_generated_pages_are_fresh(root):
    done = subprocess.run(
        [sys.executable, root / "docs" / "generate.py", "--check"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", ["docs/settings.md", "docs/metrics.md", "docs/errors.md"])
def test_everything_that_a_reference_lists_has_a_meaning(root, page):
    rows = [line for line in (root / page).read_text().splitlines() if line.startswith("|")]
    assert [row for row in rows if row.endswith("|  |")] == []


@pytest.mark.parametrize("page", PROSE)
def test_every_make_target_that_a_page_names_exists(root, page):
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join(re.findall(r"```.*?```|`[^`]+`", (root / page).read_text(), re.DOTALL))
    named = set(re.findall(r"\bmake ([a-z]+)\b", code))
    assert named <= targets


def test_decisions_are_numbered_and_shaped(root):
    pages = sorted((root / "docs" / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text()
        assert text.startswith(f"# {page.name[:4]} "), page.name
        for part in ("## Context", "## Decision", "## Alternatives", "## Consequences"):
            assert part in text, f"{page.name} has no {part}"


def test_the_glossary_has_the_words_of_the_code(root):
    glossary = (root / "docs" / "glossary.md").read_text()
    for word in ("board", "platform", "workload", "measurement", "launch", "sample", "canary", "lease", "evidence"):
        assert f"| **{word}" in glossary or f", {word}** |" in glossary, word


def test_changelog_has_an_entry_for_the_version(root):
    version = tomllib.loads((root / "packages/core/pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}]" in (root / "CHANGELOG.md").read_text()


def test_all_distributions_carry_one_version(root):
    versions = {
        tomllib.loads(path.read_text())["project"]["version"]
        for path in [*root.glob("packages/*/pyproject.toml"), *root.glob("services/*/pyproject.toml")]
    }
    assert len(versions) == 1
