"""Frames of the WebSocket: what is read of them, and when nothing is. And what is kept of a turn."""

import json
from typing import Any, cast

import pytest

from tollkeeper.api.native.schemas import DeltaEvent
from tollkeeper.api.native.socket_frames import (
    MAX_CANCEL_LENGTH,
    CancelFrame,
    TurnFrame,
    read_cancel,
    read_id,
    read_token,
    read_turn,
)
from tollkeeper.api.native.socket_listener import TurnListener, error_frame, with_turn_id
from tollkeeper.chat import TextDelta
from tollkeeper.errors import InvalidJson, InvalidRequest, LedgerUnavailable, ProviderTimeout, RateLimited
from tollkeeper.providers.base import StreamChunk

CANCEL = b'{"type": "cancel"}'


class Line:
    """A connection on which everything gets through."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    async def send_text(self, frame: str) -> None:
        self.heard.append(frame.encode())


def test_a_first_frame_is_a_token_and_nothing_else() -> None:
    assert read_token(b'{"type": "auth", "token": "t"}') == "t"
    for frame in (
        CANCEL,
        b'{"type": "query", "prompt": "x"}',
        b'{"type": "auth", "token": [0.1]}',
        b"[" * 2_000,
        b"\xff",
    ):
        with pytest.raises(InvalidJson):
            read_token(frame)


def test_a_later_frame_is_a_turn() -> None:
    assert read_turn(b'{"type": "query", "prompt": "x", "id": "a"}').id == "a"
    with pytest.raises(InvalidRequest, match="authenticated already"):
        read_turn(b'{"type": "auth", "token": "t"}')
    for frame in (b"[]", b'{"type": "shout"}', CANCEL):
        with pytest.raises(InvalidRequest, match="must be"):
            read_turn(frame)
    with pytest.raises(InvalidJson):
        read_turn(b'{"type": "query", "prompt": "x", "prompt": "x"}')


def test_a_cancel_is_a_small_frame_with_an_id_or_without_and_with_nothing_else() -> None:
    assert read_cancel(CANCEL) == read_cancel(b'{"type": "cancel", "id": null}') == CancelFrame()
    assert read_cancel(CANCEL.ljust(MAX_CANCEL_LENGTH)) == CancelFrame()
    assert read_cancel(b'{"type": "cancel", "id": "a"}') == CancelFrame("a")
    for frame in (
        CANCEL.ljust(MAX_CANCEL_LENGTH + 1),
        b'{"type": "cancel", "id": 1}',
        b'{"type": "cancel", "id": "' + b"x" * 101 + b'"}',
        b'{"type": "cancel", "why": "a"}',
        b'{"type": "query"}',
        b"[",
        b"\xff",
    ):
        assert read_cancel(frame) is None, frame


def test_whatever_id_a_turn_may_have_a_cancel_may_name() -> None:
    longest = json.dumps("\N{GRINNING FACE}" * 100).encode()
    turn = read_turn(b'{"type": "query", "prompt": "x", "id": ' + longest + b"}")
    assert read_cancel(b'{"type": "cancel", "id": ' + longest + b"}") == CancelFrame(turn.id)


def test_of_a_frame_that_is_refused_the_id_is_known_where_it_has_a_good_one() -> None:
    assert read_id(b'{"type": "query", "id": "a", "prompt": [NaN]}') is None
    assert read_id(b'{"type": "query", "id": "a", "prompt": [1]}') == "a"
    for frame in (b"{", b"\xff", b"[]", b'{"id": 1}', b'{"id": "' + b"x" * 101 + b'"}', b"[" * 2_000):
        assert read_id(frame) is None


@pytest.mark.parametrize("first", [None, "a", "", 'quoted" and \\', "\n\N{GRINNING FACE}"])
@pytest.mark.parametrize("again", [None, "b", '\\1 "id":null'])
async def test_a_frame_that_is_said_again_differs_in_its_id_and_in_no_other_byte(
    first: str | None, again: str | None
) -> None:
    kept, wanted = [await _heard(one, '{"type":"delta","id":"a"}\n', '"') for one in (first, again)]
    assert [json.loads(frame)["id"] for frame in wanted] == [again, again]
    assert [with_turn_id(again, frame) for frame in kept] == wanted


def test_an_error_says_how_long_to_wait_where_that_helps() -> None:
    for error, seconds in ((RateLimited(retry_after_s=9), 9), (ProviderTimeout(), None), (LedgerUnavailable(), 1)):
        assert json.loads(error_frame(error)).get("retry_after") == seconds


@pytest.mark.parametrize(("key", "kept"), [("key", 2), (None, 0)])
async def test_what_is_said_is_kept_only_for_a_turn_that_may_come_again(key: str | None, kept: int) -> None:
    listener = TurnListener(cast(Any, Line()), TurnFrame(prompt="x", idempotency_key=key))
    listener.make_event = lambda piece: DeltaEvent(piece.raw.decode(), 0, False, "id")
    for raw in (b"one", b"two"):
        await listener.deliver(StreamChunk(raw, (TextDelta("x"),)))
    assert len((listener._recorded.content or b"").splitlines()) == kept


async def _heard(turn_id: str | None, *words: str) -> list[bytes]:
    """The frames in which a turn with this id hears these words."""
    line = Line()
    listener = TurnListener(cast(Any, line), TurnFrame(prompt="x", id=turn_id))
    listener.make_event = lambda piece: DeltaEvent(piece.raw.decode(), 0, False, "id")
    for word in words:
        await listener.deliver(StreamChunk(word.encode(), (TextDelta("x"),)))
    return line.heard
