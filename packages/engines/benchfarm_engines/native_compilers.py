"""The compilers of the native runner: zig's clang for both targets, or the host's own g++ for its own processor."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchfarm_engines.native_packages import ZIG_VERSION, CannotBuild, zig_executable

TARGETS: Final = ("x86_64", "aarch64")
_SHOWN_LINES: Final = 8

_AVX512: Final = ("-mavx512f", "-mavx512cd", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c")
X86_FLAGS: Final[Mapping[str, tuple[str, ...]]] = {
    "avx": ("-mavx",),
    "fma": ("-mavx", "-mfma", "-mf16c"),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avxvnni": ("-mavx2", "-mfma", "-mf16c", "-mavxvnni"),
    "avx512": _AVX512,
    "avx512vnni": (*_AVX512, "-mavx512vnni"),
}
"""By ncnn's name of an instruction set; so are those below."""
_ARM_FLAGS: Final[Mapping[str, tuple[str, ...]]] = {
    "asimddp": ("-march=armv8.2-a+fp16+dotprod",),
    "i8mm": ("-march=armv8.4-a+fp16+dotprod+i8mm",),
}
_ARM_FLAGS_OF_ZIG: Final[Mapping[str, tuple[str, ...]]] = {
    "asimddp": ("-mcpu=generic+v8_2a+fullfp16+dotprod",),
    "i8mm": ("-mcpu=generic+v8_4a+fullfp16+dotprod+i8mm",),
}


@dataclass(frozen=True)
class Compiler:
    """One C++ compiler for one target.

    identity: what a build's key says of it. base: words of every command. fast: what ncnn's own build adds to -O3.
    heap: has ncnn ask `native/heap.cpp` for memory, where the C library gives large pieces back with every run.
    """

    name: str
    identity: str
    base: tuple[str, ...]
    fast: tuple[str, ...]
    instruction_sets: Mapping[str, tuple[str, ...]]
    heap: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, arguments: Sequence[str], *, what: str) -> None:
        """Raises CannotBuild with the compiler's first words."""
        environment = {**os.environ, **self.environment}  # environment: a compiler finds its own parts by PATH and HOME
        done = subprocess.run(
            [*self.base, *arguments], env=environment, capture_output=True, text=True, check=False, errors="replace"
        )
        if done.returncode != 0:
            said = "\n".join(done.stderr.strip().splitlines()[:_SHOWN_LINES])
            raise CannotBuild(f"{self.name} cannot compile {what}:\n{said}")


def compiler_for(target: str, name: str, cache: Path) -> Compiler:
    """`zig` or `host`. Raises CannotBuild."""
    if target not in TARGETS:
        raise CannotBuild(f"there is no target {target[:40]!r}; there are {', '.join(TARGETS)}")
    return _zig(target, cache) if name == "zig" else _host(target)


def compile_all(compiler: Compiler, commands: Mapping[Path, Sequence[str]]) -> None:
    """Objects by their commands, those that are there already left out. Raises CannotBuild."""
    missing = {path: command for path, command in commands.items() if not path.exists()}
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        jobs = [pool.submit(_compile, compiler, path, command) for path, command in missing.items()]
        try:
            for job in jobs:
                job.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _compile(compiler: Compiler, path: Path, command: Sequence[str]) -> None:
    part = path.with_suffix(".part.o")
    compiler.run([*command, "-c", "-o", str(part)], what=path.stem)
    part.replace(path)


def _zig(target: str, cache: Path) -> Compiler:
    executable = zig_executable(cache)
    folders = {f"ZIG_{kind}_CACHE_DIR": str(cache / "zig-cache") for kind in ("GLOBAL", "LOCAL")}
    return Compiler(
        name="zig",
        identity=zig_identity(),
        base=(str(executable), "c++", "-target", f"{target}-linux-musl", "-g0"),  # debug information names folders
        fast=("-ffast-math", *(("-Xclang", "-mrecip=none") if target == "x86_64" else ())),
        instruction_sets=X86_FLAGS if target == "x86_64" else _ARM_FLAGS_OF_ZIG,
        heap=tuple(f"-D{name}=benchfarm_{name}" for name in ("malloc", "free", "posix_memalign")),
        environment=folders,
    )


def zig_identity() -> str:
    """Of the pinned compiler; known without having it."""
    return f"zig {ZIG_VERSION}"


def _host(target: str) -> Compiler:
    if platform.machine() != target:
        raise CannotBuild(f"this host's own compiler makes nothing for {target}: take zig")
    executable = shutil.which("g++")
    if executable is None:
        raise CannotBuild("this host has no g++: take zig")
    return Compiler(
        name="host",
        identity=_said(executable, "--version"),
        base=(executable,),
        fast=("-ffast-math", *(("-mrecip=none",) if target == "x86_64" else ())),
        instruction_sets=X86_FLAGS if target == "x86_64" else _ARM_FLAGS,
    )


def _said(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0] if done.stdout else ""
