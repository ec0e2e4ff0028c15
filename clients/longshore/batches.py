"""Many jobs in few calls: packing, several calls on their way, order kept."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass, field

from longshore.calls import Calls, Repeat
from longshore.errors import RequestError
from longshore.v1 import job_pb2, job_service_pb2

Item = job_pb2.JobSpec | job_service_pb2.SubmitRequest
Items = Iterable[Item] | AsyncIterable[Item]

MAX_ITEMS = 1000
# grpc refuses messages over 4 MiB by default; the rest is room for proxies that add to them.
MAX_BYTES = 3_500_000
# A key of 32 characters, the tags and the lengths around a spec.
ITEM_OVERHEAD = 64
IN_FLIGHT = 4
_INDEX = re.compile(r"requests\[(\d+)\]")


def new_key() -> str:
    """A fresh idempotency key: a UUIDv7 in hex, so that an index of keys grows at its end."""
    stamp = time.time_ns() // 1_000_000
    noise = os.urandom(10).hex()
    return f"{stamp:012x}7{noise[:3]}{'89ab'[int(noise[3], 16) & 3]}{noise[4:19]}"


@dataclass(slots=True)
class Batch:
    """Jobs for one call.

    Attributes:
        first: the place of its first job among all, from 0.
    """

    first: int = 0
    request: job_service_pb2.SubmitBatchRequest = field(
        default_factory=job_service_pb2.SubmitBatchRequest
    )
    size: int = 0

    def __len__(self) -> int:
        return len(self.request.requests)

    def has_room(self, size: int) -> bool:
        """True where one more job of that many bytes fits; an empty batch takes any."""
        count = len(self.request.requests)
        return count == 0 or (count < MAX_ITEMS and self.size + size <= MAX_BYTES)

    def add(self, item: Item, size: int) -> None:
        """Copies the job in, under a key of its own where it has none."""
        request = self.request.requests.add()
        if isinstance(item, job_pb2.JobSpec):
            request.spec.CopyFrom(item)
        else:
            request.CopyFrom(item)
        if not request.idempotency_key:
            request.idempotency_key = new_key()
        self.size += size


async def pack(items: Items) -> AsyncIterator[Batch]:
    """Fills batches of at most 1,000 jobs and 3.5 MB; one too large job travels alone."""
    batch = Batch()
    async for item in _each(items):
        size = item.ByteSize() + ITEM_OVERHEAD
        if not batch.has_room(size):
            yield batch
            batch = Batch(first=batch.first + len(batch))
        batch.add(item, size)
    if len(batch):
        yield batch


async def _each(items: Items) -> AsyncIterator[Item]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


class Pipeline:
    """A bounded number of batches on their way; answers come out in the order of the jobs."""

    def __init__(self, calls: Calls, *, timeout: float | None, in_flight: int) -> None:
        self._calls = calls
        self._timeout = timeout
        self._in_flight = in_flight
        self._sent: deque[asyncio.Task[job_service_pb2.SubmitBatchResponse]] = deque()
        self._accepted = 0

    async def run(self, items: Items) -> AsyncIterator[job_service_pb2.SubmitResponse]:
        """Sends everything.

        A failure, of a batch or of `items` itself, stops the rest: nothing more is taken, what
        is on its way is waited for, and a note on the exception says how many were accepted.
        """
        try:
            async for batch in pack(items):
                if len(self._sent) >= self._in_flight:
                    for response in await self._oldest():
                        yield response
                self._sent.append(asyncio.create_task(self._send(batch)))
                # Lets the call leave before the next batch is packed.
                await asyncio.sleep(0)
            while self._sent:
                for response in await self._oldest():
                    yield response
        except Exception as error:
            await self._settle()
            error.add_note(f"{self._accepted} jobs of this submit_many were accepted before")
            raise
        finally:
            for task in self._sent:
                task.cancel()

    async def _oldest(self) -> Iterable[job_service_pb2.SubmitResponse]:
        return (await self._sent.popleft()).responses

    async def _settle(self) -> None:
        # Cut off, these would be accepted or not without anybody knowing.
        await asyncio.gather(*self._sent, return_exceptions=True)

    async def _send(self, batch: Batch) -> job_service_pb2.SubmitBatchResponse:
        try:
            response = await self._calls.unary(
                self._calls.jobs.SubmitBatch,
                batch.request,
                timeout=self._timeout,
                repeat=Repeat.WHEN_FULL,
            )
        except RequestError as error:
            error.args = (_shift(str(error), batch.first),)
            error.violations = [
                (_shift(field, batch.first), _shift(text, batch.first))
                for field, text in error.violations
            ]
            raise
        self._accepted += len(response.responses)
        return response


def _shift(text: str, by: int) -> str:
    """The text with places in the batch turned into places among all jobs."""
    return _INDEX.sub(lambda match: f"requests[{int(match[1]) + by}]", text)
