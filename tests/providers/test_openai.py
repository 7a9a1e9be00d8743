"""What the OpenAI adapter sends, and how it reads what comes back, without a network."""

from typing import Any, get_type_hints

import orjson
import pytest
from openai.types.chat import completion_create_params

from tollkeeper import errors
from tollkeeper.chat import ChatRequest, Completion, Message, Usage
from tollkeeper.providers.openai import OpenAIProvider, _completion, status_error

COMPATIBLE = "http://127.0.0.1:1/v1"


def make(base_url: str = COMPATIBLE) -> OpenAIProvider:
    return OpenAIProvider(api_key="sk-test", base_url=base_url, timeout_s=1)


def sent(model: str, *, base_url: str = COMPATIBLE, temperature: float | None = None) -> dict[str, Any]:
    request = ChatRequest(model, (Message("system", "Be brief."), Message("user", 'Say "hi"\n☃')), temperature)
    call = make(base_url).prepare(request)
    body: dict[str, Any] = orjson.loads(call.body + b"%d}" % 77)
    return body


def test_the_body_is_a_chat_completion_that_is_never_stored() -> None:
    body = sent("gpt-4o-mini", temperature=0.5)
    assert body == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'Say "hi"\n☃'}],
        "store": False,
        "temperature": 0.5,
        "max_tokens": 77,
    }


def test_every_field_sent_is_one_that_openai_knows() -> None:
    known = get_type_hints(completion_create_params.CompletionCreateParamsNonStreaming)
    assert set(sent("gpt-5", temperature=1.0)) | set(sent("gpt-4o")) <= set(known)


@pytest.mark.parametrize(
    ("model", "base_url", "name"),
    [
        ("gpt-4o-mini", "https://api.openai.com/v1", "max_tokens"),
        ("gpt-3.5-turbo", "https://api.openai.com/v1", "max_tokens"),
        ("gpt-5", "https://api.openai.com/v1", "max_completion_tokens"),
        ("o3-mini", "https://api.openai.com/v1/", "max_completion_tokens"),
        ("something-newer", "https://api.openai.com/v1", "max_completion_tokens"),
        ("o3-mini", COMPATIBLE, "max_completion_tokens"),
        ("llama-3", COMPATIBLE, "max_tokens"),
        ("openhermes", COMPATIBLE, "max_tokens"),
    ],
)
def test_the_output_limit_has_the_name_that_the_model_accepts(model: str, base_url: str, name: str) -> None:
    body = sent(model, base_url=base_url)
    assert [key for key in body if key.startswith("max_")] == [name]
    assert body[name] == 77


def test_the_bytes_that_bound_the_input_cover_the_whole_body() -> None:
    call = make().prepare(ChatRequest("m", (Message("user", "é" * 1000),)))
    assert call.body_bytes == len(call.body) > 2000
    assert call.messages == 1


async def test_input_is_counted_with_the_template_and_output_without() -> None:
    provider = make()
    call = provider.prepare(ChatRequest("gpt-4o", (Message("system", "hello world"), Message("user", "hello world"))))
    assert await provider.count_input(call) == 2 * 2 + 2 * 4 + 3
    assert await provider.count_output("hello world") == 2
    assert await provider.count_output("<|endoftext|>") > 0
    assert await provider.cut("hello world again", 2) == "hello world"
    assert await provider.cut("hello", 5) == "hello"


async def test_a_cut_never_leaves_half_a_character() -> None:
    provider, text = make(), "🤖🧬𓀀 ᚠᛇᚻ ꙮ"
    whole = await provider.count_output(text)
    cuts = [await provider.cut(text, tokens) for tokens in range(whole + 1)]
    assert all(text.startswith(cut) for cut in cuts)
    assert cuts[0] == ""
    assert cuts[-1] == text
    assert sorted(cuts, key=len) == cuts


def answer(**changes: Any) -> bytes:
    whole = {
        "id": "x",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
    }
    return orjson.dumps(whole | changes)


def test_an_answer_is_read_with_its_usage() -> None:
    assert _completion(answer()) == Completion("Hi", "stop", Usage(9, 2, 4))


def test_a_refusal_is_an_answer() -> None:
    message = {"role": "assistant", "content": None, "refusal": "No."}
    body = answer(choices=[{"message": message, "finish_reason": "stop"}])
    assert _completion(body).text == "No."


def test_an_answer_without_text_is_empty() -> None:
    body = answer(choices=[{"message": {"role": "assistant", "content": None}, "finish_reason": None}])
    assert _completion(body) == Completion("", "stop", Usage(9, 2, 4))


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "many",
        [],
        {},
        {"prompt_tokens": 9},
        {"prompt_tokens": -1, "completion_tokens": 2},
        {"prompt_tokens": 9, "completion_tokens": 2.0},
        {"prompt_tokens": "9", "completion_tokens": 2},
        {"prompt_tokens": True, "completion_tokens": 2},
        {"prompt_tokens": 9, "completion_tokens": 2**60},
        {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 10}},
        {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": -1}},
    ],
)
def test_a_report_that_cannot_be_true_is_no_report(usage: object) -> None:
    assert _completion(answer(usage=usage)).usage is None


@pytest.mark.parametrize("details", [None, {}, "x", {"cached_tokens": None}])
def test_a_report_without_cached_tokens_has_none(details: object) -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "prompt_tokens_details": details}
    assert _completion(answer(usage=usage)).usage == Usage(0, 0, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        answer(choices=[]),
        answer(choices=[{}]),
        answer(choices=[{"message": {"content": 5}}]),
        answer()[:-5],
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_an_unreadable_answer_may_have_been_billed(body: bytes) -> None:
    with pytest.raises(errors.ProviderBadResponse) as raised:
        _completion(body)
    assert raised.value.billed


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.ProviderAuthFailed),
        (403, errors.ProviderAuthFailed),
        (429, errors.ProviderRateLimited),
        (400, errors.ProviderRejected),
        (404, errors.ProviderRejected),
        (422, errors.ProviderRejected),
        (302, errors.ProviderFailed),
        (500, errors.ProviderFailed),
        (503, errors.ProviderFailed),
    ],
)
def test_a_refusal_is_named_and_not_billed(status: int, kind: type[errors.ProviderError]) -> None:
    error = status_error(status)
    assert type(error) is kind
    assert not error.billed


def test_an_odd_success_may_have_been_billed() -> None:
    assert status_error(204).billed


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0", 0), (None, None), ("soon", None), ("-5", None), ("99999999", 3600), ("²", None)],
)
def test_retry_after_is_taken_over_if_it_is_a_sensible_number(header: str | None, seconds: int | None) -> None:
    assert status_error(429, header).retry_after_s == seconds


async def test_nobody_there_is_unavailable_and_not_billed() -> None:
    provider = make()
    call = provider.prepare(ChatRequest("m", (Message("user", "hi"),)))
    with pytest.raises(errors.ProviderUnavailable) as raised:
        await provider.complete(call, 5)
    await provider.close()
    assert not raised.value.billed


async def test_a_base_url_that_is_none_is_unavailable() -> None:
    provider = make("not a url")
    call = provider.prepare(ChatRequest("m", (Message("user", "hi"),)))
    with pytest.raises(errors.ProviderUnavailable):
        await provider.complete(call, 5)
    await provider.close()


async def test_listing_models_without_a_server_is_unavailable() -> None:
    with pytest.raises(errors.ProviderUnavailable):
        await make().list_models()
