"""The schema of the events of calls, as it is published."""

import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs

SCHEMA = Path(__file__).parents[2] / "docs" / "events.schema.json"


@cache
def _validator() -> Any:
    return jsonschema_rs.validator_for(json.loads(SCHEMA.read_text()), validate_formats=True)


def read_events(content: bytes | str) -> Iterator[dict[str, Any]]:
    """The events in these lines, in pairs: each request with its response. Fails for an event that is not valid."""
    events = [json.loads(line) for line in content.splitlines()]
    assert_valid(events)
    yield from events
    kinds = [event["event_type"] for event in events]
    assert kinds == ["ai.request", "ai.response"] * (len(events) // 2)
    assert [event["span_id"] for event in events[::2]] == [event["span_id"] for event in events[1::2]]


def assert_valid(events: Iterable[dict[str, Any]]) -> None:
    """Fail for an event that is not as the schema says."""
    for event in events:
        problems = [f"{problem.instance_path}: {problem.message}" for problem in _validator().iter_errors(event)]
        assert not problems, (problems, event)


def responses_in(content: bytes | str) -> list[dict[str, Any]]:
    """The `data` of each `ai.response` in these lines."""
    return [event["data"] for event in read_events(content) if event["event_type"] == "ai.response"]
