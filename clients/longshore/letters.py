"""Dead letters: what AsyncClient can do about jobs whose attempts are used up."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import TypedDict, Unpack

from longshore.batches import new_key
from longshore.calls import Calls, Repeat
from longshore.specs import to_timestamp
from longshore.v1 import job_pb2, queue_service_pb2

PAGE_SIZE = 200


class Selection(TypedDict, total=False):
    """Chooses dead letters; every given condition holds. None and left out are the same.

    Keys:
        queue: of this queue.
        task: of this task.
        failure_class: whose last attempt ended so, such as FAILURE_CLASS_CRASH.
        ended_after: that ended at this time or later; an aware datetime.
        ended_before: that ended before this time; an aware datetime.
    """

    queue: str | None
    task: str | None
    failure_class: job_pb2.FailureClass.ValueType | None
    ended_after: datetime | None
    ended_before: datetime | None


class DeadLetterCalls:
    """The methods of AsyncClient about dead letters and redrives."""

    _calls: Calls

    async def dead_letters(
        self,
        *,
        page_size: int = PAGE_SIZE,
        timeout: float | None = None,
        **selection: Unpack[Selection],
    ) -> AsyncGenerator[job_pb2.Job, None]:
        """Dead letters, the newest job first, with their attempts and without their payloads.

        Args:
            page_size: jobs a call, at most 1,000.
            timeout: seconds for each page.
            selection: which: see `Selection`.
        """
        request = queue_service_pb2.ListDeadLettersRequest(
            selection=_message(selection), page_size=page_size
        )
        method = self._calls.queues.ListDeadLetters
        async for page in self._calls.pages(method, request, timeout):
            for job in page.jobs:
                yield job

    async def redrive(
        self,
        *,
        rate: float = 0.0,
        reason: str = "",
        maximum_failure_share: float = 0.0,
        dry_run: bool = False,
        timeout: float | None = None,
        **selection: Unpack[Selection],
    ) -> queue_service_pb2.RedriveResponse:
        """Queues dead letters again, the oldest first, as new runs of the same ids.

        The service carries it out after the answer; `redrives` shows how far it is.

        Args:
            rate: jobs per second, 0.1 to 1,000.
            reason: why; it is recorded.
            maximum_failure_share: stop once more than this share has failed again; 0 goes on.
            dry_run: only count, and return some of them.
            selection: which: see `Selection`. Those that fail later are not part of it.

        Raises:
            InvalidRequest: fields are wrong; `violations` lists all of them.
            PreconditionFailed: a task or a queue of theirs is there no more, also in a dry run.
        """
        request = queue_service_pb2.RedriveRequest(
            selection=_message(selection),
            dry_run=dry_run,
            rate=rate,
            reason=reason,
            maximum_failure_share=maximum_failure_share,
            idempotency_key="" if dry_run else new_key(),
        )
        return await self._calls.unary(self._calls.queues.Redrive, request, timeout=timeout)

    async def redrives(
        self, *, page_size: int = PAGE_SIZE, timeout: float | None = None
    ) -> AsyncGenerator[queue_service_pb2.Redrive, None]:
        """Redrives, the newest first, those that are over included.

        Args:
            page_size: redrives a call, at most 1,000.
            timeout: seconds for each page.
        """
        request = queue_service_pb2.ListRedrivesRequest(page_size=page_size)
        async for page in self._calls.pages(self._calls.queues.ListRedrives, request, timeout):
            for redrive in page.redrives:
                yield redrive

    async def stop_redrive(
        self, redrive_id: str, reason: str = "", *, timeout: float | None = None
    ) -> queue_service_pb2.Redrive:
        """Ends a redrive; what it has queued stays queued. Idempotent.

        Raises:
            NotFound: there is none of that id.
        """
        request = queue_service_pb2.StopRedriveRequest(redrive_id=redrive_id, reason=reason)
        method = self._calls.queues.StopRedrive
        return (await self._calls.unary(method, request, timeout=timeout)).redrive

    async def purge_dead_letters(
        self,
        *,
        reason: str = "",
        dry_run: bool = False,
        timeout: float | None = None,
        **selection: Unpack[Selection],
    ) -> int:
        """Deletes dead letters for good; not repeated by the client, unless it is a dry run.

        Args:
            reason: why; it is recorded.
            dry_run: only count them.
            timeout: seconds for each of the calls; there are as many as it takes.
            selection: which: see `Selection`.

        Returns:
            How many were deleted, or would be.
        """
        request = queue_service_pb2.PurgeDeadLettersRequest(
            selection=_message(selection), dry_run=dry_run, reason=reason
        )
        method, repeat = self._calls.queues.PurgeDeadLetters, Repeat.NEVER
        count, more = 0, True
        while more:
            answer = await self._calls.unary(
                method, request, timeout=timeout, repeat=Repeat.WHEN_CUT if dry_run else repeat
            )
            count, more = count + answer.count, answer.more
        return count


def _message(given: Selection) -> queue_service_pb2.DeadLetterSelection:
    selection = queue_service_pb2.DeadLetterSelection(
        queue=given.get("queue") or "",
        task=given.get("task") or "",
        failure_class=given.get("failure_class") or job_pb2.FAILURE_CLASS_UNSPECIFIED,
    )
    if after := given.get("ended_after"):
        selection.ended_after.CopyFrom(to_timestamp(after))
    if before := given.get("ended_before"):
        selection.ended_before.CopyFrom(to_timestamp(before))
    return selection
