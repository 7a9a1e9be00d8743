"""The reported usage is charged; a report that cannot be true is replaced by a count of the text (P7, P8)."""

import json
from typing import Any

import pytest
from bpe_openai import get_encoding

from journeys.support.compat_requests import CHAT_PATH, answer_prompt, events, post, user_messages
from journeys.support.custom_tool_calls import DELTAS, MESSAGE, TEXT, assert_output_counted, pieces
from journeys.support.provider_wires import CHAT, RESPONSES
from journeys.support.server import Server
from journeys.support.users import new_user
from journeys.upstream.handle import Upstream, scripted

pytestmark = pytest.mark.prove_only_on_postgres

ANSWER = "The quick brown fox jumps over the lazy dog. "


def _usage(prompt: Any, completion: Any, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


ABSURD = {
    "none at all": {"without_usage": True},
    "null": {"usage": None},
    "a list": {"usage": [9, 5]},
    "a text": {"usage": "9"},
    "an empty object": {"usage": {}},
    "negative input": {"usage": _usage(-9, 5)},
    "negative output": {"usage": _usage(9, -5)},
    "both negative": {"usage": _usage(-1_000_000, -1_000_000)},
    "texts": {"usage": _usage("nine", "five")},
    "floats": {"usage": _usage(9.5, 5.5)},
    "truths": {"usage": _usage(True, True)},
    "output missing": {"usage": {"prompt_tokens": 9}},
    "input null": {"usage": _usage(None, 5)},
    "beyond the context window": {"usage": _usage(9, 128_001)},
    "input beyond the context window": {"usage": _usage(10_000_000, 5)},
    "beyond 64 bits": {"usage": _usage(9, 2**70)},
    "beyond a double": {"usage": _usage(9, 10**400)},
    "more cached than sent": {"usage": _usage(9, 5, prompt_tokens_details={"cached_tokens": 10})},
    "negative cached": {"usage": _usage(9, 5, prompt_tokens_details={"cached_tokens": -1})},
    "a total that cannot be true": {"usage": _usage(9, 5, total_tokens=10**9)},
    "only a total that is too small": {"usage": {"total_tokens": 3}},
    "zeros": {"usage": _usage(0, 0, total_tokens=0)},
}

VALID = {
    "plain": (_usage(9, 5), (9, 5, 0), "0.000005"),
    "without a total": (_usage(9, 5), (9, 5, 0), "0.000005"),
    "output in the total only": (_usage(9, 5, total_tokens=50), (9, 41, 0), "0.000026"),
    "a total below the sum": (_usage(9, 5, total_tokens=3), (9, 5, 0), "0.000005"),
    "cached input": (_usage(30, 5, prompt_tokens_details={"cached_tokens": 20}), (30, 5, 20), "0.000006"),
    "cached input, as Moonshot reports it": (_usage(30, 5, cached_tokens=20), (30, 5, 20), "0.000006"),
    "cached input, as DeepSeek reports it": (_usage(30, 5, prompt_cache_hit_tokens=20), (30, 5, 20), "0.000006"),
    "details that are null": (
        _usage(9, 5, prompt_tokens_details=None, completion_tokens_details=None),
        (9, 5, 0),
        "0.000005",
    ),
    "the whole context window": (_usage(9, 128_000), (9, 128_000, 0), "0.076802"),
}


@pytest.mark.parametrize("script", ABSURD.values(), ids=ABSURD.keys())
async def test_a_report_that_cannot_be_true_is_replaced_by_a_count_of_the_text(
    server: Server, upstream: Upstream, script: dict[str, Any]
) -> None:
    async with new_user(server) as caller:
        prompt = scripted(caller.marker, answer=ANSWER, **script)
        reply = await caller.query(prompt, max_tokens=200, model="gpt-4o-mini")
        assert reply.status == 200, reply
        assert reply.body["answer"] == ANSWER
        (charge,) = await caller.charges()
        assert (charge["state"], charge["basis"], charge["overrun"]) == ("settled", "counted", False)
        encoding = get_encoding("o200k_base")
        text_tokens = len(encoding.encode_ordinary(prompt)), len(encoding.encode_ordinary(ANSWER))
        assert text_tokens[0] <= charge["input_tokens"] <= text_tokens[0] + 10
        assert charge["output_tokens"] == text_tokens[1]
        assert charge["cost"] == charge["input_tokens"] + charge["output_tokens"] <= charge["held"]
        assert (reply.body["cost"], (await caller.quota())["used"]) == (charge["cost"], charge["cost"])
    assert len(upstream.requests(caller.marker)) == 1


async def test_an_answer_whose_usage_is_a_number_beyond_a_double_is_counted(server: Server) -> None:
    """JSON knows no infinity, but `1e400` is JSON."""
    choices = json.dumps([{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}])
    body = f'{{"id": "c1", "choices": {choices}, "usage": {{"prompt_tokens": 9, "completion_tokens": 1e400}}}}'
    async with new_user(server) as caller:
        prompt = scripted(caller.marker, raw=body, headers={"Content-Type": "application/json"})
        reply = await caller.query(prompt, model="gpt-4o-mini")
        assert (reply.status, reply.body["answer"]) == (200, ANSWER)
        reply = await post(caller, CHAT_PATH, model="gpt-4o-mini", **user_messages(prompt))
        assert reply.status == 200
        for charge in await caller.charges():
            assert (charge["state"], charge["basis"]) == ("settled", "counted")
            assert charge["output_tokens"] == len(get_encoding("o200k_base").encode_ordinary(ANSWER))


@pytest.mark.parametrize(("usage", "tokens", "usd"), VALID.values(), ids=VALID.keys())
async def test_a_valid_report_is_charged_as_reported(
    server: Server, usage: dict[str, Any], tokens: tuple[int, int, int], usd: str
) -> None:
    async with new_user(server) as caller:
        reply = await caller.query(scripted(caller.marker, usage=usage), model="gpt-4o-mini")
        assert reply.status == 200, reply
        (charge,) = await caller.charges()
        assert (charge["state"], charge["basis"]) == ("settled", "provider")
        assert (charge["input_tokens"], charge["output_tokens"], charge["cached_input_tokens"]) == tokens
        assert charge["cost"] == reply.body["cost"] == tokens[0] + tokens[1]
        assert charge["cost_usd"] == reply.body["cost_usd"] == usd
        assert (await caller.quota())["used"] == charge["cost"]


async def test_a_counted_cost_is_never_more_than_the_hold(server: Server) -> None:
    """The upstream ignores the output limit and reports nothing."""
    async with new_user(server) as caller:
        prompt = scripted(caller.marker, answer=ANSWER, repeat=200, without_usage=True)
        reply = await caller.query(prompt, max_tokens=20)
        (charge,) = await caller.charges()
    assert (charge["basis"], charge["cost"], charge["overrun"]) == ("counted", charge["held"], False)
    assert reply.body["cost"] == charge["held"]


async def test_an_answer_beyond_the_limit_is_charged_in_full_flagged_and_cut(server: Server) -> None:
    async with new_user(server, limit=1_000) as caller:
        prompt = scripted(caller.marker, answer=ANSWER, repeat=200, usage=_usage(60, 2_000))
        reply = await caller.query(prompt, max_tokens=20)
        assert reply.status == 200, reply
        assert reply.body["finish_reason"] == "length"
        assert len(get_encoding("o200k_base").encode_ordinary(reply.body["answer"])) == 20
        assert ANSWER.startswith(reply.body["answer"][:40])
        assert reply.body["cost"] == 2_060
        assert reply.headers["X-Quota-Remaining"] == "0"
        (charge,) = await caller.charges()
        assert (charge["basis"], charge["cost"], charge["overrun"]) == ("provider", 2_060, True)
        quota = await caller.quota()
        assert (quota["used"], quota["remaining"], quota["reserved"]) == (2_060, 0, 0)
        assert (await caller.query(caller.marker, max_tokens=1)).code == "quota_exceeded"


async def test_an_answer_without_text_is_accepted(server: Server) -> None:
    async with new_user(server) as caller:
        document = {"choices": [{"message": {"content": None}, "finish_reason": "stop"}], "usage": _usage(9, 5)}
        reply = await caller.query(scripted(caller.marker, json=document))
        assert (reply.status, reply.body["answer"], reply.body["cost"]) == (200, "", 14)


async def test_a_refusal_of_the_model_is_returned_and_charged(server: Server) -> None:
    async with new_user(server) as caller:
        message = {"content": None, "refusal": "I would rather not."}
        document = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": _usage(9, 5)}
        reply = await caller.query(scripted(caller.marker, json=document))
        assert (reply.status, reply.body["answer"], reply.body["cost"]) == (200, "I would rather not.", 14)


async def test_an_answer_with_a_wrong_content_type_is_accepted(server: Server) -> None:
    async with new_user(server) as caller:
        reply = await caller.query(scripted(caller.marker, headers={"Content-Type": "text/html"}))
        assert (reply.status, reply.body["cost"]) == (200, 14)


async def test_unicode_and_markup_in_an_answer_are_returned_unchanged(server: Server) -> None:
    text = 'Zażółć gęślą jaźń 你好 😀 \u202e‮ \\ " \n\t </script> {{}} %s'
    async with new_user(server) as caller:
        reply = await caller.query(scripted(caller.marker, answer=text))
        assert reply.body["answer"] == text


FUNCTION_CALL = {"function_call": {"name": "sql", "arguments": TEXT}}
RECEIVED = {
    "a custom tool": (MESSAGE, DELTAS, f"sql{TEXT}"),
    "a deprecated function call": (FUNCTION_CALL, [FUNCTION_CALL], f"sql{TEXT}"),
    "reasoning": ({"reasoning": TEXT}, [{"reasoning": piece} for piece in pieces(TEXT)], TEXT),
    "reasoning_content": (
        {"reasoning_content": TEXT},
        [{"reasoning_content": piece} for piece in pieces(TEXT)],
        TEXT,
    ),
    "a refusal": ({"refusal": TEXT}, [{"refusal": piece} for piece in pieces(TEXT)], TEXT),
}


@pytest.mark.parametrize(("message", "deltas", "text"), RECEIVED.values(), ids=RECEIVED.keys())
async def test_all_received_output_is_counted_if_no_usage_is_reported(
    all_wires_server: Server, message: dict[str, Any], deltas: list[dict[str, Any]], text: str
) -> None:
    """The count is the same for a whole answer and a stream."""
    async with new_user(all_wires_server) as caller:
        whole = answer_prompt(caller.marker, whole={"role": "assistant", "content": None} | message)
        reply = await post(caller, CHAT_PATH, model=CHAT.model, **user_messages(whole))
        assert reply.body["choices"][0]["message"].items() >= message.items()
        await assert_output_counted(caller, text)
    async with new_user(all_wires_server) as caller:
        streamed = answer_prompt(caller.marker, *deltas)
        received = await events(caller, CHAT_PATH, model=CHAT.model, **user_messages(streamed))
        assert [one["choices"][0]["delta"] for one in received][:-1] == deltas
        await assert_output_counted(caller, text)


async def test_every_choice_is_counted_with_its_text_tool_calls_and_reasoning(all_wires_server: Server) -> None:
    async with new_user(all_wires_server) as caller:
        messages = [{"content": "one two"}, {"content": None} | MESSAGE, {"content": None, "reasoning": TEXT}]
        document = {"choices": [{"message": message, "finish_reason": "stop"} for message in messages]}
        prompt = scripted(caller.marker, json=document)
        await post(caller, CHAT_PATH, model=CHAT.model, n=3, **user_messages(prompt))
        await assert_output_counted(caller, f"one two{TEXT}sql{TEXT}")


async def test_a_refusal_is_returned_and_counted_on_either_of_openais_wires(all_wires_server: Server) -> None:
    for wire in (CHAT, RESPONSES):
        async with new_user(all_wires_server) as caller:
            prompt = scripted(caller.marker, refusal=TEXT, without_usage=True)
            reply = await caller.query(prompt, model=wire.model)
            assert reply.body["answer"] == TEXT
            await assert_output_counted(caller, TEXT)
