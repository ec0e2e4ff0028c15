"""Attempts: what AsyncClient can read of every try of a job."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from longshore.calls import Calls
from longshore.v1 import job_pb2, job_service_pb2


class AttemptCalls:
    """The method of AsyncClient about attempts."""

    _calls: Calls

    async def attempts(
        self, job_id: str, *, page_size: int = 50, timeout: float | None = None
    ) -> AsyncGenerator[job_pb2.Attempt, None]:
        """All attempts of a job, the newest first; the job itself has only the newest ones.

        Args:
            job_id: the job.
            page_size: attempts a call, at most 1,000.
            timeout: seconds for each page.

        Raises:
            JobNotFound: there is none.
        """
        request = job_service_pb2.ListAttemptsRequest(job_id=job_id, page_size=page_size)
        async for page in self._calls.pages(self._calls.jobs.ListAttempts, request, timeout):
            for attempt in page.attempts:
                yield attempt
