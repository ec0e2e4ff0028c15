"""`make soak MINUTES=10 SEED=1`: a distributed deployment under load while its parts are broken."""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks import machine
from longshore import AsyncClient
from longshore_embedded.dev_cluster import DevCluster, DevClusterOptions
from tests.soak.accounts import Accounts, close, unfinished
from tests.soak.cables import lay, restart
from tests.soak.chaos import Chaos
from tests.soak.load import Load, Told
from tests.soak.memory import Memory

DRAIN_DEADLINE = 60.0
READY_DEADLINE = 90.0
SERVERS, SPARED = 3, 2
CONFIG = """
tasks = ["tests.soak.tasks"]
[scheduler]
lease = 6
abandon = 24
term = 8
maximum_crashes = 50
maximum_interruptions = 100
[pools.cpu]
cpu = 2
minimum_workers = 3
maximum_workers = 4
maximum_runners = 8
"""


def main() -> int:
    """Returns the exit status: 0 where nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--rate", type=float, default=45.0, help="jobs a second")
    parser.add_argument("--only", action="append", help="this fault alone; may be repeated")
    options = parser.parse_args()
    print(f"seed {options.seed}; {machine.describe()}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-", dir="/tmp") as data:
        Path(data).chmod(0o755)  # Postgres may run as another user
        return asyncio.run(_run(options, Path(data)))


async def _run(options: argparse.Namespace, data: Path) -> int:
    config, ledger = data / "soak.toml", data / "ledger"
    config.write_text(CONFIG)
    ledger.mkdir()
    root = str(Path(__file__).parents[2])
    shape = DevClusterOptions(
        data / "cluster", servers=SERVERS, config=config, env={"PYTHONPATH": root}
    )
    async with (
        AsyncExitStack() as stack,
        DevCluster(shape) as cluster,
        AsyncClient(cluster.target) as client,
    ):
        cables = {}
        for member in (*cluster.servers[:SPARED], *cluster.schedulers):
            cables[member] = await lay(stack, member)
            await restart(member)
        await _ready(client)
        load = Load(client, ledger, options.seed, options.rate)
        chaos = Chaos(cluster, client, options.seed, SPARED, cables)
        if options.only:
            chaos.faults = {name: chaos.faults[name] for name in options.only}
        memory = Memory(cluster)
        drained = await _break(options, client, load, chaos, memory)
        accounts = await close(client, load.told, ledger)
        print(_table(chaos, accounts, load.told, drained), memory.report(), sep="\n", flush=True)
        for member in (*cluster.schedulers, *cluster.servers):
            await member.down()
        clean = await asyncio.to_thread(_doctor, cluster.store_url)
        good = clean and drained is not None and not _wrong(accounts, load.told)
        if not good:
            _keep_logs(cluster)
    print("the soak has PASSED" if good else "the soak has FAILED", flush=True)
    return 0 if good else 1


async def _ready(client: AsyncClient) -> None:
    async with asyncio.timeout(READY_DEADLINE):
        handle = await client.submit("echo", {}, timeout=READY_DEADLINE)
        await handle.result(timeout=READY_DEADLINE)


async def _break(
    options: argparse.Namespace, client: AsyncClient, load: Load, chaos: Chaos, memory: Memory
) -> float | None:
    """Load and faults, then healing. Returns how long draining took, None where it did not."""
    stop = asyncio.Event()
    loading = asyncio.create_task(load.run(stop))
    watching = asyncio.create_task(memory.run(stop))
    end = time.monotonic() + options.minutes * 60
    await chaos.run(end - 0.4 * options.minutes * 60, 2.0, 8.0)
    chaos.spare_schedulers = True  # the last leader lives on: its memory is watched
    await chaos.run(end, 2.0, 8.0)
    stop.set()
    await loading
    await chaos.heal()
    began = time.monotonic()
    drained = None
    while drained is None and time.monotonic() - began < DRAIN_DEADLINE:
        if await unfinished(client) == 0:
            drained = time.monotonic() - began
        await asyncio.sleep(0.2)
    await load.settle()
    await watching
    return drained


def _wrong(accounts: Accounts, told: Told) -> bool:
    wrong = accounts.lost or accounts.changed or accounts.unexecuted or accounts.unexpected
    return bool(wrong or told.faults)


def _table(chaos: Chaos, accounts: Accounts, told: Told, drained: float | None) -> str:
    lines = [f"{'fault':<34}{'times':>6}{'slowest recovery':>18}"]
    for name, record in sorted(chaos.records.items()):
        lines.append(f"{name:<34}{record.times:>6}{record.slowest:>16.1f} s")
    ended = ", ".join(f"{name} {count:,}" for name, count in sorted(accounts.states.items()))
    lines += [
        f"accepted {accounts.accepted:,}: {ended}",
        (
            f"lost {accounts.lost}; terminal states changed {accounts.changed}; succeeded without"
            f" being executed {accounts.unexecuted}"
        ),
        (
            f"begun more than once {accounts.restarted:,}; run to the end more than once"
            f" {accounts.repeated:,}"
        ),
        (
            f"watches that saw the end {told.watched['ended']:,}; slowest Submit"
            f" {told.slowest_submit:.1f} s; Submits that failed after retries {told.failed_submits}"
        ),
        f"drained after {drained:.1f} s" if drained is not None else "NOT drained in 60 s",
        *accounts.unexpected[:20],
        *told.faults[:20],
    ]
    return "\n".join(lines)


def _doctor(url: str) -> bool:
    command = [str(Path(sys.executable).with_name("longshore")), "doctor", "--store", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    print(done.stdout, done.stderr, sep="")
    return done.returncode == 0


def _keep_logs(cluster: DevCluster) -> None:
    """What the processes said, where it outlives the soak's folder."""
    kept = Path(tempfile.mkdtemp(prefix="soak-logs-", dir="/tmp"))
    for log in cluster.logs.iterdir():
        (kept / log.name).write_bytes(log.read_bytes())
    print(f"logs are kept in {kept}")


if __name__ == "__main__":
    sys.exit(main())
