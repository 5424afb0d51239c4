"""Builds the native runner: one static binary per processor, from `native/` and ncnn's sources.

Everything lies in a cache folder that the caller names: what was fetched, ncnn's objects, the runners. A runner's key
changes with all that it is made of, so a runner that is found is the right one. Lives on the agent's host.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchfarm_engines.native_compilers import TARGETS, Compiler, compile_all, compiler_for, zig_identity
from benchfarm_engines.native_ncnn import NcnnBuild, build_ncnn, ncnn_key
from benchfarm_engines.native_packages import NCNN_VERSION, CannotBuild, ncnn_sources

SOURCES: Final = Path(__file__).with_name("native")
SIZE_MAX_BYTES: Final = 8 * 1024**2
TIMING: Final = "2"
"""Counted up when runs pay for something else than before, canaries too: boards are then of another generation."""
_NAME: Final = "benchfarm-runner"
_FLAGS: Final = "-std=c++17 -O2 -ffp-contract=off -Wall -Wextra -ffunction-sections -fdata-sections".split()
_LINK: Final = "-static -s -Wl,--gc-sections -pthread".split()


@dataclass(frozen=True)
class BuiltRunner:
    """A runner in the cache. target: `x86_64` or `aarch64`. key: of all that it is made of. sha256: of the binary."""

    path: Path
    target: str
    key: str
    sha256: str
    size_bytes: int
    compiler: str
    ncnn_version: str


def build_runner(
    target: str, cache: Path, *, compiler: str = "zig", said: Callable[[str], None] = lambda _: None
) -> BuiltRunner:
    """The runner for a target: found, or built, which takes minutes the first time. Raises CannotBuild, OSError.

    compiler: `zig`, which is fetched, or `host` for the machine's own g++. said: hears what is being done.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache):
        chosen = compiler_for(target, compiler, cache)
        key = runner_key(target, chosen.identity)
        folder = cache / "runners" / f"{target}-{key}"
        if not folder.is_dir():
            said(f"compiling ncnn {NCNN_VERSION} for {target} with {chosen.identity}")
            place = cache / f"ncnn-{target}-{ncnn_key(target, chosen.identity)}"
            place.mkdir(exist_ok=True)
            ncnn = build_ncnn(ncnn_sources(cache), place, target, chosen)
            said(f"compiling the runner for {target}")
            _build(folder, ncnn, chosen, {"target": target, "key": key})
        return _read(folder)


def find_runner(cache: Path, target: str) -> BuiltRunner | None:
    """The runner of the present sources, if it was built: the one of zig rather than another."""
    found = [runner for runner in built_runners(cache) if runner.target == target]
    present = [runner for runner in found if runner.key == runner_key(target, runner.compiler)]
    return next(iter(sorted(present, key=lambda runner: runner.compiler != zig_identity())), None)


def built_runners(cache: Path) -> tuple[BuiltRunner, ...]:
    """All runners in the cache, those of older sources too."""
    folders = sorted((cache / "runners").glob("*-*"))
    return tuple(_read(folder) for folder in folders if (folder / "built.json").exists())


def runner_key(target: str, compiler_identity: str) -> str:
    """Changes with everything that a runner is made of."""
    digest = hashlib.sha256(f"{ncnn_key(target, compiler_identity)} {_FLAGS} {_LINK} {TIMING}".encode())
    for path in sorted(SOURCES.glob("*.[ch]*")):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _build(folder: Path, ncnn: NcnnBuild, compiler: Compiler, facts: dict[str, Any]) -> None:
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    flags = [*_FLAGS, f'-DBENCHFARM_NCNN_VERSION="{NCNN_VERSION}"', *(f"-isystem{each}" for each in ncnn.includes)]
    own = {path: compiler.heap if path.stem != "heap" else () for path in sorted(SOURCES.glob("*.cpp"))}
    commands = {part / f"{path.stem}.o": [str(path), *flags, *heap] for path, heap in own.items()}
    compile_all(compiler, commands)
    binary = part / _NAME
    objects = [str(path) for path in (*commands, *ncnn.objects)]
    compiler.run([*objects, *_LINK, "-o", str(binary)], what="the runner")
    for path in commands:
        path.unlink()
    content = binary.read_bytes()
    if len(content) > SIZE_MAX_BYTES:
        raise CannotBuild(f"the runner has {len(content)} bytes, more than a board's share of {SIZE_MAX_BYTES}")
    built = {**facts, "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    built |= {"compiler": compiler.identity, "ncnn_version": NCNN_VERSION}
    (part / "built.json").write_text(json.dumps(built))
    part.rename(folder)


def _read(folder: Path) -> BuiltRunner:
    return BuiltRunner(path=folder / _NAME, **json.loads((folder / "built.json").read_text()))


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """One build at a time in a cache; another one waits and then finds what the first has made."""
    descriptor = os.open(cache / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


__all__ = ["TARGETS", "BuiltRunner", "CannotBuild", "build_runner", "built_runners", "find_runner", "runner_key"]
