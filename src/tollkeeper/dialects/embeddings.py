"""OpenAI's embeddings wire. An embedding costs its input and has no output.

Wire format: OpenAI API reference, "Create embeddings".
"""

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import orjson

from tollkeeper.chat import Completion, Usage, UsageReport
from tollkeeper.dialects.answer_checks import (
    UNTYPED_FLOAT,
    has_error,
    raise_failure,
    raise_unreadable,
    token_count,
    usage_report,
)
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.parameters import OURS, PASS, PRICE, Only, Rule
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.usage_counts import first_count
from tollkeeper.errors import InvalidRequest
from tollkeeper.worker_thread import pause

PARAMETERS: dict[str, Rule] = {
    "dimensions": PASS,
    "encoding_format": Only(("float", "base64")),
    "input": PRICE,
    "model": OURS,
    "user": PASS,
}

MAX_INPUT_ITEMS = 2_048
"""Items in the input of one call. OpenAI has the same limit."""

EncodingFormat = Literal["float", "base64"]
Token = Annotated[int, msgspec.Meta(ge=0)]

_decode_input = msgspec.json.Decoder(str | list[str | Token | list[Token]]).decode


class EmbeddingInput(NamedTuple):
    """The items of an input, in order: each a text or a list of tokens, which has one vector in the answer."""

    items: tuple[str | tuple[int, ...], ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that a tokenizer has to count."""
        return tuple(one for one in self.items if isinstance(one, str))

    @property
    def tokens(self) -> int:
        """The number of tokens in the items that are lists of tokens."""
        return sum(len(one) for one in self.items if not isinstance(one, str))


class Vectors(NamedTuple):
    """The vectors of an answer in the order of the input, each in JSON, and the model that the answer names."""

    model: str
    values: tuple[bytes, ...]


class _Vector(msgspec.Struct):
    embedding: msgspec.Raw
    index: int | None = None


class _VectorAnswer(msgspec.Struct):
    data: list[_Vector]
    model: str = ""


class _Answer(msgspec.Struct):
    """The vectors are not decoded: the caller receives the provider's bytes."""

    data: list[msgspec.Raw]
    usage: Any = None
    error: Any = None


_decode_vectors = msgspec.json.Decoder(_VectorAnswer, float_hook=UNTYPED_FLOAT).decode
_decode_answer = msgspec.json.Decoder(_Answer, float_hook=UNTYPED_FLOAT).decode


def read_input(fields: Mapping[str, msgspec.Raw]) -> EmbeddingInput:
    """The input of a request: a text, a list of texts, a list of tokens, or a list of lists of tokens.

    Raises InvalidRequest for anything else, and for more than MAX_INPUT_ITEMS.
    """
    raw = fields.get("input")
    if raw is None:
        raise _invalid_input()
    try:
        given = _decode_input(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _invalid_input() from None
    if isinstance(given, str):
        return EmbeddingInput((given,))
    texts = [one for one in given if isinstance(one, str)]
    tokens = [one for one in given if isinstance(one, int)]
    token_lists = [tuple(one) for one in given if isinstance(one, list)]
    if sum(map(bool, (texts, tokens, token_lists))) != 1:
        raise _invalid_input()
    if len(texts) > MAX_INPUT_ITEMS or len(token_lists) > MAX_INPUT_ITEMS:
        raise InvalidRequest(f"input must be at most {MAX_INPUT_ITEMS} texts or lists of tokens.", parameter="input")
    return EmbeddingInput((tuple(tokens),)) if tokens else EmbeddingInput((*texts, *token_lists))


def input_size_of(fields: Mapping[str, msgspec.Raw]) -> InputSize:
    """The input counts as one message, however many items it has: no chat template is added to its bytes.

    Raises InvalidRequest as `read_input` does.
    """
    read_input(fields)
    return InputSize(messages=1)


def read_answer(body: bytes) -> Completion:
    """The usage of an answer; its vectors stay in the body. Raises MalformedAnswer, ProviderSentError."""
    try:
        answer = _decode_answer(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise_unreadable(body, read_usage)
    usage = read_usage(answer.usage)
    if has_error(answer.error, has_answer=bool(answer.data)):
        raise_failure(usage, has_output=bool(answer.data))
    return Completion("", "stop", usage)


def read_usage(reported: Any) -> UsageReport | None:
    """The reported usage; None if there is none, or no count in it is valid. Some servers report only the total."""
    if not isinstance(reported, dict):
        return None
    input_tokens = first_count(reported, ("prompt_tokens", "input_tokens"))
    total = token_count(reported.get("total_tokens"))
    if input_tokens is None and total is None:
        return None
    return usage_report(total if input_tokens is None else input_tokens, 0, total)


def read_vectors(body: bytes, count: int) -> Vectors | None:
    """The vectors of an answer to `count` items; None unless it has exactly one for each."""
    pause()
    try:
        answer = _decode_vectors(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    places = [place if one.index is None else one.index for place, one in enumerate(answer.data)]
    if sorted(places) != list(range(count)):
        return None
    pause()
    values = dict(zip(places, (bytes(one.embedding) for one in answer.data), strict=True))
    return Vectors(answer.model, tuple(values[place] for place in range(count)))


def write_vectors(vectors: Vectors, usage: Usage) -> bytes:
    """An answer with these vectors."""
    pause()
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": orjson.Fragment(value)}
                for index, value in enumerate(vectors.values)
            ],
            "model": vectors.model,
            "usage": {"prompt_tokens": usage.input_tokens, "total_tokens": usage.total_tokens},
        }
    )


def write_answer(
    vectors: Sequence[Sequence[float]], meta: ResponseMeta, usage: Usage, encoding_format: EncodingFormat = "float"
) -> bytes:
    """An answer with the vectors in order: each a list of numbers, or base64 of its little-endian 32-bit floats."""
    values = tuple(orjson.dumps(_encode(vector, encoding_format)) for vector in vectors)
    return write_vectors(Vectors(meta.model, values), usage)


def _encode(vector: Sequence[float], encoding_format: EncodingFormat) -> list[float] | str:
    if encoding_format == "float":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _invalid_input() -> InvalidRequest:
    return InvalidRequest(
        "input must be a text, a list of texts, a list of tokens, or a list of lists of tokens.", parameter="input"
    )
