"""Dead letters and redrives as plain records, no database in sight."""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass
from typing import NamedTuple

MINIMUM_SAMPLE = 10
"""Jobs of a redrive that must have been queued again before their failures can stop it."""


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Chooses dead-lettered jobs of a tenant; every given condition holds.

    failure_class is that of the last attempt. Jobs that ended from ended_from_us on and before
    ended_before_us.
    """

    tenant: str
    queue: str | None = None
    task: str | None = None
    failure_class: int | None = None
    ended_from_us: int | None = None
    ended_before_us: int | None = None

    def to_json(self) -> str:
        """The text that the store keeps."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(given)

    @classmethod
    def from_json(cls, text: str) -> DeadLetters:
        """The selection that `to_json` wrote."""
        return cls(**json.loads(text))


class RedriveState(enum.IntEnum):
    """Where a redrive stands; the values are those of longshore.v1.RedriveState."""

    RUNNING = 1
    COMPLETED = 2
    STOPPED = 3
    TRIPPED = 4


@dataclass(frozen=True, slots=True)
class RedriveRecord:
    """A redrive and how far it has come.

    rate_milli: jobs in a thousand seconds. maximum_failures_milli: failures in a thousand
    redriven above which it stops; 0 never stops. after_id: jobs up to this id were taken.
    """

    id: str
    letters: DeadLetters
    rate_milli: int
    maximum_failures_milli: int
    reason: str
    actor: str
    created_us: int
    total: int
    state: RedriveState = RedriveState.RUNNING
    stop_reason: str = ""
    ended_us: int | None = None
    after_id: str = ""
    redriven: int = 0
    failed: int = 0

    @property
    def is_tripped(self) -> bool:
        """True where so many failed again that it has to stop."""
        if not self.maximum_failures_milli or self.redriven < MINIMUM_SAMPLE:
            return False
        return self.failed * 1000 > self.maximum_failures_milli * self.redriven

    @property
    def trip_reason(self) -> str:
        """Why it stops where it is tripped."""
        share = self.maximum_failures_milli / 1000
        return f"{self.failed} of {self.redriven} failed again: more than a share of {share:g}"


class Advanced(NamedTuple):
    """What one step of a redrive did, and where it stands now."""

    redriven: int
    state: RedriveState


class Purged(NamedTuple):
    """How many dead letters one step of a purge deleted, and the id to go on from; None at the
    end."""

    deleted: int
    after_id: str | None
