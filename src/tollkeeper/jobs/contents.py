"""Encrypts what users put into jobs, and what comes out of them, each for its place."""

from tollkeeper.encryption.data_keys import DataKeys, Purpose
from tollkeeper.jobs.models import Job


class JobContents:
    """Seals and opens requests and outcomes of jobs."""

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys

    def seal_request(self, job: Job, body: bytes) -> bytes:
        """The body of the request that the job is to make."""
        return self._keys.seal(Purpose.JOBS, body, _place(job, "request"))

    def read_request(self, job: Job) -> bytes:
        """Raises SealBroken."""
        return self._keys.unseal(Purpose.JOBS, job.request, _place(job, "request"))

    def seal_outcome(self, job: Job, body: bytes) -> bytes:
        """The body of the response, or of the error."""
        return self._keys.seal(Purpose.JOBS, body, _place(job, "outcome"))

    def read_outcome(self, job: Job) -> bytes | None:
        """None for a job without an outcome. Raises SealBroken."""
        if job.outcome is None:
            return None
        return self._keys.unseal(Purpose.JOBS, job.outcome, _place(job, "outcome"))


def _place(job: Job, part: str) -> str:
    return f"jobs/{job.tenant_id}/{job.user_id}/{job.id}/{part}"
