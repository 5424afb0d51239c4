"""The same bytes from two builds in different folders.

A whole build takes eleven minutes of a core, twice that for two. So it is shown in two parts, which together are all
of one: ncnn's objects of some layers, compiled twice from copies of its sources; and, where a whole build lies in the
cache, our own sources compiled anew elsewhere and linked with its objects, which must be the binary that lies there.
"""

import os
import platform
import shutil
from pathlib import Path

import pytest

from benchfarm_engines import native_build, native_ncnn
from benchfarm_engines.native_build import BuiltRunner, build_runner
from benchfarm_engines.native_compilers import Compiler, compiler_for, zig_identity
from benchfarm_engines.native_ncnn import build_ncnn, ncnn_key
from benchfarm_engines.native_packages import NCNN_VERSION, ZIG_VERSION, has_zig, ncnn_sources
from tests.engines.native.cache import CACHE

pytestmark = pytest.mark.timeout(1200)
TARGET = platform.machine()
LAYERS = frozenset({"ReLU", "Clip"})
"""Each has a file of ncnn's own and copies that are generated where the build lies, one per instruction set."""
CORE = ("option", "paramdict")


@pytest.fixture
def compiler() -> Compiler:
    """Of this machine, where ncnn's sources and a compiler are here already: nothing is fetched for this."""
    if os.environ.get("BENCHFARM_NATIVE") == "0":
        pytest.skip("BENCHFARM_NATIVE=0: nothing native is built")
    if TARGET not in native_build.TARGETS:
        pytest.skip(f"there is no native runner for {TARGET}")
    if not (CACHE / f"ncnn-{NCNN_VERSION}").is_dir():
        pytest.skip("ncnn's sources are not in .benchfarm/native: BENCHFARM_NATIVE=1 fetches them")
    if not has_zig(CACHE) and shutil.which("g++") is None:
        pytest.skip("no zig in .benchfarm/native and no g++ here")
    return compiler_for(TARGET, "zig" if has_zig(CACHE) else "host", CACHE)


def test_objects_of_two_folders_are_the_same(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_ncnn, "LAYERS", LAYERS)
    monkeypatch.setattr(native_ncnn, "_CORE", CORE)
    objects: list[dict[str, bytes]] = []
    for name in ("one", "another/and-deeper"):
        sources, folder = tmp_path / name / "sources", tmp_path / name / "build"
        shutil.copytree(ncnn_sources(CACHE) / "src", sources / "src")
        folder.mkdir()
        made = build_ncnn(sources, folder, TARGET, compiler)
        objects.append({path.name: path.read_bytes() for path in made.objects})
    assert len(objects[0]) >= len(LAYERS) + len(CORE)
    assert objects[0] == objects[1]


def test_a_runner_that_is_built_elsewhere_is_the_same_binary(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = _whole_build(compiler)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in (f"zig-{ZIG_VERSION}", "zig-cache", f"ncnn-{NCNN_VERSION}"):
        if (CACHE / name).is_dir():
            (elsewhere / name).symlink_to(CACHE / name)
    objects = f"ncnn-{TARGET}-{ncnn_key(TARGET, runner.compiler)}/objects"
    shutil.copytree(CACHE / objects, elsewhere / objects)
    shutil.copytree(native_build.SOURCES, tmp_path / "sources")
    monkeypatch.setattr(native_build, "SOURCES", tmp_path / "sources")
    built = build_runner(TARGET, elsewhere, compiler=compiler.name)
    assert built.path != runner.path
    assert (built.key, built.sha256) == (runner.key, runner.sha256)
    assert built.path.read_bytes() == runner.path.read_bytes()


def _whole_build(compiler: Compiler) -> BuiltRunner:
    """The runner in the cache that this compiler made of the present sources, with the objects that it is made of."""
    found = native_build.find_runner(CACHE, TARGET)
    identity = zig_identity() if compiler.name == "zig" else compiler.identity
    if found is None or found.compiler != identity:
        pytest.skip(f"no runner of {identity} and these sources in .benchfarm/native: BENCHFARM_NATIVE=1 builds it")
    if not any((CACHE / f"ncnn-{TARGET}-{ncnn_key(TARGET, identity)}" / "objects").glob("*.o")):
        pytest.skip("the runner in .benchfarm/native lies there without the objects that it was made of")
    return found
