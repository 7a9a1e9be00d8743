"""The table of background jobs. Times are milliseconds since the epoch, UTC."""

from sqlalchemy import BigInteger, LargeBinary, Text
from sqlmodel import Field, SQLModel


class Job(SQLModel, table=True):
    """A call to be made in the background. `kind` is the path of the endpoint whose request it is.

    `status` is a `JobStatus`; the ledger changes it together with the charge. `api_key` and `token_version` are those
    of the caller who submitted it, `group_name` the group that the caller named, and
    `tags` those of the call, as a JSON object. Higher priorities start first.
    `available_ms` is when it may be started next, and `deadline_ms` until when it may be. `cancel_ms` is when its user
    cancelled it while it ran. `request` and `outcome` are encrypted: the outcome is the body of the response, or of the
    error.

    The line of a batch is a job, too, with the `batch_id`. It is pending without a charge. Its user does not see it.
    """

    __tablename__ = "jobs"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    id: str = Field(primary_key=True, max_length=40)
    user_id: int = Field(foreign_key="users.id")
    kind: str = Field(max_length=40)
    batch_id: str | None = Field(default=None, max_length=50)
    status: str = Field(max_length=10)
    priority: int
    charge_id: str | None = Field(default=None, max_length=40)
    api_key: str | None = Field(default=None, max_length=40)
    group_name: str | None = Field(default=None, max_length=64)
    tags: str | None = Field(default=None, sa_type=Text)
    token_version: int
    correlation_id: str = Field(max_length=128)
    traceparent: str = Field(max_length=60)
    idempotency_key: str | None = Field(default=None, max_length=255)
    fingerprint: str | None = Field(default=None, max_length=64)
    request: bytes = Field(sa_type=LargeBinary, repr=False)
    outcome: bytes | None = Field(default=None, sa_type=LargeBinary, repr=False)
    created_ms: int = Field(sa_type=BigInteger)
    available_ms: int = Field(sa_type=BigInteger)
    deadline_ms: int = Field(sa_type=BigInteger)
    started_ms: int | None = Field(default=None, sa_type=BigInteger)
    cancel_ms: int | None = Field(default=None, sa_type=BigInteger)
    completed_ms: int | None = Field(default=None, sa_type=BigInteger)
