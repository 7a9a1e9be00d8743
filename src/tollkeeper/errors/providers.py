"""The errors of providers. `errors` shows the whole tree of errors, and is where they are imported from."""

from typing import ClassVar, NamedTuple

from tollkeeper.errors.base import TollkeeperError


class UpstreamError(NamedTuple):
    """What a provider sent as an error: the HTTP status, its own error code, and its text. For the log only.

    The text may quote the prompt. The code is empty unless it looks like an identifier.
    """

    status: int
    code: str = ""
    text: str = ""


class ProviderError(TollkeeperError):
    """The provider did not answer as expected. `billed` is False only if the provider cannot have billed the call.

    `upstream` is the error that the provider sent, if it sent one. No caller receives any of it.
    """

    billed: ClassVar[bool] = True

    def __init__(self, detail: str | None = None, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        self.upstream: UpstreamError | None = None


class ProviderUnavailable(ProviderError):
    code = "provider_unavailable"
    sentence = "The AI provider cannot be reached."
    billed = False


class ProviderAuthFailed(ProviderError):
    code = "provider_auth_failed"
    sentence = "The AI provider refused this server's credentials."
    billed = False


class TenantKeyRefused(ProviderAuthFailed):
    code = "tenant_key_refused"
    sentence = "The AI provider refused your tenant's own key. An administrator of the tenant can replace it."


class ProviderRateLimited(ProviderError):
    code = "provider_rate_limited"
    sentence = "The AI provider is limiting this server's requests."
    billed = False


class ProviderRejected(ProviderError):
    """`parameter` is the path of the field at fault, if the provider names one that the request has."""

    code = "provider_rejected"
    sentence = "The AI provider rejected the request as invalid."
    billed = False

    def __init__(self, detail: str | None = None, *, parameter: str | None = None) -> None:
        super().__init__(detail)
        self.parameter: str | None = None
        self.name_parameter(parameter)

    def name_parameter(self, parameter: str | None) -> None:
        """Set the field at fault, and name it in the detail."""
        named = f" The field at fault: {parameter}." if parameter is not None else ""
        self.detail = self.detail.partition(" The field at fault: ")[0] + named
        self.parameter = parameter


class ContextOverflow(ProviderRejected):
    """`tokens` is the size of the request, `max_tokens` that of the context window. Both are None if not known."""

    code = "context_length_exceeded"
    sentence = "The request exceeds the context window of this model. Shorten it, or ask for less output."

    def __init__(self, tokens: int | None = None, max_tokens: int | None = None) -> None:
        known = tokens is not None and max_tokens is not None
        super().__init__(
            f"This model's maximum context length is {max_tokens} tokens, but the request needs {tokens} tokens."
            " Shorten it, or ask for less output."
            if known
            else None
        )
        self.tokens, self.max_tokens = (tokens, max_tokens) if known else (None, None)


class ContentFiltered(ProviderRejected):
    code = "content_filter"
    sentence = "The content filter of the AI provider refused this request."


class RequestTooLarge(ProviderRejected):
    code = "request_too_large"
    sentence = "The request has more bytes than the AI provider accepts."


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
    sentence = "The connection to the AI provider broke before its answer was complete."


class ProviderBadResponse(ProviderError):
    code = "provider_bad_response"
    sentence = "The AI provider's answer could not be read."


class ProviderTimeout(ProviderError):
    code = "provider_timeout"
    sentence = "The AI provider did not answer in time."
