"""Link: the two connections to Redis, with a deadline on everything. The only module to know it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from longshore_store.bus import BusRefused
from longshore_store.bus.outbox import Sending

OPENING = 1.8
ROUND_TRIP = 1.0
CLOSING = 0.2
PING_AFTER = 1.0
UNANSWERED = 2
"""Pings without an answer before a connection counts as dead: 3 s in all."""


_OURS: dict[str, Any] = {
    "protocol": 2,
    "decode_responses": False,
    "retry": Retry(NoBackoff(), 0),  # trying again is the bus's, with its circuit
    "socket_timeout": ROUND_TRIP,
    "socket_connect_timeout": ROUND_TRIP,
}
"""What an address cannot change."""


class LinkLost(Exception):
    """Redis is away, or as good as that."""


class Address:
    """A URL of Redis, taken apart; as text it has no password.

    Raises:
        BusRefused: it is none.
    """

    def __init__(self, url: str) -> None:
        remedy = "give redis://[USER:PASSWORD@]HOST:PORT, rediss:// for TLS, or unix://PATH"
        try:
            parts: dict[str, Any] = dict(parse_url(url))
            self._pool = ConnectionPool.from_url(url, **_OURS)
            self._pool.connection_kwargs.update(_OURS)  # where the address says otherwise
            self.connection()
        except (ValueError, TypeError, RedisError):
            # Their texts may hold the password, so they are no cause either.
            raise BusRefused(f"the address of Redis cannot be read: {remedy}") from None
        path = parts.get("path")
        self.place = path or f"{parts.get('host', 'localhost')}:{parts.get('port', 6379)}"
        self.user = str(parts.get("username") or "default")

    def connection(self) -> AbstractConnection:
        """A new one, not connected."""
        make: Callable[[], AbstractConnection] = self._pool.make_connection
        return make()

    def refusal(self, error: RedisError) -> BusRefused:
        """What to say of an answer that will be the same the next time."""
        return BusRefused(
            f"Redis at {self.place} refuses user {self.user!r} ({_line(error)}): correct user and"
            " password in its address, or let the user PUBLISH and SUBSCRIBE to longshore:*"
        )


class Link:
    """One connection that publishes and one that listens; they live and die together.

    Every method but `close` raises LinkLost where Redis does not answer in time.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._out = address.connection()
        self._in = address.connection()
        self._subscribed: set[str] = set()
        self._pings = 0

    async def open(self, channels: Sequence[str], hello: Sending) -> None:
        """Connects, subscribes and publishes a first message, so that it is known to work.

        Raises:
            BusRefused: the credentials do not suffice.
        """
        try:
            async with asyncio.timeout(OPENING):
                for connection in (self._out, self._in):
                    connect: Callable[[], Awaitable[None]] = connection.connect
                    await connect()
                await self.subscribe(channels)
                for _ in channels:
                    await self._in.read_response()
                await self._exchange([hello])
        except (AuthenticationError, ResponseError) as error:
            raise self._address.refusal(error) from error
        except (RedisError, OSError, TimeoutError) as error:
            raise self._lost(error) from error

    async def subscribe(self, channels: Iterable[str]) -> None:
        """Listens to these, too."""
        new = [channel for channel in channels if channel not in self._subscribed]
        if not new:
            return
        self._subscribed.update(new)
        try:
            await self._in.send_command("SUBSCRIBE", *new)
        except (RedisError, OSError, TimeoutError) as error:
            raise self._lost(error) from error

    async def publish(self, messages: Sequence[Sending]) -> None:
        """All in one round trip."""
        try:
            async with asyncio.timeout(ROUND_TRIP):
                await self._exchange(messages)
        except (RedisError, OSError, TimeoutError) as error:
            raise self._lost(error) from error

    async def _exchange(self, messages: Sequence[Sending]) -> None:
        commands = [("PUBLISH", *message) for message in messages]
        await self._out.send_packed_command(self._out.pack_commands(commands))
        for _ in messages:
            await self._out.read_response()

    async def hear(self) -> bytes | None:
        """The next message, or None now and then. A Redis that hangs answers no ping."""
        try:
            reply = await self._in.read_response(timeout=PING_AFTER, disconnect_on_error=False)
            if reply is None:
                if self._pings >= UNANSWERED:
                    raise TimeoutError(f"{self._pings} pings were left unanswered")
                self._pings += 1
                await self._in.send_command("PING")
        except (RedisError, OSError, TimeoutError) as error:
            raise self._lost(error) from error
        if reply is None:
            return None
        self._pings = 0
        return reply[2] if reply[0] == b"message" else None

    async def close(self) -> None:
        """Hangs up, whatever state it is in."""
        for connection in (self._out, self._in):
            try:
                async with asyncio.timeout(CLOSING):
                    await connection.disconnect(nowait=True)
            except (RedisError, OSError, TimeoutError):
                pass  # it is gone already

    def _lost(self, error: Exception) -> LinkLost:
        reason = _line(error) or "no answer in time"
        return LinkLost(f"Redis at {self._address.place} does not answer: {reason}")


def _line(error: Exception) -> str:
    return str(error).rstrip(".")
