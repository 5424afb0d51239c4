"""The read-only part of every phone: adbd and busybox from Debian's packages."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.peers.debian import Archive, merge_usr
from tests.peers.need import PeerMissing
from tests.peers.peer_cache import cached

PACKAGES = ("adbd", "busybox-static", "libstdc++6")
RECIPE = f"2 {PACKAGES}"
# machine of uname: Debian's architecture, its library folder, Android's name for it
MACHINES = {
    "x86_64": ("amd64", "x86_64-linux-gnu", "x86_64"),
    "aarch64": ("arm64", "aarch64-linux-gnu", "arm64-v8a"),
}


def machine() -> tuple[str, str, str]:
    """Debian's architecture of this host, its library folder, and its Android ABI. Raises PeerMissing."""
    name = os.uname().machine
    if name not in MACHINES:
        raise PeerMissing(f"phones run on {' and '.join(MACHINES)}, this is {name}")
    return MACHINES[name]


def phone_root() -> Path:
    """A folder with `usr`, which phones share, and `mnt`, where each mounts its own. Raises PeerMissing."""
    return cached("phone", f"{RECIPE} {machine()[0]}", _build)


def _build(folder: Path) -> None:
    base = folder / "base"
    Archive(folder / "apt", machine()[0]).unpack_with_dependencies(PACKAGES, base)
    shutil.rmtree(folder / "apt")
    merge_usr(base)
    install_busybox(base)
    (base / "usr").rename(folder / "usr")
    shutil.rmtree(base)
    (folder / "mnt").mkdir()


def install_busybox(root: Path) -> None:
    """Makes each of busybox's commands that the root does not have a link; `sh` is a copy, as adbd's children need."""
    binaries = root / "usr" / "bin"
    said = subprocess.run([_host_busybox(root), "--list"], capture_output=True, text=True, check=True).stdout
    for name in said.split():
        path = binaries / name
        if name != "sh" and not path.is_symlink() and not path.exists():
            path.symlink_to("busybox")
    if not (binaries / "sh").exists():
        shutil.copy2(binaries / "busybox", binaries / "sh")


def _host_busybox(root: Path) -> Path:
    return root / "usr" / "bin" / "busybox"
