"""The pools of this machine, where the settings declare none."""

from __future__ import annotations

import os

import psutil

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
    cores = len(os.sched_getaffinity(0))
    memory = int(psutil.virtual_memory().total * _HOST_SHARE)
    return PoolSettings(cpu=cores, memory=memory, maximum_runners=4 * cores)


def _gpu_pool(devices: list[tuple[str, int]]) -> PoolSettings:
    """One worker for each device, each with a core of its own."""
    return PoolSettings(
        cpu=2,
        memory=int(psutil.virtual_memory().total * _HOST_SHARE / len(devices)),
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
