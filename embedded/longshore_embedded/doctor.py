"""What `longshore doctor` runs: the store's checks, its repair, and a look at the workers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from longshore.cli.doctor import DoctorOptions
from longshore_scheduler.checkup import check_up
from longshore_scheduler.cluster import ClusterLost, WorkerGone
from longshore_scheduler.ray_cluster import RayCluster
from longshore_scheduler.worker_place import WorkerPlace
from longshore_store.dialects import StoreLocked, make_dialect
from longshore_store.dialects.beside import Beside, read_beside
from longshore_store.doctor.examination import (
    NotExaminable,
    examine,
    read_cluster,
    read_leases,
    require_schema,
    scheduler_leads,
)
from longshore_store.doctor.findings import Examined
from longshore_store.doctor.repair import repair
from longshore_store.model import StoreRefused, StoreUnavailable

CLEAN, DRIFTED, USAGE, UNAVAILABLE = 0, 1, 2, 4


@dataclass(slots=True)
class Report:
    """What is printed. `mended` counts rows by check; `note` is one more line, or empty."""

    examined: list[Examined]
    mended: dict[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def drift(self) -> int:
        """Findings that are left."""
        return sum(check.drift for check in self.examined)

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"mended {check} {rows:,} rows" for check, rows in self.mended.items()]
        for check in self.examined:
            lines.extend(check.lines())
        lines.extend(filter(None, [self.note]))
        if not self.drift:
            return [*lines, "clean"]
        mendable = sum(finding.repairable for check in self.examined for finding in check.findings)
        return [*lines, f"--repair mends {mendable:,} of what is listed", f"{self.drift:,} drifted"]

    def documents(self) -> list[str]:
        """For programs: one for each finding, and one that sums up."""
        findings = [finding._asdict() for check in self.examined for finding in check.findings]
        summary = {
            "checks": {
                check.check: {"drift": check.drift, "looked_at": check.looked_at}
                for check in self.examined
            },
            "mended": self.mended,
            "drift": self.drift,
            "note": self.note,
        }
        return [json.dumps(document, ensure_ascii=False) for document in (*findings, summary)]


def run(options: DoctorOptions) -> int:
    """Examines, mends where it is asked to, and prints. Returns the exit status."""
    file = options.data / "longshore.db"
    if options.store is None and not file.exists():
        return _refuse(
            f"there is no {file}: name the store by --store, or the folder of `longshore up` by"
            " --data",
            UNAVAILABLE,
        )
    url = options.store or f"sqlite:///{file}"
    try:
        report = asyncio.run(_run(options, url))
    except StoreLocked as error:
        return _refuse(f"--repair: stop the service first: {error}", USAGE)
    except (ValueError, NotExaminable, StoreRefused) as error:
        return _refuse(str(error), USAGE)
    except (StoreUnavailable, WorkerGone, ClusterLost, OSError) as error:
        return _refuse(str(error) or "no answer in time", UNAVAILABLE)
    print("\n".join(report.documents() if options.json else report.lines()))
    return DRIFTED if report.drift else CLEAN


def _refuse(why: str, status: int) -> int:
    print(f"longshore doctor: {why}", file=sys.stderr)
    return status


async def _run(options: DoctorOptions, url: str) -> Report:
    source = read_beside(url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(source.close)
        await require_schema(source)
        mended = dict(await repair(make_dialect(url))) if options.repair else {}
        now_us = await source.now_us()
        live = await scheduler_leads(source, now_us)
        examined = await examine(source, now_us=now_us, live=live)
        silent = 0 if live else sum(map(_excuse_silence, examined))
        report = Report(examined, mended)
        if options.ray is not None:
            report.examined.append(await _check_up(options, source))
        report.note = _note(report.examined, silent, live=live)
        return report


def _excuse_silence(check: Examined) -> int:
    """Without a leader nobody hears workers: in a copy, after a stop, while schedulers are away.
    Their silence is a hint then. Returns how many are silent."""
    is_silent = [
        check.check == "leases" and finding.found.startswith("silent") for finding in check.findings
    ]
    check.findings = [
        finding._replace(hint=True) if silent else finding
        for finding, silent in zip(check.findings, is_silent, strict=True)
    ]
    if all(is_silent):
        check.unlisted = 0
    return sum(is_silent)


def _note(examined: Sequence[Examined], silent: int, *, live: bool) -> str:
    held = any(check.check == "leases" and check.drift for check in examined)
    if live or not (held or silent):
        return ""
    return (
        "no scheduler leads: this is a copy, or nobody schedules here; the next leader hears its"
        " workers or forgets them, and releases what no worker holds"
    )


async def _check_up(options: DoctorOptions, source: Beside) -> Examined:
    name = options.cluster or await read_cluster(source)
    async with _joined(str(options.ray), name) as cluster:
        return await check_up(cluster, lambda: read_leases(source))


@asynccontextmanager
async def _joined(address: str, name: str) -> AsyncIterator[RayCluster]:
    """A connection to the workers of one deployment. It makes none, so it has no place for them."""
    if "RAY_AUTH_TOKEN" in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what fails is said in one line
    cluster = RayCluster(WorkerPlace(Path(), Path()), address=address, namespace=name)
    try:
        await _join(cluster, address)
        yield cluster
    finally:
        await cluster.close()


async def _join(cluster: RayCluster, address: str) -> None:
    try:
        await cluster.start(())
    except ValueError as error:
        raise ValueError(
            f"--ray {address!r} is no address of Ray's head: give HOST:PORT, or auto on a node"
        ) from error
    except ConnectionError as error:
        token = "correct" if "RAY_AUTH_TOKEN" in os.environ else "set"
        raise ConnectionError(
            f"--ray {address}: {error}; where it asks for a token, {token} RAY_AUTH_TOKEN"
        ) from error
