"""Embeddings from the cache, input by input: only the inputs without a kept vector are sent to the provider."""

import hashlib
from dataclasses import replace
from typing import NamedTuple

import msgspec

from tollkeeper.chat import Completion, Usage
from tollkeeper.dialects import embeddings
from tollkeeper.errors import ProviderBadResponse
from tollkeeper.gateway.cached_answer import CachedAnswer, answer_of
from tollkeeper.gateway.candidate import Candidate
from tollkeeper.gateway.results import CallFailed, CallResult, Outcome
from tollkeeper.providers.base import Wire
from tollkeeper.quota.rules.models import Basis
from tollkeeper.response_cache.memory import ResponseCache
from tollkeeper.response_cache.questions import Owner, Question, keys_of_parts
from tollkeeper.worker_thread import pause, run_by_size

FORM = "vector"
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class CachedVector(NamedTuple):
    """The vector of one input, in JSON, and the model that its answer names.

    `input_tokens` is its part, by length, of what the provider has reported for the inputs of that call together.
    """

    value: bytes
    model: str
    input_tokens: int
    basis: Basis

    @property
    def size(self) -> int:
        """What it takes in memory, in bytes, about."""
        return len(self.value) + len(self.model)


AnswerCache = ResponseCache[CachedAnswer | CachedVector]


class Inputs(NamedTuple):
    """The inputs of a call, each in JSON, and the key of each. Equal inputs have equal keys."""

    items: tuple[bytes, ...]
    keys: tuple[bytes, ...]

    @property
    def key(self) -> bytes:
        """The key of the question with all inputs, in their order."""
        return hashlib.sha256(b"".join(self.keys)).digest()


def inputs_of(question: Question) -> Inputs:
    """The inputs of an embeddings request, in the wire format of the provider."""
    fields = _decode_fields(question.body)
    items = []
    for item in embeddings.read_input(fields).items:
        pause()
        items.append(msgspec.json.encode(item))
    rest = {name: value for name, value in fields.items() if name != "input"}
    others = question._replace(form=FORM, body=msgspec.json.encode(rest))
    return Inputs(tuple(items), keys_of_parts(others, items))


class Asked(NamedTuple):
    """A question that the cache may answer."""

    candidate: Candidate
    owner: Owner
    key: bytes
    generation: int
    inputs: Inputs | None = None
    """Of a call for embeddings: the cache may have the vectors of some."""


class VectorCall:
    """An embeddings call, and the vectors that the cache has for its inputs."""

    def __init__(self, cache: AnswerCache, asked: Asked) -> None:
        assert asked.inputs is not None
        self._cache = cache
        self._asked = asked
        self._candidate = asked.candidate
        self._inputs = asked.inputs
        self._vectors: dict[bytes, CachedVector] = {}
        self._age_s = 0.0
        for key in self._inputs.keys:
            if (found := cache.get(asked.owner, key)) is not None:
                vector, age_s = found
                assert isinstance(vector, CachedVector)
                self._vectors[key], self._age_s = vector, max(self._age_s, age_s)

    async def answer(self) -> tuple[CachedAnswer, float] | None:
        """The answer and the age of its oldest vector, if the cache has a vector for each input."""
        if len(self._vectors) < len(set(self._inputs.keys)):
            return None
        vectors = [self._vectors[key] for key in self._inputs.keys]
        usage = Usage(sum(one.input_tokens for one in vectors), 0)
        return CachedAnswer(await self._completion(vectors[0].model, usage), vectors[0].basis), self._age_s

    async def candidate(self) -> Candidate:
        """The call with only those inputs that are to be sent: each once, of which there is no vector.

        A model with fallbacks receives all of them, since vectors of two models cannot stand in one answer.
        """
        candidate = self._candidate
        missing = self._missing
        if len(missing) == len(self._inputs.items) or candidate.model.fallbacks:
            return candidate
        raw = candidate.call.input.raw
        assert raw is not None
        sent = raw._replace(fields=raw.fields | {"input": b"[%b]" % b",".join(missing.values())})
        size = len(sent.fields["input"])
        call = replace(candidate.call, input=replace(candidate.call.input, raw=sent, size=size))
        prepared = await run_by_size(size, candidate.model.provider.prepare, candidate.model, call.input, stream=False)
        return replace(candidate, call=call, prepared=prepared)

    async def complete(self, result: CallResult, sent: Candidate) -> tuple[CallResult, CachedAnswer | None]:
        """The result of the whole call, from that of the inputs that were `sent`, whose vectors are kept; and what
        other calls with the same question receive.

        Raises CallFailed if the provider has not answered with one vector for each.
        """
        is_whole = sent is self._candidate
        answer = answer_of(result, sent, (), streamed=False)
        if is_whole and answer is None:
            return result, None
        keys = self._inputs.keys if is_whole else tuple(self._missing)
        raw = result.completion.raw
        assert raw is not None
        read = await run_by_size(len(raw), embeddings.read_vectors, raw, len(keys))
        if read is None:
            if is_whole:
                return result, None
            raise CallFailed(ProviderBadResponse(), result.charge)
        self._add(dict(zip(keys, read.values, strict=True)), read.model, result, keep=answer is not None)
        if not is_whole:
            completion = await self._completion(read.model, result.usage)
            result = replace(result, outcome=Outcome(result.outcome.candidate, lambda: completion))
        return result, CachedAnswer(result.completion, result.charge.basis)

    @property
    def _missing(self) -> dict[bytes, bytes]:
        """The inputs without a vector, by key, in their order."""
        pairs = zip(self._inputs.keys, self._inputs.items, strict=True)
        return {key: item for key, item in pairs if key not in self._vectors}

    def _add(self, values: dict[bytes, bytes], model: str, result: CallResult, *, keep: bool) -> None:
        """Add the vectors of the inputs that were sent, and keep them if they are of the deployment that was asked."""
        items = dict(zip(self._inputs.keys, self._inputs.items, strict=True))
        total, before = sum(len(items[key]) for key in values), 0
        for key, value in values.items():
            after = before + len(items[key])
            tokens = result.usage.input_tokens * after // total - result.usage.input_tokens * before // total
            before = after
            vector = CachedVector(value, model, tokens, result.charge.basis)
            self._vectors[key] = vector
            if keep:
                asked = self._asked
                self._cache.put(asked.owner, key, vector, size=vector.size, generation=asked.generation)

    async def _completion(self, model: str, usage: Usage) -> Completion:
        values = tuple(self._vectors[key].value for key in self._inputs.keys)
        raw = await run_by_size(
            sum(map(len, values)), embeddings.write_vectors, embeddings.Vectors(model, values), usage
        )
        return Completion("", "stop", usage, raw=raw)


def has_vectors(candidate: Candidate) -> bool:
    """Whether the answer has a vector for each input."""
    return candidate.prepared.wire is Wire.EMBEDDINGS
