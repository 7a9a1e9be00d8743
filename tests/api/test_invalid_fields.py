"""What is wrong in a request is said in a sentence that names the field, without any of the request's own text."""

import pytest

from tollkeeper.api.native.schemas import NativeChatRequest, QueryRequest
from tollkeeper.api.native.socket_frames import read_turn
from tollkeeper.api.strict_json import decode
from tollkeeper.errors import InvalidRequest

QUERIES = {
    '{"prompt": ""}': "prompt must be a non-empty string.",
    '{"prompt": 1}': "prompt must be a string.",
    "{}": "prompt is missing.",
    "[]": "The body must be an object.",
    '{"prompt": "x", "max_tokens": 0}': "max_tokens must be at least 1.",
    '{"prompt": "x", "max_tokens": 1000001}': "max_tokens must be at most 1000000.",
    '{"prompt": "x", "max_tokens": 1.5}': "max_tokens must be an integer.",
    '{"prompt": "x", "temperature": 3}': "temperature must be at most 2.",
    '{"prompt": "x", "model": "a b"}': r"model must match ^\S+$.",
    '{"prompt": "x", "cache": "SECRET"}': "cache must be true or false.",
    '{"prompt": "x", "SECRET": 1}': "Unknown field. Known fields: model, system_prompt, max_tokens, temperature,"
    " session_id, context_allocation, cache, evaluate, retrieve, group, prompt.",
}
CHATS = {
    '{"messages": "x"}': "messages must be a list.",
    '{"messages": []}': "messages must be a non-empty list.",
    '{"messages": [1]}': "messages[0] must be an object.",
    '{"messages": [{"role": "user"}]}': "messages[0].content is missing.",
    '{"messages": [{"role": "SECRET", "content": "x"}]}': "messages[0].role must be one of: assistant, system, user.",
    '{"messages": [{"role": "user", "content": "x", "SECRET": 1}]}': "Unknown field in messages[0]. Known fields: role,"
    " content.",
    '{"message": [{"role": "user", "content": "SECRET"}]}': "message must be a string.",
}


@pytest.mark.parametrize(("body", "sentence"), QUERIES.items())
def test_an_invalid_query_is_refused_with_the_reason(body: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(QueryRequest, body.encode())
    assert refused.value.detail == sentence


@pytest.mark.parametrize(("body", "sentence"), CHATS.items())
def test_an_invalid_chat_is_refused_with_the_reason(body: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode(NativeChatRequest, body.encode())
    assert refused.value.detail == sentence


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        ('{"type": "SECRET"}', "type must be auth, query or cancel."),
        ("{}", "type must be auth, query or cancel."),
        ('{"type": "query", "prompt": 1}', "prompt must be a string."),
    ],
)
def test_an_invalid_frame_is_refused_with_the_reason(frame: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_turn(frame.encode())
    assert refused.value.detail == sentence
