"""What a worker is told when it is made: by its deployment, and by the settings of its pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from longshore_cpu_workers.settings import EnvSource, WorkerSettings
from longshore_cpu_workers.wire import Needs
from longshore_scheduler.cluster import PoolSpec
from longshore_store.settings import PoolSettings


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """What all workers are told.

    Attributes:
        artifacts: where files of results go; in a cluster a path that every node shares.
        scratch: a folder for each attempt is made below it, on the worker's own machine.
        modules: task modules beside the entry points.
        env: variables for runners.
        ahead_seconds: measured work that a runner is handed before it has begun it.
        abandon_after: seconds after which a worker that no scheduler polls ends itself.
    """

    artifacts: Path
    scratch: Path
    modules: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    ahead_seconds: float = 0.02
    abandon_after: float | None = None

    def settings_of(self, pool: PoolSpec, worker_id: str) -> WorkerSettings:
        """All that one worker of a pool is told."""
        offer, settings = pool.offer, pool.settings
        return WorkerSettings(
            worker_id=worker_id,
            pool=pool.name,
            capacity=Needs(
                cpu_millis=offer.cpu_millis,
                memory_bytes=offer.memory_bytes,
                gpu_millis=offer.gpu_millis,
                gpu_memory_bytes=offer.gpu_memory_bytes,
                custom=offer.custom,
            ),
            artifacts=self.artifacts,
            scratch=self.scratch,
            modules=self.modules,
            max_runners=settings.maximum_runners,
            runner_max_attempts=settings.runner_max_attempts,
            runner_max_memory=settings.runner_max_memory,
            share_runners=settings.share_runners,
            memory_limit=settings.memory_limit,
            env={**self.env, **_variables(settings)},
            hidden_env=settings.hidden_env,
            ahead_seconds=self.ahead_seconds,
            made_for=pool.build,
            abandon_after=self.abandon_after,
        )


def _variables(pool: PoolSettings) -> dict[str, str | EnvSource]:
    """What task code sees, by name; a worker reads the values that are not written out."""
    return {
        name: value if isinstance(value, str) else EnvSource(value.file, value.variable)
        for name, value in pool.env.items()
    }
