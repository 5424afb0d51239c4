"""Who the agent is for its farm: an id and a token, got once for a one-time enrolment token."""

from pathlib import Path

from pydantic import SecretStr

from benchfarm_agent import VERSION
from benchfarm_agent.farm_client import FarmClient
from benchfarm_agent.files import write_whole
from benchfarm_agent.settings import Settings
from benchfarm_core.agent_protocol import PROTOCOL_VERSION, EnrolRequest
from benchfarm_core.errors import Unauthenticated
from benchfarm_core.token_files import check_mode, token_in, unreadable
from benchfarm_core.values import Value


class Identity(Value):
    """What the farm knows this agent by. The token is a secret: never logged, never inherited by a child."""

    agent_id: str
    token: str


async def identify(farm: FarmClient, path: Path, settings: Settings) -> Identity:
    """The stored identity, else a new one.

    Raises Unauthenticated when there is neither it nor a way to get it, InvalidRequest when the way named is none.
    """
    known = _stored(path)
    if known is not None:
        return known
    token = _enrol_token(settings)
    if token is None:
        raise Unauthenticated("this agent is not enrolled: give --enrol-token-file with a one-time token")
    answer = await farm.enrol(
        EnrolRequest(
            enrol_token=token.get_secret_value(),
            name=settings.name,
            agent_version=VERSION,
            protocol_version=PROTOCOL_VERSION,
        )
    )
    identity = Identity(agent_id=answer.agent_id, token=answer.token)
    write_whole(path, identity.model_dump_json().encode())
    return identity


def _stored(path: Path) -> Identity | None:
    return Identity.model_validate_json(path.read_bytes()) if path.exists() else None


def _enrol_token(settings: Settings) -> SecretStr | None:
    if settings.enrol_token is not None:
        return settings.enrol_token
    if settings.enrol_token_file is None:
        return None
    return SecretStr(read_enrol_token(settings.enrol_token_file))


def read_enrol_token(path: Path) -> str:
    """The token in a file. Raises InvalidRequest when there is none."""
    try:
        check_mode(path, path.stat().st_mode, field="enrol_token_file")
        with path.open("rb") as file:
            return token_in(file, path, field="enrol_token_file")
    except OSError as error:
        raise unreadable(path, error.strerror or str(error), field="enrol_token_file") from error
