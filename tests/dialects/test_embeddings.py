"""The embeddings format: inputs, parameters, usage and vectors."""

import base64
import contextlib
import struct
from typing import Any, get_type_hints

import httpx2
import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from openai.types import CreateEmbeddingResponse
from openai.types.embedding_create_params import EmbeddingCreateParams

from support.depth import examples
from tollkeeper.chat import Completion, Usage
from tollkeeper.dialects.answer_checks import MalformedAnswer
from tollkeeper.dialects.embeddings import (
    MAX_INPUT_ITEMS,
    PARAMETERS,
    EncodingFormat,
    input_size_of,
    read_answer,
    read_input,
    write_answer,
)
from tollkeeper.dialects.input_size import InputSize
from tollkeeper.dialects.parameters import filter_parameters
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.errors import InvalidRequest, UnsupportedParameter

META = ResponseMeta("emb_1", "small", 1_700_000_000)
VECTORS = [[0.5, -0.25, 1.0], [0.0, 2.0, -1.5]]


def fields_of(document: dict[str, Any]) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(orjson.dumps(document), type=dict[str, msgspec.Raw])


def test_exactly_the_parameters_of_the_sdk_have_a_rule() -> None:
    assert set(PARAMETERS) == set(get_type_hints(EmbeddingCreateParams))


def test_every_parameter_but_the_model_is_passed_unchanged() -> None:
    document = {"model": "m", "input": "a", "dimensions": 3, "encoding_format": "base64", "user": "u"}
    assert set(filter_parameters(fields_of(document), PARAMETERS)) == set(document) - {"model"}
    with pytest.raises(UnsupportedParameter):
        filter_parameters(fields_of({"input": "a", "encoding_format": "int8"}), PARAMETERS)


@pytest.mark.parametrize(
    ("value", "items", "texts", "tokens"),
    [
        ("ab", ("ab",), ("ab",), 0),
        (["a", "b"], ("a", "b"), ("a", "b"), 0),
        ([5, 6, 7], ((5, 6, 7),), (), 3),
        ([[5, 6], [7]], ((5, 6), (7,)), (), 3),
    ],
)
def test_an_input_is_one_text_or_token_list_or_many(
    value: Any, items: tuple[Any, ...], texts: tuple[str, ...], tokens: int
) -> None:
    embeddings_input = read_input(fields_of({"input": value}))
    assert (embeddings_input.items, embeddings_input.texts, embeddings_input.tokens) == (items, texts, tokens)
    assert input_size_of(fields_of({"input": value})) == InputSize(messages=1)


@pytest.mark.parametrize("value", [None, 7, {}, [], ["a", 1], [1, [2]], [True], [-1], [1.5], [["a"]], [[[1]]]])
def test_any_other_input_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        input_size_of(fields_of({"input": value}))
    assert raised.value.parameter == "input"


@pytest.mark.parametrize("one", ["a", [5]])
def test_a_call_has_at_most_as_many_inputs_as_openai_accepts(one: Any) -> None:
    assert len(read_input(fields_of({"input": [one] * MAX_INPUT_ITEMS})).items) == MAX_INPUT_ITEMS == 2_048
    with pytest.raises(InvalidRequest) as raised:
        input_size_of(fields_of({"input": [one] * (MAX_INPUT_ITEMS + 1)}))
    assert raised.value.parameter == "input"


def test_one_input_may_have_more_tokens_than_the_maximum_of_inputs() -> None:
    assert read_input(fields_of({"input": [5] * 8_191})).tokens == 8_191


def test_a_request_without_an_input_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        input_size_of({})


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_the_sdk_reads_the_vectors_that_are_written(encoding_format: EncodingFormat) -> None:
    body = write_answer(VECTORS, META, Usage(7, 0), encoding_format)

    def respond(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "application/json"}, content=body)

    http = httpx2.Client(transport=httpx2.MockTransport(respond))
    with OpenAI(api_key="any", base_url="http://127.0.0.1:1/v1", http_client=http) as openai:
        response = openai.embeddings.create(model="small", input=["a", "b"])
    assert [item.embedding for item in response.data] == VECTORS
    assert [item.index for item in response.data] == [0, 1]
    assert (response.model, response.usage.prompt_tokens, response.usage.total_tokens) == ("small", 7, 7)


def test_vectors_are_valid_to_the_sdk_and_base64_is_little_endian_floats() -> None:
    CreateEmbeddingResponse.model_validate_json(write_answer(VECTORS, META, Usage(7, 0)))
    written = orjson.loads(write_answer(VECTORS, META, Usage(7, 0), "base64"))
    packed = base64.b64decode(written["data"][0]["embedding"], validate=True)
    assert packed == struct.pack("<3f", *VECTORS[0])


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_an_answer_is_read_for_its_usage_only(encoding_format: EncodingFormat) -> None:
    body = write_answer(VECTORS, META, Usage(7, 0), encoding_format)
    assert read_answer(body) == Completion("", "stop", Usage(7, 0))


@pytest.mark.parametrize("usage", [None, 7, {}, {"prompt_tokens": -1}, {"prompt_tokens": 2.5}, {"prompt_tokens": True}])
def test_an_impossible_usage_report_is_read_as_none(usage: Any) -> None:
    assert read_answer(orjson.dumps({"data": [], "usage": usage})).usage is None


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data": 7}', b'{"data": ' + b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_answer_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        read_answer(body)


scalars = st.none() | st.booleans() | st.integers(-5, 2**63) | st.floats(allow_nan=False) | st.text(max_size=4)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["data", "usage", "prompt_tokens", "embedding"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=examples(300), deadline=None)
@given(values, values)
def test_random_documents_raise_only_the_documented_errors(one: Any, other: Any) -> None:
    with contextlib.suppress(InvalidRequest):
        assert read_input(fields_of({"input": one})).items
    with contextlib.suppress(MalformedAnswer):
        read_answer(orjson.dumps({"data": one, "usage": other}))
