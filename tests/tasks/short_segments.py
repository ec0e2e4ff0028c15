"""The task `transcode` with segments of a second, so that a short video has many of them."""

from longshore_cpu_workers.tasks import transcode
from longshore_cpu_workers.tasks.transcoding import resumable, segments

segments.SEGMENT_SECONDS = 1.0
resumable.CHECKPOINT_SECONDS = 0.0

__all__ = ["transcode"]
