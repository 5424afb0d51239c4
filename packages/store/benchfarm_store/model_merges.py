"""Which board models are called otherwise here, for whoever meets an old name."""

from sqlalchemy import text

from benchfarm_store.database import Transaction


def find_merges(tx: Transaction) -> dict[str, str]:
    """The present name of each board model that was merged into another."""
    return {row.board_model: row.merged_into for row in tx.execute(_MERGES)}


def present_key(merges: dict[str, str], key: str) -> str:
    """A platform's key with its board model's present name; other texts stay as they are."""
    model, slash, rest = key.partition("/")
    return f"{merges[model]}/{rest}" if slash and model in merges else key


_MERGES = text("SELECT board_model, merged_into FROM board_model_merges")
