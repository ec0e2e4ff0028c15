"""The pools of this machine, where the settings declare none."""

from __future__ import annotations

import os

import psutil

from longshore_embedded.cgroups import CgroupLimits, read_limits
from longshore_gpu_workers.devices import SIMULATED_BYTES, real_devices
from longshore_store.settings import PoolSettings, Settings

_HOST_SHARE = 0.8


def with_pools(settings: Settings, simulate_gpus: int) -> Settings:
    """Settings with a CPU pool, and a GPU pool where there are devices, real or simulated.

    Declared pools are left as they are.
    """
    if settings.pools:
        return settings
    pools = {"cpu": _cpu_pool()}
    devices = _simulated(simulate_gpus) if simulate_gpus else _devices()
    if devices:
        pools["gpu"] = _gpu_pool(devices)
    return settings.model_copy(update={"pools": pools})


def _cpu_pool() -> PoolSettings:
    cores = usable_cores()
    memory = int(usable_memory() * _HOST_SHARE)
    return PoolSettings(cpu=cores, memory=memory, maximum_runners=4 * cores)


def usable_cores(limits: CgroupLimits | None = None) -> int:
    """Cores that this process may use: by its affinity, and by the quota of its container."""
    quota = (limits or read_limits()).cores
    cores = len(os.sched_getaffinity(0))
    return cores if quota is None else max(1, min(cores, int(quota)))


def usable_memory(limits: CgroupLimits | None = None) -> int:
    """Bytes that this process may use: those of the machine, or of its container."""
    total: int = psutil.virtual_memory().total
    return min(total, (limits or read_limits()).memory or total)


def _gpu_pool(devices: list[tuple[str, int]]) -> PoolSettings:
    """One worker for each device, each with a core of its own."""
    return PoolSettings(
        cpu=2,
        memory=int(usable_memory() * _HOST_SHARE / len(devices)),
        gpu=1,
        gpu_memory=min(memory for _, memory in devices),
        accelerators=tuple(sorted({name for name, _ in devices})),
        minimum_workers=len(devices),
        maximum_workers=len(devices),
        maximum_runners=16,
    )


def _simulated(count: int) -> list[tuple[str, int]]:
    return [("simulated", SIMULATED_BYTES)] * count


def _devices() -> list[tuple[str, int]]:
    return [(device.name, device.memory_bytes) for device in real_devices()]
