"""The CPU tasks that come with Longshore: `echo` always, `transcode` where its libraries are.

Importing this costs milliseconds: media libraries are loaded when a job needs them. A worker
without the `cpu` extra offers `echo` alone, rather than a task that fails when it starts.
"""

from importlib.util import find_spec

from longshore_cpu_workers.tasks.diagnostics import echo

__all__ = ["echo"]

if find_spec("av") and find_spec("imageio_ffmpeg"):
    from longshore_cpu_workers.tasks.transcoding.task import transcode

    __all__ += ["transcode"]
