"""The demo: a service, a transcode and an inference, watched live, and their outputs checked.

    python -m examples.demo      # or: make demo

Everything it makes lies in ./demo-data; the service and all it started are gone at the end.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import av
from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.demo_checks import CheckFailed, check_file, check_predictions, check_transcode
from examples.demo_service import Service, ServiceFailed, real_gpus
from examples.make_inputs import make_all
from longshore import AsyncClient, JobHandle, LongshoreError
from longshore.v1 import job_pb2

HOME = Path("demo-data")
DEADLINE = 180.0
TRANSCODE: dict[str, Any] = {
    "renditions": [
        {"name": "720p", "height": 720, "preset": "veryfast"},
        {"name": "480p", "height": 480, "preset": "veryfast"},
    ],
    "thumbnails": {"count": 5, "height": 180, "format": "jpeg"},
}
INFER = {"batch_size": 50}
Show = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that succeeded: its result, its files by name, and how long it took the caller."""

    result: Any
    files: dict[str, Path]
    seconds: float


class Display:
    """Two bars at a terminal; elsewhere a line for each tenth of the way."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def line(self, name: str) -> Show:
        """A function that shows how far `name` is: fraction and detail."""
        bar = self._bars.add_task(name, total=1.0, detail="")
        tenths = -1

        def show(fraction: float, detail: str) -> None:
            nonlocal tenths
            self._bars.update(bar, completed=fraction, detail=detail)
            if not self._console.is_terminal and int(fraction * 10) > tenths:
                tenths = int(fraction * 10)
                self._console.print(f"{name:<10} {fraction:4.0%}  {detail}", highlight=False)

        return show


async def run_jobs(
    address: str, inputs: tuple[Path, Path, Path], console: Console
) -> tuple[Finished, Finished]:
    """Submits both jobs at once, shows them, and waits for both."""
    video, model, images = inputs
    async with AsyncClient(address) as client:
        transcode = await client.submit(
            "transcode", TRANSCODE, inputs={"video": video}, labels={"demo": "yes"}
        )
        infer = await client.submit(
            "infer", INFER, inputs={"model": model, "data": images}, labels={"demo": "yes"}
        )
        console.print(f"accepted: transcode {transcode.id}, infer {infer.id}", soft_wrap=True)
        with Display(console) as display:
            return await asyncio.gather(
                _finish(transcode, display.line("transcode")),
                _finish(infer, display.line("infer")),
            )


async def _finish(handle: JobHandle[Any], show: Show) -> Finished:
    started = time.monotonic()
    await _follow(handle, show)
    result = await handle.result(timeout=DEADLINE)
    references = await handle.artifacts()
    files = {name: check_file(name, reference) for name, reference in references.items()}
    return Finished(result, files, time.monotonic() - started)


async def _follow(handle: JobHandle[Any], show: Show) -> None:
    """Shows each report of a job until it has ended."""
    async with aclosing(handle.watch()) as events:
        async for event in events:
            match event.WhichOneof("event"):
                case "snapshot":
                    show(event.snapshot.job.progress.fraction, "waiting")
                case "progress":
                    show(event.progress.fraction, _detail(event.progress))
                case "terminal":
                    show(1.0, "ended")


def _detail(report: job_pb2.Progress) -> str:
    """What a job says of itself: its message, or else how much is done."""
    done = f"{report.completed:,} of {report.total:,} {report.unit}"
    told = report.message or (done if report.total else "")
    return ": ".join(dict.fromkeys(part for part in (report.phase, told) if part))


def check(
    transcoded: Finished, inferred: Finished, inputs: tuple[Path, Path, Path]
) -> dict[str, str]:
    """Opens every output and compares it; returns what each file is.

    Raises:
        CheckFailed: something is not what it should be.
    """
    video, model, images = inputs
    with av.open(str(video)) as container:
        seconds = (container.duration or 0) / 1_000_000
    found = check_transcode(transcoded.files, transcoded.result, TRANSCODE, seconds)
    predictions = inferred.files[inferred.result["artifact"]]
    return found | {predictions.name: check_predictions(predictions, model, images)}


def keep(*jobs: Finished) -> dict[str, Path]:
    """Copies the files out of the service's own folder, which goes with the service."""
    folder = HOME / "artifacts"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = {name: path for job in jobs for name, path in job.files.items()}
    return {name: Path(shutil.copy2(path, folder / name)) for name, path in files.items()}


def artifact_table(kept: dict[str, Path], found: dict[str, str]) -> Table:
    """What was made, and where it lies."""
    folder = HOME / "artifacts"
    table = Table(title=f"{folder}: size and SHA-256 as reported, contents checked")
    for column in ("file", "bytes", "checked"):
        justify: JustifyMethod = "right" if column == "bytes" else "left"
        table.add_column(column, justify=justify, overflow="fold")
    for name, path in sorted(kept.items()):
        table.add_row(path.name, f"{path.stat().st_size:,}", found.get(name, ""))
    return table


def machine() -> str:
    """This machine in one line; cores are those this process may use."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    gpus = real_gpus()
    devices = f"{gpus} NVIDIA GPU" if gpus else "no GPU: one is simulated, the CPU computes"
    return f"{platform.machine()}, {cores} cores, {memory:.0f} GiB, {devices}"


def run_demo(console: Console) -> None:
    """The whole demo; its errors say what went wrong."""
    clock = Clock()
    console.print(f"machine: {machine()}")
    inputs = make_all(HOME / "inputs")
    clock.lap("make inputs")
    with tempfile.TemporaryDirectory(prefix="longshore-demo-") as data:
        simulated = 0 if real_gpus() else 1
        service = Service(Path(data), HOME / "service.log", simulated)
        try:
            asyncio.run(service.ready({"transcode", "infer"}))
            clock.lap("start the service")
            transcoded, inferred = asyncio.run(_in_time(service.address, inputs, console))
            clock.lap("both jobs")
            found = check(transcoded, inferred, inputs)
            kept = keep(transcoded, inferred)
            clock.lap("check the outputs")
        finally:
            service.stop()
        clock.lap("stop the service; nothing is left of it")
    console.print(artifact_table(kept, found))
    console.print(
        f"transcode: {transcoded.seconds:.1f} s, ffmpeg {transcoded.result['seconds']:.1f} s of it"
        f"\ninfer: {inferred.seconds:.1f} s, model {inferred.result['seconds']:.3f} s of it, "
        f"{inferred.result['count']:,} inputs on {inferred.result['provider']}"
    )
    console.print(clock.text(), highlight=False)


async def _in_time(
    address: str, inputs: tuple[Path, Path, Path], console: Console
) -> tuple[Finished, Finished]:
    try:
        async with asyncio.timeout(DEADLINE):
            return await run_jobs(address, inputs, console)
    except TimeoutError as error:
        if isinstance(error, LongshoreError):
            raise
        raise ServiceFailed(f"the jobs have not ended after {DEADLINE:g} s") from error


class Clock:
    """Names the parts of the run and how long they took."""

    def __init__(self) -> None:
        self._last = self._start = time.monotonic()
        self._laps: list[str] = []

    def lap(self, name: str) -> None:
        """Ends a part."""
        now = time.monotonic()
        self._laps.append(f"  {now - self._last:6.1f} s  {name}")
        self._last = now

    def text(self) -> str:
        """All parts and their sum, a line each."""
        return "\n".join([*self._laps, f"  {self._last - self._start:6.1f} s  in all"])


def _unwind(*_: object) -> None:
    """As Ctrl-C does, so that the service goes too. An exception inside gRPC's code crashes it."""
    code = 128 + signal.SIGTERM
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        sys.exit(code)
    loop.call_soon_threadsafe(sys.exit, code)


def main() -> int:
    """Runs the demo; 0 where everything held, 1 where something did not."""
    signal.signal(signal.SIGTERM, _unwind)
    console = Console()
    HOME.mkdir(exist_ok=True)
    try:
        run_demo(console)
    except (CheckFailed, ServiceFailed, LongshoreError) as error:
        # Where stopping failed as well, what went wrong first comes first.
        for failure in (error.__context__, error):
            if isinstance(failure, CheckFailed | ServiceFailed | LongshoreError):
                text = f"FAILED: {type(failure).__name__}: {failure}"
                console.print(text, style="bold red", markup=False)
        console.print(f"the service's log is {HOME / 'service.log'}")
        return 1
    console.print("every check passed", style="bold green")
    return 0


if __name__ == "__main__":
    sys.exit(main())
