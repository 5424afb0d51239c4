"""What the native runner is built from: one source distribution and one compiler, from the index that pip is set to.

Both are pinned by file name and hash. pip itself would run a source distribution's build to learn its metadata, so
only its settings and its connection are used: the file comes as it is. A lab without an index puts the files into the
cache's `downloads` folder by hand.
"""

import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NCNN_VERSION: Final = "1.0.20261020"
ZIG_VERSION: Final = "0.17.0"
_SHOWN_CHARS: Final = 300

_FETCH: Final = """
import html, re, sys, urllib.parse
from pip._internal.commands import create_command
project, filename, out = sys.argv[1:]
command = create_command("download")
options, _ = command.parse_args([])
with command.main_context():
    session = command.get_default_session(options)
    page = options.index_url.rstrip("/") + "/" + project + "/"
    listed = session.get(page, headers={"Accept": "application/vnd.pypi.simple.v1+html, text/html;q=0.9"})
    listed.raise_for_status()
    links = [html.unescape(link).split("#")[0] for link in re.findall('href="([^"]+)"', listed.text)]
    found = [link for link in links if urllib.parse.unquote(link).rsplit("/", 1)[-1] == filename]
    if not found:
        sys.exit("the index has no " + filename)
    answer = session.get(urllib.parse.urljoin(listed.url, found[0]), headers={"Accept-Encoding": "identity"})
    answer.raise_for_status()
    with open(out, "wb") as file:
        file.write(answer.content)
"""


class CannotBuild(Exception):
    """The runner cannot be built here; the text says why and what to do. Nothing half made is left in use."""


class CannotFetch(CannotBuild):
    """What the runner is built from cannot be had from the package index."""


@dataclass(frozen=True)
class PinnedFile:
    """One file of one project on an index."""

    project: str
    filename: str
    sha256: str

    def fetched(self, cache: Path) -> Path:
        """The file in the cache, checked; fetched where it is not there. Raises CannotBuild."""
        path = cache / "downloads" / self.filename
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(path)
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.sha256:
            raise CannotBuild(f"{path} is not the file that is pinned: remove it")
        return path

    def _fetch(self, path: Path) -> None:
        part = path.with_name(f"{path.name}.part")
        argv = [sys.executable, "-I", "-c", _FETCH, self.project, self.filename, str(part)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            part.unlink(missing_ok=True)
            said = " ".join(done.stderr.strip().splitlines()[-1:])[:_SHOWN_CHARS]
            raise CannotFetch(f"{self.filename} cannot be had: {said}. Or put it into {path.parent} yourself")
        part.replace(path)


NCNN: Final = PinnedFile(
    "ncnn", f"ncnn-{NCNN_VERSION}.tar.gz", "ad8cdd63e9755cfa8e23b9b6d9ce46156077d80298a89e7c3ba325ffccfca200"
)
ZIG: Final = {
    machine: PinnedFile("ziglang", f"ziglang-{ZIG_VERSION}-py3-none-{platforms}.whl", sha256)
    for machine, platforms, sha256 in (
        (
            "x86_64",
            "manylinux_2_12_x86_64.manylinux2010_x86_64.musllinux_1_1_x86_64",
            "97079827064a7492cce5541ceb438ae8003ce1e54e399676da2d62fb7a5dc08b",
        ),
        (
            "aarch64",
            "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64",
            "d2804f94f54f7fcf8169f4b212a619ad688a4e2e6592e976f0cf2e58e2cd8af3",
        ),
    )
}
"""By the machine that builds; each compiles for every target."""


def ncnn_sources(cache: Path) -> Path:
    """The folder of ncnn's sources. Raises CannotBuild."""
    return _unpacked(cache, NCNN, f"ncnn-{NCNN_VERSION}", _extract_tar) / f"ncnn-{NCNN_VERSION}"


def zig_executable(cache: Path) -> Path:
    """The compiler, unpacked. Raises CannotBuild."""
    machine = platform.machine()
    if machine not in ZIG:
        raise CannotBuild(f"no compiler is pinned for a host of {machine}: build on x86_64 or aarch64")
    return _unpacked(cache, ZIG[machine], f"zig-{ZIG_VERSION}", _extract_wheel) / "ziglang" / "zig"


def has_zig(cache: Path) -> bool:
    """Whether the compiler lies in the cache already."""
    return (cache / f"zig-{ZIG_VERSION}").is_dir()


def _unpacked(cache: Path, file: PinnedFile, name: str, extract: Callable[[Path, Path], None]) -> Path:
    folder = cache / name
    if not folder.is_dir():
        part = cache / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        extract(file.fetched(cache), part)
        part.rename(folder)
    return folder


def _extract_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        wanted = [member for member in tar.getmembers() if "/src/" in member.name or "/cmake/" in member.name]
        tar.extractall(folder, members=wanted, filter="data")


def _extract_wheel(archive: Path, folder: Path) -> None:
    shutil.unpack_archive(archive, folder, "zip")
    (folder / "ziglang" / "zig").chmod(0o755)
