"""Which host key a board must show: known-hosts files, and the verb that writes to them.

Nothing is ever trusted because it was met first: an operator compares a fingerprint and calls `trust`.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

import asyncssh

from benchfarm_agent.files import write_whole
from benchfarm_agent.ports.interface import BoardUnreachable, HostKeyChanged, HostKeyUnknown
from benchfarm_agent.ports.ssh_target import SSH_PORT, SshTarget
from benchfarm_core.errors import Conflict, InvalidRequest

OFFER_S: Final = 10.0


@dataclass(frozen=True)
class HostKey:
    """A host key: its fingerprint as OpenSSH prints it, and `kind base64` as in a known-hosts file."""

    fingerprint: str
    public_key: str


async def offered_host_key(target: SshTarget, *, limit_s: float = OFFER_S) -> HostKey:
    """The key that a board shows now; nothing is sent to it but the greeting. Raises BoardUnreachable."""
    try:
        async with asyncio.timeout(limit_s):
            key = await asyncssh.get_server_host_key(target.host, target.port, config=None)
    except (asyncssh.Error, OSError) as error:
        raise BoardUnreachable(f"{target.address} shows no host key: {str(error) or 'no answer'}") from error
    if key is None:
        raise BoardUnreachable(f"{target.address} shows no host key")
    return host_key_of(key)


def host_key_of(key: asyncssh.SSHKey) -> HostKey:
    """A key in the words of this module."""
    kind, base64 = key.export_public_key("openssh").decode().split()[:2]
    return HostKey(key.get_fingerprint(), f"{kind} {base64}")


async def trust(target: SshTarget, *, fingerprint: str | None = None, replace: bool = False) -> HostKey:
    """From now on the board is known by the key that it shows now.

    fingerprint: what it must be, when the operator has it from elsewhere. Raises InvalidRequest when it is another,
    Conflict when the board is known by another key already and that is not to be replaced, BoardUnreachable, OSError.
    """
    offered = await offered_host_key(target)
    if fingerprint is not None and fingerprint != offered.fingerprint:
        detail = f"{target.address} shows the key {offered.fingerprint}, not {fingerprint}: nothing was changed"
        raise InvalidRequest(detail, field="fingerprint")
    known = trusted_host_keys(target)
    if offered in known:
        return offered
    if known and not replace:
        raise Conflict(f"{_told_apart(target, offered, known)} Trust the new one with `--replace` if that is right.")
    kept = [line for line in _text(target).splitlines() if not _keys_of(line, target)]
    text = "".join(f"{line}\n" for line in [*kept, f"{_pattern(target)} {offered.public_key}"])
    target.known_hosts_file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target.known_hosts_file, text.encode())
    return offered


def trusted_host_keys(target: SshTarget) -> list[HostKey]:
    """The keys by which a board is known. Raises BoardUnreachable when the file cannot be understood."""
    return [host_key_of(key) for key in _keys_of(_text(target), target)]


def known_hosts(target: SshTarget) -> tuple[list[asyncssh.SSHKey], ...]:
    """Trusted keys, authorities and revoked keys for asyncssh; none where there is no file. Raises BoardUnreachable."""
    return _matches(_text(target), target)


def refusal(target: SshTarget, offered: HostKey) -> HostKeyChanged | HostKeyUnknown:
    """Why a board with this key is not talked to, and what to do."""
    known = trusted_host_keys(target)
    if known:
        return HostKeyChanged(
            f"{_told_apart(target, offered, known)} If the board was set up anew, trust the new key with "
            "`benchfarm agent boards trust NAME --replace`; if not, something else answers at its address."
        )
    return HostKeyUnknown(
        f"{target.address} shows the host key {offered.fingerprint}, which nobody has trusted yet: compare it with "
        "`ssh-keygen -lf` on the board, then run `benchfarm agent boards trust NAME` with its name in boards.toml"
    )


def _told_apart(target: SshTarget, offered: HostKey, known: list[HostKey]) -> str:
    old = ", ".join(key.fingerprint for key in known)
    return f"{target.address} shows the host key {offered.fingerprint} but is known by {old}."


def _pattern(target: SshTarget) -> str:
    return target.host if target.port == SSH_PORT else f"[{target.host}]:{target.port}"


def _text(target: SshTarget) -> str:
    path = target.known_hosts_file
    try:
        return path.read_text() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise BoardUnreachable(f"the known-hosts file {path} cannot be read: {error}") from error


def _keys_of(text: str, target: SshTarget) -> list[asyncssh.SSHKey]:
    return list(_matches(text, target)[0])


def _matches(text: str, target: SshTarget) -> tuple[list[asyncssh.SSHKey], ...]:
    """Trusted keys, authorities and revoked keys for exactly this host and port: another port is another board."""
    try:
        found = asyncssh.match_known_hosts(asyncssh.import_known_hosts(text), _pattern(target), "", None)
    except ValueError as error:
        raise BoardUnreachable(f"the known-hosts file {target.known_hosts_file} is damaged: {error}") from error
    return tuple(list(keys) for keys in found[:3])
