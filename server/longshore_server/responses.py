"""What Submit answers: a job as the store has just made it, or as it was there already."""

from __future__ import annotations

from longshore.v1 import job_pb2
from longshore.v1.job_service_pb2 import SubmitResponse
from longshore_server.admission import Admitted
from longshore_server.catalogue import Catalogue
from longshore_server.forms import Form
from longshore_server.jobs import JobReader
from longshore_server.placement import place
from longshore_server.times import timestamp
from longshore_store.model import Accepted, JobRecord
from longshore_store.states import WAITING, JobState


class Responses:
    """The responses of one call. Jobs of a batch that are alike are copies of one.

    brief: jobs come without spec, progress and outcome.
    """

    def __init__(
        self, catalogue: Catalogue, now_us: int, jobs: JobReader, tenant: str, *, brief: bool
    ) -> None:
        self._catalogue = catalogue
        self._now_us = now_us
        self._jobs = jobs
        self._tenant = tenant
        self._brief = brief
        self._templates: dict[tuple[Form, JobState, int, int | None], SubmitResponse] = {}

    def fill_new(
        self, response: SubmitResponse, one: Admitted, accepted: Accepted, *, stored: bool
    ) -> None:
        """A job that this call made. One that was only checked has no id."""
        job_id, _, state, created_us = accepted
        form, own_bytes, due_us = one
        if self._brief:
            key = (form, state, created_us, due_us)
            template = self._templates.get(key)
            if template is None:
                template = self._templates[key] = SubmitResponse()
                self._fill(template, *key)
            response.CopyFrom(template)
        else:
            self._fill(response, form, state, created_us, due_us)
            response.job.spec.MergeFromString(form.spec)
            if own_bytes:
                response.job.spec.MergeFromString(own_bytes)
        if stored:
            response.job.job_id = job_id

    def _fill(
        self,
        response: SubmitResponse,
        form: Form,
        state: JobState,
        created_us: int,
        due_us: int | None,
    ) -> None:
        """Its first event is its submission."""
        response.created = True
        job = response.job
        job.state = job_pb2.JobState.ValueType(state)
        job.revision = job.latest_sequence = job.run = 1
        job.tenant = self._tenant
        job.queue = form.queue
        job.create_time.CopyFrom(timestamp(created_us))
        if state in WAITING:
            placed = place(
                self._catalogue, form.task, form.queue, form.needs_json, state,
                due_us=due_us, now_us=self._now_us,
            )  # fmt: skip
            response.placement.CopyFrom(placed)

    def fill_existing(
        self, response: SubmitResponse, record: JobRecord | None, accepted: Accepted
    ) -> None:
        """A job that was there before this call."""
        if record is None:  # deleted by age since the store answered
            response.job.job_id = accepted.job_id
            response.job.state = job_pb2.JobState.ValueType(accepted.state)
            return
        response.job.CopyFrom(self._jobs.message(record))
        if self._brief:
            _shorten(response.job)
        if record.state in WAITING:
            response.placement.CopyFrom(
                place(
                    self._catalogue, record.task, record.queue, record.needs_json, record.state,
                    due_us=record.due_us, now_us=self._now_us, own=1,
                )
            )  # fmt: skip


def _shorten(job: job_pb2.Job) -> None:
    """Leaves out what may be large."""
    job.ClearField("spec")
    job.ClearField("progress")
    job.ClearField("failure_counts")
    job.ClearField("outcome")
