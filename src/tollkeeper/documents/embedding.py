"""Makes vectors of texts with a model of the catalog, as calls to /v1/embeddings are made and charged."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import orjson

from tollkeeper.chat import ChatRequest
from tollkeeper.dialects.embeddings import input_size_of
from tollkeeper.errors import InvalidRequest, ProviderBadResponse
from tollkeeper.gateway.call_record import CallRecord
from tollkeeper.gateway.candidate import ModelCall
from tollkeeper.gateway.path import Gateway
from tollkeeper.gateway.results import CallResult, IdempotentCall
from tollkeeper.providers.base import CallInput, RawRequest, Wire
from tollkeeper.quota.rules.idempotency_keys import KeyedRequest, StoredResponse
from tollkeeper.quota.rules.operations import Balance, Replayed

if TYPE_CHECKING:
    from tollkeeper.retrieval.vectors import Vectors

MAX_DIMENSIONS = 16_000
"""pgvector stores no longer ones; models have up to 4,096."""


class _Item(msgspec.Struct):
    index: int
    embedding: list[float] | str


class _Answer(msgspec.Struct):
    data: list[_Item]


_decode = msgspec.json.Decoder(_Answer).decode


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of several texts, as the rows of a matrix, and what they were charged as."""

    vectors: "Vectors"
    model: str
    charge_id: str
    balances: Sequence[Balance]


class Embedder:
    """Makes vectors of texts with the model of this name."""

    def __init__(self, gateway: Gateway, model_name: str) -> None:
        self._gateway = gateway
        self._model_name = model_name

    @property
    def model(self) -> str:
        """The name of the model in the catalog. Raises ModelNotFound."""
        return self._gateway.catalog.configured_model(self._model_name).name

    async def embed(
        self,
        record: CallRecord,
        surface: str,
        texts: Sequence[str],
        *,
        keyed: KeyedRequest | None = None,
        cache: bool | None = None,
        serves: str | None = None,
    ) -> Embedded:
        """The unit vectors of these texts, charged to the record's caller. `serves` is the surface of the call that
        they are for, if that is another one.

        Raises what a call raises (see `Gateway.complete`); ProviderBadResponse for an answer that has other vectors.
        """
        idempotent = IdempotentCall(keyed, _stored) if keyed is not None else None
        result = await self._gateway.complete(record, self._call(surface, texts, cache, serves), idempotent)
        if isinstance(result, Replayed):
            body, model = result.response.body, self.model
            charge_id, balances = result.charge_id, result.balances
        else:
            body, model = result.completion.raw or b"", result.model
            charge_id, balances = result.charge.charge_id, result.charge.balances
        if model != self.model:  # of a fallback, whose vectors cannot be compared with the others
            raise ProviderBadResponse
        return Embedded(await asyncio.to_thread(_read, body, len(texts)), model, charge_id, balances)

    def _call(self, surface: str, texts: Sequence[str], cache: bool | None, serves: str | None) -> ModelCall:
        fields = {"input": orjson.dumps(texts), "encoding_format": b'"float"'}
        raw = RawRequest(
            Wire.EMBEDDINGS, fields, input_size_of({name: msgspec.Raw(value) for name, value in fields.items()})
        )

        def read() -> ChatRequest:
            raise InvalidRequest("The provider of the embedding model has no embeddings endpoint.")

        size = len(fields["input"])
        call_input = CallInput(read, raw, size=size)
        return ModelCall(surface, call_input, self._model_name, without_output=True, cache=cache, serves=serves)


def _stored(result: CallResult) -> StoredResponse:
    return StoredResponse(200, "application/json", result.completion.raw or b"")


def _read(body: bytes, count: int) -> "Vectors":
    """The vectors of an answer, in the order of the texts. Raises ProviderBadResponse."""
    import numpy as np

    try:
        items = sorted(_decode(body).data, key=lambda item: item.index)
        rows = [np.asarray(_numbers(item.embedding), np.float32) for item in items]
        matrix = np.stack(rows)
    except (msgspec.MsgspecError, ValueError, OverflowError):
        raise ProviderBadResponse from None
    is_complete = [item.index for item in items] == list(range(count))
    if (
        not is_complete
        or matrix.ndim != 2
        or not 0 < matrix.shape[1] <= MAX_DIMENSIONS
        or not np.isfinite(matrix).all()
    ):
        raise ProviderBadResponse
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.ascontiguousarray(matrix / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def _numbers(embedding: list[float] | str) -> "list[float] | Vectors":
    """Numbers, or base64 of little-endian 32-bit floats, which some servers send whatever is asked for."""
    import numpy as np

    if isinstance(embedding, list):
        return embedding
    return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
