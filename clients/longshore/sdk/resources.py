"""What a task asks for by default; a job may ask for something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Resources:
    """What one attempt needs.

    Attributes:
        cpu: cores; 0.01 and more.
        memory: host memory in bytes; 0 asks for none in particular.
        gpu: devices; 0.25 shares one, above 1 a whole number.
        gpu_memory: free memory needed on each device, in bytes.
        accelerators: accepted accelerator types, best first; empty accepts any.
        model: a model to have resident: a soft affinity for a warm worker.
        custom: any other counted resource of a pool.
    """

    cpu: float = 1.0
    memory: int = 0
    gpu: float = 0.0
    gpu_memory: int = 0
    accelerators: tuple[str, ...] = ()
    model: str = ""
    custom: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Retry:
    """How failed attempts are repeated.

    Attributes:
        max_attempts: all attempts, the first one included.
        initial_backoff: seconds before the second attempt.
        multiplier: growth of the backoff from one attempt to the next.
        max_backoff: its cap, in seconds.
        jitter: the random share of each backoff, 0 to 1.
    """

    max_attempts: int = 4
    initial_backoff: float = 1.0
    multiplier: float = 2.0
    max_backoff: float = 300.0
    jitter: float = 0.5


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines in seconds; None sets none.

    Attributes:
        queue: from acceptance to the first start.
        attempt: one attempt.
        total: from acceptance to the end, retries included.
        heartbeat: silence of a worker before its lease is taken away.
        cancel_grace: from the cancel signal to the kill.
    """

    queue: float | None = None
    attempt: float | None = 3600.0
    total: float | None = None
    heartbeat: float = 30.0
    cancel_grace: float = 10.0
