"""TurnListener: the frames of a turn, what is recorded of them, and error frames."""

import json
from typing import Any, cast

import pytest

from tollkeeper.api.native.schemas import DeltaEvent
from tollkeeper.api.native.socket_frames import TurnFrame
from tollkeeper.api.native.socket_listener import TurnListener, error_frame, with_turn_id
from tollkeeper.chat import TextDelta
from tollkeeper.errors import LedgerUnavailable, ProviderTimeout, RateLimited
from tollkeeper.providers.base import StreamChunk


class FakeWebSocket:
    """Records the frames that are sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def send_text(self, frame: str) -> None:
        self.sent.append(frame.encode())


@pytest.mark.parametrize("first", [None, "a", "", 'quoted" and \\', "\n\N{GRINNING FACE}"])
@pytest.mark.parametrize("again", [None, "b", '\\1 "id":null'])
async def test_a_replayed_frame_differs_only_in_its_id(first: str | None, again: str | None) -> None:
    stored, expected = [await _frames_of_turn(one, '{"type":"delta","id":"a"}\n', '"') for one in (first, again)]
    assert [json.loads(frame)["id"] for frame in expected] == [again, again]
    assert [with_turn_id(again, frame) for frame in stored] == expected


def test_an_error_frame_has_retry_after_where_a_retry_helps() -> None:
    """That of a rate limit is spread, so that clients do not return together."""
    for error, seconds in (
        (RateLimited(retry_after_s=9), (9, 10)),
        (ProviderTimeout(), (None,)),
        (LedgerUnavailable(), (1,)),
    ):
        assert json.loads(error_frame(error)).get("retry_after") in seconds


@pytest.mark.parametrize(("key", "recorded"), [("key", 2), (None, 0)])
async def test_frames_are_recorded_only_for_a_turn_with_an_idempotency_key(key: str | None, recorded: int) -> None:
    listener = TurnListener(cast(Any, FakeWebSocket()), TurnFrame(prompt="x", idempotency_key=key))
    listener.make_event = lambda chunk: DeltaEvent(chunk.raw.decode(), 0, False, "id")
    for raw in (b"one", b"two"):
        await listener.deliver(StreamChunk(raw, (TextDelta("x"),)))
    assert len((listener._recorded.content or b"").splitlines()) == recorded


async def _frames_of_turn(turn_id: str | None, *texts: str) -> list[bytes]:
    """The frames that a turn with this id sends for these texts."""
    websocket = FakeWebSocket()
    listener = TurnListener(cast(Any, websocket), TurnFrame(prompt="x", id=turn_id))
    listener.make_event = lambda chunk: DeltaEvent(chunk.raw.decode(), 0, False, "id")
    for text in texts:
        await listener.deliver(StreamChunk(text.encode(), (TextDelta("x"),)))
    return websocket.sent
