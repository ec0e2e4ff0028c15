"""What task code is written with: light, and free of Ray and gRPC.

from longshore import Context, Resources, task

@task(queue="fast", resources=Resources(cpu=1))
def resize(ctx: Context, params: ResizeParams) -> ResizeResult: ...
"""

from longshore.sdk.artifacts import Artifact, Artifacts
from longshore.sdk.context import Context, Input, Progress
from longshore.sdk.failures import JobCancelled, PermanentError, TaskError
from longshore.sdk.resources import Resources, Retry, Timeouts
from longshore.sdk.task import Task, TaskDeclarationError, load_tasks, task

__all__ = [
    "Artifact",
    "Artifacts",
    "Context",
    "Input",
    "JobCancelled",
    "PermanentError",
    "Progress",
    "Resources",
    "Retry",
    "Task",
    "TaskDeclarationError",
    "TaskError",
    "Timeouts",
    "load_tasks",
    "task",
]
