"""What the clients of the journeys ask for, in the words of their wires."""

from typing import Any

from pydantic import BaseModel

from journeys.support.users import Person

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
    """What a structured answer says."""

    city: str
    degrees: int


async def cost_of_all(caller: Person, count: int) -> int:
    """What so many calls cost together, all of them settled as the provider reported."""
    charges = await caller.charges()
    assert [(one["state"], one["basis"]) for one in charges] == [("settled", "provider")] * count, charges
    quota = await caller.quota()
    cost = int(sum(one["cost"] for one in charges))
    assert (quota["used"], quota["reserved"]) == (cost, 0)
    return cost
