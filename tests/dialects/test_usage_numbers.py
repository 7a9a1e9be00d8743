"""Numbers in usage reports that are no token counts. The answer is read all the same."""

from collections.abc import Callable

import pytest

from tollkeeper.chat import Completion, Delta, InconsistentUsage
from tollkeeper.dialects import chat, embeddings, messages, ollama, responses
from tollkeeper.dialects.answer_checks import ProviderSentError
from tollkeeper.dialects.chat import answer_reader as chat_answers
from tollkeeper.dialects.sse import Event

NUMBERS = (
    "1e400",
    "-1e400",
    "1e99999",
    "9" * 400,
    "-1",
    "1.5",
    "true",
    '"7.0"',
    '"-7"',
    '"\u0667"',
    '" 7"',
    '"77777777777777777"',
)
CHAT = '{"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": '
MESSAGE = '{"type": "message", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn", "usage": '
RESPONSE = (
    '{"status": "completed", "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}],'
    ' "usage": '
)
WHOLE: dict[str, tuple[Callable[[bytes], Completion], str]] = {
    "chat": (chat.read_answer, CHAT + '{"prompt_tokens": 9, "completion_tokens": %s}, "x": %s}'),
    "messages": (messages.read_answer, MESSAGE + '{"input_tokens": 9, "output_tokens": %s}, "x": %s}'),
    "responses": (responses.read_answer, RESPONSE + '{"input_tokens": 9, "output_tokens": %s}, "x": %s}'),
    "ollama": (
        ollama.read_answer,
        '{"message": {"content": "Hi"}, "done": true, "prompt_eval_count": 9, "eval_count": %s, "x": %s}',
    ),
}
STREAMED = {
    "chat": (
        chat.StreamReader,
        ('{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": %s}}',),
    ),
    "messages": (
        messages.StreamReader,
        (
            '{"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}',
            '{"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": %s}}',
        ),
    ),
    "responses": (
        responses.StreamReader,
        ('{"type": "response.completed", "response": {"usage": {"input_tokens": 9, "output_tokens": %s}}}',),
    ),
}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(("read", "body"), WHOLE.values(), ids=WHOLE.keys())
def test_a_whole_answer_is_read_whatever_its_usage_is(
    read: Callable[[bytes], Completion], body: str, number: str
) -> None:
    completion = read((body % (number, number)).encode())
    assert (completion.text, completion.usage) == ("Hi", InconsistentUsage(9, None))


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(("make_reader", "events"), STREAMED.values(), ids=STREAMED.keys())
def test_a_stream_is_read_whatever_its_usage_is(
    make_reader: Callable[[], chat.StreamReader], events: tuple[str, ...], number: str
) -> None:
    reader = make_reader()
    deltas: list[Delta] = []
    for data in events:
        deltas += reader.read(Event(b"", b"", data.replace("%s", number).encode()))
    assert [delta for delta in deltas if isinstance(delta, InconsistentUsage)] == [InconsistentUsage(9, None)]


@pytest.mark.parametrize("number", NUMBERS)
def test_an_embedding_and_an_error_are_read_whatever_their_usage_is(number: str) -> None:
    completion = embeddings.read_answer(
        b'{"data": [[0.5]], "usage": {"prompt_tokens": %s, "total_tokens": 7}}' % number.encode()
    )
    assert completion.usage is not None
    assert completion.usage.input_tokens == 7
    with pytest.raises(ProviderSentError) as raised:
        chat.read_answer(b'{"error": {}, "usage": {"prompt_tokens": 7, "completion_tokens": %s}}' % number.encode())
    assert raised.value.usage == InconsistentUsage(7, None)


@pytest.mark.parametrize("number", [-1, 2**60, 1e308, "x", 10])
def test_a_report_with_an_absurd_cache_write_is_not_believed(number: object) -> None:
    reported = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cache_write_tokens": number}}
    assert isinstance(chat_answers.read_usage(reported), InconsistentUsage)
