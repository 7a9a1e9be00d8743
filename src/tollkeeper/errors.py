"""All errors of the domain, as one tree: each class has one sentence for people, and one stable `code` for clients.

The domain knows no HTTP: `api/errors.py` maps each class to a status.

TollkeeperError
├── InputError                   the request cannot be accepted
│   ├── InvalidJson  InvalidRequest   the body is not strict JSON; it is, but not a valid request for this endpoint
│   ├── UnsupportedParameter     a field whose feature does not exist (yet)
│   │   └── UntranslatableOption   the wire format of the model's provider has no such option
│   ├── BodyTooLarge  BodyTooSlow   the body exceeds the endpoint's limit in bytes, or in time
│   ├── UnsupportedMediaType     the body is in a format that the endpoint does not read
│   ├── MethodNotAllowed         the path exists, but not with this HTTP method
│   └── TurnInProgress           a WebSocket runs one turn at a time
├── AccessError                  the caller may not do this
│   ├── Unauthenticated          no valid credential; one sentence for all reasons
│   ├── InvalidCredentials       login: an unknown user and a wrong password give the same error
│   ├── SignOnRefused            the identity provider's answer does not admit the user; the sentence says why
│   │   └── InvalidTotpCode      the password is right, the code of the second factor is not
│   ├── TotpRequired             login: the password is right, and a code of the second factor is missing
│   ├── TotpEnrolmentRequired    an operator must set up a second factor first
│   ├── InvalidLink              a one-time link that is unknown, used, withdrawn or expired; one sentence for all
│   ├── Forbidden                the role or the API key's scopes do not allow this
│   ├── StepUpRequired           this needs a login of a moment ago, and the last one is older
│   └── NotFound                 absent, or another tenant's: both give the same error
│       └── ModelNotFound        no such model in the catalog
│           └── ModelSwitchedOff   an operator has switched the model or its provider off
├── Refusal                      the same call may pass later
│   ├── QuotaRefusal             a quota does not admit the call; carries the quota's figures
│   │   ├── QuotaExceeded        the call does not fit into this window
│   │   └── QuotaHeld            the call would fit, but calls in flight hold the rest of the quota
│   ├── RateLimited              too many requests per time
│   └── Overloaded               this process has no capacity left
├── DatabaseUnavailable          login, account, conversation or API key: the database did not respond
├── LedgerError                  the ledger cannot carry out an operation
│   ├── LedgerUnavailable        nothing was reserved, so no provider may be called
│   ├── LedgerBusy               a row that this operation needs is locked; nothing was reserved
│   ├── ShuttingDown             the grace period of the shutdown is over
│   ├── LeaseLost                the sweep released the call's hold while the call ran
│   └── LedgerConflict           the state of the charge does not allow the operation
├── IdempotencyError             the idempotency key was used before, and there is no response to replay
│   ├── IdempotencyInFlight      the first call is still running
│   ├── IdempotencyMismatch      the first call had another request
│   └── PreviousAttemptInterrupted  the first call ended without a complete stored response
├── ProviderError                the provider did not answer as expected; `billed` tells whether it may bill the call
│   ├── ProviderUnavailable  ProviderAuthFailed  ProviderRateLimited  ProviderFailed
│   │   └── TenantKeyRefused     (an auth failure) of the tenant's own key
│   ├── ProviderRejected         the request is wrong; perhaps the provider names the field
│   │   ├── ContextOverflow      prompt and answer do not fit into the model's context window
│   │   ├── ContentFiltered      a filter of the provider refuses the content
│   │   └── RequestTooLarge      the body has more bytes than the provider accepts
│   ├── ProviderLacksModel       the provider has no such model, or no such endpoint
│   └── ProviderBadResponse  ProviderInterrupted  ProviderTimeout
├── OutboundError                a request to a URL that a tenant has chosen
│   ├── OutboundRefused          it is not sent: the URL leads, or may lead, into a private network
│   └── OutboundFailed           the host cannot be reached, or its response is not acceptable
├── PreconditionFailed           the object is not in the state that the request expects
├── SealBroken                   what is stored encrypted was not encrypted here, for this place, with this key
└── ConfigurationError           the process must not start; the sentence says what to change
"""

from typing import ClassVar

from tollkeeper.base_error import TollkeeperError as TollkeeperError
from tollkeeper.provider_errors import ContentFiltered as ContentFiltered
from tollkeeper.provider_errors import ContextOverflow as ContextOverflow
from tollkeeper.provider_errors import ProviderAuthFailed as ProviderAuthFailed
from tollkeeper.provider_errors import ProviderBadResponse as ProviderBadResponse
from tollkeeper.provider_errors import ProviderError as ProviderError
from tollkeeper.provider_errors import ProviderFailed as ProviderFailed
from tollkeeper.provider_errors import ProviderInterrupted as ProviderInterrupted
from tollkeeper.provider_errors import ProviderLacksModel as ProviderLacksModel
from tollkeeper.provider_errors import ProviderRateLimited as ProviderRateLimited
from tollkeeper.provider_errors import ProviderRejected as ProviderRejected
from tollkeeper.provider_errors import ProviderTimeout as ProviderTimeout
from tollkeeper.provider_errors import ProviderUnavailable as ProviderUnavailable
from tollkeeper.provider_errors import RequestTooLarge as RequestTooLarge
from tollkeeper.provider_errors import TenantKeyRefused as TenantKeyRefused
from tollkeeper.provider_errors import UpstreamError as UpstreamError
from tollkeeper.refusal_errors import Overloaded as Overloaded
from tollkeeper.refusal_errors import QuotaExceeded as QuotaExceeded
from tollkeeper.refusal_errors import QuotaHeld as QuotaHeld
from tollkeeper.refusal_errors import QuotaRefusal as QuotaRefusal
from tollkeeper.refusal_errors import RateLimited as RateLimited
from tollkeeper.refusal_errors import Refusal as Refusal


class InputError(TollkeeperError):
    """The request cannot be accepted. `parameter` names the field at fault, if it is a field of the API."""

    def __init__(self, detail: str | None = None, *, parameter: str | None = None) -> None:
        super().__init__(detail)
        self.parameter = parameter


class InvalidJson(InputError):
    code = "invalid_json"
    sentence = "The body is not valid JSON."


class InvalidRequest(InputError):
    code = "invalid_request"
    sentence = "The request is not valid for this endpoint."


class UnsupportedParameter(InputError):
    code = "unsupported_parameter"
    sentence = "A parameter in this request is not supported."


class UntranslatableOption(UnsupportedParameter):
    """`parameter` is the option's name in a chat completion; the caller's wire format may name it otherwise."""


class BodyTooLarge(InputError):
    code = "body_too_large"
    sentence = "The body is larger than this endpoint accepts."


class BodyTooSlow(InputError):
    code = "body_too_slow"
    sentence = "The body did not arrive in time."


class UnsupportedMediaType(InputError):
    code = "unsupported_media_type"
    sentence = "The endpoint does not read bodies in this format."


class MethodNotAllowed(InputError):
    """`allow` lists the methods that the path allows, separated by commas."""

    code = "method_not_allowed"
    sentence = "This endpoint does not allow this method."

    def __init__(self, allow: str) -> None:
        super().__init__()
        self.allow = allow


class TurnInProgress(InputError):
    code = "turn_in_progress"
    sentence = "The previous turn is still running. Cancel it, or wait for its final frame."


class AccessError(TollkeeperError):
    """The caller may not do this."""


class Unauthenticated(AccessError):
    code = "unauthenticated"
    sentence = "The API key or token is missing, invalid, expired or revoked. Log in again, or use another key."


class InvalidCredentials(AccessError):
    code = "invalid_credentials"
    sentence = "The username or the password is wrong."


class SignOnRefused(AccessError):
    code = "sign_on_refused"
    sentence = "The single sign-on is not valid. Start again."


class InvalidTotpCode(InvalidCredentials):
    code = "invalid_totp_code"
    sentence = "The code is wrong, or was used before. Wait for the next one."


class TotpRequired(AccessError):
    code = "totp_required"
    sentence = "This account has a second factor. Send a code of it as `totp`, or a recovery code."


class TotpEnrolmentRequired(AccessError):
    code = "totp_enrolment_required"
    sentence = "Operators need a second factor here. Set one up: POST /auth/totp, then POST /auth/totp/confirm."


class InvalidLink(AccessError):
    code = "invalid_link"
    sentence = "This link is unknown, or was used before, or has ended. Ask an administrator for a new one."


class Forbidden(AccessError):
    code = "forbidden"
    sentence = "Your role does not allow this."


class StepUpRequired(AccessError):
    code = "step_up_required"
    sentence = "This needs a fresh login. Log in again, and repeat the request with the new token."


class NotFound(AccessError):
    code = "not_found"
    sentence = "There is nothing with this name or id."


class ModelNotFound(NotFound):
    sentence = "No model with that name. GET /v1/models lists them."


class ModelSwitchedOff(ModelNotFound):
    code = "model_switched_off"
    sentence = "The operator has switched this model off. GET /v1/models lists those that can be called."


class DatabaseUnavailable(TollkeeperError):
    """The database did not respond to a session of `db.py`. Its code is LedgerUnavailable's, and part of the API."""

    code = "ledger_unavailable"
    sentence = "The database is unavailable. Try again."


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


class OutboundError(TollkeeperError):
    """A request to a URL that a tenant has chosen. The sentence contains nothing of the response's body."""


class OutboundRefused(OutboundError):
    code = "address_refused"
    sentence = "This URL must not be requested."


class OutboundFailed(OutboundError):
    code = "host_failed"
    sentence = "The host did not answer as expected."


class PreconditionFailed(TollkeeperError):
    code = "precondition_failed"
    sentence = "The object was changed meanwhile: If-Match does not have its present ETag. Read it again."


class SealBroken(TollkeeperError):
    """It is not shown to callers: it means that the database was changed by hand, or restored beside another key."""


class ConfigurationError(TollkeeperError):
    code = "configuration_error"
    sentence = "The configuration is not valid."
