"""OpenAI's moderations wire: the scores of texts, by category. It is free of charge, and reports no usage.

Wire format: OpenAI API reference, "Moderations".
"""

from collections.abc import Mapping, Sequence

import msgspec
import orjson

from tollkeeper.dialects.answer_checks import MalformedAnswer


class _Result(msgspec.Struct):
    category_scores: dict[str, float]


class _Answer(msgspec.Struct):
    results: list[_Result]


_decode_answer = msgspec.json.Decoder(_Answer).decode


def write_request(model: str, texts: Sequence[str]) -> bytes:
    """The body that asks for the scores of these texts."""
    return orjson.dumps({"model": model, "input": list(texts)})


def read_answer(body: bytes, count: int) -> list[Mapping[str, float]]:
    """The scores of each of `count` texts. Raises MalformedAnswer."""
    try:
        answer = _decode_answer(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MalformedAnswer from None
    if len(answer.results) != count or any(
        not 0 <= score <= 1 for one in answer.results for score in one.category_scores.values()
    ):
        raise MalformedAnswer
    return [one.category_scores for one in answer.results]
