"""Whether the credentials of the providers are valid, as real calls have shown: no call is made to find out."""

import time
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from tollkeeper.errors import ProviderAuthFailed


class CredentialType(StrEnum):
    """What a provider is called with. `tenant_key`: a key that a tenant has given for its own calls."""

    API_KEY = "api_key"
    NONE = "none"
    TENANT_KEY = "tenant_key"


class Verdict(NamedTuple):
    """What the last telling call showed. `since_ms` is the time of the first call in a row with the same result."""

    valid: bool
    since_ms: int


class ProviderCredential(NamedTuple):
    """A credential, without its secret. `verdict` is None before the first call with it.

    `tenant_id` and `key_id` name a tenant's own key; they are None for a credential of the operator.
    """

    provider: str
    type: CredentialType
    verdict: Verdict | None
    tenant_id: int | None = None
    key_id: str | None = None


class CredentialVerdicts:
    """The verdicts of this process, by provider and tenant; the tenant is None for the operator's credential.

    `now_ms` is the time in milliseconds since 1970.
    """

    def __init__(self, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._now_ms = now_ms
        self._verdicts: dict[tuple[str, int | None], Verdict] = {}

    def note(self, provider: str, tenant_id: int | None, error: BaseException | None) -> None:
        """Note how a call of the provider ended: `error` is None for an answer. Other errors show nothing of it."""
        if error is not None and not isinstance(error, ProviderAuthFailed):
            return
        verdict = self._verdicts.get((provider, tenant_id))
        if verdict is None or verdict.valid is not (error is None):
            self._verdicts[provider, tenant_id] = Verdict(error is None, self._now_ms())

    def of(self, provider: str, tenant_id: int | None = None) -> Verdict | None:
        """The verdict on a credential; None before the first call that shows anything."""
        return self._verdicts.get((provider, tenant_id))

    def forget(self, provider: str, tenant_id: int | None = None) -> None:
        """Forget the verdict: there is another credential now, or none."""
        self._verdicts.pop((provider, tenant_id), None)
