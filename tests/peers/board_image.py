"""What the QEMU board boots: Debian's arm64 kernel, a small root file system in memory and a device tree."""

import gzip
import lzma
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.peers.debian import Archive, merge_usr
from tests.peers.initramfs import archive_of
from tests.peers.need import PeerMissing, require_program
from tests.peers.peer_cache import cached

HERE = Path(__file__).parent
QEMU = "qemu-system-aarch64"
# The same for the dump of the tree and for the board that uses it.
MACHINE = ("-cpu", "cortex-a72", "-smp", "4", "-m", "512")
KERNEL = "linux-image-arm64"
PACKAGES = ("adbd", "busybox-static", "dropbear-bin", "libstdc++6")
# In the order in which they are loaded.
MODULES = (
    *("failover", "net_failover", "virtio_net"),
    *("cpufreq_powersave", "cpufreq_userspace", "cpufreq_ondemand", "cpufreq_conservative", "cpufreq-dt"),
    "bcm2835_thermal",
)
NEEDED_MODULES = {"virtio_net", "cpufreq-dt", "bcm2835_thermal"}
KERNEL_FILES = (
    "./boot/vmlinuz*",
    *("*/kernel/drivers/cpufreq/*", "*/kernel/drivers/thermal/*"),
    *("*/kernel/net/core/failover.ko*", "*/kernel/drivers/net/net_failover.ko*", "*/kernel/drivers/net/virtio_net.ko*"),
)
PARTS_RECIPE = f"1 {KERNEL} {PACKAGES} {MODULES}"
LIMIT_S = 60

TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/shells": "/bin/sh\n",
    "etc/hostname": "benchfarm-board\n",
    "etc/machine-id": "5be0c4f1a2d94c3f8a7e6b5d4c3b2a19\n",
    "etc/os-release": 'ID=benchfarm-board\nNAME="Benchfarm board"\nVERSION_ID=1\nPRETTY_NAME="Benchfarm board 1"\n',
}


@dataclass(frozen=True)
class BoardImage:
    """Files to boot; keys and host key come in an archive put before `root`."""

    kernel: Path
    root: Path
    tree: Path


def board_image() -> BoardImage:
    """The image, from the cache once it was built. Raises PeerMissing."""
    qemu, dtc = require_program(QEMU), require_program("dtc")
    parts = cached("board_parts", PARTS_RECIPE, _fetch_parts)
    recipe = "1" + "".join(file.read_text() for file in (HERE / "board_init.sh", HERE / "board_tree.dtsi"))
    version = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout

    def build(folder: Path) -> None:
        (folder / "root.cpio.gz").write_bytes(gzip.compress(_root_archive(parts), 6, mtime=0))
        _write_tree(folder, qemu, dtc)

    image = cached("board_image", f"{recipe} {parts.name} {version} {MACHINE} {TEXTS}", build)
    return BoardImage(parts / "vmlinuz", image / "root.cpio.gz", image / "board.dtb")


def _fetch_parts(folder: Path) -> None:
    """Fills a folder with `vmlinuz`, `root` and `modules`."""
    archive = Archive(folder / "apt", "arm64")
    root = folder / "root"
    archive.unpack_with_dependencies(PACKAGES, root)
    merge_usr(root)
    (kernel,) = (name for name in archive.depends_on(KERNEL) if name.startswith("linux-image-"))
    unpacked = folder / "kernel"
    unpacked.mkdir()
    archive.unpack_some(kernel, KERNEL_FILES, unpacked)
    (image,) = (unpacked / "boot").glob("vmlinuz*")
    image.rename(folder / "vmlinuz")
    _keep_modules(unpacked, folder / "modules")
    shutil.rmtree(unpacked)
    shutil.rmtree(folder / "apt")


def _keep_modules(unpacked: Path, kept: Path) -> None:
    kept.mkdir()
    order = []
    for name in MODULES:
        found = [path for path in unpacked.rglob(f"{name}.ko*") if path.is_file()]
        if found:
            data = found[0].read_bytes()
            (kept / f"{name}.ko").write_bytes(lzma.decompress(data) if found[0].suffix == ".xz" else data)
            order.append(f"{name}.ko")
        elif name in NEEDED_MODULES:
            raise PeerMissing(f"Debian's {KERNEL} has no module {name}")
    (kept / "order").write_text("\n".join(order) + "\n")


def _root_archive(parts: Path) -> bytes:
    """The root file system as an archive; laid out in a folder beside the parts, which is gone afterwards."""
    root = parts.with_name(f".{parts.name}-root")
    shutil.rmtree(root, ignore_errors=True)
    try:
        shutil.copytree(parts / "root", root, symlinks=True)
        shutil.copytree(parts / "modules", root / "usr" / "lib" / "modules", dirs_exist_ok=True)
        shutil.rmtree(root / "etc", ignore_errors=True)
        for path in ("dev", "proc", "sys", "tmp", "run", "data/local/tmp", "etc/dropbear"):
            (root / path).mkdir(parents=True, exist_ok=True)
        for path, text in TEXTS.items():
            (root / path).write_text(text)
        shutil.copy(HERE / "board_init.sh", root / "init")
        (root / "init").chmod(0o755)
        return archive_of(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _write_tree(folder: Path, qemu: str, dtc: str) -> None:
    """QEMU's own tree with ours merged over it."""
    dump = folder / "virt.dtb"
    machine = ("-M", f"virt,dumpdtb={dump}", *MACHINE, "-nic", "none", "-display", "none")
    subprocess.run([qemu, *machine], check=True, capture_output=True, timeout=LIMIT_S)
    source = subprocess.run([dtc, "-q", "-I", "dtb", "-O", "dts", str(dump)], check=True, capture_output=True).stdout
    merged = folder / "board.dts"
    merged.write_bytes(source + (HERE / "board_tree.dtsi").read_bytes())
    out = folder / "board.dtb"
    subprocess.run([dtc, "-q", "-I", "dts", "-O", "dtb", "-o", str(out), str(merged)], check=True, timeout=LIMIT_S)
