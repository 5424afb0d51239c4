"""Agents: how one enrols and when it was last heard."""

import secrets
from datetime import datetime
from typing import Final

from sqlalchemy import insert, select, text, update

from benchfarm_core.access import Role
from benchfarm_core.accounts import AgentView
from benchfarm_core.agent_protocol import (
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    EnrolAnswer,
    EnrolRequest,
)
from benchfarm_core.errors import Unauthenticated, UpgradeRequired
from benchfarm_core.leases import AGENT_SILENT_S
from benchfarm_store import tokens
from benchfarm_store.database import Transaction
from benchfarm_store.tables import agents, enrol_tokens


def check_version(protocol_version: int) -> None:
    """Raise UpgradeRequired when an agent speaks a version that is not served."""
    if not OLDEST_PROTOCOL_VERSION <= protocol_version <= PROTOCOL_VERSION:
        raise UpgradeRequired(
            f"the farm speaks agent protocol {OLDEST_PROTOCOL_VERSION} to {PROTOCOL_VERSION},"
            f" the agent {protocol_version}; install the agent of the farm's version"
        )


def enrol(tx: Transaction, request: EnrolRequest) -> EnrolAnswer:
    """Trade a one-time token for an agent's own. Raises Unauthenticated (`enrol_token_used`).

    The name that an operator gave with the token goes before the one that the agent gives itself.
    """
    check_version(request.protocol_version)
    statement = select(enrol_tokens).where(enrol_tokens.c.hash == tokens.token_hash(request.enrol_token))
    row = tx.execute(statement.with_for_update()).one_or_none()
    if row is None:
        raise Unauthenticated("the enrolment token is unknown")
    if row.used_at is not None or row.expires_at <= tx.now:
        raise Unauthenticated("the enrolment token was used or has expired", code="enrol_token_used")
    name = row.name or request.name
    agent_id = "a_" + secrets.token_hex(8)
    tx.execute(
        insert(agents).values(
            id=agent_id,
            account_id=row.account_id,
            name=name,
            agent_version=request.agent_version,
            last_heard_at=tx.now,
            created_at=tx.now,
        )
    )
    used = update(enrol_tokens).where(enrol_tokens.c.hash == row.hash).values(used_at=tx.now, agent_id=agent_id)
    tx.execute(used)
    token, _ = tokens.issue(tx, row.account_id, Role.AGENT, name=name, agent_id=agent_id)
    return EnrolAnswer(agent_id=agent_id, token=token)


IS_ONLINE: Final = f"b.state <> 'offline' AND a.last_heard_at > :now - interval '{AGENT_SILENT_S} seconds'"
"""`is_online` of a board `b` and its agent `a`, in SQL."""
HEARD_EVERY_S: Final = 5.0
"""Hearing an agent again within this time writes nothing."""


def was_heard(last_heard_at: datetime | None, now: datetime) -> bool:
    """Whether hearing an agent now would write nothing."""
    return last_heard_at is not None and (now - last_heard_at).total_seconds() < HEARD_EVERY_S


def heard_s(last_heard_at: datetime | None, now: datetime) -> float | None:
    """How long ago an agent was last heard; None where it never was."""
    return None if last_heard_at is None else (now - last_heard_at).total_seconds()


def heard(tx: Transaction, agent_id: str, agent_version: str | None = None) -> None:
    """The agent spoke just now. Never waits: whoever holds the agent's row writes the same."""
    tx.execute(_HEARD, {"now": tx.now, "version": agent_version, "id": agent_id})


_HEARD = text(f"""
    UPDATE agents SET last_heard_at = :now, agent_version = coalesce(:version, agent_version)
    WHERE id = (
        SELECT id FROM agents WHERE id = :id AND (
            last_heard_at IS NULL OR last_heard_at <= :now - interval '{HEARD_EVERY_S} seconds'
            OR agent_version <> :version)
        FOR NO KEY UPDATE SKIP LOCKED)
""")


def list_agents(tx: Transaction) -> list[AgentView]:
    """All agents with the ids of their boards."""
    rows = tx.execute(_AGENTS, {"now": tx.now}).all()
    return [
        AgentView(
            id=row.id,
            name=row.name,
            agent_version=row.agent_version,
            last_heard_at=row.last_heard_at,
            boards=row.boards,
            boards_online=row.online,
        )
        for row in rows
    ]


_AGENTS = text(f"""
    SELECT a.id, a.name, a.agent_version, a.last_heard_at,
        (SELECT count(*) FROM boards b WHERE b.agent_id = a.id AND {IS_ONLINE}) AS online,
        ARRAY(SELECT b.public_id FROM boards b WHERE b.agent_id = a.id ORDER BY b.public_id) AS boards
    FROM agents a ORDER BY a.created_at, a.id
""")
