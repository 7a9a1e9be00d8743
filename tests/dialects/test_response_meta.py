"""The id, model and creation time in the first events of a provider's stream."""

import json
from typing import Any

import pytest

from tollkeeper.dialects.response_meta import ResponseMeta, response_meta_of

META = ResponseMeta("theirs", "m", 17)


def events(*documents: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(document).encode() + b"\n\n" for document in documents)


@pytest.mark.parametrize(
    "first",
    [
        [{"id": "theirs", "model": "m", "created": 17}],
        [{"id": "theirs", "model": "m", "created": 17.9}],
        [{"id": "", "model": "", "created": 0, "choices": []}, {"id": "theirs", "model": "m", "created": 17}],
        [{"type": "response.created", "response": {"id": "theirs", "model": "m", "created_at": 17.0}}],
    ],
    ids=["chat", "a fraction of a second", "Azure", "responses"],
)
def test_the_meta_is_read_from_the_first_events(first: list[dict[str, Any]]) -> None:
    assert response_meta_of(events(*first)) == META


def test_an_id_alone_is_enough() -> None:
    assert response_meta_of(events({"id": "theirs", "model": None})) == ResponseMeta("theirs", "", 0)
    assert response_meta_of(
        events({"type": "message_start", "message": {"id": "msg_1", "model": "c"}})
    ) == ResponseMeta("msg_1", "c", 0)


@pytest.mark.parametrize(
    "first", [b"", b"data: [DONE]\n\n", b"data: {}\n\n", b'data: {"id": 5}\n\n', b"data: \xff\n\n"]
)
def test_events_without_an_id_have_no_meta(first: bytes) -> None:
    assert response_meta_of(first) is None
