"""Real adbd, each in namespaces of its own: a phone as far as a lab's agent can see.

A phone's processes run on this host's cores at full speed, so its latencies are this host's. Run as a program it keeps
phones up until it is interrupted: python -m tests.peers.phones --count 6
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.peers.namespaces import Namespaces
from tests.peers.need import require_root
from tests.peers.phone_clocks import PhoneClocks
from tests.peers.phone_files import (
    THERMAL,
    PhoneModel,
    battery_files,
    boot_archive,
    one_cluster,
    phone_files,
    two_clusters,
)
from tests.peers.phone_root import machine, phone_root
from tests.peers.relay import Relay
from tests.peers.waiting import wait_until

ADBD_PORT = 5555
READY_S = 10.0
ANNOUNCE_S = 1.0
SHELL_UID = 2000  # who adbd is on a phone that is not rooted

LAUNCH = r"""set -e
usr=$1 root=$2 storage_bytes=$3 uid=$4 libraries=$5
mount -t tmpfs -o mode=755,size=32m phone "$root"
cd "$root"
mkdir usr dev proc sys tmp root run system data
chmod 1777 tmp
for link in bin sbin lib lib64; do ln -s usr/$link $link; done
mount --bind "$usr" usr
mount -o remount,bind,ro usr
mount -t tmpfs -o mode=755,size="$storage_bytes" data data
mkdir -p data/local/tmp
chown "$uid:$uid" data data/local/tmp
mount -t tmpfs -o mode=755,size=1m dev dev
mkdir dev/pts dev/shm
chmod 1777 dev/shm
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t proc proc proc
cat > run/boot.tar
set +e
while :; do
    usr/bin/busybox tar -x -f run/boot.tar
    env -i PATH=/system/bin:/usr/bin:/usr/sbin LD_LIBRARY_PATH="$libraries/android:$libraries" \
        HOME=/data/local/tmp TMPDIR=/data/local/tmp ADBD_PORT=5555 \
        chroot --userspec="$uid:$uid" . /usr/sbin/adbd
    if [ ! -e run/boot_id ]; then
        touch run/boot_id
        mount --bind run/boot_id proc/sys/kernel/random/boot_id
    fi
    cat proc/sys/kernel/random/uuid > run/boot_id
    sleep 0.2
done
"""


class Phone:
    """One phone, booted and plugged in. It ends with the thread that made it. Raises PeerMissing."""

    def __init__(self, model: PhoneModel, serial: str, log_dir: Path) -> None:
        self.model = model
        self.serial = serial
        require_root()
        _, libraries, abi = machine()
        folder = phone_root()
        self._files = phone_files(model, serial, abi)
        self._foreign_files: set[str] = set()
        self._namespaces = Namespaces(
            LAUNCH,
            *(str(folder / "usr"), str(folder / "mnt"), str(model.storage_bytes)),
            *(str(0 if model.is_rooted else SHELL_UID), f"/usr/lib/{libraries}"),
            stdin=boot_archive(model, self._files),
            log_file=log_dir / f"{serial}.log",
        )
        with ExitStack() as undo:
            undo.callback(self._namespaces.end)
            self.root = self._namespaces.root / (folder / "mnt").relative_to("/")
            self._wait_for_adbd()
            self.clocks = PhoneClocks(self.root, model)
            undo.callback(self.clocks.end)
            self.relay = Relay(lambda: self._namespaces.connect(ADBD_PORT))
            undo.callback(self.relay.end)
            self._undo = undo.pop_all()

    @property
    def address(self) -> str:
        """Its serial in adb once it is connected by address."""
        return self.relay.address

    @property
    def usb_serial(self) -> str:
        """Its serial in adb once it was announced."""
        return f"emulator-{self.relay.port - 1}"

    def announce(self, adb_server_port: int) -> None:
        """Tells an adb server that the phone is there, as a cable would; unplugged, it leaves the server's list."""
        with socket.create_connection(("127.0.0.1", adb_server_port), READY_S) as server:
            request = f"host:emulator:{self.relay.port}"
            server.sendall(f"{len(request):04x}{request}".encode())
            server.settimeout(ANNOUNCE_S)
            with contextlib.suppress(OSError):  # it says nothing, and closes
                server.recv(64)

    def put(self, path: str, text: str) -> None:
        """Writes one text file of the phone."""
        path = path.lstrip("/")
        file = self.root / path
        if path not in self._files:
            self._foreign_files.add(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def read(self, path: str) -> str:
        """One text file of the phone, without white space at its end."""
        return (self.root / path.lstrip("/")).read_text().rstrip()

    def heat(self, celsius: float) -> None:
        """Sets the temperature of its cores; above phone_files.TRIP_C it throttles."""
        self.put(f"{THERMAL}/thermal_zone0/temp", f"{celsius * 1000:.0f}")
        self.clocks.settle()

    def battery(self, percent: int = 80, celsius: float = 28.0, *, is_charging: bool = False) -> None:
        """Sets its battery's state, in /sys and in dumpsys."""
        for path, text in battery_files(percent, celsius, is_charging).items():
            self.put(path, text)

    def lie(self, freq_khz: int | None) -> None:
        """From now on scaling_cur_freq says this, whatever the clock is; None: the truth."""
        self.clocks.say(freq_khz)

    def fill_storage(self) -> None:
        """Leaves no byte free on /data."""
        status = os.statvfs(self.root / "data")
        with (self.root / "data" / "filler").open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, status.f_bavail * status.f_frsize)

    def free_storage(self) -> None:
        """Gives back what `fill_storage` took."""
        (self.root / "data" / "filler").unlink(missing_ok=True)

    def reboot(self) -> None:
        """Kills everything on it; returns when its adbd is there again, with a new boot id and settings of a boot."""
        was_plugged = self.relay.is_plugged
        self._namespaces.freeze()
        self.relay.unplug()
        before = self.boot_id()
        self._namespaces.kill()
        wait_until(lambda: self.boot_id() not in {before, ""}, "a new boot id", READY_S)
        self._wait_for_adbd()
        if was_plugged:
            self.relay.plug()

    def boot_id(self) -> str:
        return self.read("proc/sys/kernel/random/boot_id")

    def reset(self) -> None:
        """As it was at first, but for its uptime and its address: what a test started, wrote or turned is undone."""
        self.relay.reset()
        self.relay.cut()
        self._namespaces.kill(keep=self._namespaces.children_of_init("adbd"))
        self._wait_for_adbd()
        self._empty_data()
        for path in self._foreign_files:
            (self.root / path).unlink(missing_ok=True)
        self._foreign_files.clear()
        for path, text in self._files.items():
            if self.read(path) != text.rstrip():
                self.put(path, text)
        self.clocks.say(None)
        self.clocks.stick(None)

    def end(self) -> None:
        """Nothing is left of it."""
        self._undo.close()

    def _empty_data(self) -> None:
        data = self.root / "data"
        uid = 0 if self.model.is_rooted else SHELL_UID
        for path in data.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        (data / "local" / "tmp").mkdir(parents=True)
        os.chown(data / "local" / "tmp", uid, uid)

    def _wait_for_adbd(self) -> None:
        wait_until(self._answers, lambda: f"adbd of {self.serial}: {self._namespaces.said()}", READY_S)

    def _answers(self) -> bool:
        try:
            self._namespaces.connect(ADBD_PORT).close()
        except OSError:
            return False
        return True


def lab_models() -> list[PhoneModel]:
    """Six phones: two alike with one cluster, one that does not count its time; two alike with two, one not rooted."""
    return [
        *[one_cluster("Bench One", "BF100")] * 2,
        one_cluster("Bench One Lite", "BF90", has_time_in_state=False),
        *[two_clusters("Bench Duo", "BF200")] * 2,
        two_clusters("Bench Locked", "BF200", is_rooted=False),
    ]


@contextlib.contextmanager
def running_phones(models: list[PhoneModel], log_dir: Path) -> Iterator[list[Phone]]:
    """Phones of these models until the block ends. Raises PeerMissing."""
    with ExitStack() as stack:
        phones = []
        for number, model in enumerate(models, start=1):
            phone = Phone(model, f"BF{number:08}", log_dir)
            stack.callback(phone.end)
            phones.append(phone)
        yield phones


def main() -> None:
    """Keeps phones up until it is interrupted, and prints where they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=6)
    models = lab_models()
    wanted = [models[number % len(models)] for number in range(parser.parse_args().count)]
    with tempfile.TemporaryDirectory() as log_dir, running_phones(wanted, Path(log_dir)) as phones:
        for phone in phones:
            print(phone.address, phone.serial, phone.model.name, flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
