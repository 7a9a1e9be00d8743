"""Streams whose events have values of unexpected types, or that differ in which events tell what."""

import re
from typing import Any

import orjson
import pytest

from tollkeeper.chat import Delta, Finish, ReasoningDelta, RefusalDelta, TextDelta, ToolCall, ToolCallDelta, Usage
from tollkeeper.dialects import chat, messages, responses, sse
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.gateway.accumulator import StreamAccumulator

MADE_ID = re.compile(r"call_[0-9a-f]{24}")
NO_INDEX: dict[str, Any] = {}
ARGUMENTS = {"get_weather": '{"city":"Oslo"}', "get_time": '{"tz":"UTC"}'}
BOTH_CALLS = (
    ToolCall("call_a", "get_weather", ARGUMENTS["get_weather"]),
    ToolCall("call_b", "get_time", ARGUMENTS["get_time"]),
)


def make_event(document: Any) -> sse.Event:
    return sse.Event(b"", b"", document if isinstance(document, bytes) else orjson.dumps(document))


def read(reader: Any, *documents: Any) -> list[Delta]:
    return [delta for document in documents for delta in reader.read(make_event(document))]


def calls_in(deltas: list[Delta]) -> tuple[ToolCall, ...]:
    received = StreamAccumulator()
    received.add(tuple(deltas))
    return received.completion().tool_calls


def chunk(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def piece(index: dict[str, Any], arguments: Any, **call: Any) -> dict[str, Any]:
    name = {"name": call.pop("name")} if "name" in call else {}
    return index | call | {"function": name | {"arguments": arguments}}


@pytest.mark.parametrize("index", [{"index": 0}, {"index": None}, NO_INDEX], ids=["0", "null", "none"])
def test_a_new_id_begins_another_tool_call_whatever_its_index(index: dict[str, Any]) -> None:
    whole = [piece(index, call.arguments, id=call.id, name=call.name) for call in BOTH_CALLS]
    for documents in (
        [chunk(tool_calls=[one]) for one in whole],
        [chunk(tool_calls=whole)],
        [
            chunk(tool_calls=[piece(index, part, **call)])
            for one in BOTH_CALLS
            for part, call in (("", {"id": one.id, "name": one.name}), (one.arguments[:5], {}), (one.arguments[5:], {}))
        ],
        [
            chunk(tool_calls=[piece(index, part, id=one.id, name=one.name)])
            for one in BOTH_CALLS
            for part in (one.arguments[:5], one.arguments[5:])
        ],
    ):
        assert calls_in(read(chat.StreamReader(), *documents)) == BOTH_CALLS


def test_pieces_of_alternating_calls_with_the_same_index_go_to_the_call_with_their_id() -> None:
    begin = [chunk(tool_calls=[piece({"index": 0}, "", id=one.id, name=one.name)]) for one in BOTH_CALLS]
    parts = [
        chunk(tool_calls=[piece({"index": 0}, one.arguments[cut], id=one.id)])
        for cut in (slice(0, 5), slice(5, None))
        for one in BOTH_CALLS
    ]
    assert calls_in(read(chat.StreamReader(), *begin, *parts)) == BOTH_CALLS


@pytest.mark.parametrize("given", [{}, {"id": ""}, {"id": None}])
@pytest.mark.parametrize("index", [{"index": 0}, {"index": None}, NO_INDEX], ids=["0", "null", "none"])
@pytest.mark.parametrize("names", [["f", "g"], ["f", "f"]])
def test_whole_tool_calls_without_ids_are_several_calls_with_new_ids(
    given: dict[str, Any], index: dict[str, Any], names: list[str]
) -> None:
    whole = [piece(index, '{"x":1}', name=name, **given) for name in names]
    calls = [
        call
        for documents in ([chunk(tool_calls=whole)], [chunk(tool_calls=[one]) for one in whole])
        for call in calls_in(read(chat.StreamReader(), *documents))
    ]
    assert [(call.name, call.arguments) for call in calls] == [(name, '{"x":1}') for name in names] * 2
    assert len({call.id for call in calls}) == 4
    assert all(MADE_ID.fullmatch(call.id) for call in calls)


def test_a_name_that_is_repeated_without_an_id_is_that_of_the_same_call() -> None:
    pieces = [piece({"index": 0}, text, name="f") for text in ("", '{"x":', "{}", "}", "")]
    (call,) = calls_in(read(chat.StreamReader(), *[chunk(tool_calls=[one]) for one in pieces]))
    assert (call.name, call.arguments) == ("f", '{"x":{}}')


@pytest.mark.parametrize("repeated", [{}, {"id": "c"}], ids=["no id", "same id"])
@pytest.mark.parametrize(
    "names", [["get_", "weather"], ["get_", "wea", "ther"], ["get_", "get_weather"], ["get_weather", "get_weather"]]
)
def test_a_name_in_pieces_at_one_index_is_that_of_one_call(names: list[str], repeated: dict[str, Any]) -> None:
    pieces = [piece({"index": 0}, "", name=name, **(repeated if at else {"id": "c"})) for at, name in enumerate(names)]
    arguments = [piece({"index": 0}, text) for text in ('{"city":', '"Oslo"}')]
    documents = [chunk(tool_calls=[one]) for one in [*pieces, *arguments]]
    assert calls_in(read(chat.StreamReader(), *documents)) == (ToolCall("c", "get_weather", '{"city":"Oslo"}'),)


def test_another_name_begins_another_call_after_arguments_or_without_an_index() -> None:
    for index, arguments in (({"index": 0}, "{}"), (NO_INDEX, "")):
        pieces = [piece(index, arguments, name=name) for name in ("f", "g")]
        calls = calls_in(read(chat.StreamReader(), chunk(tool_calls=pieces)))
        assert [call.name for call in calls] == ["f", "g"]


@pytest.mark.parametrize("arguments", [None, ""])
def test_a_tool_call_without_arguments_is_written_with_an_empty_object(arguments: Any) -> None:
    document = {"message": {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": arguments}}]}}
    completion = chat.read_answer(orjson.dumps({"choices": [document]}))
    meta, usage = ResponseMeta("resp_1", "m", 1), Usage(1, 1)
    assert orjson.loads(responses.write_answer(completion, meta, usage))["output"][0]["arguments"] == "{}"
    [choice] = orjson.loads(chat.write_answer(completion, meta, usage))["choices"]
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == "{}"
    head = read(chat.StreamReader(), chunk(tool_calls=[piece({"index": 0}, arguments, id="c", name="f")]))
    for dialect in (chat, responses, messages):
        writer: Any = dialect.StreamWriter(meta)
        stream = b"".join(map(writer.write, head)) + writer.end("tool_calls", usage)
        reader: Any = dialect.StreamReader()
        deltas = [delta for event in sse.Splitter().feed(stream) for delta in reader.read(event)]
        assert calls_in(deltas) == (ToolCall("c", "f", "{}"),)


def test_a_name_in_pieces_is_written_whole() -> None:
    meta, deltas = ResponseMeta("resp_1", "m", 1), [ToolCallDelta(0, "c", "get_", "")]
    deltas += [ToolCallDelta(0, None, "weather", ""), ToolCallDelta(0, None, None, "{}")]
    for dialect in (chat, responses):
        writer: Any = dialect.StreamWriter(meta)
        stream = b"".join(map(writer.write, deltas)) + writer.end("tool_calls", Usage(1, 1))
        events = sse.Splitter().feed(stream)
        if dialect is responses:
            [item] = orjson.loads(events[-1].data)["response"]["output"]
            assert item["name"] == "get_weather"
        else:
            reader = chat.StreamReader()
            [call] = calls_in([delta for event in events for delta in reader.read(event)])
            assert call.name == "get_weather"


def test_an_id_may_follow_the_name_of_its_call() -> None:
    pieces = [piece({"index": 0}, "", name="f"), piece({"index": 0}, "{}", id="call_a"), piece({"index": 0}, " ")]
    (call,) = calls_in(read(chat.StreamReader(), *[chunk(tool_calls=[one]) for one in pieces]))
    assert (call.name, call.arguments) == ("f", "{} ")


def test_an_odd_chunk_is_read_as_far_as_it_can_be() -> None:
    hi = chunk(content="Hi")
    hi["choices"][0] |= {"index": None, "logprobs": {}}
    assert read(
        chat.StreamReader(),
        {"choices": None},
        {},
        {"type": "ping"},
        {"choices": {}},
        {"choices": [None, {"delta": None}, {"delta": 5}]},
        hi,
        chunk(content="Hi", reasoning={"effort": "low"}, refusal=[]),
        chunk(content={"type": "text", "text": "Hi"}, reasoning={"text": "hm"}),
        chunk(content=5, reasoning_content=[{"type": "text", "text": "hm"}], tool_calls=5, function_call="f"),
        chunk(tool_calls=[None, {"id": "c", "index": "0", "function": {"name": "f", "arguments": {"x": 1}}}]),
        b'{"choices":[{"delta":{"content":"a\\ud83d"},"logprobs":NaN}]}',
    ) == [
        *[TextDelta("Hi")] * 2,
        TextDelta("Hi"),
        ReasoningDelta("hm"),
        ReasoningDelta("hm"),
        ToolCallDelta(0, "c", "f", '{"x":1}'),
        TextDelta("a?"),
    ]


@pytest.mark.parametrize("reason", [None, "", "null"])
def test_only_a_finish_reason_ends_a_stream_of_chunks(reason: str | None) -> None:
    reader = chat.StreamReader()
    assert read(reader, chunk(reason, content="Hi"), {"choices": [], "usage": {"prompt_tokens": 1}})[0] == TextDelta(
        "Hi"
    )
    assert (reader.finished, reader.last) == (False, False)


def test_tool_calls_decide_whether_a_stream_finished_with_them() -> None:
    call = chunk(tool_calls=[piece({"index": 0}, "{}", id="c", name="f")])
    for reason, with_call, without in (("stop", "tool_calls", "stop"), ("tool_calls", "tool_calls", "stop")):
        assert read(chat.StreamReader(), call, chunk(reason))[-1] == Finish(with_call)
        assert read(chat.StreamReader(), chunk(reason))[-1] == Finish(without)
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "c", "name": "f"}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    assert read(messages.StreamReader(), start, end)[-1] == Finish("tool_calls")


def test_an_odd_event_of_a_message_is_read_as_far_as_it_can_be() -> None:
    reader = messages.StreamReader()
    assert read(
        reader,
        {"type": "message_start", "message": {"usage": 5}},
        {"type": 7},
        {},
        {"type": "content_block_delta"},
        {"type": "content_block_delta", "index": None, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_delta", "index": "0", "delta": {"type": "text_delta", "text": 5}},
        {"type": "message_delta", "delta": {"stop_reason": ""}},
        b"[DONE]",
    ) == [TextDelta("Hi")]
    assert not reader.finished


@pytest.mark.parametrize("index", [{"index": 0}, {"index": None}, NO_INDEX], ids=["0", "null", "none"])
def test_tool_calls_of_a_message_with_the_same_index_are_several_calls(index: dict[str, Any]) -> None:
    documents: list[dict[str, Any]] = []
    for name, arguments in ARGUMENTS.items():
        block = {"type": "tool_use", "name": name, "input": None}
        delta = {"type": "input_json_delta", "partial_json": arguments}
        documents += [
            {"type": "content_block_start", "content_block": block} | index,
            {"type": "content_block_delta", "delta": delta} | index,
            {"type": "content_block_stop"} | index,
        ]
    first, second = calls_in(read(messages.StreamReader(), *documents))
    assert (first[1:3], second[1:3]) == tuple(ARGUMENTS.items())
    assert first.id != second.id
    assert MADE_ID.fullmatch(first.id)
    assert MADE_ID.fullmatch(second.id)


def test_a_message_that_is_cut_after_an_odd_event_is_ended() -> None:
    tracker = messages.StreamTracker()
    tracker.follow(b'data: {"type":"content_block_start","index":null,"content_block":{"type":"text"}}\n\n')
    assert b'"content_block_stop","index":0' in tracker.end("length", Usage(1, 1))


def test_a_call_that_no_reader_gave_an_id_is_written_with_a_new_one() -> None:
    for writer in (messages.StreamWriter, responses.StreamWriter):
        written = [writer(ResponseMeta(f"r{n}", "m", 1)).write(ToolCallDelta(0, None, None, "{}")) for n in (1, 2)]
        ids = {found for one in written for found in re.findall(rb'"(?:call_)?id":"(call_[^"]+)"', one)}
        assert len(ids) == 2


def item(kind: str = "added", index: Any = 0, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.output_item.{kind}", "output_index": index, "item": fields}


def call_item(kind: str, letter: str, arguments: str, index: Any = 0, **ids: Any) -> dict[str, Any]:
    ids = ids or {"call_id": f"call_{letter}", "id": f"fc_{letter}"}
    name = {"a": "get_weather", "b": "get_time"}[letter]
    return item(kind, index, type="function_call", name=name, arguments=arguments, **ids)


def arguments_event(kind: str, text: str, **where: Any) -> dict[str, Any]:
    field = "delta" if kind == "delta" else "arguments"
    return {"type": f"response.function_call_arguments.{kind}", field: text, "output_index": 0} | where


def completed(*output: Any) -> dict[str, Any]:
    return {"type": "response.completed", "response": {"output": output, "usage": {}}}


WHOLE_A, WHOLE_B = (call.arguments for call in BOTH_CALLS)


@pytest.mark.parametrize(
    "documents",
    [
        [call_item("added", "a", ""), call_item("done", "a", WHOLE_A)],
        [call_item("added", "a", ""), arguments_event("delta", WHOLE_A[:4]), call_item("done", "a", WHOLE_A)],
        [call_item("added", "a", ""), arguments_event("delta", WHOLE_A[:4]), arguments_event("done", WHOLE_A)],
        [call_item("added", "a", ""), arguments_event("done", WHOLE_A), call_item("done", "a", WHOLE_A)],
        [call_item("added", "a", WHOLE_A), arguments_event("done", WHOLE_A)],
        [call_item("added", "a", ""), call_item("done", "a", WHOLE_A, call_id="call_a", id="another")],
        [call_item("added", "a", "", call_id="call_a"), call_item("done", "a", WHOLE_A, call_id=None)],
        [call_item("done", "a", WHOLE_A)],
        [call_item("added", "a", "")],
        [],
    ],
)
def test_the_arguments_of_a_call_are_read_from_any_event_that_tells_them(documents: list[Any]) -> None:
    end = completed({"type": "reasoning"}, call_item("done", "a", WHOLE_A)["item"])
    deltas = read(responses.StreamReader(), *documents, end)
    assert calls_in(deltas) == BOTH_CALLS[:1]
    assert Finish("tool_calls") in deltas
    if documents and documents[-1] != call_item("added", "a", ""):
        assert calls_in(read(responses.StreamReader(), *documents, completed())) == BOTH_CALLS[:1]


@pytest.mark.parametrize("index", [0, None])
def test_calls_with_the_same_output_index_are_told_apart_by_their_ids(index: int | None) -> None:
    begin = [call_item("added", "a", "", index), call_item("added", "b", "", index)]
    deltas = [
        arguments_event("delta", call.arguments[cut], output_index=index, item_id=f"fc_{call.id[-1]}")
        for cut in (slice(0, 5), slice(5, None))
        for call in BOTH_CALLS
    ]
    end = [call_item("done", "a", WHOLE_A, index), call_item("done", "b", WHOLE_B, index)]
    whole = completed(end[0]["item"], end[1]["item"])
    for documents in ([*begin, *deltas], [*begin, *end], [*begin, *deltas, *end], []):
        assert calls_in(read(responses.StreamReader(), *documents, whole)) == BOTH_CALLS
    in_turn = [begin[0], deltas[0], deltas[2], end[0], begin[1], deltas[1], deltas[3], end[1]]
    without_ids = [{name: value for name, value in one.items() if name != "item_id"} for one in in_turn]
    assert calls_in(read(responses.StreamReader(), *without_ids, whole)) == BOTH_CALLS


def test_calls_without_any_id_are_matched_by_their_place_and_get_new_ids() -> None:
    no_ids = {"id": None, "call_id": ""}
    documents = [
        call_item(kind, letter, text, index, **no_ids)
        for index, (letter, whole) in enumerate((("a", WHOLE_A), ("b", WHOLE_B)))
        for kind, text in (("added", ""), ("done", whole))
    ]
    end = completed(documents[1]["item"], documents[3]["item"])
    calls = calls_in(read(responses.StreamReader(), *documents, end))
    assert [call[1:3] for call in calls] == [call[1:3] for call in BOTH_CALLS]
    assert len({call.id for call in calls}) == 2
    assert all(MADE_ID.fullmatch(call.id) for call in calls)


MESSAGE = {
    "type": "message",
    "content": [{"type": "output_text", "text": "Hello"}, {"type": "refusal", "refusal": "No"}],
}
REASONING = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
SAID: list[Delta] = [TextDelta("Hello"), RefusalDelta("No"), ReasoningDelta("hm")]


def text_event(kind: str, text: str, **where: Any) -> dict[str, Any]:
    return {"type": f"response.output_text.{kind}", "delta" if kind == "delta" else "text": text} | where


def test_texts_are_read_from_any_event_that_tells_them_and_once() -> None:
    done = [item("done", 0, **MESSAGE), item("done", 1, **REASONING)]
    for documents in (
        [completed(REASONING, MESSAGE)],
        [item("added", 0, type="message"), *done, completed(MESSAGE, REASONING)],
        [*done, completed()],
    ):
        deltas = read(responses.StreamReader(), *documents)
        assert [one for one in deltas if not isinstance(one, Finish)] == SAID
        assert deltas[-1] == Finish("refusal")


def test_what_the_end_tells_beyond_the_deltas_is_read() -> None:
    whole = item("done", 0, type="message", content=[{"type": "output_text", "text": "Hello"}])
    end = completed(whole["item"])
    delta, done = text_event("delta", "Hel", output_index=0), text_event("done", "Hello", output_index=0)
    for documents in ([delta, end], [delta, done, whole, end]):
        assert read(responses.StreamReader(), *documents) == [TextDelta("Hel"), TextDelta("lo"), Finish("stop")]
    other = text_event("delta", "Other", output_index=0)
    assert read(responses.StreamReader(), other, whole, end) == [TextDelta("Other"), Finish("stop")]


def test_the_text_of_a_second_item_at_the_same_index_is_read() -> None:
    second = item("done", 0, type="message", content="two")
    documents = [item(type="message"), text_event("delta", "one"), item(type="message"), second]
    documents[1]["output_index"] = 0
    assert read(responses.StreamReader(), *documents) == [TextDelta("one"), TextDelta("two")]


def test_an_odd_event_of_a_response_is_read_as_far_as_it_can_be() -> None:
    assert read(
        responses.StreamReader(),
        {},
        {"type": 7},
        {"type": "response.output_item.added", "item": 7},
        item(type="function_call", call_id="call_a", name="get_weather", arguments=None),
        {"type": "response.function_call_arguments.delta", "delta": {"city": "Oslo"}, "output_index": 0},
        {"type": "response.output_text.delta", "delta": 7},
        {"type": "response.output_text.delta", "delta": "Hi", "output_index": "1"},
        {"type": "response.output_text.done", "text": 7, "content_index": 3},
        {"type": "response.completed", "response": []},
    ) == [
        ToolCallDelta(0, "call_a", "get_weather", ""),
        ToolCallDelta(0, None, None, WHOLE_A),
        TextDelta("Hi"),
        Finish("tool_calls"),
    ]
