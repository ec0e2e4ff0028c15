"""One watch of one job, over as many streams as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import grpc
import grpc.aio

from longshore import error_mapping
from longshore.calls import Calls, is_asked_to_end, is_cut
from longshore.errors import LongshoreError, Unavailable
from longshore.v1 import job_service_pb2, watch_pb2

Event = watch_pb2.WatchProgressResponse
Stream = grpc.aio.UnaryStreamCall[job_service_pb2.WatchProgressRequest, Event]

# Three heartbeats of the server: a stream that is silent for longer is dead, whatever TCP says.
SILENCE = 45.0
LONGEST_RECONNECT_DELAY = 30.0
_DURABLE = ("state_change", "log_chunk")
_CONTROL = ("heartbeat", "reconnect")


@dataclass(slots=True)
class Seen:
    """What the reader of a watch has had; decides what of a stream is new.

    Attributes:
        sequence: the cursor to resume from; None asks for a snapshot.
        revision: the newest revision whose progress was shown.
        ended: True after the terminal event.
    """

    sequence: int | None = None
    revision: int = 0
    ended: bool = False
    _gap: Event | None = None

    def admit(self, event: Event) -> list[Event]:
        """The events to pass on, in order; none where it was had before."""
        kind = event.WhichOneof("event")
        if kind == "gap":
            # Held until its snapshot is here: cut between the two, both would come again.
            self._gap = event
            return []
        if not self._is_new(kind, event):
            return []
        self._remember(kind, event)
        gap, self._gap = self._gap, None
        return [event] if gap is None else [gap, event]

    def resume(self) -> None:
        """A new stream starts; a gap without its snapshot is told again."""
        self._gap = None

    def start_over(self) -> None:
        """The store was restored: its sequences and revisions are others now."""
        self.sequence, self.revision = None, 0

    def _is_new(self, kind: str | None, event: Event) -> bool:
        if kind in _DURABLE:
            return self.sequence is None or event.sequence > self.sequence
        if kind == "progress":
            return event.revision == 0 or event.revision > self.revision
        return not self.ended

    def _remember(self, kind: str | None, event: Event) -> None:
        if kind in _DURABLE or kind == "snapshot":
            # Not from progress: it repeats the newest sequence, perhaps ahead of that event.
            self.sequence = max(self.sequence or 0, event.sequence)
        if kind in ("progress", "snapshot"):
            self.revision = max(self.revision, event.revision)
        self.ended = self.ended or kind == "terminal"


class Watch:
    """A watch that comes back by itself until the terminal event.

    Args:
        calls: the channel.
        request: what to watch; its after_sequence is moved on.
        control: also pass on Heartbeat and Reconnect.
        patience: seconds without any event, reconnecting all the time, before it gives up.
    """

    def __init__(
        self,
        calls: Calls,
        request: job_service_pb2.WatchProgressRequest,
        *,
        control: bool,
        patience: float,
    ) -> None:
        self._calls = calls
        self._timing = calls.timing
        self._request = request
        self._control = control
        self._patience = patience
        self._seen = Seen(request.after_sequence if request.HasField("after_sequence") else None)
        self._heard = self._timing.clock()
        self._failures = 0
        self._hint: float | None = None
        self._failure: LongshoreError | None = None

    async def events(self) -> AsyncGenerator[Event, None]:
        """Every durable event once, in order, between snapshots and progress; Terminal is last.

        Raises:
            LongshoreError: the watch was refused, or nothing was heard for `patience`.
        """
        while True:
            async with aclosing(self._stream()) as stream:
                async for event in stream:
                    yield event
            if self._seen.ended:
                return
            await self._pause()

    async def _stream(self) -> AsyncGenerator[Event, None]:
        """The news of one stream; ends, without a word, where it was cut off."""
        call = self._open()
        try:
            while (event := await self._read(call)) is not None:
                self._heard, self._hint = self._timing.clock(), None
                for admitted in self._admit(event):
                    yield admitted
                if self._seen.ended or event.HasField("reconnect"):
                    return
        except grpc.aio.AioRpcError as error:
            self._judge(error)
        finally:
            call.cancel()

    def _open(self) -> Stream:
        self._calls.channel  # noqa: B018 - raises where the client was closed
        self._seen.resume()
        if self._seen.sequence is None:
            self._request.ClearField("after_sequence")
        else:
            self._request.after_sequence = self._seen.sequence
        return self._calls.jobs.WatchProgress(self._request, metadata=self._calls.metadata)

    async def _read(self, call: Stream) -> Event | None:
        """The next event, or None where the stream ended or fell silent."""
        try:
            async with asyncio.timeout(SILENCE):
                event = await call.read()
        except TimeoutError:
            return None
        except asyncio.CancelledError:
            if is_asked_to_end():
                raise
            return None  # the channel under the stream was closed
        return event if isinstance(event, Event) else None

    def _admit(self, event: Event) -> list[Event]:
        kind = event.WhichOneof("event")
        if kind == "reconnect":
            delay = event.reconnect.retry_delay
            self._hint = min(delay.seconds + delay.nanos / 1e9, LONGEST_RECONNECT_DELAY)
        if kind in _CONTROL:
            return [event] if self._control else []
        admitted = self._seen.admit(event)
        if admitted:
            self._failures, self._failure = 0, None
        return admitted

    def _judge(self, error: grpc.aio.AioRpcError) -> None:
        """Returns where coming back can help.

        Raises:
            LongshoreError: where it cannot.
        """
        code = error.code()
        self._failure = self._calls.failure(error, self._request)
        if code is grpc.StatusCode.OUT_OF_RANGE and self._seen.sequence is not None:
            self._seen.start_over()
        elif code is grpc.StatusCode.RESOURCE_EXHAUSTED or is_cut(error):
            self._hint = error_mapping.retry_after(error)
        else:
            raise self._failure from error

    async def _pause(self) -> None:
        self._failures += 1
        delay = self._timing.backoff(self._failures, self._hint)
        silent = self._timing.clock() + delay - self._heard
        if silent > self._patience:
            raise self._failure or Unavailable(
                f"the watch of job {self._request.job_id} at {self._calls.target} got no event "
                f"for {self._patience:g} s, its streams ended early: see the log of the server",
                code="UNAVAILABLE",
            )
        self._hint = None
        await self._timing.sleep(delay)
