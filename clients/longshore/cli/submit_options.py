"""The options of `longshore submit`: each one is a part of a JobSpec or of its request."""

from __future__ import annotations

from typing import Annotated

import typer

Text = str | None


def _text(metavar: str, help: str, *names: str) -> typer.models.OptionInfo:  # noqa: A002
    option: typer.models.OptionInfo = typer.Option(*names, metavar=metavar, help=help)
    return option


def _amount(help: str) -> typer.models.OptionInfo:  # noqa: A002
    option: typer.models.OptionInfo = typer.Option(min=0.001, max=1e6, metavar="N", help=help)
    return option


Task = Annotated[
    str, typer.Argument(metavar="TASK", help="The task to run; longshore tasks lists them.")
]
Payload = Annotated[
    Text, _text("JSON|@FILE|-", "The input: JSON text, a file of it, or - for stdin.")
]
Inputs = Annotated[
    list[str] | None,
    _text("NAME=PATH", "A file that the workers can read, or its URI. Repeatable.", "--input"),
]
Queue = Annotated[
    Text, typer.Option(metavar="NAME", show_default="the task's", help="The queue it waits in.")
]
Priority = Annotated[int | None, typer.Option(metavar="N", help="0 to 100; larger runs sooner.")]
Labels = Annotated[list[str] | None, _text("K=V", "Repeatable.", "--label")]
Cpu = Annotated[float | None, _amount("Cores.")]
Memory = Annotated[Text, _text("SIZE", "Such as 2GiB.")]
Gpu = Annotated[float | None, _amount("GPUs; 0.5 shares one.")]
GpuMemory = Annotated[Text, _text("SIZE", "Free memory of each GPU.")]
Key = Annotated[str, _text("KEY", "Idempotency key: the same key is the same job.")]
Unique = Annotated[str, _text("KEY", "While a job with this key is active, another is that job.")]
UniqueFor = Annotated[
    Text, _text("DURATION", "Keep the key of --unique so long, also after the job has ended.")
]
Delay = Annotated[Text, _text("DURATION", "Start after: 10m.", "--in")]
At = Annotated[Text, _text("TIME", "Start at: 2026-01-31T18:00, local without a zone.")]
MaxAttempts = Annotated[
    int | None,
    typer.Option(min=1, max=2**31 - 1, metavar="N", help="All tries, the first one included."),
]
Backoff = Annotated[
    Text, _text("DURATION", "The pause before the second try; each next one is longer.")
]
MaxBackoff = Annotated[Text, _text("DURATION", "The longest pause between tries.")]
AttemptTimeout = Annotated[Text, _text("DURATION", "The longest time of one try.")]
TotalTimeout = Annotated[Text, _text("DURATION", "The longest time from submit to end.")]
QueueTimeout = Annotated[Text, _text("DURATION", "The longest wait before the first try.")]
ValidateOnly = Annotated[bool, typer.Option("--validate-only", help="Check; run nothing.")]
Watch = Annotated[bool, typer.Option("--watch", help="Then watch it to its end.")]
Wait = Annotated[
    bool,
    typer.Option("--wait", help="Then wait, and print only its result; the id goes to stderr."),
]
