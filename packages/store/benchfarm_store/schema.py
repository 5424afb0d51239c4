"""What the table modules share: the metadata and the shorthands of columns. Private, as `tables` is."""

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Integer,
    MetaData,
    SmallInteger,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ZERO = text("0")
EMPTY = text("''")


def at(name: str, *, nullable: bool = False) -> Column[Any]:
    """A moment."""
    return Column(name, DateTime(timezone=True), nullable=nullable)


def one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    """The check that a text column holds one of the values."""
    names = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({names})", name=column)


def text_or_empty(name: str) -> Column[Any]:
    """A text that is empty where nothing was said."""
    return Column(name, Text, nullable=False, server_default=EMPTY)


def count(name: str, kind: type[Integer | BigInteger | SmallInteger | Double[float]] = Integer) -> Column[Any]:
    """A number that starts at zero."""
    return Column(name, kind, nullable=False, server_default=ZERO)
