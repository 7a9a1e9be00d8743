"""A call of a custom tool as the chat wire tells it, whole and in pieces, and what it comes to where it is counted."""

from collections.abc import Iterator
from typing import Any

from bpe_openai import get_encoding

from journeys.support.users import Person

SAID = "select the quick brown fox from jumps over the lazy dog"


def call(given: str, **more: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, **more, "custom": {"input": given} | ({"name": "sql"} if more else {})}]}


def pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), 7):
        yield text[start : start + 7]


async def assert_counted(caller: Person, text: str) -> None:
    (charge,) = await caller.charges()
    assert (charge["state"], charge["basis"]) == ("settled", "counted")
    assert charge["output_tokens"] == len(get_encoding("o200k_base").encode_ordinary(text)) > 5


CALLED = {"tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": "sql", "input": SAID}}]}
CALLING = [call("", id="c1", type="custom"), *map(call, pieces(SAID))]
