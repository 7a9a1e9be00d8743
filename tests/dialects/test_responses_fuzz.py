"""Random documents in the responses format raise only the documented errors."""

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from support.depth import examples
from tollkeeper.dialects.answer_checks import MalformedAnswer, ProviderSentError
from tollkeeper.dialects.parameters import filter_parameters
from tollkeeper.dialects.responses import PARAMETERS, StreamReader, input_size_of, read_answer, read_request
from tollkeeper.dialects.sse import Event
from tollkeeper.errors import InvalidRequest, UnsupportedParameter

FIELD_NAMES = st.sampled_from(
    [
        *PARAMETERS,
        *("type", "role", "content", "output", "arguments", "call_id", "name", "format", "schema", "image_url"),
        *("detail", "usage", "input_tokens", "output_tokens", "input_tokens_details", "cached_tokens", "status"),
        *("incomplete_details", "delta", "item", "response", "error", "output_index", "summary", "mode", "effort"),
    ]
)
FIELD_VALUES = st.sampled_from(
    [
        *("message", "function_call", "function_call_output", "reasoning", "input_text", "input_image", "output_text"),
        *("user", "assistant", "function", "custom", "json_schema", "completed", "incomplete", "auto", "data:image/"),
        *("response.completed", "response.output_text.delta", "response.output_item.added", "response.failed"),
        *("response.function_call_arguments.done", "response.incomplete", "response.refusal.done"),
    ]
)
scalars = (
    st.none() | st.booleans() | st.integers(-5, 2**63) | st.floats(allow_nan=False) | st.text(max_size=4) | FIELD_VALUES
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELD_NAMES | st.text(max_size=3), inner, max_size=5),
    max_leaves=12,
)
documents = st.dictionaries(FIELD_NAMES, values, max_size=8)


def refused_parameter(read: Callable[[], object]) -> str | None:
    try:
        read()
    except (InvalidRequest, UnsupportedParameter) as refused:
        return refused.parameter
    return None


@settings(max_examples=examples(400), deadline=None)
@given(documents)
def test_a_random_request_is_read_or_refused_by_the_name_of_a_field(document: dict[str, Any]) -> None:
    fields = msgspec.json.decode(orjson.dumps(document), type=dict[str, msgspec.Raw])
    for read in (
        lambda: input_size_of(fields),
        lambda: read_request(document),
        lambda: filter_parameters(fields, PARAMETERS),
    ):
        parameter = refused_parameter(read)
        assert parameter is None or parameter.partition(".")[0] in {"input", *document}


@settings(max_examples=examples(300), deadline=None)
@given(values | documents)
def test_a_random_answer_is_read_or_malformed_or_an_error(document: Any) -> None:
    with contextlib.suppress(MalformedAnswer, ProviderSentError):
        read_answer(orjson.dumps(document))


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(values | documents, max_size=6))
def test_a_random_stream_is_read_or_malformed_or_an_error(documents_received: list[Any]) -> None:
    reader = StreamReader()
    with contextlib.suppress(MalformedAnswer, ProviderSentError):
        for document in documents_received:
            reader.read(Event(b"", b"", orjson.dumps(document)))


def test_deeply_nested_requests_raise_only_the_documented_errors() -> None:
    deep: Any = "x"
    for _ in range(50_000):
        deep = [deep]
    for name in PARAMETERS:
        with contextlib.suppress(InvalidRequest, UnsupportedParameter):
            read_request({"input": "Hi", name: deep})
        raw = msgspec.Raw(b"[" * 50_000 + b"]" * 50_000)
        with contextlib.suppress(InvalidRequest, UnsupportedParameter):
            input_size_of({"input": msgspec.Raw(b'"Hi"'), name: raw})
