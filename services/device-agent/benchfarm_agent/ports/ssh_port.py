"""Linux boards behind an SSH server: one connection for all commands, made when needed and again after a loss."""

import asyncio
import logging
import signal
from typing import Final

import asyncssh

from benchfarm_agent.ports.channel import Channel, Said
from benchfarm_agent.ports.interface import BoardUnreachable, KeyRefused
from benchfarm_agent.ports.shell_port import ShellPort
from benchfarm_agent.ports.ssh_target import SshTarget
from benchfarm_agent.ports.ssh_trust import (
    HostKey,
    host_key_of,
    known_hosts,
    offered_host_key,
    refusal,
    trusted_host_keys,
)

CONNECT_S: Final = 10.0
KEEPALIVE_S: Final = 5.0
KEEPALIVES_MAX: Final = 3
"""A board that has not answered so many in a row is gone."""
QUEUE_MAX: Final = 64
"""Portions that wait to be heard before the board has to wait."""

logging.getLogger("asyncssh").setLevel(logging.WARNING)  # it tells of each connection and each command


class SshPort(ShellPort):
    """One board over SSH, with a key file alone: no password, no agent, no forwarding, no configuration of the user."""

    def __init__(self, target: SshTarget) -> None:
        super().__init__(target.address)
        self._target = target
        self._client: _Client | None = None
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        await super().close()
        if self._client is not None and self._client.connection is not None:
            self._client.connection.abort()
        self._client = None

    async def _open(self, command: str) -> Channel:
        try:
            return await self._begin(command)
        except asyncssh.ChannelOpenError as error:
            # either refused, or the connection had died unnoticed: nothing has begun on it
            if self._client is not None and self._client.connection is not None:
                raise BoardUnreachable(f"{self.name} does not run a command: {error}") from error
        try:
            return await self._begin(command)
        except asyncssh.ChannelOpenError as error:
            raise BoardUnreachable(f"{self.name} does not run a command: {error}") from error

    async def _begin(self, command: str) -> Channel:
        """Raises asyncssh.ChannelOpenError, BoardUnreachable."""
        connection = await self._connection()
        session = _Session()
        try:
            channel, _ = await connection.create_session(lambda: session, command, encoding=None)
        except asyncssh.ChannelOpenError:
            raise
        except (asyncssh.Error, OSError) as error:
            raise BoardUnreachable(f"{self.name} does not run a command: {error}") from error
        except asyncio.CancelledError:  # it may run already, with nobody to end it
            session.abort()
            raise
        return SshChannel(channel, session, self.name)

    async def _connection(self) -> asyncssh.SSHClientConnection:
        async with self._connecting:
            if self._client is None or self._client.connection is None:
                self._client = await self._connect()
            if self._client.connection is None:
                raise BoardUnreachable(f"{self.name} closed the connection")
            return self._client.connection

    async def _connect(self) -> "_Client":
        client = _Client()
        try:
            await asyncssh.create_connection(lambda: client, self._target.host, self._target.port, **self._options())
        except asyncssh.HostKeyNotVerifiable as error:
            raise await self._refusal(client) from error
        except asyncssh.KeyExchangeFailed as error:
            # asked for the kinds of key that it is known by, it has none of them
            raise (await self._refusal(client) if trusted_host_keys(self._target) else self._away(error)) from error
        except asyncssh.PermissionDenied as error:
            detail = f"{self.name} does not let {self._target.user} in with the key {self._target.key_file}: put its "
            raise KeyRefused(f"{detail}public half into the board's ~/.ssh/authorized_keys") from error
        except (asyncssh.Error, asyncssh.KeyImportError, OSError) as error:
            raise self._away(error) from error
        return client

    def _options(self) -> "dict[str, object]":
        return {
            "config": None,
            "known_hosts": known_hosts(self._target),
            "username": self._target.user,
            "client_keys": [str(self._target.key_file)],
            "agent_path": None,
            "preferred_auth": ("publickey",),
            "password_auth": False,
            "kbdint_auth": False,
            "host_based_auth": False,
            "gss_auth": False,
            "gss_kex": False,
            "connect_timeout": CONNECT_S,
            "login_timeout": CONNECT_S,
            "keepalive_interval": KEEPALIVE_S,
            "keepalive_count_max": KEEPALIVES_MAX,
        }

    async def _refusal(self, client: "_Client") -> BoardUnreachable:
        return refusal(self._target, client.shown or await offered_host_key(self._target))

    def _away(self, error: Exception) -> BoardUnreachable:
        return BoardUnreachable(f"{self.name} cannot be reached: {str(error) or type(error).__name__}")


class SshChannel:
    """A command on a board; see `Channel`."""

    def __init__(self, channel: "asyncssh.SSHClientChannel[bytes]", session: "_Session", name: str) -> None:
        self._channel = channel
        self._session = session
        self._name = name
        self._has_ended_input = False

    async def send(self, data: bytes) -> None:
        try:
            self._channel.write(data)
        except (asyncssh.Error, OSError) as error:
            raise self._gone() from error
        await self._session.may_write.wait()

    async def end_input(self) -> None:
        if not self._has_ended_input:
            self._has_ended_input = True
            try:
                self._channel.write_eof()
            except (asyncssh.Error, OSError) as error:
                raise self._gone() from error

    async def hear(self) -> Said | int:
        said = await self._session.heard.get()
        if self._session.heard.qsize() < QUEUE_MAX // 2:
            self._session.go_on()
        if said is None:
            self._session.heard.put_nowait(None)
            raise self._gone()
        return said

    def close(self) -> None:
        self._channel.abort()

    def _gone(self) -> BoardUnreachable:
        return BoardUnreachable(f"{self._name} went away")


class _Client(asyncssh.SSHClient):
    """Notes which key was shown and whether the connection still stands."""

    def __init__(self) -> None:
        self.connection: asyncssh.SSHClientConnection | None = None
        self.shown: HostKey | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self.connection = conn

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # the channels tell
        self.connection = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Asked about keys that the known-hosts file does not have."""
        del host, addr, port
        self.shown = host_key_of(key)
        return False


class _Session(asyncssh.SSHClientSession[bytes]):
    """Puts what a command says into a queue: portions, then the return code, or None when it was lost."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Said | int | None] = asyncio.Queue()
        self.may_write = asyncio.Event()
        self.may_write.set()
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._returncode: int | None = None
        self._is_paused = False

    def connection_made(self, chan: "asyncssh.SSHClientChannel[bytes]") -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self.heard.put_nowait(Said("stderr" if datatype == asyncssh.EXTENDED_DATA_STDERR else "stdout", data))
        if self.heard.qsize() >= QUEUE_MAX and not self._is_paused and self._channel is not None:
            self._is_paused = True
            self._channel.pause_reading()

    def abort(self) -> None:
        """Ends the channel if there is one yet."""
        if self._channel is not None:
            self._channel.abort()

    def go_on(self) -> None:
        """The queue has room again."""
        if self._is_paused and self._channel is not None:
            self._is_paused = False
            self._channel.resume_reading()

    def eof_received(self) -> bool:
        return True  # its return code is still to come

    def exit_status_received(self, status: int) -> None:
        self._returncode = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        del core_dumped, msg, lang
        self._returncode = 128 + _signal_number(signal)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # without a return code it was lost, whatever the reason
        self.may_write.set()
        self.heard.put_nowait(self._returncode)

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()


def _signal_number(name: str) -> int:
    return getattr(signal, f"SIG{name}", signal.SIGKILL).value
