"""A process that cancels one job when it is told to, and says when that was committed."""

from __future__ import annotations

import asyncio
import sys
import time

from longshore_store.bus.redis_bus import RedisBus
from longshore_store.sql import SqlStore
from tests.store.bus.node import until
from tests.store.bus.patience import be_patient


async def main(url: str, redis_url: str, job_id: str) -> None:
    """See above."""
    be_patient()
    store = SqlStore(url)
    await store.open()
    bus = RedisBus(redis_url, store, cluster="test")
    await bus.start()
    await until(lambda: bus.state.interests == 1)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    assert await store.cancel_jobs([job_id], "by another process", force=False) == []
    print(time.time(), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await bus.stop()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
