"""UUIDv7: ids that sort by the time they were made (RFC 9562, section 5.7)."""

from __future__ import annotations

import random
import re
import time

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_LOW = (1 << 62) - 1
_VARIANT = 1 << 63


class IdSource:
    """Makes ids that only rise, also within one millisecond and when the clock steps back.

    74 bits follow the milliseconds: random at the first id of a millisecond, then a random
    step of up to 2^32, so that ids of two processes do not meet.
    """

    def __init__(self) -> None:
        self._random = random.Random()  # noqa: S311  # an id is no secret
        self._ms = 0
        self._tail = 0

    def __call__(self) -> str:
        """The next id, 36 characters."""
        ms = time.time_ns() // 1_000_000
        if ms > self._ms:
            self._ms = ms
            # The highest bit stays clear: room for 2^41 steps before the next millisecond.
            self._tail = self._random.getrandbits(73)
        else:
            self._tail += 1 + self._random.getrandbits(32)
        tail = self._tail
        # The fastest of the ways to format it.
        digits = "%012x7%03x%016x" % (self._ms, tail >> 62, (tail & _LOW) | _VARIANT)  # noqa: UP031
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def is_id(text: str) -> bool:
    """True where the text may be an id; what is not cannot name a job."""
    return _ID.fullmatch(text) is not None
