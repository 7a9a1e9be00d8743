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
│   │   └── NotInGroup           the user is not a member of the group that the request names
│   ├── TagRefused               a tag that is not declared, or a value that is not allowed; or one is missing
│   ├── StepUpRequired           this needs a login of a moment ago, and the last one is older
│   └── NotFound                 absent, or another tenant's: both give the same error
│       ├── ChargeArchived       the charges of that month are archived, or are being archived
│       └── ModelNotFound        no such model in the catalog
│           └── ModelSwitchedOff   an operator has switched the model or its provider off
├── ContentBlocked               a rule of the tenant's moderation refuses the request, or the answer
├── ModerationUnavailable        the tenant's moderation could not check the call
├── Refusal                      the same call may pass later
│   ├── QuotaRefusal             a quota does not admit the call; carries the quota's figures
│   │   ├── QuotaExceeded        the call does not fit into this window
│   │   └── QuotaHeld            the call would fit, but calls in flight hold the rest of the quota
│   ├── RateLimited              too many requests per time
│   ├── TooManyJobs              too many background jobs that have not ended
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
├── JobError                     a background job has ended without an answer
│   ├── JobInterrupted           the process that ran it has ended
│   └── JobExpired               it was not started before its deadline
├── DocumentError                something about documents cannot be done
│   ├── DocumentsOff             the operator has named no model for their vectors
│   ├── DocumentUnreadable       it is in no format that is read, or it is broken
│   ├── DocumentQuotaExceeded    the tenant's documents are as many, or as large, as is allowed
│   └── DocumentExpired          its vectors could not be made in time
├── FileError                    a file cannot be stored, read or used
│   ├── FileTooLarge  LineTooLong   it, or a line of it, exceeds a limit in bytes
│   ├── StorageFull              the tenant's files have no more space
│   └── FileMissing  FileInUse   it was deleted meanwhile; it cannot be deleted now
├── BatchError                   a batch, or a line of one, ends without an answer
│   ├── TooManyBatches           the user has as many batches open as are allowed
│   ├── BatchNotEnded            the operation is for a batch that has ended
│   └── LineExpired  LineCancelled   the request of a line was not made
├── PreconditionFailed           the object is not in the state that the request expects
├── SealBroken                   what is stored encrypted was not encrypted here, for this place, with this key
└── ConfigurationError           the process must not start; the sentence says what to change
"""

from tollkeeper.errors.access import AccessError as AccessError
from tollkeeper.errors.access import ChargeArchived as ChargeArchived
from tollkeeper.errors.access import Forbidden as Forbidden
from tollkeeper.errors.access import InvalidCredentials as InvalidCredentials
from tollkeeper.errors.access import InvalidLink as InvalidLink
from tollkeeper.errors.access import InvalidTotpCode as InvalidTotpCode
from tollkeeper.errors.access import ModelNotFound as ModelNotFound
from tollkeeper.errors.access import ModelSwitchedOff as ModelSwitchedOff
from tollkeeper.errors.access import NotFound as NotFound
from tollkeeper.errors.access import NotInGroup as NotInGroup
from tollkeeper.errors.access import SignOnRefused as SignOnRefused
from tollkeeper.errors.access import StepUpRequired as StepUpRequired
from tollkeeper.errors.access import TagRefused as TagRefused
from tollkeeper.errors.access import TotpEnrolmentRequired as TotpEnrolmentRequired
from tollkeeper.errors.access import TotpRequired as TotpRequired
from tollkeeper.errors.access import Unauthenticated as Unauthenticated
from tollkeeper.errors.base import TollkeeperError as TollkeeperError
from tollkeeper.errors.documents import DocumentError as DocumentError
from tollkeeper.errors.documents import DocumentExpired as DocumentExpired
from tollkeeper.errors.documents import DocumentQuotaExceeded as DocumentQuotaExceeded
from tollkeeper.errors.documents import DocumentsOff as DocumentsOff
from tollkeeper.errors.documents import DocumentUnreadable as DocumentUnreadable
from tollkeeper.errors.files import BatchError as BatchError
from tollkeeper.errors.files import BatchNotEnded as BatchNotEnded
from tollkeeper.errors.files import FileError as FileError
from tollkeeper.errors.files import FileInUse as FileInUse
from tollkeeper.errors.files import FileMissing as FileMissing
from tollkeeper.errors.files import FileTooLarge as FileTooLarge
from tollkeeper.errors.files import LineCancelled as LineCancelled
from tollkeeper.errors.files import LineExpired as LineExpired
from tollkeeper.errors.files import LineTooLong as LineTooLong
from tollkeeper.errors.files import StorageFull as StorageFull
from tollkeeper.errors.files import TooManyBatches as TooManyBatches
from tollkeeper.errors.jobs import JobError as JobError
from tollkeeper.errors.jobs import JobExpired as JobExpired
from tollkeeper.errors.jobs import JobInterrupted as JobInterrupted
from tollkeeper.errors.ledger import IdempotencyError as IdempotencyError
from tollkeeper.errors.ledger import IdempotencyInFlight as IdempotencyInFlight
from tollkeeper.errors.ledger import IdempotencyMismatch as IdempotencyMismatch
from tollkeeper.errors.ledger import LeaseLost as LeaseLost
from tollkeeper.errors.ledger import LedgerBusy as LedgerBusy
from tollkeeper.errors.ledger import LedgerConflict as LedgerConflict
from tollkeeper.errors.ledger import LedgerError as LedgerError
from tollkeeper.errors.ledger import LedgerUnavailable as LedgerUnavailable
from tollkeeper.errors.ledger import PreviousAttemptInterrupted as PreviousAttemptInterrupted
from tollkeeper.errors.ledger import ShuttingDown as ShuttingDown
from tollkeeper.errors.moderation import ContentBlocked as ContentBlocked
from tollkeeper.errors.moderation import ModerationUnavailable as ModerationUnavailable
from tollkeeper.errors.providers import ContentFiltered as ContentFiltered
from tollkeeper.errors.providers import ContextOverflow as ContextOverflow
from tollkeeper.errors.providers import ProviderAuthFailed as ProviderAuthFailed
from tollkeeper.errors.providers import ProviderBadResponse as ProviderBadResponse
from tollkeeper.errors.providers import ProviderError as ProviderError
from tollkeeper.errors.providers import ProviderFailed as ProviderFailed
from tollkeeper.errors.providers import ProviderInterrupted as ProviderInterrupted
from tollkeeper.errors.providers import ProviderLacksModel as ProviderLacksModel
from tollkeeper.errors.providers import ProviderRateLimited as ProviderRateLimited
from tollkeeper.errors.providers import ProviderRejected as ProviderRejected
from tollkeeper.errors.providers import ProviderTimeout as ProviderTimeout
from tollkeeper.errors.providers import ProviderUnavailable as ProviderUnavailable
from tollkeeper.errors.providers import RequestTooLarge as RequestTooLarge
from tollkeeper.errors.providers import TenantKeyRefused as TenantKeyRefused
from tollkeeper.errors.providers import UpstreamError as UpstreamError
from tollkeeper.errors.refusals import SDK_WAIT_S as SDK_WAIT_S
from tollkeeper.errors.refusals import Overloaded as Overloaded
from tollkeeper.errors.refusals import QuotaExceeded as QuotaExceeded
from tollkeeper.errors.refusals import QuotaHeld as QuotaHeld
from tollkeeper.errors.refusals import QuotaRefusal as QuotaRefusal
from tollkeeper.errors.refusals import RateLimited as RateLimited
from tollkeeper.errors.refusals import Refusal as Refusal
from tollkeeper.errors.refusals import TooManyJobs as TooManyJobs


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
        super().__init__(f"{self.sentence} It allows {allow}." if allow else None)
        self.allow = allow


class TurnInProgress(InputError):
    code = "turn_in_progress"
    sentence = "The previous turn is still running. Cancel it, or wait for its final frame."


class DatabaseUnavailable(TollkeeperError):
    """The database did not respond to an API request. Its code is LedgerUnavailable's, and part of the API."""

    code = "ledger_unavailable"
    sentence = "The database is unavailable. Try again."


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
