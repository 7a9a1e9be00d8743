"""The table of batches. Times are milliseconds since the epoch, UTC."""

from enum import StrEnum

from sqlalchemy import BigInteger, LargeBinary, Text
from sqlmodel import Field, SQLModel


class BatchStatus(StrEnum):
    """The state of a batch. The last four are final."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Batch(SQLModel, table=True):
    """A batch of calls. `kind` is that of the jobs which its lines become.

    Every change raises `revision`, and is made only at the revision that was read. `total` is the number of requests;
    `next_line` of them were turned into jobs or ended, and the next one begins at `next_byte` of the input file. What
    became of those that have ended: `completed`, `failed`, or `unmade`, because the batch was cancelled or expired.
    `api_key` and `token_version` are those of the caller who submitted it. A process looks at it at `available_ms`.
    `options` and `errors` are encrypted.
    """

    __tablename__ = "batches"

    tenant_id: int = Field(primary_key=True, foreign_key="tenants.id")
    id: str = Field(primary_key=True, max_length=50)
    user_id: int = Field(foreign_key="users.id")
    kind: str = Field(max_length=40)
    status: str = Field(max_length=12)
    revision: int = 0
    input_file_id: str = Field(max_length=50)
    output_file_id: str | None = Field(default=None, max_length=50)
    error_file_id: str | None = Field(default=None, max_length=50)
    total: int = 0
    completed: int = 0
    failed: int = 0
    unmade: int = 0
    next_line: int = 0
    next_byte: int = Field(default=0, sa_type=BigInteger)
    api_key: str | None = Field(default=None, max_length=40)
    group_name: str | None = Field(default=None, max_length=64)
    tags: str | None = Field(default=None, sa_type=Text)
    token_version: int
    correlation_id: str = Field(max_length=128)
    traceparent: str = Field(max_length=60)
    idempotency_key: str | None = Field(default=None, max_length=255)
    fingerprint: str | None = Field(default=None, max_length=64)
    options: bytes = Field(sa_type=LargeBinary, repr=False)
    errors: bytes | None = Field(default=None, sa_type=LargeBinary, repr=False)
    created_ms: int = Field(sa_type=BigInteger)
    deadline_ms: int = Field(sa_type=BigInteger)
    available_ms: int = Field(sa_type=BigInteger)
    started_ms: int | None = Field(default=None, sa_type=BigInteger)
    cancel_ms: int | None = Field(default=None, sa_type=BigInteger)
    ended_ms: int | None = Field(default=None, sa_type=BigInteger)
