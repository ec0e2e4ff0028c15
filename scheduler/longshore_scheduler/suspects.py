"""Jobs that may have taken their workers down: who runs beside whom until it is known which did.

A worker that is lost counts as an interruption for every attempt on it, and nobody can tell which
of them did it. So a job that is interrupted again and again shares a worker with fewer and fewer
other such jobs, and at last it runs alone. Only the loss of a worker that it had for itself
dead-letters a job: a neighbour never is for what another job did.
"""

from __future__ import annotations

SUSPECT_AFTER = 3
"""Interruptions from which a job is a suspect: workers are lost for other reasons, too."""

_FIRST_COMPANY = 8

ALONE = -1


def company(interruptions: int, maximum: int) -> int | None:
    """How many other suspects may be on its worker; ALONE: nothing else at all.

    None is no suspect. maximum: the interruptions of which the last one dead-letters.
    """
    if interruptions and interruptions >= maximum - 1:
        return ALONE
    if interruptions < SUSPECT_AFTER:
        return None
    return max((_FIRST_COMPANY >> (interruptions - SUSPECT_AFTER)) - 1, 0)
