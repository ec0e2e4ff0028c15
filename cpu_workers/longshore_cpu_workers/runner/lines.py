"""What becomes of a line of output before it leaves the runner: paced, scrubbed, cut."""

from __future__ import annotations

import time
from collections.abc import Callable

from longshore_cpu_workers.runner.pacing import Allowance
from longshore_cpu_workers.runner.scrubbing import LineScrubber

LINES_PER_SECOND = 200.0
LINE_BYTES = 4096
# Cut before it is scrubbed and again after: a secret may lie across the bound.
LONGEST_LINE = 2 * LINE_BYTES


class LineGate:
    """Lets so many lines through a second, each without secrets and of at most 4 KiB."""

    __slots__ = ("_allowance", "_clock", "_scrubber")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._allowance = Allowance(LINES_PER_SECOND, clock())
        self._scrubber = LineScrubber()

    def admit(self, line: str) -> str | None:
        """The line as it may leave, or None where there were too many."""
        line = line[:LONGEST_LINE]
        if not self._allowance.take(self._clock()):
            self._scrubber.notice(line)  # a private key may begin in a line that is dropped
            return None
        return _bounded(self._scrubber.scrub(line))


def _bounded(line: str) -> str:
    if len(line) <= LINE_BYTES // 4:  # no character takes more than four bytes
        return line.encode("utf-8", "replace").decode()  # lone surrogates are no JSON
    data = line.encode("utf-8", "replace")
    if len(data) <= LINE_BYTES:
        return data.decode()
    return data[: LINE_BYTES - 3].decode("utf-8", "ignore") + "…"
