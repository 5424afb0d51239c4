"""What made a file: the code of the package that did. A file that another version made is made anew."""

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

ENGINES: Final = "benchfarm_engines"
WORKLOADS: Final = "benchfarm_workloads"
_DISTRIBUTIONS: Final = {ENGINES: "benchfarm-engines", WORKLOADS: "benchfarm-workloads"}


@cache
def made_by(package: str) -> str:
    """The installed version of a package and a digest of its modules, read once in a process; nothing is imported.

    An editable install keeps its version while its modules change, hence both.
    """
    return f"{_version(_DISTRIBUTIONS[package])} {_digest(_folder(package))}"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(package)
    return Path(next(iter(spec.submodule_search_locations)))


def _digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:32]
