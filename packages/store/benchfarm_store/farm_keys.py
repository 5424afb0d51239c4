"""The farm's own keys: made when the first is needed, kept here as those of bundles are, and never shown."""

import secrets
from typing import Final, NamedTuple

from sqlalchemy import text

from benchfarm_core import ed25519
from benchfarm_core.exports import FarmKey, FarmKeys
from benchfarm_store.database import Transaction

_PREFIX: Final = "key_"


class SigningKey(NamedTuple):
    """What signs now; `row_id` is its row."""

    row_id: int
    id: str
    secret: bytes

    def sign(self, message: bytes) -> bytes:
        """The signature over a message."""
        return ed25519.sign(self.secret, message)


def signing_key(tx: Transaction) -> SigningKey:
    """The key that signs now; the first time one is made. Two who come at once get the same."""
    row = tx.execute(_ACTIVE).one_or_none()
    if row is None:
        secret = secrets.token_bytes(ed25519.KEY_BYTES)
        made = {
            "public_id": _PREFIX + secrets.token_hex(8),
            "secret": secret.hex(),
            "public_key": ed25519.public_key(secret).hex(),
            "now": tx.now,
        }
        tx.execute(_MAKE, made)
        row = tx.execute(_ACTIVE).one()
    return SigningKey(row.id, row.public_id, bytes.fromhex(row.secret))


_ACTIVE = text("SELECT id, public_id, secret FROM farm_keys WHERE is_active")
_MAKE = text("""
    INSERT INTO farm_keys (public_id, created_at, is_active, secret, public_key)
    VALUES (:public_id, :now, true, :secret, :public_key)
    ON CONFLICT (is_active) WHERE is_active DO NOTHING
""")


def list_keys(tx: Transaction) -> FarmKeys:
    """The public half of all keys."""
    rows = tx.execute(_KEYS)
    return FarmKeys(
        keys=[
            FarmKey(
                id=row.public_id,
                algorithm="ed25519",
                public_key=row.public_key,
                is_active=row.is_active,
                created_at=row.created_at,
            )
            for row in rows
        ]
    )


_KEYS = text("SELECT public_id, public_key, is_active, created_at FROM farm_keys ORDER BY id DESC")
