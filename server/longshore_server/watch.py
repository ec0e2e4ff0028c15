"""WatchProgress: one watch, from its first message to its last.

The rules, where the contract leaves them open:

- With after_sequence set and events trimmed: Gap, then a Snapshot that carries the last missing
  sequence as its cursor, then every event that is still kept. So a watch that breaks anywhere
  resumes without loss; the job inside the Snapshot is the newest and says so itself
  (latest_sequence). State changes that follow may therefore be older than it.
- Log events that are filtered out still move the cursor: sequences then skip numbers.
- A watch ends once everything was sent and the job is terminal at that moment. A terminal state
  in the past of a job that runs again is a state change like any other.
- A Heartbeat is sent where nothing else was for heartbeat_interval.
- A reader is cut off when one write makes no headway for slow_reader_timeout. A slow but steady
  one is not: its watch reads on from the store when its mailbox was full.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import closing

from longshore.v1 import watch_pb2
from longshore.v1.job_service_pb2 import WatchProgressRequest
from longshore_server.hub import WatchHub
from longshore_server.identity import Context
from longshore_server.jobs import JobReader
from longshore_server.mailbox import Mailbox, Rendered, Told
from longshore_server.refusals import JOB, Code, Faults, Refusal, exhausted, not_found, unavailable
from longshore_server.spec_checks import check_duration
from longshore_server.times import SECOND, micros, span, timestamp
from longshore_store.model import EventKind, JobChanges, JobRecord
from longshore_store.settings import ServerSettings

Message = watch_pb2.WatchProgressResponse
Reason = watch_pb2.Gap.Reason
INTERVAL_FLOOR = 0.1
RECONNECT_DELAY = (0.5, 2.0)
LIFETIME = 1800.0
"""Seconds after which a watch is asked to come back, so that servers which were added get some."""


class Watch:
    """One open call of WatchProgress."""

    def __init__(
        self,
        hub: WatchHub,
        jobs: JobReader,
        settings: ServerSettings,
        request: WatchProgressRequest,
        context: Context,
        tenant: str,
    ) -> None:
        self._hub = hub
        self._jobs = jobs
        self._settings = settings
        self._job_id = request.job_id
        self._after = request.after_sequence if request.HasField("after_sequence") else None
        self._include_logs = request.include_logs
        self._interval = _interval(request)
        self._context = context
        self._tenant = tenant
        self._loop = asyncio.get_running_loop()
        self._cursor = 0
        self._progress_count: int | None = None
        self._progress_due = 0.0
        self._heartbeat_due = self._loop.time() + settings.heartbeat_interval
        # Spread, so that watches which began together do not all come back together.
        self._renew_at = self._loop.time() + random.uniform(0.8, 1.0) * LIFETIME  # noqa: S311
        self._task = asyncio.current_task()
        self._writing_since: float | None = None
        self._is_slow = False
        self._watchdog: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Sends everything, up to and with the Terminal.

        Raises:
            Refusal: unknown job, a cursor beyond the end, a slow reader, a server that stops.
        """
        self._check_writing()
        try:
            await self._run()
        finally:
            if self._watchdog is not None:
                self._watchdog.cancel()

    async def _run(self) -> None:
        record = await self._jobs.read(self._job_id, self._tenant)
        # By itself: were the first event cut off with it on its way, grpc could send no status.
        await self._context.send_initial_metadata(())
        await self._open(record)
        caught_up = self._after is None
        reason = Reason.REASON_RETENTION
        while True:
            if not caught_up:
                await self._catch_up(reason)
            box = Mailbox(
                self._cursor,
                self._progress_count,
                include_logs=self._include_logs,
                limit=self._settings.watch_buffer,
            )
            with closing(box), self._hub.attached(self._job_id, box):
                if await self._live(box):
                    return
            caught_up, reason = False, Reason.REASON_SLOW_CONSUMER

    async def _open(self, record: JobRecord) -> None:
        if self._after is None:
            await self._send_snapshot(record, record.sequence)
            self._cursor, self._progress_count = record.sequence, record.progress_count
        elif self._after > record.sequence:
            text = (
                f"after_sequence {self._after} is beyond the end of job {record.id}, which is "
                f"{record.sequence} (was the store restored?): watch it without after_sequence"
            )
            raise Refusal(Code.OUT_OF_RANGE, "SEQUENCE_BEYOND_END", text)
        else:
            self._cursor = self._after

    # -- replaying what the store keeps

    async def _catch_up(self, reason: Reason.ValueType) -> None:
        """Sends every kept event after the cursor, page by page, until none is left."""
        while True:
            changes = await self._jobs.changes(self._job_id, self._cursor)
            if changes is None:
                raise not_found(JOB, self._job_id)
            await self._fill_gap(changes, reason)
            rendered = Rendered(changes)
            for event in changes.events:
                if event.sequence == self._cursor + 1:
                    if event.kind == EventKind.STATE or self._include_logs:
                        await self._send(rendered.event(event))
                    self._cursor = event.sequence
            if self._cursor >= changes.sequence:
                return

    async def _fill_gap(self, changes: JobChanges, reason: Reason.ValueType) -> None:
        """Says which events are gone, if any are, and shows the job instead."""
        kept_from = changes.first_sequence or changes.sequence + 1
        if changes.sequence <= self._cursor or kept_from <= self._cursor + 1:
            return
        message = Message(sequence=kept_from - 1, revision=kept_from - 1)
        message.event_time.CopyFrom(timestamp(self._jobs.now_us()))
        message.gap.first_sequence = self._cursor + 1
        message.gap.last_sequence = kept_from - 1
        message.gap.reason = reason
        await self._send(message)
        self._cursor = kept_from - 1
        record = await self._jobs.read(self._job_id, self._tenant)
        await self._send_snapshot(record, self._cursor)
        self._progress_count = record.progress_count

    # -- following

    async def _live(self, box: Mailbox) -> bool:
        """Sends what the hub puts into the box. True at the end, False to catch up first."""
        while True:
            taken = box.take(progress=self._loop.time() >= self._progress_due)
            if isinstance(taken, Message):
                await self._send(taken)
                if taken.HasField("progress"):
                    self._progress_due = self._loop.time() + self._interval
            self._cursor = max(self._cursor, box.reached)
            self._progress_count = box.progress_count
            match taken:
                case Told.SENT_AWAY:
                    await self._say_reconnect(self._hub.farewell())
                case Told.GONE:
                    raise not_found(JOB, self._job_id)
                case Told.BEHIND:
                    return False
                case Told.ENDED:
                    return await self._end()
                case Told.NOTHING:
                    await self._idle(box)
            if self._loop.time() >= self._renew_at:
                await self._say_reconnect(_renewal())

    async def _idle(self, box: Mailbox) -> None:
        """Waits for the box, for progress that is due, or for the next heartbeat."""
        until = min(self._heartbeat_due, self._renew_at)
        if box.progress is not None:
            until = min(until, self._progress_due)
        await box.wait(until)
        if self._loop.time() >= self._heartbeat_due and not box.events:
            await self._say_heartbeat(box)

    async def _end(self) -> bool:
        """Sends the Terminal. False if the job has begun to run again instead."""
        terminal = await self._hub.terminal(self._job_id, self._cursor, self._jobs.terminal)
        if terminal is None or terminal.sequence != self._cursor:
            return False
        await self._send(terminal)
        return True

    # -- messages

    async def _send_snapshot(self, record: JobRecord, sequence: int) -> None:
        message = Message(sequence=sequence, attempt=record.number, revision=record.revision)
        message.event_time.CopyFrom(timestamp(self._jobs.now_us()))
        message.snapshot.job.CopyFrom(self._jobs.message(record))
        placement = await self._jobs.placement(record)
        if placement is not None:
            message.snapshot.placement.CopyFrom(placement)
        await self._send(message)

    async def _say_heartbeat(self, box: Mailbox) -> None:
        message = Message(sequence=self._cursor)
        message.event_time.CopyFrom(timestamp(self._jobs.now_us()))
        message.heartbeat.latest_sequence = max(box.latest, self._cursor)
        if box.worker_heartbeat_us is not None:
            seen = timestamp(box.worker_heartbeat_us)
            message.heartbeat.worker_heartbeat_time.CopyFrom(seen)
        await self._send(message)

    async def _say_reconnect(self, farewell: Exception) -> None:
        message = Message(sequence=self._cursor)
        message.event_time.CopyFrom(timestamp(self._jobs.now_us()))
        # Spread, so that not every watch of this server comes to the next one at once.
        delay = random.uniform(*RECONNECT_DELAY)  # noqa: S311
        message.reconnect.retry_delay.CopyFrom(span(delay))
        await self._send(message)
        raise farewell

    async def _send(self, message: Message) -> None:
        now = self._writing_since = self._loop.time()
        try:
            await self._context.write(message)
        except asyncio.CancelledError:
            if self._is_slow and self._task is not None and self._task.uncancel() == 0:
                raise self._slow_reader() from None
            raise
        finally:
            self._writing_since = None
        self._heartbeat_due = now + self._settings.heartbeat_interval

    def _slow_reader(self) -> Refusal:
        timeout = self._settings.slow_reader_timeout
        text = f"the watch was not read for {timeout:g} s: read faster, resume with the cursor"
        return exhausted("SLOW_READER", f"job:{self._job_id}", text)

    def _check_writing(self) -> None:
        """Cancels a write that makes no headway. One slow timer for each watch: one for each
        write would cost a tenth of what sending an event costs."""
        timeout = self._settings.slow_reader_timeout
        since = self._writing_since
        if since is not None and self._loop.time() - since >= timeout and self._task is not None:
            self._is_slow = True
            self._task.cancel()
            return
        self._watchdog = self._loop.call_later(timeout / 4, self._check_writing)


def _renewal() -> Refusal:
    text = "the watch has been open for long: open it again with its cursor"
    return unavailable("WATCH_RENEWED", text, RECONNECT_DELAY[0])


def _interval(request: WatchProgressRequest) -> float:
    return max(INTERVAL_FLOOR, micros(request.minimum_progress_interval) / SECOND)


def check_watch(request: WatchProgressRequest) -> None:
    """Raises Refusal for fields that are wrong."""
    faults = Faults()
    if request.HasField("after_sequence") and request.after_sequence < 0:
        faults.add("after_sequence", f"is {request.after_sequence}; give 0 or more")
    if request.HasField("minimum_progress_interval"):
        check_duration(request.minimum_progress_interval, "minimum_progress_interval", faults)
    faults.check()
