"""Debian packages unpacked into a folder, with apt's own checks and without touching this machine's packages."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.peers.need import PeerMissing

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
RELEASE = "trixie"
DOWNLOAD_S = 240

_CONF = """
Dir::Etc::sourcelist "{work}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "{work}/lists";
Dir::State::status "{work}/status";
Dir::Cache "{work}/cache";
APT::Sandbox::User "{user}";
APT::Architecture "{arch}";
APT::Architectures "{arch}";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "3";
"""


class Archive:
    """Debian 13's archive for one architecture, with lists, status and cache in `work`."""

    def __init__(self, work: Path, arch: str) -> None:
        """Reads the package lists. Raises PeerMissing where apt, its archive or its keyring is missing."""
        self.work = work
        for part in ("lists/partial", "cache/archives/partial"):
            (work / part).mkdir(parents=True)
        (work / "status").touch()
        (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_archive_uri()} {RELEASE} main\n")
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        (work / "apt.conf").write_text(_CONF.format(work=work, arch=arch, user=user))
        self._apt("apt-get", "-qq", "update")

    def unpack_with_dependencies(self, packages: tuple[str, ...], folder: Path) -> None:
        """Everything that these packages need to run, unpacked into `folder`."""
        self._apt("apt-get", "-qq", "-y", "--download-only", "install", *packages)
        for package in sorted((self.work / "cache" / "archives").glob("*.deb")):
            subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True, timeout=DOWNLOAD_S)

    def unpack_some(self, package: str, patterns: tuple[str, ...], folder: Path) -> None:
        """Those files of one package, without its dependencies, that match one of tar's patterns."""
        self._apt("apt-get", "-qq", "download", package)
        (found,) = self.work.glob("*.deb")
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(found)], stdout=subprocess.PIPE) as content:
            command = ["tar", "-x", "-C", str(folder), "--wildcards", *patterns]
            subprocess.run(command, stdin=content.stdout, check=True, timeout=DOWNLOAD_S)
        found.unlink()

    def depends_on(self, package: str) -> list[str]:
        """The names of the packages that a package depends on directly."""
        said = self._apt("apt-cache", "depends", "--important", package)
        return [line.split()[1] for line in said.splitlines() if line.strip().startswith("Depends:")]

    def _apt(self, *argv: str) -> str:
        env = {**os.environ, "APT_CONFIG": str(self.work / "apt.conf"), "LC_ALL": "C"}
        done = subprocess.run(argv, cwd=self.work, env=env, capture_output=True, text=True, timeout=DOWNLOAD_S)
        if done.returncode:
            raise PeerMissing(f"`{' '.join(argv)}` failed: {done.stderr.strip()[-500:]}")
        return done.stdout


def merge_usr(root: Path) -> None:
    """Makes /bin, /sbin, /lib and /lib64 links into /usr, as Debian has them, and drops what no peer reads."""
    for name in ("bin", "sbin", "lib", "lib64"):
        old = root / name
        if old.is_dir() and not old.is_symlink():
            shutil.copytree(old, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(old)
        if not old.is_symlink():
            old.symlink_to(f"usr/{name}")
    for unread in ("doc", "man", "locale", "info", "lintian", "bug", "initramfs-tools"):
        shutil.rmtree(root / "usr" / "share" / unread, ignore_errors=True)
    for conversions in root.glob("usr/lib/*/gconv"):
        shutil.rmtree(conversions)


def _archive_uri() -> str:
    """Where this machine's own apt gets Debian from."""
    if shutil.which("apt-get") is None or not KEYRING.exists():
        raise PeerMissing("no apt with Debian's keys here")
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    known = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    for uri in known:
        if "debian" in uri and "security" not in uri:
            return uri
    raise PeerMissing("no Debian archive is known to this machine's apt: run apt-get update once")
