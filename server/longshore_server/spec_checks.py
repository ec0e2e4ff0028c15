"""What a JobSpec may hold, field by field: pure checks that add to Faults."""

from __future__ import annotations

import math
import re
from urllib.parse import unquote

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from longshore.v1 import job_pb2
from longshore.v1.job_service_pb2 import JobView, SubmitRequest, Uniqueness
from longshore_server.refusals import Faults, cut
from longshore_server.times import DAY, HOUR, micros, text
from longshore_server.unknown import check_all_known, check_known

MOST_LABELS, MOST_INPUTS, MOST_CUSTOM, MOST_ACCELERATORS, MOST_REASONS = 64, 64, 16, 16, 32
LONGEST = 30 * DAY
EARLIEST, LATEST = -DAY, 366 * DAY
GIB, TIB = 1024**3, 1024**4
_LABEL = re.compile(r"[a-z][a-z0-9_./-]{0,62}")
_LABEL_RULE = "a name is 1 to 63 of a-z 0-9 _ - . / and starts with a letter"


def check_request(request: SubmitRequest, at: str, faults: Faults) -> None:
    """Checks what stands beside the spec."""
    check_text(request.idempotency_key, 256, f"{at}idempotency_key", faults)
    if request.HasField("uniqueness"):
        check_all_known(request.uniqueness, f"{at}uniqueness.", faults)
        check_uniqueness(request.uniqueness, f"{at}uniqueness", faults)


def check_uniqueness(unique: Uniqueness, at: str, faults: Faults) -> None:
    """Checks the key, the window and what a duplicate gets."""
    if not unique.key:
        faults.add(f"{at}.key", "is empty; give 1 to 256 characters, or leave uniqueness out")
    check_text(unique.key, 256, f"{at}.key", faults)
    if unique.HasField("window"):
        check_duration(unique.window, f"{at}.window", faults, positive=True)
    if unique.on_conflict not in Uniqueness.OnConflict.values():
        faults.add(
            f"{at}.on_conflict", f"is {unique.on_conflict}, which this release does not know"
        )


def check_form(spec: job_pb2.JobSpec, at: str, faults: Faults) -> None:
    """Checks what jobs share, but for task and queue, which need the catalogue."""
    check_all_known(spec, f"{at}.", faults)
    if spec.notify:
        faults.unserved(f"{at}.notify", "is not served by this release: leave it out, and watch")
    if not 0 <= spec.priority <= 100:
        faults.add(f"{at}.priority", f"is {spec.priority}; give 0 to 100")
    if spec.fairness_key:
        text = "is not served by this release: leave it out; tenants of a queue share it fairly"
        faults.unserved(f"{at}.fairness_key", text)
    if spec.HasField("resources"):
        check_resources(spec.resources, f"{at}.resources", faults)
    if spec.HasField("retry_policy"):
        check_retry(spec.retry_policy, f"{at}.retry_policy", faults)
    if spec.HasField("timeouts"):
        check_timeouts(spec.timeouts, f"{at}.timeouts", faults)
    if spec.HasField("expected_duration"):
        text = "is not served by this release: leave it out; run times are measured"
        faults.unserved(f"{at}.expected_duration", text)


def check_own(spec: job_pb2.JobSpec, at: str, now_us: int, faults: Faults) -> None:
    """Checks what is a job's own: inputs, labels, schedule_time."""
    if spec.labels:
        check_labels(dict(spec.labels), f"{at}.labels", faults)
    if spec.inputs:
        check_inputs(spec, f"{at}.inputs", faults)
    if spec.HasField("schedule_time"):
        check_schedule(spec.schedule_time, f"{at}.schedule_time", now_us, faults)
        check_known(spec.schedule_time, f"{at}.schedule_time.", faults)


def check_view(view: int, faults: Faults) -> None:
    """One of the views that this release knows."""
    if view not in JobView.values():
        faults.add("view", f"is {view}, which this release does not know; give BASIC or FULL")


def check_text(value: str, longest: int, at: str, faults: Faults) -> None:
    """At most so many characters and no NUL, which Postgres cannot keep."""
    if len(value) > longest:
        faults.add(at, f"has {len(value)} characters; give at most {longest}")
    if "\0" in value:
        faults.add(at, "holds a NUL character; remove it")


def check_labels(labels: dict[str, str], at: str, faults: Faults) -> None:
    """Count, names and values."""
    if len(labels) > MOST_LABELS:
        faults.add(at, f"has {len(labels)} labels; give at most {MOST_LABELS}")
        return
    for name, value in labels.items():
        if not _LABEL.fullmatch(name):
            faults.add(f"{at}[{cut(name, 70)!r}]", _LABEL_RULE)
        check_text(value, 128, f"{at}[{cut(name, 70)!r}]", faults)


def check_inputs(spec: job_pb2.JobSpec, at: str, faults: Faults) -> None:
    """Count, names, addresses, sizes and digests."""
    if len(spec.inputs) > MOST_INPUTS:
        faults.add(at, f"has {len(spec.inputs)} inputs; give at most {MOST_INPUTS}")
        return
    for name, ref in spec.inputs.items():
        place = f"{at}[{cut(name, 70)!r}]"
        if not 0 < len(name) <= 128 or "\0" in name:
            faults.add(place, "an input's name has 1 to 128 characters and no NUL")
        check_known(ref, f"{place}.", faults)
        check_address(ref.uri, f"{place}.uri", faults)
        if ref.size_bytes < 0:
            faults.add(f"{place}.size_bytes", f"is {ref.size_bytes}; give 0 where it is not known")
        if len(ref.sha256) not in (0, 32):
            faults.add(f"{place}.sha256", f"has {len(ref.sha256)} bytes; give 32, or none")
        check_text(ref.media_type, 128, f"{place}.media_type", faults)


def check_address(uri: str, at: str, faults: Faults) -> None:
    """file:///absolute/path is what this release serves."""
    check_text(uri, 2048, at, faults)
    path = uri.removeprefix("file://")
    if path == uri or not path.startswith("/"):
        faults.add(at, f"is {cut(uri, 80)!r}; give file:///absolute/path")
    elif "?" in path or "#" in path:
        faults.add(at, f"is {cut(uri, 80)!r}; write %3F for a '?' of the path, and %23 for a '#'")
    elif ".." in (parts := unquote(path).split("/")) or any("\0" in part for part in parts):
        faults.add(at, f"is {cut(uri, 80)!r}; give a path without '..' and without NUL")


def check_resources(wanted: job_pb2.Resources, at: str, faults: Faults) -> None:
    """The ranges of the contract. Unset takes the default of the task."""
    if wanted.HasField("cpu_millis") and not wanted.cpu_millis:
        text = "is 0; give 10 to 1,024,000 thousandths of a core, or leave it out"
        faults.add(f"{at}.cpu_millis", text)
    _within(wanted.cpu_millis, 10, 1_024_000, f"{at}.cpu_millis", "thousandths of a core", faults)
    _within(wanted.memory_bytes, 1, 64 * TIB, f"{at}.memory_bytes", "bytes", faults)
    _within(wanted.gpu_millis, 1, 64_000, f"{at}.gpu_millis", "thousandths of a GPU", faults)
    if wanted.gpu_millis > 1000 and wanted.gpu_millis % 1000:
        text = f"is {wanted.gpu_millis}; above 1000 give whole GPUs: 2000, 3000, ..."
        faults.add(f"{at}.gpu_millis", text)
    _within(wanted.gpu_memory_bytes, 1, 4 * TIB, f"{at}.gpu_memory_bytes", "bytes", faults)
    if len(wanted.accelerator_types) > MOST_ACCELERATORS:
        text = f"has {len(wanted.accelerator_types)} types; give at most {MOST_ACCELERATORS}"
        faults.add(f"{at}.accelerator_types", text)
    for place, name in enumerate(wanted.accelerator_types[:MOST_ACCELERATORS]):
        check_text(name, 128, f"{at}.accelerator_types[{place}]", faults)
    check_text(wanted.model, 256, f"{at}.model", faults)
    _check_custom(dict(wanted.custom), f"{at}.custom", faults)


def _check_custom(custom: dict[str, int], at: str, faults: Faults) -> None:
    if len(custom) > MOST_CUSTOM:
        faults.add(at, f"has {len(custom)} names; give at most {MOST_CUSTOM}")
        return
    for name, count in custom.items():
        place = f"{at}[{cut(name, 70)!r}]"
        if not _LABEL.fullmatch(name):
            faults.add(place, _LABEL_RULE)
        if not 0 <= count <= 1_000_000_000:
            faults.add(place, f"is {count}; give 0 to 1,000,000,000")


def _within(value: int, low: int, high: int, at: str, unit: str, faults: Faults) -> None:
    if value and not low <= value <= high:
        faults.add(at, f"is {value}; give {low:,} to {high:,} {unit}, or leave it out")


def check_retry(policy: job_pb2.RetryPolicy, at: str, faults: Faults) -> None:
    """The ranges of the contract; zero takes the default of the task."""
    _within(policy.maximum_attempts, 1, 100, f"{at}.maximum_attempts", "attempts", faults)
    for name in ("initial_backoff", "maximum_backoff"):
        if policy.HasField(name):
            check_duration(getattr(policy, name), f"{at}.{name}", faults, longest=24 * HOUR)
    growth = policy.backoff_multiplier
    if growth and not 1 <= growth <= 10:  # a NaN compares false, so it is refused too
        faults.add(f"{at}.backoff_multiplier", f"is {growth}; give 1 to 10")
    if (policy.HasField("jitter") and not 0 <= policy.jitter <= 1) or math.isnan(policy.jitter):
        faults.add(f"{at}.jitter", f"is {policy.jitter}; give 0 to 1")
    if len(policy.non_retryable_reasons) > MOST_REASONS:
        text = f"has {len(policy.non_retryable_reasons)} reasons; give at most {MOST_REASONS}"
        faults.add(f"{at}.non_retryable_reasons", text)
    for place, reason in enumerate(policy.non_retryable_reasons[:MOST_REASONS]):
        check_text(reason, 128, f"{at}.non_retryable_reasons[{place}]", faults)


def check_timeouts(timeouts: job_pb2.Timeouts, at: str, faults: Faults) -> None:
    """Spans that are at most 30 days; only cancel_grace may be zero, which is kill at once."""
    for field, value in timeouts.ListFields():
        if field.name == "heartbeat":
            text = "is not served by this release: leave it out, and set attempt"
            faults.unserved(f"{at}.heartbeat", text)
            continue
        positive = field.name != "cancel_grace"
        check_duration(value, f"{at}.{field.name}", faults, positive=positive)


def check_duration(
    value: Duration, at: str, faults: Faults, *, longest: int = LONGEST, positive: bool = False
) -> None:
    """A valid span from 0, or from above 0, to `longest` microseconds."""
    if not _is_valid(value):
        faults.add(at, f"is seconds={value.seconds} nanos={value.nanos}, which is no duration")
    elif value.seconds < 0 or value.nanos < 0:
        faults.add(at, f"is negative ({value.seconds}.{abs(value.nanos):09d} s); give 0 or more")
    elif micros(value) > longest:
        faults.add(at, f"is {text(micros(value))}; give at most {text(longest)}")
    elif positive and micros(value) == 0:
        faults.add(at, "is zero; give a longer time, or leave it out for the default")


def _is_valid(value: Duration) -> bool:
    same_sign = value.seconds * value.nanos >= 0
    return same_sign and abs(value.nanos) < 10**9 and abs(value.seconds) <= 315_576_000_000


def check_schedule(time: Timestamp, at: str, now_us: int, faults: Faults) -> None:
    """From a day ago, which means now, to 366 days ahead."""
    if not (0 <= time.nanos < 10**9 and -62_135_596_800 <= time.seconds <= 253_402_300_799):
        faults.add(at, f"is seconds={time.seconds} nanos={time.nanos}, which is no time")
        return
    ahead = micros(time) - now_us
    if ahead < EARLIEST:
        faults.add(at, f"is {_days(-ahead)} days ago ({_iso(time)}); give now, or leave it out")
    elif ahead > LATEST:
        faults.add(at, f"is {_days(ahead)} days ahead ({_iso(time)}); give at most 366 days")


def _days(span_us: int) -> int:
    """Rounded up: what is over a limit of whole days never reads like the limit."""
    return -(-span_us // DAY)


def _iso(time: Timestamp) -> str:
    return time.ToJsonString()
