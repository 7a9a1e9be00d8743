"""Frames of the WebSocket: what is read of them, and when nothing is. And what is kept of a turn."""

from typing import Any, cast

import pytest

from tollkeeper.api.ai import socket
from tollkeeper.api.ai.frames import LONGEST_CANCEL, Turn, id_of, is_cancel, read_token, read_turn
from tollkeeper.api.ai.schemas import StreamPiece
from tollkeeper.chat import TextDelta
from tollkeeper.errors import InvalidJson, InvalidRequest
from tollkeeper.providers.base import Piece

CANCEL = b'{"type": "cancel"}'


class Line:
    """A connection on which everything gets through."""

    async def send_text(self, frame: str) -> None:
        pass


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


def test_a_cancel_is_a_small_frame_without_anything_else() -> None:
    assert is_cancel(CANCEL)
    assert is_cancel(CANCEL.ljust(LONGEST_CANCEL))
    for frame in (
        CANCEL.ljust(LONGEST_CANCEL + 1),
        b'{"type": "cancel", "id": 1}',
        b'{"type": "query"}',
        b"[",
        b"\xff",
    ):
        assert not is_cancel(frame), frame


def test_of_a_frame_that_is_refused_the_id_is_known_where_it_has_a_good_one() -> None:
    assert id_of(b'{"type": "query", "id": "a", "prompt": [NaN]}') is None
    assert id_of(b'{"type": "query", "id": "a", "prompt": [1]}') == "a"
    for frame in (b"{", b"\xff", b"[]", b'{"id": 1}', b'{"id": "' + b"x" * 101 + b'"}', b"[" * 2_000):
        assert id_of(frame) is None


@pytest.mark.parametrize(("key", "kept"), [("key", 2), (None, 0)])
async def test_what_is_said_is_kept_only_for_a_turn_that_may_come_again(key: str | None, kept: int) -> None:
    listener = socket._Listener(cast(Any, Line()), Turn(prompt="x", idempotency_key=key))
    listener.says = lambda piece: StreamPiece(piece.raw.decode(), 0, False, "id")
    for raw in (b"one", b"two"):
        await listener.deliver(Piece(raw, (TextDelta("x"),)))
    assert len((listener._said.whole or b"").splitlines()) == kept
