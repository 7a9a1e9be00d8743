"""Frames that a WebSocket client sends: which are accepted, and what is read from them."""

import json

import pytest

from tollkeeper.api.native.socket_frames import (
    MAX_CANCEL_LENGTH,
    CancelFrame,
    read_cancel,
    read_id,
    read_token,
    read_turn,
)
from tollkeeper.errors import InvalidJson, InvalidRequest

CANCEL = b'{"type": "cancel"}'


def test_the_first_frame_must_contain_a_token() -> None:
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


def test_a_later_frame_must_be_a_turn() -> None:
    assert read_turn(b'{"type": "query", "prompt": "x", "id": "a"}').id == "a"
    with pytest.raises(InvalidRequest, match="authenticated already"):
        read_turn(b'{"type": "auth", "token": "t"}')
    for frame in (b"[]", b'{"type": "shout"}', CANCEL):
        with pytest.raises(InvalidRequest, match="must be"):
            read_turn(frame)
    with pytest.raises(InvalidJson):
        read_turn(b'{"type": "query", "prompt": "x", "prompt": "x"}')


def test_a_cancel_frame_is_small_and_has_at_most_an_id() -> None:
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


def test_a_cancel_frame_can_name_the_longest_id_of_a_turn() -> None:
    longest = json.dumps("\N{GRINNING FACE}" * 100).encode()
    turn = read_turn(b'{"type": "query", "prompt": "x", "id": ' + longest + b"}")
    assert read_cancel(b'{"type": "cancel", "id": ' + longest + b"}") == CancelFrame(turn.id)


def test_the_id_of_a_refused_frame_is_known_if_the_frame_is_valid_json() -> None:
    assert read_id(b'{"type": "query", "id": "a", "prompt": [NaN]}') is None
    assert read_id(b'{"type": "query", "id": "a", "prompt": [1]}') == "a"
    for frame in (b"{", b"\xff", b"[]", b'{"id": 1}', b'{"id": "' + b"x" * 101 + b'"}', b"[" * 2_000):
        assert read_id(frame) is None
