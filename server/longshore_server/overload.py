"""Full queues: what to say, how long to wait, and refusing an overload without the store."""

from __future__ import annotations

import time
from collections.abc import Iterable

from longshore_server.catalogue import Catalogue
from longshore_server.refusals import Refusal, exhausted
from longshore_store.model import QueueFull

REMEMBERED = 0.1
SHORTEST, LONGEST = 1.0, 300.0
UNMEASURED = 10.0


class FullQueues:
    """Remembers for a moment how much room a queue had when the store last refused.

    An overload is then turned away here. So is, for that moment, a repeated call whose key is
    known: it is told to come back, which it may.
    """

    def __init__(self) -> None:
        self._full: dict[str, tuple[float, QueueFull]] = {}

    def remember(self, refused: QueueFull) -> None:
        """Takes note of a refusal of the store."""
        self._full[refused.queue] = time.monotonic() + REMEMBERED, refused

    def check(self, queues: Iterable[str], catalogue: Catalogue) -> None:
        """Raises Refusal where the jobs that go to these queues will not find room."""
        if not self._full:
            return
        now = time.monotonic()
        self._full = {name: entry for name, entry in self._full.items() if entry[0] > now}
        wanted: dict[str, int] = {}
        for queue in queues:
            wanted[queue] = wanted.get(queue, 0) + 1
        for queue, (_, refused) in self._full.items():
            if wanted.get(queue, 0) > max(0, refused.maximum - refused.waiting):
                raise queue_full(refused, wanted[queue], catalogue)


def queue_full(refused: QueueFull, wanted: int, catalogue: Catalogue) -> Refusal:
    """RESOURCE_EXHAUSTED with the delay after which there should be room.

    wanted: how many jobs the call brings to that queue.
    """
    maximum, waiting = refused.maximum, refused.waiting
    if wanted > maximum:
        text = f"{wanted} jobs never fit into queue {refused.queue!r} of {maximum}: send fewer"
        return exhausted("QUEUE_FULL", f"queue:{refused.queue}", text)
    delay = retry_delay(waiting + wanted - maximum, refused.queue, catalogue)
    text = (
        f"queue {refused.queue!r} holds {waiting} of {maximum} waiting jobs and has no room for "
        f"{wanted}: try again in {delay:.0f} s"
    )
    return exhausted("QUEUE_FULL", f"queue:{refused.queue}", text, delay)


def retry_delay(excess: int, queue: str, catalogue: Catalogue) -> float:
    """Seconds until so many jobs have left the queue at its measured rate, 1 to 300.

    A queue that has not been measured yet gets 10; one that stands still gets 300.
    """
    if queue not in catalogue.rates:
        return UNMEASURED
    rate = catalogue.rate(queue).mean
    if rate <= 0:
        return LONGEST
    return min(LONGEST, max(SHORTEST, max(1, excess) / rate))
