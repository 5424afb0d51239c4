"""Where an SSH peer is and what its caller needs, and OpenSSH's own client to reach it."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.peers.need import require_program

CALL_S = 20.0


@dataclass(frozen=True)
class SshTarget:
    """An SSH server with the files that let one in: a private key, and the host key that it must show."""

    host: str
    port: int
    user: str
    key_file: Path
    known_hosts_file: Path

    def argv(self, command: str) -> list[str]:
        """OpenSSH's client running shell text there; it asks nothing and trusts nothing else."""
        options = {
            "IdentityFile": self.key_file,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.known_hosts_file,
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "5",
            "LogLevel": "ERROR",
        }
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "/dev/null", *flags, "-p", str(self.port), f"{self.user}@{self.host}", command]

    def run(self, command: str, stdin: bytes = b"", limit_s: float = CALL_S) -> subprocess.CompletedProcess[bytes]:
        """Runs shell text there. Raises TimeoutExpired. Exit code 255 is SSH's own: not reached, or not let in."""
        return subprocess.run(self.argv(command), input=stdin, capture_output=True, timeout=limit_s)


def make_key(file: Path) -> str:
    """A new Ed25519 key without a passphrase in `file`; returns its public half as one line."""
    command = [require_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "benchfarm", "-f", str(file)]
    subprocess.run(command, check=True, capture_output=True, timeout=CALL_S)
    return file.with_name(f"{file.name}.pub").read_text().strip()


def known_hosts_line(port: int, public_key: str) -> str:
    """A line of known_hosts for a server on loopback."""
    kind, key = public_key.split()[:2]
    return f"[127.0.0.1]:{port} {kind} {key}\n"
