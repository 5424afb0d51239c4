"""The first tokens of a farm, written where its operator and its first agent look for them."""

import os
import secrets
from pathlib import Path
from typing import Final

from sqlalchemy import select

from benchfarm_core.access import Role
from benchfarm_core.accounts import AccountRequest, EnrolTokenRequest
from benchfarm_core.errors import Unauthenticated
from benchfarm_store import accounts, tokens
from benchfarm_store.database import Transaction
from benchfarm_store.encodings import account_number
from benchfarm_store.tables import accounts as account_rows
from benchfarm_store.tables import enrol_tokens
from benchfarm_store.tables import tokens as token_rows

FIRST_ACCOUNT: Final = "admin"
ENROL_LIFE_S: Final = 30 * 86_400


def bootstrap(tx: Transaction, *, admin_token_file: Path, enrol_token_file: Path) -> None:
    """An admin token and a one-time enrolment token in files of mode 0600; what is still good is kept.

    The files are written before the commit: a token whose commit failed is replaced the next time.
    """
    account = _first_account(tx)
    if not _is_good_admin(tx, _read(admin_token_file)):
        token, _ = tokens.issue(tx, account, Role.ADMIN, name="bootstrap")
        write_secret(admin_token_file, token)
    if not _is_good_enrol(tx, _read(enrol_token_file)):
        request = EnrolTokenRequest(expires_in_s=ENROL_LIFE_S)
        write_secret(enrol_token_file, tokens.issue_enrol_token(tx, account, request).token)


def write_secret(path: Path, text: str) -> None:
    """Write a file of mode 0600, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:  # boundary: whatever ended the writing, the half-written secret goes with it
        temporary.unlink(missing_ok=True)
        raise


def _first_account(tx: Transaction) -> int:
    statement = select(account_rows.c.id).where(account_rows.c.name == FIRST_ACCOUNT)
    known = tx.execute(statement).scalar_one_or_none()
    if known is not None:
        return int(known)
    return account_number(accounts.create_account(tx, AccountRequest(name=FIRST_ACCOUNT)).id)


def _read(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def _is_good_admin(tx: Transaction, token: str) -> bool:
    try:
        return bool(token) and tokens.authenticate(tx, token).role == Role.ADMIN
    except Unauthenticated:
        return False


def _is_good_enrol(tx: Transaction, token: str) -> bool:
    """Used up is good too once its agent has spoken; one that never did may not have got the answer."""
    statement = select(enrol_tokens).where(enrol_tokens.c.hash == tokens.token_hash(token))
    row = tx.execute(statement).one_or_none() if token else None
    if row is None:
        return False
    return row.expires_at > tx.now if row.used_at is None else _has_spoken(tx, row.agent_id)


def _has_spoken(tx: Transaction, agent_id: str) -> bool:
    of_agent = (token_rows.c.agent_id == agent_id) & token_rows.c.last_used_at.is_not(None)
    return tx.execute(select(token_rows.c.id).where(of_agent).limit(1)).one_or_none() is not None
