"""Devices that a worker has set aside, as the scheduler sees them."""

from __future__ import annotations

import json

from longshore_cpu_workers.wire import DeviceInfo, WorkerInfo
from longshore_scheduler.cluster import PoolSpec
from longshore_scheduler.pools import worker_record
from longshore_scheduler.room import count_fitting
from longshore_scheduler.roster import Worker
from longshore_scheduler.specs import wire_needs
from longshore_store.needs import Needs
from longshore_store.settings import GIB, PoolSettings


def test_a_device_that_is_set_aside_has_no_room() -> None:
    pool = PoolSpec("gpu", PoolSettings(gpu=2, gpu_memory=GIB))
    devices = tuple(DeviceInfo(n, f"GPU-{n}", "H100", GIB, False) for n in range(2))
    worker = Worker(
        WorkerInfo("w", "gpu", "node", 1, wire_needs(pool.shape_json), devices), pool, 0
    )
    needs = Needs(gpu_millis=1000)
    assert count_fitting(worker.room, needs) == 2
    assert [device.uuid for device in worker.close_devices((1,))] == ["GPU-1"]
    assert worker.close_devices((1,)) == [], "every reply tells it"
    assert count_fitting(worker.room, needs) == 1
    assert [d["set_aside"] for d in json.loads(worker_record(worker).devices_json)] == [False, True]
    # The next leader learns it from the worker itself.
    assert count_fitting(Worker(worker.info, pool, 0).room, needs) == 1
