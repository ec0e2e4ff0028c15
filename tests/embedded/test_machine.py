"""The pools of a machine whose settings declare none."""

from __future__ import annotations

from longshore_embedded.machine import with_pools
from longshore_store.settings import PoolSettings, Settings


def test_simulated_devices_make_a_gpu_pool_with_a_worker_each() -> None:
    pools = with_pools(Settings(), simulate_gpus=2).pools
    assert set(pools) == {"cpu", "gpu"}
    assert pools["cpu"].gpu == 0
    assert pools["gpu"].minimum_workers == 2
    assert pools["gpu"].gpu == 1
    assert pools["gpu"].accelerators == ("simulated",)


def test_declared_pools_are_left_alone() -> None:
    settings = Settings(pools={"mine": PoolSettings(cpu=3)})
    assert with_pools(settings, simulate_gpus=4) is settings
