"""An arm64 board in QEMU: a real Linux kernel with real cpufreq, hotplug and thermal control, over adb and SSH.

Its clocks do not change how fast it computes and its time is emulated: what it measures is no measurement.
"""

import mmap
import os
import signal
import socket
import struct
import subprocess
from contextlib import ExitStack
from pathlib import Path

from tests.peers.board_image import MACHINE, QEMU, board_image
from tests.peers.initramfs import archive_of_texts
from tests.peers.need import require_program
from tests.peers.relay import Relay
from tests.peers.ssh_target import SshTarget, known_hosts_line, make_key
from tests.peers.waiting import wait_until

MEMORY_BYTES = 512 << 20
SENSOR_OFFSET = 0x1FF00000  # board_tree.dtsi's page, in a memory that begins at 0x40000000
SENSOR_VALID = 1 << 10
SENSOR_MASK = 0x3FF
IDLE_C = 42.0
READY_S = 90.0
ARCHIVE_ALIGN_BYTES = 512
POLICIES = "/sys/devices/system/cpu/cpufreq"

# Undoes what a test may have left, in the words of the board's own shell.
RESET = """
for core in /sys/devices/system/cpu/cpu[1-9]; do echo 1 > $core/online; done
for policy in /sys/devices/system/cpu/cpufreq/policy*; do
    cat $policy/cpuinfo_max_freq > $policy/scaling_max_freq
    cat $policy/cpuinfo_min_freq > $policy/scaling_min_freq
    echo {governor} > $policy/scaling_governor
done
rm -rf /root/.cache /root/.local /data/local/tmp/* /data/local/tmp/.[!.]* /tmp/* /tmp/.[!.]*
"""
# 15B3 is adbd's port as the kernel prints it.
ADB_LISTENS = "until cat /proc/net/tcp /proc/net/tcp6 | grep -q :15B3; do sleep 0.1; done"


class QemuBoard:
    """A board, switched on. It ends with the thread that switched it on last. Raises PeerMissing.

    `heat`, `freeze` and the relays work from any thread.
    """

    def __init__(self, keys: Path) -> None:
        self._qemu = require_program(QEMU)
        self._setpriv = require_program("setpriv")
        require_program("ssh")
        self._image = board_image()
        self._keys = keys
        self._public_host_key = make_key(keys / "host_key")
        self._authorized = make_key(keys / "board_key")
        self._ports = {"ssh": _free_port(), "adb": _free_port()}
        self._process: subprocess.Popen[bytes] | None = None
        with ExitStack() as undo:
            self._ram = os.memfd_create("board-ram")
            undo.callback(os.close, self._ram)
            os.ftruncate(self._ram, MEMORY_BYTES)
            self._memory = mmap.mmap(self._ram, MEMORY_BYTES)
            undo.callback(self._memory.close)
            self._console = os.memfd_create("board-console")
            undo.callback(os.close, self._console)
            self.ssh_relay = Relay(lambda: self._open("ssh"))
            undo.callback(self.ssh_relay.end)
            self.adb_relay = Relay(lambda: self._open("adb"))
            undo.callback(self.adb_relay.end)
            undo.callback(self.cut_power)
            self.power_on()
            self._governor = self.read(f"{POLICIES}/policy0/scaling_governor")
            self._undo = undo.pop_all()

    @property
    def adb_address(self) -> str:
        return self.adb_relay.address

    @property
    def ssh(self) -> SshTarget:
        """How to get in as root, with a known-hosts file of its own."""
        known_hosts = self._keys / f"known_hosts_{self.ssh_relay.port}"
        known_hosts.write_text(known_hosts_line(self.ssh_relay.port, self._public_host_key))
        return SshTarget("127.0.0.1", self.ssh_relay.port, "root", self._keys / "board_key", known_hosts)

    @property
    def is_on(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ssh_run(self, command: str, limit_s: float = 30.0) -> "subprocess.CompletedProcess[bytes]":
        """Runs shell text on the board. Raises TimeoutExpired."""
        return self.ssh.run(command, limit_s=limit_s)

    def read(self, path: str) -> str:
        """One text file of the board, without white space at its end."""
        done = self.ssh_run(f"cat {path}")
        if done.returncode:
            raise OSError(done.stderr.decode())
        return done.stdout.decode().rstrip()

    def power_on(self) -> None:
        """Returns when it answers over SSH and adb. Harmless when it is on."""
        if self.is_on:
            return
        self.heat(IDLE_C)
        initrd = self._initrd()
        try:
            self._process = subprocess.Popen(
                [self._setpriv, "--pdeathsig", "KILL", "--", self._qemu, *self._arguments(initrd)],
                stdin=subprocess.DEVNULL,
                stdout=self._console,
                stderr=self._console,
                pass_fds=(self._ram, self._console, initrd),
                start_new_session=True,
            )
        finally:
            os.close(initrd)
        self.wait_up()

    def wait_up(self) -> None:
        """Returns when it answers over SSH and adb. Raises TimeoutError with what its console said."""
        self._wait_for_ssh()
        self.ssh_run(ADB_LISTENS)

    def greets(self) -> bool:
        """Whether its SSH server speaks. QEMU accepts connections before the board does."""
        if not self.is_on:
            raise TimeoutError(f"the QEMU board switched itself off: {self.said()}")
        try:
            with self._open("ssh") as caller:
                caller.settimeout(2)
                return caller.recv(4) == b"SSH-"
        except OSError:
            return False

    def cut_power(self) -> None:
        """Off at once. Harmless when it is off."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def heat(self, celsius: float) -> None:
        """Sets what its sensor measures: steps of half a degree, read by its kernel four times a second."""
        count = round((celsius * 1000 - 407_000) / -538) & SENSOR_MASK
        struct.pack_into("<I", self._memory, SENSOR_OFFSET + 4, SENSOR_VALID | count)

    def freeze(self) -> None:
        """It stands still and keeps its connections."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)

    def said(self) -> str:
        """The end of what its console and QEMU said."""
        size_bytes = os.fstat(self._console).st_size
        return os.pread(self._console, 4000, max(0, size_bytes - 4000)).decode(errors="replace")

    def reset(self) -> None:
        """On, cool, every core there, clocks free, no file of a test's left."""
        self.thaw()
        self.ssh_relay.reset()
        self.adb_relay.reset()
        self.adb_relay.cut()
        self.heat(IDLE_C)
        if not self.is_on:
            self.power_on()
        self._wait_for_ssh()
        self.ssh_run(ADB_LISTENS + RESET.format(governor=self._governor))

    def end(self) -> None:
        """Nothing is left of it."""
        self._undo.close()

    def _arguments(self, initrd: int) -> list[str]:
        forwards = f"hostfwd=tcp:127.0.0.1:{self._ports['ssh']}-:22,hostfwd=tcp:127.0.0.1:{self._ports['adb']}-:5555"
        memory = f"memory-backend-file,id=ram,size={MEMORY_BYTES},mem-path=/proc/self/fd/{self._ram},share=on"
        return [
            *("-M", "virt,memory-backend=ram", "-object", memory, *MACHINE),
            *("-kernel", str(self._image.kernel), "-initrd", f"/proc/self/fd/{initrd}"),
            *("-dtb", str(self._image.tree), "-append", "console=ttyAMA0 quiet panic=1"),
            *("-display", "none", "-monitor", "none", "-serial", f"file:/proc/self/fd/{self._console}"),
            *("-netdev", f"user,id=net,restrict=on,{forwards}", "-device", "virtio-net-pci,netdev=net,romfile="),
        ]

    def _initrd(self) -> int:
        """A descriptor of the root file system with this session's keys before it; a file in memory alone."""
        ours = {
            "root/.ssh/authorized_keys": f"{self._authorized}\n",
            "etc/dropbear/openssh_key": (self._keys / "host_key").read_text(),
        }
        first = archive_of_texts(ours)
        initrd = os.memfd_create("board-initrd")
        with os.fdopen(os.dup(initrd), "wb") as file:
            file.write(first + b"\0" * (-len(first) % ARCHIVE_ALIGN_BYTES))
            file.write(self._image.root.read_bytes())
        return initrd

    def _open(self, name: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._ports[name]), 3)

    def _wait_for_ssh(self) -> None:
        wait_until(self.greets, lambda: f"the QEMU board: {self.said()}", READY_S)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.is_on:
            self._process.send_signal(number)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
