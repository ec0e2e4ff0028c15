"""Group commit: every write of a process passes here, many to a transaction.

While one transaction is on its way the next batch forms by itself; when idle a write goes at
once. That is where the throughput comes from: a commit costs one fsync, whatever it holds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import DBAPIError, InterfaceError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from longshore_store.dialects import Connection, Dialect
from longshore_store.model import StoreFull, StoreUnavailable

_log = logging.getLogger(__name__)

MAX_ROWS = 8192
MAX_PENDING_ROWS = 200_000
BULK_OF_A_ROW = 4096  # characters of bodies that count as one more row
URGENT = frozenset({"lead", "resign"})
"""Kinds that pass every other write, however many wait: a leader must not lose its term behind a
backlog of writes of its own process."""


class KeyTaken(Exception):
    """A row that should be new is there already: the batch is repeated, looking first."""


@dataclass(slots=True, eq=False)
class Write:
    """One caller's request: rows for one handler, and where the answer goes.

    weight: how many rows it counts for; large bodies count as more.
    """

    kind: str
    rows: Sequence[Any]
    term: int | None
    weight: int
    done: asyncio.Future[Any]
    options: dict[str, Any] = field(default_factory=dict)
    answer: Any = None
    error: BaseException | None = None


def rows_of(writes: Sequence[Write]) -> Sequence[Any]:
    """The rows of all writes, in order."""
    return writes[0].rows if len(writes) == 1 else [row for w in writes for row in w.rows]


@dataclass(slots=True)
class Transaction:
    """What handlers share: the connection, one time for all, and what listeners are told.

    look_first: find rows that exist before inserting, because an earlier try met one.
    """

    connection: Connection
    now_us: int
    look_first: bool
    changed: list[str]

    def stamp(self) -> int:
        """A number that marks the rows of one transition. Unlike any mark a row carries."""
        return random.getrandbits(62)


Apply = Callable[[Transaction, list[Write]], Awaitable[None]]


class Committer:
    """Takes writes, forms batches, commits them, answers.

    Args:
        dialect: whose writer runs the transactions.
        apply: runs the writes of a batch in a transaction and sets `answer` or `error` of each.
        clock: the store's time in microseconds.
        committed: told the ids of jobs that a commit changed.
    """

    def __init__(
        self,
        dialect: Dialect,
        apply: Apply,
        clock: Callable[[], int],
        committed: Callable[[list[str]], None],
    ) -> None:
        self._dialect = dialect
        self._apply = apply
        self._clock = clock
        self._committed = committed
        self._urgent: list[Write] = []
        self._pending: list[Write] = []
        self._pending_rows = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="store-committer")

    async def write(
        self,
        kind: str,
        rows: Sequence[Any],
        term: int | None = None,
        *,
        bulk: int = 0,
        **options: Any,
    ) -> Any:
        """Commits rows, with so many characters of bodies, and returns the handler's answer.

        Raises:
            StoreUnavailable: the database did not take it, or too much waits already.
        """
        if self._closing:
            raise StoreUnavailable("the store is closing")
        weight = max(1, len(rows)) + bulk // BULK_OF_A_ROW
        done = asyncio.get_running_loop().create_future()
        write = Write(kind, rows, term, weight, done, options)
        if kind in URGENT:
            self._urgent.append(write)
        elif self._pending_rows + write.weight > MAX_PENDING_ROWS:
            raise StoreUnavailable(f"{self._pending_rows} rows wait to be written already")
        else:
            self._pending.append(write)
            self._pending_rows += write.weight
        self._wake.set()
        return await write.done

    async def close(self) -> None:
        """Commits what waits, then stops."""
        self._closing = True
        self._wake.set()
        await self._task

    async def _run(self) -> None:
        while self._urgent or self._pending or not self._closing:
            if not (self._urgent or self._pending):
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._commit(self._take())

    def _take(self) -> list[Write]:
        if self._urgent:
            batch, self._urgent = self._urgent, []
            return batch
        rows = count = 0
        for write in self._pending:
            if count and rows + write.weight > MAX_ROWS:
                break
            rows += write.weight
            count += 1
        batch, self._pending = self._pending[:count], self._pending[count:]
        self._pending_rows -= rows
        return batch

    async def _commit(self, batch: list[Write]) -> None:
        try:
            changed = await self._transact(batch)
        except StoreUnavailable as error:
            _fail(batch, error)
        except Exception as error:  # noqa: BLE001  # whatever it is, its caller is told
            if len(batch) == 1:
                _fail(batch, _outward(error))
                return
            # One of them cannot be written; alone, the others still can.
            for write in batch:
                await self._commit([write])
        else:
            for write in batch:
                _answer(write)
            self._tell(changed)

    def _tell(self, changed: list[str]) -> None:
        try:
            self._committed(changed)
        except Exception:  # noqa: BLE001  # the writes stand, and their callers are answered
            _log.exception("a listener of the store failed")

    async def _transact(self, batch: list[Write]) -> list[str]:
        """Commits a batch and returns the ids of changed jobs."""
        look_first = False
        for last in (False, False, False, True):
            try:
                return await self._attempt(batch, look_first)
            except (KeyTaken, SQLAlchemyError, OSError, TimeoutError) as error:
                if last or not _repeatable(error):
                    raise unavailable(error) from error
                look_first = look_first or isinstance(error, KeyTaken)
        raise AssertionError("the last try returns or raises")

    async def _attempt(self, batch: list[Write], look_first: bool) -> list[str]:
        for write in batch:
            write.answer = write.error = None
        changed: list[str] = []

        async def work(connection: Connection) -> None:
            await self._apply(Transaction(connection, self._clock(), look_first, changed), batch)

        await self._dialect.transact(work)
        return changed


def _answer(write: Write) -> None:
    if write.done.done():  # its caller was cancelled; the write stands
        return
    if write.error is not None:
        write.done.set_exception(write.error)
    else:
        write.done.set_result(write.answer)


def _fail(batch: list[Write], error: BaseException) -> None:
    for write in batch:
        if not write.done.done():
            write.done.set_exception(error)


def _repeatable(error: Exception) -> bool:
    """Another writer was in the way: the same batch may go through now."""
    return isinstance(error, KeyTaken) or _sqlstate(error).startswith("40")


def _outward(error: Exception) -> Exception:
    if _repeatable(error):
        return StoreUnavailable("other writers keep changing the same rows; try again")
    return error


def unavailable(error: Exception) -> Exception:
    """StoreUnavailable where the database is away, slow or full; else the error itself."""
    if _is_full(error):
        return StoreFull(_summary(error))
    return StoreUnavailable(_summary(error)) if _is_outage(error) else error


def _is_full(error: BaseException) -> bool:
    name = getattr(getattr(error, "orig", None), "sqlite_errorname", "")
    return name in _FULL_NAMES or _sqlstate(error) == _FULL_STATE


def _is_outage(error: BaseException) -> bool:
    # As against a statement that the database refuses.
    if isinstance(error, (PoolTimeout, OSError, TimeoutError)):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    if state := _sqlstate(error):
        return state.startswith(_OUTAGE_STATES)
    cause = error.orig.__cause__ if error.orig else None
    if isinstance(cause, ValueError):  # a driver that cannot encode a parameter, and quotes it
        return False
    text = str(error.orig).lower()
    return isinstance(error, InterfaceError) or any(sign in text for sign in _OUTAGE_SIGNS)


def _sqlstate(error: BaseException) -> str:
    return getattr(getattr(error, "orig", None), "sqlstate", None) or ""


# Connection, credentials, no such database, serialization and deadlock, resources, operator
# intervention, input and output; a server that became a read-only standby; a lock that was not
# given in time.
_OUTAGE_STATES = ("08", "28", "3D", "40", "53", "57", "58", "25006", "55P03")
# A write that the kernel refuses for another reason than no space: a quota, or a limit of files.
_FULL_NAMES = ("SQLITE_FULL", "SQLITE_IOERR_WRITE")
_FULL_STATE = "53100"
# Of databases that give no state.
_OUTAGE_SIGNS = (
    "disk is full",
    "disk i/o error",
    "database is locked",
    "connection",
    "timeout",
    "unable to open",
    "interrupted",
)


def _summary(error: Exception) -> str:
    """One line without the statement: its parameters are the callers' data."""
    cause = getattr(error, "orig", None) or error
    first = str(cause).partition("\n")[0][:200]
    return f"the store did not answer: {type(cause).__name__}: {first}"
