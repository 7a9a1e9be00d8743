"""An answer as the cache keeps it, and the question that it answers."""

import sys
from collections.abc import Iterator
from typing import NamedTuple

from tollkeeper.chat import Completion
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.gateway.results import CallResult, Outcome
from tollkeeper.providers.base import StreamChunk
from tollkeeper.providers.provider_stream import content_deltas
from tollkeeper.quota.rules.models import Basis
from tollkeeper.response_cache.questions import Owner, Question

PLAIN = "plain"
"""The form of an answer that is written in the caller's wire format: whole, or as a stream."""
CHUNK_BYTES = 200
"""What a chunk takes beside its text, about."""


class CachedAnswer(NamedTuple):
    """A whole answer that ended normally. A provider's own stream is kept as its `chunks`, with how it ended (`tail`).

    `basis` is that of the charge under which it was given. `placeholders` are those in its texts, in place of values
    that the question contains.
    """

    completion: Completion
    basis: Basis
    chunks: tuple[StreamChunk, ...] = ()
    tail: bytes = b""
    placeholders: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """What it takes in memory, in bytes, about."""
        texts = [self.completion.text, self.completion.reasoning or "", self.completion.raw or b"", self.tail]
        texts += [text for block in self.completion.signed_reasoning for text in (block.text, block.signature)]
        chunks = sum(CHUNK_BYTES + 2 * len(chunk.raw) for chunk in self.chunks)
        return chunks + sum(map(sys.getsizeof, texts))

    def stream(self) -> Iterator[StreamChunk]:
        """The answer as the chunks of a stream, but for its end."""
        if self.chunks:
            yield from self.chunks
        elif deltas := tuple(content_deltas(self.completion)):
            yield StreamChunk(b"", deltas)

    def outcome(self, candidate: Candidate) -> Outcome:
        """The outcome of a call that it answers."""
        return Outcome(candidate, lambda: self.completion, self.tail)


def question_of(owner: Owner, candidate: Candidate, sent: Candidate, *, streamed: bool) -> Question:
    """The question that this candidate would ask its provider. `sent` is what is asked in its place, where the caller's
    own values are redacted: else the same.
    """
    guard = sent.call.guard
    call, model, prepared = candidate.call, candidate.model, candidate.prepared
    return Question(
        owner=owner,
        provider=model.provider.name,
        model=model.name,
        upstream=model.upstream_name,
        with_tenant_key=model.with_tenant_key,
        form=_form_of(sent, streamed=streamed),
        moderation=guard.policy.fingerprint if guard is not None else "",
        limits=(call.max_output, call.allocation, call.input.choices),
        headers=prepared.headers,
        body=prepared.body_with_limit(0),
    )


def answer_of(
    result: CallResult, candidate: Candidate, chunks: tuple[StreamChunk, ...], *, streamed: bool
) -> CachedAnswer | None:
    """What may be kept of the answer to this candidate's question; None if it may not be given to other calls.

    Only a whole answer of the model that was asked, which ended by itself and calls no tool. A stream that is written
    anew would lose the signatures of its reasoning, so it is not kept with any.
    """
    outcome, asked, answering = result.outcome, candidate.model, result.outcome.candidate.model
    if outcome.cut_short or outcome.shortened:
        return None
    if (answering.name, answering.provider) != (asked.name, asked.provider):
        return None
    completion = result.completion
    if completion.finish_reason != "stop" or completion.tool_calls or completion.refusal is not None:
        return None
    is_forwarded = candidate.prepared.raw and streamed
    if streamed and not is_forwarded and completion.reasoning:
        return None
    guard = candidate.call.guard
    return CachedAnswer(
        completion,
        result.charge.basis,
        chunks if is_forwarded else (),
        outcome.tail if is_forwarded else b"",
        guard.placeholders.tokens if guard is not None else (),
    )


def _form_of(candidate: Candidate, *, streamed: bool) -> str:
    """A provider's own bytes are kept as they are, so that those of a stream answer only streams."""
    prepared = candidate.prepared
    if not prepared.raw:
        return f"{PLAIN} {prepared.wire}"
    return f"{prepared.wire} {'stream' if streamed else 'whole'}"
