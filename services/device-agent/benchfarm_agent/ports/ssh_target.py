"""Where an SSH board is and how the agent proves who it is there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

SSH_PORT: Final = 22


@dataclass(frozen=True)
class SshTarget:
    """A board behind an SSH server. `key_file` is a private key without a passphrase.

    `known_hosts_file` has OpenSSH's format and is the only place where trust comes from; it may be missing.
    """

    host: str
    user: str
    key_file: Path
    known_hosts_file: Path
    port: int = SSH_PORT

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"
