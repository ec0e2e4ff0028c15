"""One attempt as the supervisor sees it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from longshore.sdk.failures import FailureClass
from longshore_cpu_workers.binding import DeviceSet
from longshore_cpu_workers.wire import Assignment, Checkpointed, Failure

Key = tuple[str, int]


class Stage(enum.Enum):
    """Where an attempt is.

    WAITING: in the worker's queue; assign or a runner's death puts it there.
    HANDED: a runner has it and has not begun; it can be withdrawn.
    RUNNING: its task code began.
    ENDED: its outcome is in the outbox.
    """

    WAITING = 1
    HANDED = 2
    RUNNING = 3
    ENDED = 4


@dataclass(slots=True, eq=False)
class Attempt:
    """An attempt and what was ordered about it.

    Attributes:
        serial: its number inside this worker, in order of arrival; runners call it by this.
        estimate: seconds of work it counted for when it was handed to a runner.
        started_at: when task code began; None before.
        timeout_at: when the attempt timeout strikes.
        ending: the class it ends with if it does not succeed: it was told to end.
        kill_at: when its runner gets SIGTERM, once it was told to end.
        verdict: how it ends, though its runner cannot say so any more.
        recalled: it goes back to the scheduler if it has not begun.
        bounces: runners that died with it in hand, before it began.
        checkpoints: sent to the scheduler and not acknowledged: the report, the runner's number.
        devices: what it holds, for an attempt of an async task.
    """

    assignment: Assignment
    serial: int
    stage: Stage = Stage.WAITING
    estimate: float = 0.0
    started_at: float | None = None
    timeout_at: float | None = None
    ending: FailureClass | None = None
    kill_at: float | None = None
    verdict: Failure | None = None
    recalled: bool = False
    bounces: int = 0
    checkpoints: list[tuple[Checkpointed, int]] = field(default_factory=list)
    devices: DeviceSet = ()

    @property
    def key(self) -> Key:
        return (self.assignment.job_id, self.assignment.fence)

    def tell_to_end(self, ending: FailureClass, kill_at: float) -> None:
        """Notes an order to end; the first reason stands, the earliest kill counts."""
        if self.ending is None:
            self.ending = ending
        self.kill_at = kill_at if self.kill_at is None else min(self.kill_at, kill_at)
