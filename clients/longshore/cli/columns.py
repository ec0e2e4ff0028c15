"""How messages look in a table: a title and a cell for each column."""

from __future__ import annotations

from longshore.cli.tables import Column, Columns
from longshore.cli.times import NONE, age, took
from longshore.handle import is_terminal, state_name
from longshore.v1 import job_pb2, pool_service_pb2, queue_service_pb2, task_service_pb2


def bytes_(count: int) -> str:
    """A size in the largest binary unit that fits."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.4g} {unit}"


def resources(value: job_pb2.Resources) -> str:
    """Such as "2 cpu, 4 GiB, 0.5 gpu"."""
    parts = [
        f"{value.cpu_millis / 1000:g} cpu" if value.cpu_millis else "",
        bytes_(value.memory_bytes) if value.memory_bytes else "",
        f"{value.gpu_millis / 1000:g} gpu" if value.gpu_millis else "",
        f"{bytes_(value.gpu_memory_bytes)} gpu memory" if value.gpu_memory_bytes else "",
        *(f"{amount} {name}" for name, amount in sorted(value.custom.items())),
    ]
    return ", ".join(part for part in parts if part) or NONE


def progress(value: job_pb2.Progress) -> str:
    """Such as "40% decode: cropped", or "40% decode: 2 of 5 pages" where there is no message."""
    share = f"{value.fraction:.0%}" if value.HasField("fraction") else ""
    phase = value.phase if value.phase != value.message else ""
    what = ": ".join(part for part in (phase, value.message or amount(value)) if part)
    return " ".join(part for part in (share, what) if part)


def amount(value: job_pb2.Progress) -> str:
    """How much is done, such as "2 of 5 pages"; empty where nothing was counted."""
    if not value.completed and not value.total:
        return ""
    total = f" of {value.total:,}" if value.total else ""
    return f"{value.completed:,}{total} {value.unit}".strip()


def _detail(job: job_pb2.Job) -> str:
    if is_terminal(job):
        return last_word(job)
    return progress(job.progress)


def placement(value: job_pb2.Placement) -> str:
    """Such as "3 ahead; every worker that fits is busy"."""
    reasons = [reason.message or str(reason.code) for reason in value.waiting_reasons]
    ahead = [f"{value.approximate_position} ahead"] if value.approximate_position else []
    return "; ".join(ahead + reasons)


def failure_class(value: int) -> str:
    """Such as CRASH; a number where this release does not know it."""
    try:
        name = job_pb2.FailureClass.Name(job_pb2.FailureClass.ValueType(value))
    except ValueError:
        return str(value)
    return name.removeprefix("FAILURE_CLASS_")


def failures(counts: job_pb2.FailureCounts) -> str:
    """What has failed and how much of it is allowed, such as "errors 1 of 4, crashes 3 of 3"."""
    pairs = (
        ("errors", counts.attempts, counts.maximum_attempts),
        ("crashes", counts.crashes, counts.maximum_crashes),
        ("out of memory", counts.out_of_memory, counts.maximum_out_of_memory),
        ("interruptions", counts.interruptions, counts.maximum_interruptions),
    )
    return ", ".join(f"{name} {used} of {most}" for name, used, most in pairs if used)


def headline(message: str) -> str:
    """The first line of a message, at most 200 characters of it."""
    first = message.partition("\n")[0]
    return first if len(first) <= 200 and first == message else f"{first[:200]} …"


def last_word(job: job_pb2.Job) -> str:
    """Why a job ended, with what was used up where that ended it."""
    if job.state != job_pb2.JOB_STATE_DEAD_LETTERED or not job.HasField("failure_counts"):
        return str(job.error.message)
    return f"{job.error.message} ({failures(job.failure_counts)})"


def _rate(value: float) -> str:
    """Three digits; an old average that has all but faded is nothing."""
    return f"{value:.3g}" if value >= 0.001 else "0"


def _worker_state(worker: pool_service_pb2.Worker) -> str:
    try:
        name = pool_service_pb2.WorkerState.Name(worker.state)
    except ValueError:
        return str(worker.state)
    return "DRAINED" if worker.drained else name.removeprefix("WORKER_STATE_")


def node(name: str) -> str:
    """The host and the beginning of Ray's id, which tells two nodes of a host apart."""
    host, slash, ray_id = name.partition("/")
    return f"{host}{slash}{ray_id[:8]}"


def _device(device: pool_service_pb2.Device) -> str:
    return f"{device.name} (set aside)" if device.set_aside else device.name


def _cause(job: job_pb2.Job) -> str:
    """How the last attempt ended; a sample comes without attempts."""
    if not job.attempts:
        return NONE
    return failure_class(job.attempts[-1].failure_class)


def _redrive_state(redrive: queue_service_pb2.Redrive) -> str:
    try:
        name = queue_service_pb2.RedriveState.Name(redrive.state)
    except ValueError:
        return str(redrive.state)
    if redrive.state == queue_service_pb2.REDRIVE_STATE_COMPLETED and redrive.failed:
        return "ALL FAILED" if redrive.failed >= redrive.redriven else "SOME FAILED"
    return name.removeprefix("REDRIVE_STATE_")


JOB: Columns[job_pb2.Job] = (
    Column("ID", lambda job: job.job_id),
    Column("TASK", lambda job: job.spec.task, elastic=True),
    Column("QUEUE", lambda job: job.queue or NONE, elastic=True, spare=True),
    Column("STATE", lambda job: state_name(job.state)),
    Column("AGE", lambda job: age(job.create_time)),
    Column("RAN", lambda job: took(job.start_time, job.end_time), spare=True),
    Column("DETAIL", _detail, elastic=True),
)
DEAD_LETTER: Columns[job_pb2.Job] = (
    Column("ID", lambda job: job.job_id),
    Column("TASK", lambda job: job.spec.task, elastic=True),
    Column("QUEUE", lambda job: job.queue or NONE, elastic=True, spare=True),
    Column("RUN", lambda job: str(job.run), spare=True),
    Column("CAUSE", _cause, elastic=True),
    Column("ENDED", lambda job: age(job.end_time)),
    Column("DETAIL", _detail, elastic=True),
)
REDRIVE: Columns[queue_service_pb2.Redrive] = (
    Column("ID", lambda redrive: redrive.redrive_id),
    Column("STATE", _redrive_state),
    Column("DONE", lambda redrive: f"{redrive.redriven} of {redrive.total}"),
    Column("FAILED AGAIN", lambda redrive: str(redrive.failed)),
    Column("PER SECOND", lambda redrive: _rate(redrive.rate), spare=True),
    Column("AGE", lambda redrive: age(redrive.create_time), spare=True),
    Column("ACTOR", lambda redrive: redrive.actor, elastic=True, spare=True),
    Column("REASON", lambda redrive: redrive.reason, elastic=True, spare=True),
    Column("STOPPED", lambda redrive: redrive.stop_reason, elastic=True),
)
QUEUE: Columns[queue_service_pb2.Queue] = (
    Column("QUEUE", lambda queue: queue.name),
    Column("WAITING", lambda queue: str(queue.waiting - queue.not_due)),
    Column("NOT DUE", lambda queue: str(queue.not_due)),
    Column("LIMIT", lambda queue: str(queue.maximum_waiting or NONE)),
    Column("ACTIVE", lambda queue: str(queue.active)),
    Column("PER SECOND", lambda queue: _rate(queue.drain_rate)),
    Column(
        "PAUSED",
        lambda queue: (queue.pause_reason or "yes") if queue.paused else NONE,
        elastic=True,
    ),
)
POOL: Columns[pool_service_pb2.Pool] = (
    Column("POOL", lambda pool: pool.name),
    Column("READY", lambda pool: str(pool.ready_workers)),
    Column("STARTING", lambda pool: str(pool.starting_workers)),
    Column("MIN", lambda pool: str(pool.minimum_workers)),
    Column("MAX", lambda pool: str(pool.maximum_workers)),
    Column("ATTEMPTS", lambda pool: str(pool.active_attempts)),
    Column("EACH", lambda pool: resources(pool.worker_resources), elastic=True),
    Column("NOTE", lambda pool: "simulated devices" if pool.simulated else "", elastic=True),
)
WORKER: Columns[pool_service_pb2.Worker] = (
    Column("ID", lambda worker: worker.worker_id),
    Column("POOL", lambda worker: worker.pool, elastic=True),
    Column("STATE", _worker_state),
    Column("BUILD", lambda worker: worker.build or NONE, elastic=True, spare=True),
    Column("NODE", lambda worker: node(worker.node), elastic=True),
    Column("ATTEMPTS", lambda worker: str(worker.active_attempts), spare=True),
    Column("HEARD", lambda worker: age(worker.heartbeat_time)),
    Column(
        "DEVICES",
        lambda worker: ", ".join(map(_device, worker.devices)) or NONE,
        elastic=True,
        spare=True,
    ),
)
TASK: Columns[task_service_pb2.Task] = (
    Column("TASK", lambda task: task.name),
    Column("QUEUE", lambda task: task.queue or NONE, spare=True),
    Column("NEEDS", lambda task: resources(task.resources), elastic=True),
    Column("DESCRIPTION", lambda task: task.description, elastic=True),
)
