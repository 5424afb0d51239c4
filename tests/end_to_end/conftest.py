"""What labs of a real farm share; a test file says by its own `client` which farm that is."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchfarm import Client
from tests.agent.agent_process import AgentProcess


@pytest.fixture
def start(client: Client, tmp_path: Path) -> Iterator[Callable[[str], AgentProcess]]:
    """Starts an agent with the lab's file of a text; it is ready, and drained in the end."""
    tmp_path.chmod(0o711)
    agent = AgentProcess(client.url, tmp_path / "state", tmp_path / "agent.log")

    def start(text: str) -> AgentProcess:
        (tmp_path / "boards.toml").write_text(text)
        (tmp_path / "enrol").write_text(client.create_enrol_token().token)
        agent.start("--enrol-token-file", str(tmp_path / "enrol"), "--boards", str(tmp_path / "boards.toml"))
        agent.wait_ready()
        return agent

    yield start
    if agent.process is not None:
        agent.signal(signal.SIGTERM)
        assert agent.wait_ended() == 0, agent.said()
