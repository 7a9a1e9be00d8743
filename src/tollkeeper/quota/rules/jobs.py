"""Background jobs, as far as the ledger knows them: their state changes with that of their charge."""

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from tollkeeper.quota.rules.calls import ClosedCharge


class JobStatus(StrEnum):
    """The state of a job. The last three are final.

    A `new` job is stored, but has no charge yet. It becomes `pending` with the reserve of its charge, `processing` with
    the dispatch, and `completed` with the settle that stores its result. The ledger does not know the other two.
    """

    NEW = "new"
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobChange(NamedTuple):
    """What a transaction writes of a job that has not ended. Times and the outcome replace nothing if they are None."""

    tenant_id: int
    id: str
    charge_id: str
    status: str
    started_ms: int | None = None
    completed_ms: int | None = None
    outcome: bytes | None = None


class JobResult(NamedTuple):
    """Stores the result of a job in the transaction that closes its charge.

    `render` makes it from the closed charge. It is called whenever the operation is decided: in any thread, perhaps
    more than once.
    """

    job_id: str
    render: Callable[[ClosedCharge], bytes]
