"""Every error of the domain, as one tree. One class, one sentence, one stable `code`; HTTP is not known here.

TollkeeperError
├── InputError
│   ├── InvalidJson              the body is not strict JSON
│   ├── InvalidRequest           the body is JSON, but not what this door takes
│   ├── UnsupportedParameter     a field whose feature does not exist (yet)
│   │   └── UnsayableOption      the model's wire has no word for it
│   ├── BodyTooLarge
│   ├── BodyTooSlow              not all of it came in time
│   ├── MethodNotAllowed
│   └── TurnInProgress           one turn at a time on a connection
├── AccessError
│   ├── Unauthenticated          no token, or not a good one: one sentence for all reasons
│   ├── InvalidCredentials       login: unknown user and wrong password look alike
│   ├── Forbidden                right tenant, wrong role
│   └── NotFound                 absent, or another tenant's: they look alike
│       └── ModelNotFound
├── Refusal                      the caller may come back later
│   ├── QuotaExceeded            it cannot fit in this window
│   ├── QuotaHeld                it would fit, but calls in flight hold the room
│   ├── RateLimited
│   └── Overloaded               everybody together asks too much of this process
├── LedgerError
│   ├── LedgerUnavailable        nothing was reserved, nothing may be called
│   ├── ShuttingDown             the grace period is over
│   ├── LeaseLost                the hold was swept up while the call ran; it was cut
│   └── LedgerConflict           the verb does not apply to the state the row is in
├── IdempotencyError             the key was used before, and there is no answer to repeat
│   ├── IdempotencyInFlight      the call before is still running
│   ├── IdempotencyMismatch      it was another request
│   └── PreviousAttemptInterrupted  nobody knows what it would have answered
├── ProviderError                `billed` tells the ledger what may have been spent
│   ├── ProviderUnavailable  ProviderAuthFailed  ProviderRateLimited  ProviderRejected  ProviderFailed
│   ├── ProviderLacksModel       no such model, or no such endpoint
│   └── ProviderBadResponse  ProviderInterrupted  ProviderTimeout
└── ConfigurationError           the process must not start; the sentence says what to do
"""

from typing import ClassVar


class TollkeeperError(Exception):
    """Base of the tree. `str(error)` is safe to show to the caller."""

    code: ClassVar[str] = "internal_error"
    sentence: ClassVar[str] = "Something went wrong."

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail or self.sentence)
        self.detail = detail or self.sentence


class InputError(TollkeeperError):
    """What was sent cannot be accepted. `parameter` names the field that is in the way, where it is one of ours."""

    def __init__(self, detail: str | None = None, *, parameter: str | None = None) -> None:
        super().__init__(detail)
        self.parameter = parameter


class InvalidJson(InputError):
    code = "invalid_json"
    sentence = "The body is not valid JSON."


class InvalidRequest(InputError):
    code = "invalid_request"
    sentence = "The request does not have the shape this endpoint takes."


class UnsupportedParameter(InputError):
    code = "unsupported_parameter"
    sentence = "A parameter in this request is not supported."


class UnsayableOption(UnsupportedParameter):
    """`parameter` is what a chat completion calls it; the caller's own wire may call it something else."""


class BodyTooLarge(InputError):
    code = "body_too_large"
    sentence = "The body is larger than this endpoint accepts."


class BodyTooSlow(InputError):
    code = "body_too_slow"
    sentence = "The body did not arrive in time."


class MethodNotAllowed(InputError):
    """`allow` lists the methods it does take."""

    code = "method_not_allowed"
    sentence = "This endpoint does not take that method."

    def __init__(self, allow: str) -> None:
        super().__init__()
        self.allow = allow


class TurnInProgress(InputError):
    code = "turn_in_progress"
    sentence = "The turn before is not over yet. Cancel it, or wait for its final frame."


class AccessError(TollkeeperError):
    """Who is calling may not do this."""


class Unauthenticated(AccessError):
    code = "unauthenticated"
    sentence = "A valid bearer token is required."


class InvalidCredentials(AccessError):
    code = "invalid_credentials"
    sentence = "The username or the password is wrong."


class Forbidden(AccessError):
    code = "forbidden"
    sentence = "Your role does not allow this."


class NotFound(AccessError):
    code = "not_found"
    sentence = "There is no such thing here."


class ModelNotFound(NotFound):
    sentence = "There is no such model here."


class Refusal(TollkeeperError):
    """Not now: `retry_after_s` seconds from now the same call may pass (None: it never will by waiting)."""

    def __init__(self, detail: str | None = None, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class QuotaRefusal(Refusal):
    """A quota said no. `limit`, `used`, `reserved`, `needed` are in the quota's own `unit`: tokens or micro_usd."""

    def __init__(
        self,
        detail: str | None = None,
        *,
        quota: str = "",
        unit: str = "tokens",
        limit: int = 0,
        used: int = 0,
        reserved: int = 0,
        needed: int = 0,
        resets_ms: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail, retry_after_s=retry_after_s)
        self.quota = quota
        self.unit = unit
        self.limit = limit
        self.used = used
        self.reserved = reserved
        self.needed = needed
        self.resets_ms = resets_ms


class QuotaExceeded(QuotaRefusal):
    code = "quota_exceeded"
    sentence = "The quota does not have room for this call."


class QuotaHeld(QuotaRefusal):
    code = "quota_held"
    sentence = "The room in this quota is held by calls in flight."


class RateLimited(Refusal):
    code = "rate_limited"
    sentence = "Too many requests."


class Overloaded(Refusal):
    code = "overloaded"
    sentence = "The server holds as much as it can. Try again in a moment."


class LedgerError(TollkeeperError):
    """The ledger could not do what was asked."""


class LedgerUnavailable(LedgerError):
    code = "ledger_unavailable"
    sentence = "The ledger cannot be reached, so no call can be admitted."


class ShuttingDown(LedgerError):
    code = "shutting_down"
    sentence = "The server is shutting down; the call was cut."


class LeaseLost(LedgerError):
    code = "lease_lost"
    sentence = "The hold of this call was lost while it ran, so it was cut."


class LedgerConflict(LedgerError):
    code = "ledger_conflict"
    sentence = "The charge is not in a state that allows this."


class IdempotencyError(TollkeeperError):
    """The idempotency key was used before, and the answer of then cannot be repeated."""


class IdempotencyInFlight(IdempotencyError):
    code = "idempotency_in_flight"
    sentence = "A call with this idempotency key is still running."
    retry_after_s: ClassVar[int] = 1


class IdempotencyMismatch(IdempotencyError):
    code = "idempotency_key_reused"
    sentence = "This idempotency key was used with another request."


class PreviousAttemptInterrupted(IdempotencyError):
    code = "previous_attempt_interrupted"
    sentence = "The call with this idempotency key was cut off, or its answer was too long to keep. Use a new key."


class ProviderError(TollkeeperError):
    """The provider did not answer as it should.

    `billed` is False only with proof that the provider cannot have billed the call.
    """

    billed: ClassVar[bool] = True

    def __init__(self, detail: str | None = None, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class ProviderUnavailable(ProviderError):
    code = "provider_unavailable"
    sentence = "The AI provider cannot be reached."
    billed = False


class ProviderAuthFailed(ProviderError):
    code = "provider_auth_failed"
    sentence = "The AI provider refused this server's credentials."
    billed = False


class ProviderRateLimited(ProviderError):
    code = "provider_rate_limited"
    sentence = "The AI provider is limiting this server's requests."
    billed = False


class ProviderRejected(ProviderError):
    code = "provider_rejected"
    sentence = "The AI provider rejected the request as invalid."
    billed = False


class ProviderLacksModel(ProviderError):
    code = "provider_error"
    sentence = "The AI provider has no such model, or no such endpoint."
    billed = False


class ProviderFailed(ProviderError):
    code = "provider_error"
    sentence = "The AI provider failed to answer."
    billed = False


class ProviderInterrupted(ProviderError):
    code = "provider_error"
    sentence = "The connection to the AI provider broke before its answer arrived."


class ProviderBadResponse(ProviderError):
    code = "provider_bad_response"
    sentence = "The AI provider's answer could not be read."


class ProviderTimeout(ProviderError):
    code = "provider_timeout"
    sentence = "The AI provider did not answer in time."


class ConfigurationError(TollkeeperError):
    code = "configuration_error"
    sentence = "The configuration does not allow a start."
