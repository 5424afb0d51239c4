"""Which board models are called otherwise here, for whoever meets an old name."""

from typing import Final

from sqlalchemy import text

from benchfarm_store.database import Transaction

LOCK: Final = 0x6D657267
"""The advisory lock between a merge and those who write what they read of board models."""


def hold(tx: Transaction) -> None:
    """No merge begins before this transaction has ended; waits for one that goes on. Take it before boards are held."""
    tx.execute(text("SELECT pg_advisory_xact_lock_shared(:lock)"), {"lock": LOCK})


def hold_alone(tx: Transaction) -> None:
    """Nobody writes what he read of board models, and no other merge begins, before this transaction has ended."""
    tx.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


def find_merges(tx: Transaction) -> dict[str, str]:
    """The present name of each board model that was merged into another."""
    return {row.board_model: row.merged_into for row in tx.execute(_MERGES)}


def present_key(merges: dict[str, str], key: str) -> str:
    """A platform's key with its board model's present name; other texts stay as they are."""
    model, slash, rest = key.partition("/")
    return f"{merges[model]}/{rest}" if slash and model in merges else key


_MERGES = text("SELECT board_model, merged_into FROM board_model_merges")
