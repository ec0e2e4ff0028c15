"""The decorator of every handler: typed refusals and surprises become a google.rpc.Status."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, ParamSpec, TypeVar, cast

import grpc
from grpc_status import rpc_status

from longshore_server.decoding import Undecodable
from longshore_server.identity import Context
from longshore_server.refusals import Code, Refusal, cut, unavailable
from longshore_store.model import StoreFull, StoreUnavailable
from longshore_store.telling import without_values

_log = logging.getLogger("longshore.server")
_RETRY_STORE = 1.0
_RETRY_FULL = 5.0
ABORT_TIMEOUT = 1.0
ANSWER_TIME = 0.5  # seconds before a deadline, for the way back
ANSWER_SHARE = 0.1  # or so much of a short one
P = ParamSpec("P")
R = TypeVar("R")


def answers(method: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Wraps a unary handler (self, request, context). CancelledError passes untouched.

    Ends it a little before the deadline of its call: the caller is told to come back, where a
    store that hangs would leave it with DEADLINE_EXCEEDED.
    """

    @functools.wraps(method)
    async def in_time(*args: P.args, **kwargs: P.kwargs) -> R:
        async with asyncio.timeout(_patience(cast(Context, args[2]))):
            return await method(*args, **kwargs)

    return streams(in_time)


def streams(method: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Wraps a handler that writes a stream, which may go on until the deadline of its call."""
    name = getattr(method, "__qualname__", "handler")

    @functools.wraps(method)
    async def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        context = cast(Context, args[2])
        try:
            if isinstance(args[1], Undecodable):
                raise _unreadable(args[1])
            return await method(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  # the last resort: INTERNAL, with an id
            refusal = refusal_of(error, name)
            # Its frames hold the request, and what ends the call holds them until the garbage
            # collector comes: a few large requests that are refused would take a gigabyte.
            error.__traceback__ = None
        del args, kwargs
        return await refuse(context, refusal)

    return answer


def _patience(context: Context) -> float | None:
    """Seconds that a handler may take; None for a call without a deadline."""
    left: float | None = context.time_remaining()  # its stub knows of no call without one
    if not left:  # grpc asks the wall clock: one that has jumped says that the call is over
        return None
    return _less_the_way_back(left)


def waiting_time(context: Context) -> float:
    """Seconds that a handler may wait for something to happen and then still read and answer.

    Waiting for longer would end it as if the store did not answer: see `answers`.
    """
    left = _patience(context)
    return math.inf if left is None else _less_the_way_back(left)


def _less_the_way_back(seconds: float) -> float:
    return seconds - min(ANSWER_TIME, seconds * ANSWER_SHARE)


def refusal_of(error: Exception, where: str) -> Refusal:
    """The refusal that an exception stands for. An abort by grpc itself is raised again."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, StoreFull):
        _log.error("%s: %s", where, error)
        message = (
            "the disk of the store is full: nothing was stored; make room there, then try again"
        )
        return unavailable("STORE_FULL", message, _RETRY_FULL)
    if isinstance(error, StoreUnavailable | TimeoutError):
        _log.warning("%s: the store is unavailable", where)
        message = "the database does not answer: nothing is known to be stored, try again"
        return unavailable("STORE_UNAVAILABLE", message, _RETRY_STORE)
    return _internal(error, where)


def _unreadable(request: Undecodable) -> Refusal:
    remedy = "send strings as UTF-8" if "UTF-8" in request.why else "use the stubs of longshore.v1"
    message = f"the request is not a valid message: {request.why}: {remedy}"
    return Refusal(Code.INVALID_ARGUMENT, "UNREADABLE_REQUEST", cut(message))


def _internal(error: Exception, where: str) -> Refusal:
    error_id = log_surprise(error, where)
    message = f"the server failed: give its operators the error id {error_id}"
    return Refusal(Code.INTERNAL, "INTERNAL", message, metadata={"error_id": error_id})


def log_surprise(error: BaseException, where: str) -> str:
    """Logs an unexpected exception under a new id, and returns the id.

    Only frames and types are logged: the text of an exception may quote a payload.
    """
    error_id = secrets.token_hex(8)
    _log.error("error %s in %s: %s", error_id, where, without_values(error))
    return error_id


async def refuse(context: Context, refusal: Refusal) -> NoReturn:
    """Ends the call with the status of the refusal.

    The status of a stream that is not read waits behind what was written before. grpc sends it
    once the client reads again, or drops it with the connection; the handler does not wait.
    """
    status: Any = rpc_status.to_status(refusal.status())
    try:
        async with asyncio.timeout(ABORT_TIMEOUT):
            await context.abort_with_status(status)
    except TimeoutError:
        # The one exception that grpc.aio takes from a handler as "this call is over".
        raise asyncio.CancelledError from None
