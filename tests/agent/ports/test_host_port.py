"""The port to the agent's own machine, where it differs from a connection."""

import asyncio
from pathlib import Path

from benchfarm_agent.ports.channel import Said
from benchfarm_agent.ports.host_port import HostPort


def test_who_goes_on_writing_ends_with_its_channel(running, tmp_path: Path) -> None:
    """As at the end of a connection: nobody reads any more, and a full pipe would hold it for good."""

    async def work() -> int:
        port = HostPort(tmp_path)
        channel = await port._open("exec yes")
        assert isinstance(await channel.hear(), Said)
        channel.close()
        returncode = await asyncio.wait_for(channel._process.wait(), 5)
        await port.close()
        return returncode

    assert running(work()) != 0


def test_commands_see_their_own_environment_alone(running, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("A_TOKEN", "secret")

    async def work() -> bytes:
        port = HostPort(tmp_path)
        ran = await port.run(["sh", "-c", "env; pwd"], timeout_s=10)
        await port.close()
        return ran.stdout

    said = running(work())
    assert b"secret" not in said
    assert said.splitlines()[-1] == str(tmp_path).encode()
