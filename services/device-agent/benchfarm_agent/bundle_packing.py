"""Packing a bundle: one file that any Python of its kind starts, with all that measuring takes and no more.

__main__.py       `bundle_start`
CONTENTS          the hash of every other file; its own hash names what the bundle is
order.json        what the farm handed out
work.json         measurements with the names of their files
files/            artifacts and references, named by their hashes
packages/         our own modules, pydantic, numpy, the engine
run.py runner.py  put `packages` before everything else and run the work, or one launch of it
"""

import asyncio
import hashlib
import os
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import copyfile
from typing import Final

from benchfarm_agent import bundle_start
from benchfarm_agent.artifacts import ArtifactCache
from benchfarm_agent.bundle_start import CONTENTS
from benchfarm_agent.bundle_work import FILES, WORK_FILE, BundledWork, bundled
from benchfarm_agent.conversions import Conversions
from benchfarm_agent.engine_environments import EngineEnvironments
from benchfarm_agent.farm_client import FarmClient
from benchfarm_agent.file_cache import FileCache
from benchfarm_agent.kept_child import Unusable
from benchfarm_agent.prepared import Canary, PreparedItem
from benchfarm_agent.processes import watch_children_without_threads
from benchfarm_agent.python_kit import CannotPack, Interpreter, locked_version, packages_below
from benchfarm_agent.references import ReferenceChild
from benchfarm_core.bundles import ORDER_FILE, BundleOrder, machine_and_python
from benchfarm_core.errors import Conflict
from benchfarm_core.measurements import MeasurementResult
from benchfarm_engines.registry import engine_names

NOWHERE: Final = "http://localhost"
"""No file of a bundle is the farm's, so this is never asked for one."""
CACHE_LIMIT_BYTES: Final = 64 * 2**30
UNKNOWN_VERSION: Final = "0"
_LIST: Final = Path(__file__).with_name("bundle_packages") / "agent.txt"
"""What the agent itself needs on such a machine; `make lock` writes it."""
_BEFORE: Final = """\
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "packages"))
"""
_RUN: Final = _BEFORE + "from benchfarm_agent.bundle_run import main\n\nsys.exit(main(*sys.argv[1:]))\n"
_RUNNER: Final = (
    _BEFORE + 'import runpy\n\nrunpy.run_module("benchfarm_engines.runner", run_name="__main__", alter_sys=True)\n'
)


def pack(order: BundleOrder, out: Path, *, engines: Path | None = None) -> str:
    """Make the bundle's one file; returns the hash of its contents. engines: environments of engines' own.

    Raises CannotPack, Conflict where the file is there already, OSError; then nothing is left of it.
    """
    if out.exists():
        raise Conflict(f"{out} is there already: choose another name")
    if order.engine not in engine_names():
        raise CannotPack(f"there is no engine {order.engine}: there are {', '.join(engine_names())}")
    watch_children_without_threads()
    machine, version = machine_and_python(order.target)
    interpreter = Interpreter(path="", version=version, machine=machine, libc="glibc")
    _check_version(order, interpreter)
    with tempfile.TemporaryDirectory(dir=out.resolve().parent, prefix=".bundle-") as scratch:
        tree, unfinished = Path(scratch) / "tree", Path(scratch) / "bundle"
        (Path(scratch) / "cache").mkdir(mode=0o711)
        (tree / FILES).mkdir(parents=True)
        packages_below(tree, interpreter, (order.engine,), [_LIST])
        _copy_agent(tree / "packages")
        work = asyncio.run(_prepare(order, Path(scratch) / "cache", tree / FILES, engines or Path(scratch) / "none"))
        (tree / ORDER_FILE).write_text(order.model_dump_json())
        (tree / WORK_FILE).write_text(work.model_dump_json())
        (tree / "run.py").write_text(_RUN)
        (tree / "runner.py").write_text(_RUNNER)
        (tree / "start.py").unlink()  # a runner's kit has it, a bundle has two of its own
        contents = "".join(f"{_sha256(path)}  {path.relative_to(tree)}\n" for path in _files(tree))
        _zip(tree, contents, unfinished)
        os.link(unfinished, out)
    return hashlib.sha256(contents.encode()).hexdigest()


def _check_version(order: BundleOrder, interpreter: Interpreter) -> None:
    """Raise CannotPack where the platform is one of another version than the bundle would carry."""
    packed = locked_version(order.engine, interpreter)
    if order.engine_version not in (None, packed):
        raise CannotPack(
            f"{order.engine} {order.engine_version} is wanted and this agent packs {packed}: take an agent of the "
            "version that measures there, or name the platform of the new version"
        )


def _copy_agent(packages: Path) -> None:
    own = Path(__file__).resolve().parent
    for path in own.rglob("*.py"):
        target = packages / own.name / path.relative_to(own)
        target.parent.mkdir(parents=True, exist_ok=True)
        copyfile(path, target)


async def _prepare(order: BundleOrder, cache: Path, files: Path, engines: Path) -> BundledWork:
    """Build and convert what is measured, as the agent does for a lease, and copy it."""
    platform = order.platform_of_files(order.engine_version or UNKNOWN_VERSION)
    async with _open_artifacts(cache, engines) as artifacts, artifacts.prepared(order.items, platform) as found:
        ready, failed = found
        items = [ready[number] for number in sorted(ready)]
        try:
            canary = await artifacts.canary(artifacts.own_canary(), platform) if items else None
        except Unusable as error:
            raise CannotPack(f"the canary cannot be made for {order.engine}: {error.detail}") from error
        _check(order, items, failed)
        for path in _wanted(items, canary):
            copyfile(path, files / path.name)
    return bundled(items, canary, failed)


def _check(order: BundleOrder, items: list[PreparedItem], failed: list[MeasurementResult]) -> None:
    if not items and failed:
        raise CannotPack(f"nothing of it can be prepared for {order.engine}; the first: {failed[0].detail}")
    if len(items) + len(failed) < len(order.items):
        raise CannotPack("a bundle holds kernels and generated models alone")


@asynccontextmanager
async def _open_artifacts(cache: Path, engines: Path) -> AsyncIterator[ArtifactCache]:
    files = FileCache(cache, limit_bytes=CACHE_LIMIT_BYTES)
    files.open()
    references = ReferenceChild(cache)
    conversions = Conversions(cache, EngineEnvironments(engines))
    farm = FarmClient(NOWHERE)
    try:
        yield ArtifactCache(files, farm, references, conversions, file_limit_bytes=0)
    finally:
        await references.close()
        await conversions.close()
        await farm.close()


def _wanted(items: list[PreparedItem], canary: Canary | None) -> set[Path]:
    found = {path for item in items for path in item.files}
    return found if canary is None else found | {canary.artifact}


def _files(tree: Path) -> Iterator[Path]:
    return iter(sorted(path for path in tree.rglob("*") if path.is_file()))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _zip(tree: Path, contents: str, target: Path) -> None:
    """The same bytes for the same files; readable by its owner alone, for the key is in it."""
    with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        packed.writestr(zipfile.ZipInfo("__main__.py"), Path(bundle_start.__file__).read_bytes())
        packed.writestr(zipfile.ZipInfo(CONTENTS), contents)
        for path in _files(tree):
            entry = zipfile.ZipInfo(str(path.relative_to(tree)))
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, path.read_bytes())
    target.chmod(0o600)
