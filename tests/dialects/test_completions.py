"""OpenAI's text completions: what of a request is read, and how answers and streams are written."""

import json
from typing import Any

import msgspec
import pytest
from openai.types import Completion as SdkCompletion

from tollkeeper.chat import (
    ChatRequest,
    Completion,
    Delta,
    Message,
    Options,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    Usage,
)
from tollkeeper.dialects.completions import PARAMETERS, StreamWriter, read_request, write_answer
from tollkeeper.dialects.parameters import filter_parameters
from tollkeeper.dialects.response_meta import ResponseMeta
from tollkeeper.dialects.sse import Splitter
from tollkeeper.errors import InvalidRequest, UnsupportedParameter

META = ResponseMeta("cmpl-1", "echo", 1_800_000_000)
USAGE = Usage(3, 2)


def filtered(**fields: Any) -> dict[str, bytes]:
    return filter_parameters(
        {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}, PARAMETERS
    )


@pytest.mark.parametrize("prompt", ["Say hello", ["Say hello"]])
def test_the_prompt_is_the_only_message(prompt: object) -> None:
    assert read_request({"prompt": prompt}) == ChatRequest((Message("user", "Say hello"),))


def test_the_sampling_options_are_read() -> None:
    sampling: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
    }
    assert read_request({"prompt": "x", "stop": "end", **sampling}).options == Options(stop=("end",), **sampling)
    assert read_request({"prompt": "x", "stop": ["a", "b"]}).options == Options(stop=("a", "b"))


@pytest.mark.parametrize("prompt", [None, 7, [], ["a", "b"], [1, 2], [[1, 2]], {}, [None]])
def test_any_other_prompt_is_refused(prompt: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^prompt ") as refused:
        read_request({"prompt": prompt})
    assert refused.value.parameter == "prompt"


@pytest.mark.parametrize("option", [{"temperature": "hot"}, {"stop": 7}, {"seed": 1.5}])
def test_a_malformed_option_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        read_request({"prompt": "x"} | option)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("best_of", 2),
        ("echo", True),
        ("suffix", "the end"),
        ("logprobs", 0),
        ("logprobs", 5),
        ("logit_bias", {"50256": -100}),
        ("top_k", 1),
    ],
)
def test_what_a_chat_cannot_express_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UnsupportedParameter, match=f"^{name} is not supported here") as refused:
        filtered(prompt="x", **{name: value})
    assert refused.value.parameter == name


def test_values_without_an_effect_are_accepted() -> None:
    fields: dict[str, Any] = {
        "n": 1,
        "best_of": 1,
        "echo": False,
        "suffix": "",
        "logit_bias": {},
        "logprobs": None,
        "user": "ada",
    }
    assert filtered(prompt="x", model="echo", max_tokens=5, stream=True, **fields) == {"prompt": b'"x"'}


@pytest.mark.parametrize(
    ("finish_reason", "written"), [("stop", "stop"), ("length", "length"), ("refusal", "content_filter")]
)
def test_an_answer_is_a_text_completion(finish_reason: str, written: str) -> None:
    body = write_answer(Completion("hello there", finish_reason, USAGE), META, USAGE)
    answer = SdkCompletion.model_validate_json(body)
    (choice,) = answer.choices
    assert (choice.text, choice.index, choice.logprobs, choice.finish_reason) == ("hello there", 0, None, written)
    assert (answer.id, answer.object, answer.created, answer.model) == (
        META.id,
        "text_completion",
        META.created,
        "echo",
    )
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 2, 5)


@pytest.mark.parametrize("with_usage", [False, True])
def test_a_stream_has_the_text_then_the_reason_then_the_usage_if_it_is_included(with_usage: bool) -> None:
    writer = StreamWriter(META, with_usage=with_usage)
    deltas: list[Delta] = [TextDelta("hello"), ReasoningDelta("hidden"), TextDelta(" there"), RefusalDelta(" no")]
    events = [
        event.data for event in Splitter().feed(b"".join(map(writer.write, deltas)) + writer.end("length", USAGE))
    ]
    assert events.pop() == b"[DONE]"
    chunks = [json.loads(data) for data in events]
    if with_usage:
        last = chunks.pop()
        assert (last["choices"], last["usage"]["total_tokens"]) == ([], 5)
    found = [(choice["text"], choice["finish_reason"]) for chunk in chunks for choice in chunk["choices"]]
    assert found == [("hello", None), (" there", None), (" no", None), ("", "length")]
    assert {(chunk["id"], chunk["object"], "usage" in chunk) for chunk in chunks} == {
        (META.id, "text_completion", False)
    }
