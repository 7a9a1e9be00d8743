"""The errors of the ledger. `errors` shows the whole tree, and is where they are imported from."""

from typing import ClassVar

from tollkeeper.errors.base import TollkeeperError


class LedgerError(TollkeeperError):
    """The ledger cannot carry out an operation."""


class LedgerUnavailable(LedgerError):
    code = "ledger_unavailable"
    sentence = "The ledger cannot be reached, so no call can be admitted."


class LedgerBusy(LedgerError):
    code = "ledger_busy"
    sentence = "Another session keeps a row of this account locked. Retry later."


class ShuttingDown(LedgerError):
    code = "shutting_down"
    sentence = "The server is shutting down; the call was stopped."


class LeaseLost(LedgerError):
    code = "lease_lost"
    sentence = "The call lost its reservation while it ran, so it was stopped."


class LedgerConflict(LedgerError):
    code = "ledger_conflict"
    sentence = "The state of the charge does not allow this operation."


class IdempotencyError(TollkeeperError):
    """The idempotency key was used before, and there is no response to replay."""


class IdempotencyInFlight(IdempotencyError):
    code = "idempotency_in_flight"
    sentence = "A call with this idempotency key is still running."
    retry_after_s: ClassVar[int] = 1


class IdempotencyMismatch(IdempotencyError):
    code = "idempotency_key_reused"
    sentence = "This idempotency key was used with another request."


class PreviousAttemptInterrupted(IdempotencyError):
    code = "previous_attempt_interrupted"
    sentence = "The call with this idempotency key was interrupted, or its response was too long. Use a new key."
