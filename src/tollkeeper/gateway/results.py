"""What a call to a model results in, and what callers add to it to make it idempotent."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tollkeeper.chat import Completion, Usage
from tollkeeper.errors import TollkeeperError
from tollkeeper.gateway.cache_status import CacheStatus
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.gateway.verdict import Verdict
from tollkeeper.providers.base import Model
from tollkeeper.quota.rules.calls import LinkedTerms
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, StoredResponse
from tollkeeper.quota.rules.models import Basis
from tollkeeper.quota.rules.operations import ClosedCharge, Terms


class Outcome(NamedTuple):
    """What one provider answered. `read` returns the completion; that of a stream is put together when it is read.

    Of a stream, `tail` is how the provider ended it, `shortened` means that it was cut at its output limit, and
    `cut_short` that the client disconnected before its end; its first output came at `first_output_at`, by
    `time.perf_counter`. `verdict` is the judge's, if the call was to be evaluated.
    """

    candidate: Candidate
    read: Callable[[], Completion]
    tail: bytes = b""
    shortened: bool = False
    cut_short: bool = False
    first_output_at: float | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class CallResult:
    """The outcome of a call, and how its charge was closed. `cache` is None where the cache is off. `fallback_for` is
    the model that was asked for, if a quota had no room for it.
    """

    charge: ClosedCharge
    outcome: Outcome
    cache: CacheStatus | None = None
    fallback_for: str | None = None

    @property
    def from_cache(self) -> bool:
        """Whether the answer is that of an earlier call."""
        return self.cache is not None and self.cache.is_hit

    @property
    def answer_basis(self) -> Basis:
        """The basis of the charge under which the provider has given this answer."""
        return self.cache.basis if self.cache is not None and self.cache.is_hit else self.charge.basis

    @property
    def model(self) -> str:
        return self.outcome.candidate.model.name

    @property
    def provider(self) -> str:
        return self.outcome.candidate.model.provider.name

    @cached_property
    def completion(self) -> Completion:
        return self.outcome.read()

    @property
    def usage(self) -> Usage:
        """The usage as charged, with the reasoning tokens that the provider reported as part of the output.

        Of an answer from the cache, it is that of the answer, though nothing is charged.
        """
        reported = self.completion.usage
        if self.from_cache and isinstance(reported, Usage):
            return reported
        if reported is None or self.charge.basis is not Basis.PROVIDER:
            return self.charge.usage
        return self.charge.usage._replace(reasoning_tokens=reported.reasoning_tokens)


RenderResult = Callable[[CallResult], bytes]
"""Makes the body of a response. It depends on the result alone, and may be called more than once."""


@dataclass(frozen=True, slots=True)
class IdempotentCall:
    """The idempotency key that a call was sent with, and how its result is rendered into the response to be stored."""

    keyed_request: KeyedRequest
    render: Callable[[CallResult], StoredResponse | None]


class ReservedJob(NamedTuple):
    """A job, and the charge that it was reserved with, at these terms. `fallback_for` is the model that was asked for,
    if the charge is another one's. `judge_terms` are those of the judge's charge, if one was reserved with it.
    """

    id: str
    charge_id: str
    terms: Terms
    fallback_for: str | None = None
    judge_terms: Terms | None = None


class Estimate(NamedTuple):
    """What a call would ask of the ledger: `byte_terms` first and, if those are refused, `exact_terms`.

    `input_tokens` are counted by the best tokenizer at hand. `judges` are the terms of the judge's call for both, if
    the answer is to be rated.
    """

    model: Model
    byte_terms: Terms
    exact_terms: Terms
    input_tokens: int
    judges: tuple[LinkedTerms, LinkedTerms] | None = None


class CallFailed(TollkeeperError):
    """A call that was reserved and then failed. `cause` is what failed, `charge` how its charge was closed."""

    def __init__(self, cause: TollkeeperError, charge: ClosedCharge | None) -> None:
        super().__init__(cause.detail)
        self.cause = cause
        self.charge = charge
