"""A worker in a memory group: `starved.py GROUP FOLDER` prints what a too hungry job ended with."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from tests.workers.harness import bench, job

MIB = 1024**2


async def main(folder: Path) -> dict[str, object]:
    """Runs one job that is killed, and one that is not."""
    marks = folder / "marks"
    async with bench(folder, modules=("faulty_tasks",)) as worker:
        begin = time.monotonic()
        await worker.assign(job("big", "hungry", {"marks": str(marks), "mebibytes": 600}))
        failure = (await worker.failed("big")).failure
        seconds = time.monotonic() - begin
        await worker.assign(job("small", "hungry", {"marks": str(marks), "mebibytes": 16}))
        after = await worker.value("small")
    facts = dict(failure.metadata)
    return {
        "class": int(failure.failure_class),
        "signal": facts.get("signal"),
        "seconds": seconds,
        "after": after,
    }


if __name__ == "__main__":
    (Path(sys.argv[1]) / "cgroup.procs").write_text(str(os.getpid()))
    print(json.dumps(asyncio.run(main(Path(sys.argv[2])))))
