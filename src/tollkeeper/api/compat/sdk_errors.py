"""What the error responses of the compatible APIs have in common: invalid input is 400, and headers for the SDKs."""

from tollkeeper import errors
from tollkeeper.api.errors import headers_of, status_of


def status_and_headers(error: errors.TollkeeperError) -> tuple[int, dict[str, str]]:
    """`X-Error-Code` is our own stable code. The SDKs retry by status, unless `x-should-retry` forbids it."""
    status = 400 if isinstance(error, errors.InvalidRequest) else status_of(error)
    headers = headers_of(error, status) | {"Content-Type": "application/json", "X-Error-Code": error.code}
    if _forbids_retry(error):
        headers["x-should-retry"] = "false"
    return status, headers


def _forbids_retry(error: errors.TollkeeperError) -> bool:
    """Whether a retry would fail again, or would pay again for an attempt whose cost is not known."""
    if isinstance(error, errors.ProviderLacksModel | errors.ProviderAuthFailed):
        return True
    if isinstance(error, errors.ProviderError):
        return error.billed
    if isinstance(error, errors.ShuttingDown | errors.LeaseLost):
        return True
    if isinstance(error, errors.QuotaExceeded):
        return not error.passes_soon
    return isinstance(error, errors.IdempotencyMismatch | errors.PreviousAttemptInterrupted)
