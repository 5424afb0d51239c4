"""Connections and transactions: commit first, then tell others."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, CursorResult, Engine, Executable, RootTransaction, create_engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from benchfarm_core.errors import BenchfarmError, Unavailable
from benchfarm_core.messages import Message

log = logging.getLogger(__name__)

STATEMENT_TIMEOUT_MS: Final = 30_000
LOCK_TIMEOUT_MS: Final = 10_000
IDLE_TIMEOUT_MS: Final = 60_000

_DISK_FULL: Final = "53100"
_TRY_AGAIN: Final = {
    "40001": "two transactions met",
    "40P01": "two transactions met",
    "53300": "the database has no free connection",
    "55P03": "a lock was not free in time",
    "57014": "the database took too long",
    "57P01": "the database is shutting down",
    "57P02": "the database is restarting",
    "57P03": "the database is starting",
}

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Prepared(NamedTuple):
    """A statement that each connection plans once: for the few that must answer within milliseconds.

    `sql` holds $1, $2, ... of the Postgres types `types`.
    """

    name: str
    types: str
    sql: str


class Transaction:
    """One transaction. `now` is Postgres' clock at its beginning: the only time that rules see."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self.connection = connection
        self.now = now
        self._queued: dict[Message, None] = {}

    def execute(self, statement: Executable, params: Parameters | None = None) -> CursorResult[Any]:
        """Run one statement; a sequence of parameters makes a bulk insert."""
        return self.connection.execute(statement, params)

    def execute_prepared(self, statement: Prepared, *values: object) -> CursorResult[Any]:
        """Run a prepared statement, preparing it where this connection has not yet."""
        known: set[str] = self.connection.info.setdefault("prepared", set())
        if statement.name not in known:
            self.connection.exec_driver_sql(f"PREPARE {statement.name} ({statement.types}) AS {statement.sql}")
            known.add(statement.name)
        places = ", ".join(["%s"] * len(values))
        return self.connection.exec_driver_sql(f"EXECUTE {statement.name} ({places})", values)

    def allow_loss(self) -> None:
        """The commit need not wait for the disk: what this transaction writes may be lost when Postgres crashes."""
        self.connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")

    def after_commit(self, message: Message) -> None:
        """Send a message once the commit has succeeded; the same one is sent once."""
        self._queued[message] = None

    @property
    def messages(self) -> list[Message]:
        """What is sent once the commit has succeeded, in order."""
        return list(self._queued)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what happens inside when it raises; locks taken inside are given back too."""
        kept = dict(self._queued)
        try:
            with self.connection.begin_nested():
                yield
        except BaseException:  # boundary: whatever undid the savepoint, its messages are undone with it
            self._queued = kept
            raise


class Database:
    """A pool of connections to one Postgres."""

    def __init__(
        self,
        url: str,
        *,
        on_commit: Callable[[Sequence[Message]], None] | None = None,
        pool_size: int = 10,
    ) -> None:
        self._on_commit = on_commit
        self._engine = create_database_engine(url, pool_size=pool_size)

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Transaction]:
        """Commit at exit, roll back on any error; messages go out after the commit, best effort.

        Raises Unavailable when Postgres is away, out of room, or asks to try again.
        """
        with _translated():
            tx, commit = self._begin(read_only)
            with closing(tx.connection), commit:
                yield tx
        if tx.messages and self._on_commit is not None:
            self._tell(self._on_commit, tx.messages)

    def ping(self) -> None:
        """One round trip. Raises Unavailable."""
        with self.transaction(read_only=True):
            pass

    def dispose(self) -> None:
        """Close every connection of the pool."""
        self._engine.dispose()

    def _begin(self, read_only: bool) -> tuple[Transaction, RootTransaction]:
        """The first statement also finds out whether a pooled connection has died: it is replaced once."""
        try:
            return self._begin_once(read_only)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return self._begin_once(read_only)

    def _begin_once(self, read_only: bool) -> tuple[Transaction, RootTransaction]:
        connection = self._engine.connect()
        try:
            if read_only:
                connection.execution_options(postgresql_readonly=True)
            commit = connection.begin()
            return Transaction(connection, connection.exec_driver_sql(_NOW).scalar_one()), commit
        except BaseException:  # boundary: whatever went wrong, the connection goes back
            connection.close()
            raise

    def _tell(self, on_commit: Callable[[Sequence[Message]], None], messages: Sequence[Message]) -> None:
        try:
            on_commit(messages)
        except Exception:  # boundary: the commit stands; the sweep sends again what is lost here
            log.warning("messages after commit were not sent", exc_info=True)


_NOW: Final = "SELECT clock_timestamp()"


def create_database_engine(url: str, *, pool_size: int = 1) -> Engine:
    """An engine for `postgresql+psycopg2` URLs (`postgresql://` is taken too), all timeouts set."""
    address = make_url(url)
    if address.drivername in ("postgresql", "postgres"):
        address = address.set(drivername="postgresql+psycopg2")
    # One plan fits all values of the few prepared statements: planning them anew costs more than running them.
    options = (
        f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS}"
        f" -c idle_in_transaction_session_timeout={IDLE_TIMEOUT_MS} -c timezone=UTC -c jit=off -c random_page_cost=1.1"
        " -c plan_cache_mode=force_generic_plan"
    )
    return create_engine(
        address,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        executemany_mode="values_plus_batch",
        insertmanyvalues_page_size=2000,
        connect_args={"options": options, "connect_timeout": 5, "application_name": "benchfarm"},
    )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except BenchfarmError:
        raise
    except PoolTimeout as error:
        raise Unavailable("all database connections are in use; try again shortly") from error
    except DBAPIError as error:
        unavailable = _unavailable(error)
        if unavailable is None:
            raise
        raise unavailable from error


def _unavailable(error: DBAPIError) -> Unavailable | None:
    state: str | None = getattr(error.orig, "pgcode", None)
    if state == _DISK_FULL:
        return Unavailable("the database has no room left", code="disk_full")
    if error.connection_invalidated or (state is None and _is_connection_error(error)):
        return Unavailable("the database is away; try again shortly")
    return Unavailable(f"{_TRY_AGAIN[state]}; try again shortly") if state in _TRY_AGAIN else None


def _is_connection_error(error: DBAPIError) -> bool:
    return type(error.orig).__name__ in ("OperationalError", "InterfaceError")
