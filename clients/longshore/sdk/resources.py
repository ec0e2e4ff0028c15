"""What a task asks for by default; a job may ask for something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_DAY = 86_400.0
_LONGEST = 30 * _DAY
_SHORTEST = 0.001


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

    Raises:
        ValueError: one is out of the range that a service takes.
    """

    max_attempts: int = 4
    initial_backoff: float = 1.0
    multiplier: float = 2.0
    max_backoff: float = 300.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        _require("Retry.max_attempts", self.max_attempts, 1, 100)
        _require("Retry.initial_backoff", self.initial_backoff, 0, _DAY)
        _require("Retry.multiplier", self.multiplier, 1, 10)
        _require("Retry.max_backoff", self.max_backoff, 0, _DAY)
        _require("Retry.jitter", self.jitter, 0, 1)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines in seconds; None sets none.

    Attributes:
        queue: from acceptance to the first start.
        attempt: one attempt.
        total: from acceptance to the end, retries included.
        cancel_grace: from the cancel signal to the kill.

    Raises:
        ValueError: one is shorter than a millisecond or longer than 30 days; cancel_grace may be 0.
    """

    queue: float | None = None
    attempt: float | None = 3600.0
    total: float | None = None
    cancel_grace: float = 10.0

    def __post_init__(self) -> None:
        for name in ("queue", "attempt", "total"):
            if (seconds := getattr(self, name)) is not None:
                _require(f"Timeouts.{name}", seconds, _SHORTEST, _LONGEST)
        _require("Timeouts.cancel_grace", self.cancel_grace, 0, _LONGEST)


def _require(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # a NaN compares false, so it is refused too
        raise ValueError(f"{name} is {value}; give {low:g} to {high:,.0f}")
