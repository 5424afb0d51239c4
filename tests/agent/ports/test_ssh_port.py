"""SSH boards: whose key is trusted, who gets in, and what a lost connection costs."""

import asyncio
import time
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from benchfarm_agent.ports.interface import BoardUnreachable, HostKeyChanged, HostKeyUnknown
from benchfarm_agent.ports.ssh_port import SshPort
from benchfarm_agent.ports.ssh_target import SshTarget
from benchfarm_agent.ports.ssh_trust import offered_host_key, trust, trusted_host_keys
from benchfarm_core.errors import Conflict, InvalidRequest
from tests.agent.ports.conftest import Running, is_gone
from tests.agent.ports.ssh_server import SshServer, ssh_server
from tests.peers.sshd import SshHost

LIMITS: dict[str, Any] = {"line_bytes_max": 1000, "silence_s": 20.0, "lines_max": 50}


async def says(server: SshServer, word: str = "hello") -> str:
    """What a fresh port gets back from the board."""
    port = SshPort(server.target)
    try:
        return (await port.run(["echo", word], timeout_s=10)).stdout.decode().strip()
    finally:
        await port.close()


def test_a_board_that_nobody_trusted_is_not_talked_to_until_somebody_does(running: Running, tmp_path: Path) -> None:
    async def work() -> None:
        async with ssh_server(tmp_path) as server:
            fingerprint = server.host_key.get_fingerprint()
            with pytest.raises(HostKeyUnknown, match="nobody has trusted yet") as refused:
                await says(server)
            assert fingerprint in refused.value.detail
            assert not server.target.known_hosts_file.exists()
            with pytest.raises(InvalidRequest, match="not SHA256:other"):
                await trust(server.target, fingerprint="SHA256:other")
            assert not server.target.known_hosts_file.exists()
            assert (await trust(server.target, fingerprint=fingerprint)).fingerprint == fingerprint
            assert await says(server) == "hello"
            before = server.target.known_hosts_file.read_text()
            await trust(server.target)
            assert server.target.known_hosts_file.read_text() == before

    running(work())


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
def test_a_changed_host_key_is_refused_with_what_to_do(running: Running, tmp_path: Path, kind: str) -> None:
    async def work() -> None:
        async with ssh_server(tmp_path) as server:
            await trust(server.target)
            old, port = server.host_key.get_fingerprint(), server.port
            others = f"[127.0.0.1]:{port + 1} {trusted_host_keys(server.target)[0].public_key}\n127.0.0.1 ssh-ed25519 "
            others += f"{asyncssh.generate_private_key('ssh-ed25519').export_public_key().decode().split()[1]}\n"
            known_hosts = server.target.known_hosts_file
            known_hosts.write_text("# mine\n" + others + known_hosts.read_text())
            await server.stop()
            server.host_key = asyncssh.generate_private_key(kind)
            await server.start()
            assert server.port == port
            with pytest.raises(HostKeyChanged, match=r"trust .* --replace") as refused:
                await says(server)
            new = server.host_key.get_fingerprint()
            assert old in refused.value.detail
            assert new in refused.value.detail
            with pytest.raises(Conflict, match="replace"):
                await trust(server.target)
            with pytest.raises(HostKeyChanged):
                await says(server)
            await trust(server.target, replace=True)
            assert [key.fingerprint for key in trusted_host_keys(server.target)] == [new]
            assert known_hosts.read_text().startswith("# mine\n" + others)
            assert await says(server) == "hello"

    running(work())


def test_another_port_of_a_host_is_another_board(running: Running, tmp_path: Path) -> None:
    async def work() -> None:
        async with ssh_server(tmp_path) as server:
            public = server.host_key.export_public_key().decode()
            server.target.known_hosts_file.write_text(f"127.0.0.1 {public}[127.0.0.1]:1 {public}")
            with pytest.raises(HostKeyUnknown):
                await says(server)

    running(work())


@pytest.mark.parametrize("text", ["damaged", "@strange * ssh-ed25519 AAAA\n"])
def test_a_damaged_known_hosts_file_trusts_nobody(running: Running, tmp_path: Path, text: str) -> None:
    async def work() -> None:
        async with ssh_server(tmp_path) as server:
            server.target.known_hosts_file.write_text(text)
            with pytest.raises(BoardUnreachable, match="known_hosts is damaged"):
                await says(server)
            with pytest.raises(BoardUnreachable, match="known_hosts is damaged"):
                await trust(server.target)
            assert server.target.known_hosts_file.read_text() == text

    running(work())


def test_who_does_not_get_in_is_told_why(running: Running, tmp_path: Path) -> None:
    async def work() -> None:
        async with ssh_server(tmp_path) as server:
            server.be_known()
            key_file = server.target.key_file
            asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(key_file))
            with pytest.raises(BoardUnreachable, match=r"does not let somebody in .*authorized_keys"):
                await says(server)
            key_file.write_text("no key")
            with pytest.raises(BoardUnreachable, match="cannot be reached"):
                await says(server)
            key_file.unlink()
            with pytest.raises(BoardUnreachable, match=str(key_file)):
                await says(server)

    running(work())


def test_the_agents_own_keys_and_passwords_are_never_offered(running: Running, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent.sock"))

    async def work() -> None:
        async with ssh_server(tmp_path / "server") as server:
            server.be_known()
            (tmp_path / "home" / ".ssh").mkdir(parents=True)
            server.target.key_file.rename(tmp_path / "home" / ".ssh" / "id_ed25519")
            (tmp_path / "home" / ".ssh" / "config").write_text("Host *\n  User root\n")
            asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(server.target.key_file))
            with pytest.raises(BoardUnreachable, match="does not let somebody in"):
                await says(server)

    running(work())


def test_nobody_at_the_address_is_told_in_time(running: Running, tmp_path: Path) -> None:
    async def work() -> None:
        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        async with await asyncio.start_server(mute, "127.0.0.1", 0) as listener:
            number = listener.sockets[0].getsockname()[1]
            (tmp_path / "key").write_text(asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode())
            target = SshTarget("127.0.0.1", "u", tmp_path / "key", tmp_path / "known_hosts", number)
            began_s = time.monotonic()
            with pytest.raises(BoardUnreachable, match=r"within 0\.5 s"):
                await SshPort(target).run(["true"], timeout_s=0.5)
            with pytest.raises(BoardUnreachable, match="shows no host key"):
                await offered_host_key(target, limit_s=0.5)
            assert time.monotonic() - began_s < 3
        with pytest.raises(BoardUnreachable, match="cannot be reached"):
            await SshPort(target).run(["true"], timeout_s=5)
        with pytest.raises(BoardUnreachable, match="shows no host key"):
            await offered_host_key(target)

    running(work())


def test_a_lost_connection_is_made_again_by_the_next_call(running: Running, tmp_path: Path) -> None:
    async def work() -> None:
        async with ssh_server(tmp_path) as server:
            server.be_known()
            port = SshPort(server.target)
            pid_file = str(tmp_path / "pid")
            up = asyncio.Event()
            script = f"echo $$ >{pid_file}; echo up; exec sleep 300"
            launch = asyncio.ensure_future(
                port.stream(["sh", "-c", script], stdin=b"x", on_line=lambda _: up.set(), **LIMITS)
            )
            await up.wait()
            server.cut()
            with pytest.raises(BoardUnreachable):
                await asyncio.wait_for(launch, 10)
            assert await is_gone(port, pid_file)
            await server.stop()
            with pytest.raises(BoardUnreachable):
                await port.run(["true"], timeout_s=5)
            with pytest.raises(BoardUnreachable, match="cannot be reached"):
                await port.run(["true"], timeout_s=5)
            await server.start()
            assert (await port.run(["echo", "again"], timeout_s=5)).stdout == b"again\n"
            await port.close()

    running(work())


def test_one_connection_serves_all_calls(running: Running, tmp_path: Path) -> None:
    async def work() -> None:
        async with ssh_server(tmp_path) as server:
            server.be_known()
            port = SshPort(server.target)
            await asyncio.gather(*(port.run(["true"], timeout_s=10) for _ in range(6)))
            assert len(server._connections) == 1
            await port.close()

    running(work())


def test_opensshs_server_is_trusted_and_refused_like_any(running: Running, tmp_path: Path, ssh_host: SshHost) -> None:
    async def work() -> None:
        peer = ssh_host.ssh
        target = SshTarget(peer.host, peer.user, peer.key_file, tmp_path / "known_hosts", peer.port)
        port = SshPort(target)
        with pytest.raises(HostKeyUnknown):
            await port.run(["true"], timeout_s=10)
        await trust(target)
        assert (await port.run(["id", "-un"], timeout_s=10)).stdout.decode().strip() == peer.user
        ssh_host.change_host_key()
        with pytest.raises(HostKeyChanged):
            await port.run(["true"], timeout_s=10)
        await trust(target, replace=True)
        assert (await port.run(["echo", "again"], timeout_s=10)).stdout == b"again\n"
        await port.close()

    running(work())
