"""OpenSSH's sshd as a Linux board: another user with a home of its own, and no network but the relay to it.

Its file system is this host's, with /tmp, /run and the user's home in memory. Everything ends with the session.
"""

import io
import shutil
import subprocess
import tarfile
from contextlib import ExitStack
from pathlib import Path

from tests.peers.namespaces import Namespaces
from tests.peers.need import require_program
from tests.peers.relay import Relay
from tests.peers.ssh_target import SshTarget, known_hosts_line, make_key
from tests.peers.waiting import wait_until

USER, UID = "board", 20001
HOME = "/mnt/board"
PORT = 22
READY_S = 10.0
PRIVATE = {"host_key", "more_shadow"}

CONFIG = f"""Port {PORT}
ListenAddress 127.0.0.1
HostKey /run/sshd/host_key
PidFile none
AuthorizedKeysFile /run/sshd/authorized_keys
AuthenticationMethods publickey
AllowUsers {USER}
UsePAM no
PermitRootLogin no
PrintMotd no
AllowAgentForwarding no
AllowTcpForwarding no
X11Forwarding no
MaxStartups 50
MaxSessions 50
Subsystem sftp internal-sftp
"""

# The host's own users stay; one more is there in these namespaces alone.
LAUNCH = r"""set -e
sshd=$1 uid=$2 home=$3
mount -t tmpfs -o mode=755,size=16m run /run
mount -t tmpfs -o mode=1777,size=512m tmp /tmp
mount -t tmpfs -o mode=755,size=1g mnt /mnt
mount -t proc proc /proc
mkdir -p /run/sshd "$home"
chown "$uid:$uid" "$home"
cd /run/sshd
tar -x -f -
for name in passwd group shadow; do
    cat "/etc/$name" "more_$name" > "$name"
    chown --reference="/etc/$name" "$name"
    chmod --reference="/etc/$name" "$name"
    mount --bind "$name" "/etc/$name"
done
set +e
while :; do
    "$sshd" -D -e -f config
    sleep 0.1
done
"""


class SshHost:
    """A running sshd, plugged in. It ends with the thread that made it. Raises PeerMissing."""

    def __init__(self, keys: Path, log_dir: Path) -> None:
        sshd = require_program("sshd")
        require_program("ssh")
        self._keys = keys
        self._host_keys = 0
        self._authorized = make_key(keys / "board_key")
        host_key, self._public_host_key = self._new_host_key()
        files = {
            "config": CONFIG,
            "authorized_keys": f"{self._authorized}\n",
            "host_key": host_key,
            "more_passwd": f"{USER}:x:{UID}:{UID}::{HOME}:/bin/sh\n",
            "more_group": f"{USER}:x:{UID}:\n",
            "more_shadow": f"{USER}:*:19000:0:99999:7:::\n",
        }
        arguments = (sshd, str(UID), HOME)
        self._namespaces = Namespaces(LAUNCH, *arguments, stdin=_tar(files), log_file=log_dir / "sshd.log")
        with ExitStack() as undo:
            undo.callback(self._namespaces.end)
            self._wait_for_sshd()
            self.relay = Relay(lambda: self._namespaces.connect(PORT))
            undo.callback(self.relay.end)
            self._undo = undo.pop_all()

    @property
    def home(self) -> Path:
        """The user's home, seen from here."""
        return self._namespaces.root / HOME.lstrip("/")

    @property
    def ssh(self) -> SshTarget:
        """How to get in, with the host key of now in a known-hosts file of its own."""
        known_hosts = self._keys / f"known_hosts_{self._host_keys}_{self.relay.port}"
        known_hosts.write_text(known_hosts_line(self.relay.port, self._public_host_key))
        return SshTarget("127.0.0.1", self.relay.port, USER, self._keys / "board_key", known_hosts)

    def run(self, command: str) -> "subprocess.CompletedProcess[bytes]":
        """Runs shell text as the user."""
        return self.ssh.run(command)

    def authorize(self, public_key: str) -> None:
        """Lets the owner of another key in, until `reset`."""
        self._write_authorized(f"{self._authorized}\n{public_key}\n")

    def _write_authorized(self, text: str) -> None:
        (self._namespaces.root / "run" / "sshd" / "authorized_keys").write_text(text)

    def change_host_key(self) -> None:
        """Shows another host key from now on, as a board does whose card was written anew. Sessions are cut."""
        host_key, self._public_host_key = self._new_host_key()
        (self._namespaces.root / "run" / "sshd" / "host_key").write_text(host_key)
        self._restart()

    def reset(self) -> None:
        """As it was at first but for its host key: what was started, written or turned is undone."""
        self.relay.reset()
        self.relay.cut()
        self._write_authorized(f"{self._authorized}\n")
        self._namespaces.kill(keep=self._namespaces.children_of_init("sshd"))
        for path in self.home.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def end(self) -> None:
        """Nothing is left of it."""
        self._undo.close()

    def _restart(self) -> None:
        old = self._namespaces.children_of_init("sshd")
        self._namespaces.kill()
        wait_until(lambda: bool(self._namespaces.children_of_init("sshd") - old), "a new sshd", READY_S)
        self._wait_for_sshd()

    def _new_host_key(self) -> tuple[str, str]:
        self._host_keys += 1
        file = self._keys / f"host_key_{self._host_keys}"
        public = make_key(file)
        return file.read_text(), public

    def _wait_for_sshd(self) -> None:
        wait_until(self._answers, lambda: f"sshd: {self._namespaces.said()}", READY_S)

    def _answers(self) -> bool:
        try:
            self._namespaces.connect(PORT).close()
        except OSError:
            return False
        return True


def _tar(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            # sshd reads authorized_keys as the user that it is for
            member.size, member.mode = len(text.encode()), 0o600 if name in PRIVATE else 0o644
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()
