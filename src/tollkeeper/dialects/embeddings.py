"""OpenAI's embeddings wire. An embedding costs its input and has no output.

Wire format: OpenAI API reference, "Create embeddings".
"""

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import orjson

from tollkeeper.chat import Completion, Usage
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.parameters import OURS, PASS, PRICE, Only, Rule
from tollkeeper.dialects.reading import BadAnswer, count
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.errors import InvalidRequest

PARAMETERS: dict[str, Rule] = {
    "dimensions": PASS,
    "encoding_format": Only(("float", "base64")),
    "input": PRICE,
    "model": OURS,
    "user": PASS,
}

MAX_INPUTS = 2_048
"""In one call; it is OpenAI's own limit."""

EncodingFormat = Literal["float", "base64"]
Token = Annotated[int, msgspec.Meta(ge=0)]

_decode_input = msgspec.json.Decoder(str | list[str | Token | list[Token]]).decode


class Inputs(NamedTuple):
    """What is to be embedded: one text or one list of tokens for each vector, in order."""

    each: tuple[str | tuple[int, ...], ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """What a tokenizer has to count."""
        return tuple(one for one in self.each if isinstance(one, str))

    @property
    def tokens(self) -> int:
        """How many tokens came as tokens."""
        return sum(len(one) for one in self.each if not isinstance(one, str))


class _Answer(msgspec.Struct):
    """The vectors stay unread: they are passed on as they came."""

    data: list[msgspec.Raw]
    usage: Any = None


_decode_answer = msgspec.json.Decoder(_Answer).decode


def read_inputs(fields: Mapping[str, msgspec.Raw]) -> Inputs:
    """Raises InvalidRequest for anything but a text, texts, tokens, or lists of tokens, and for too many of them."""
    raw = fields.get("input")
    if raw is None:
        raise _bad_input()
    try:
        asked = _decode_input(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _bad_input() from None
    if isinstance(asked, str):
        return Inputs((asked,))
    texts = [one for one in asked if isinstance(one, str)]
    tokens = [one for one in asked if isinstance(one, int)]
    lists = [tuple(one) for one in asked if isinstance(one, list)]
    kinds = [kind for kind in (texts, tokens, lists) if kind]
    if len(kinds) != 1:
        raise _bad_input()
    if len(texts) > MAX_INPUTS or len(lists) > MAX_INPUTS:
        raise InvalidRequest(f"input must be {MAX_INPUTS} texts, or lists of tokens, at most.", parameter="input")
    return Inputs((tuple(tokens),)) if tokens else Inputs((*texts, *lists))


def shape_of(fields: Mapping[str, msgspec.Raw]) -> InputSize:
    """An input is one message, whatever it holds: its bytes bound its tokens, and no template is added.

    Raises InvalidRequest as `read_inputs`.
    """
    read_inputs(fields)
    return InputSize(messages=1)


def read_answer(body: bytes) -> Completion:
    """The usage; the vectors are in the body only. Raises BadAnswer."""
    try:
        answer = _decode_answer(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadAnswer from None
    sent = count(answer.usage.get("prompt_tokens")) if isinstance(answer.usage, dict) else None
    return Completion("", "stop", None if sent is None else Usage(sent, 0))


def write_answer(
    vectors: Sequence[Sequence[float]], head: ResponseMeta, usage: Usage, encoding_format: EncodingFormat = "float"
) -> bytes:
    """The vectors in order: as numbers, or each as base64 of its little-endian 32-bit floats."""
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding_format)}
                for index, vector in enumerate(vectors)
            ],
            "model": head.model,
            "usage": {"prompt_tokens": usage.input_tokens, "total_tokens": usage.total_tokens},
        }
    )


def _encoded(vector: Sequence[float], encoding_format: EncodingFormat) -> list[float] | str:
    if encoding_format == "float":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _bad_input() -> InvalidRequest:
    return InvalidRequest("input must be a text, texts, tokens, or lists of tokens.", parameter="input")
