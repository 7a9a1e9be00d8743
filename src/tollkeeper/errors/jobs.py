"""The errors of background jobs. `errors` shows the whole tree, and is where they are imported from."""

from tollkeeper.errors.base import TollkeeperError


class JobError(TollkeeperError):
    """A background job has ended without an answer."""


class JobInterrupted(JobError):
    code = "job_interrupted"
    sentence = "The server was stopped while the job ran. Its provider may have been called, so it is not repeated."


class JobExpired(JobError):
    code = "job_expired"
    sentence = "The job could not be started before its deadline."
