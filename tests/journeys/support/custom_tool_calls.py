"""A call of a custom tool on the chat wire, whole and as deltas, and the check of its counted output."""

from collections.abc import Iterator
from typing import Any

from bpe_openai import get_encoding

from journeys.support.users import ApiUser

TEXT = "select the quick brown fox from jumps over the lazy dog"


def call_delta(input_text: str, **more: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, **more, "custom": {"input": input_text} | ({"name": "sql"} if more else {})}]}


def pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), 7):
        yield text[start : start + 7]


async def assert_output_counted(caller: ApiUser, text: str) -> None:
    (charge,) = await caller.charges()
    assert (charge["state"], charge["basis"]) == ("settled", "counted")
    assert charge["output_tokens"] == len(get_encoding("o200k_base").encode_ordinary(text)) > 5


MESSAGE = {"tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": "sql", "input": TEXT}}]}
DELTAS = [call_delta("", id="c1", type="custom"), *map(call_delta, pieces(TEXT))]
