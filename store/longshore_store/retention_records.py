"""What retention is about: jobs that have ended, and how long each kind is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from longshore_store.settings import RetentionSettings
from longshore_store.states import JobState

DAY = 86_400_000_000
"""Microseconds."""


class Ages(NamedTuple):
    """How long after their end jobs are kept, by their state; and their log lines. Microseconds."""

    jobs: Mapping[JobState, int]
    logs: int

    @property
    def shortest(self) -> int:
        """What was accepted more recently than this is too young for anything."""
        return min(self.logs, *self.jobs.values())

    @property
    def longest(self) -> int:
        """Of what ended longer ago than this, nothing is kept."""
        return max(self.jobs.values())


class Ended(NamedTuple):
    """A job that ended then. One that runs again, or has ended anew, is another."""

    job_id: str
    ended_us: int


class Prunable(NamedTuple):
    """What one step of a scan found. after_id: where the next one goes on; empty at the end.

    jobs: older than their state is kept. logs: have log lines, older than those are kept.
    """

    jobs: list[Ended]
    logs: list[Ended]
    after_id: str


class Spent(NamedTuple):
    """Jobs with a checkpoint that nobody will resume from. after_id: as in Prunable."""

    jobs: list[Ended]
    after_id: str


def ages_of(settings: RetentionSettings) -> Ages:
    """The settings, which are in days."""
    days = {
        JobState.SUCCEEDED: settings.succeeded,
        JobState.FAILED: settings.failed,
        JobState.CANCELLED: settings.cancelled,
        JobState.EXPIRED: settings.expired,
        JobState.DEAD_LETTERED: settings.dead_lettered,
    }
    return Ages({state: round(n * DAY) for state, n in days.items()}, round(settings.logs * DAY))
