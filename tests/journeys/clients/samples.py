"""Sample prompts, answers, tools and types that the tests of clients share."""

from typing import Any

from pydantic import BaseModel

from journeys.support.users import ApiUser

USAGE = {"input": 15, "output": 9}
CHUNKS = ["The ", "weather ", "is ", "fine."]
ANSWER = "The weather is fine."
CALL: dict[str, Any] = {"name": "get_weather", "arguments": {"city": "Oslo", "in": "degrees"}}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQ"
    "DwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "in": {"type": "string"}},
    "required": ["city"],
}


class Report(BaseModel):
    """The type of a structured answer."""

    city: str
    degrees: int


async def cost_of_all(caller: ApiUser, count: int) -> int:
    """The total cost of the caller's `count` calls, all of which must be settled by the provider's report."""
    charges = await caller.charges()
    assert [(one["state"], one["basis"]) for one in charges] == [("settled", "provider")] * count, charges
    quota = await caller.quota()
    cost = int(sum(one["cost"] for one in charges))
    assert (quota["used"], quota["reserved"]) == (cost, 0)
    return cost
