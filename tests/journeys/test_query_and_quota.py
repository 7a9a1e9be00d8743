"""A call of /ai/query, its response, its charge, and the quota, which falls by exactly the cost."""

import asyncio
import json
import re
from datetime import UTC, datetime

import pytest

from journeys.support.compat_requests import CHAT_PATH, MESSAGES_PATH, RESPONSES_PATH, post, user_messages
from journeys.support.server import Server
from journeys.support.users import PASSWORD, login, new_user
from journeys.upstream.handle import Upstream, scripted
from tollkeeper.quota.rules.windows import Period

pytestmark = [
    pytest.mark.stock_postgres,
    pytest.mark.prove_only_on_postgres(
        but=(
            "test_the_quota_falls_by_exactly_the_cost_of_the_call",
            "test_charges_come_in_pages_newest_first_and_none_is_missed",
            "test_two_callers_of_one_tenant_both_draw_on_its_quota",
            "test_a_used_up_quota_returns_the_time_until_its_reset",
            "test_a_user_who_logs_in_again_sees_the_same_quota",
            "test_another_users_charge_looks_like_one_that_does_not_exist",
        )
    ),
]

USAGE = {"prompt_tokens": 15, "completion_tokens": 9, "total_tokens": 24}


async def test_the_quota_falls_by_exactly_the_cost_of_the_call(server: Server, upstream: Upstream) -> None:
    async with new_user(server, limit=10_000) as caller:
        reply = await caller.query(scripted(caller.marker, usage=USAGE, answer="Four words of answer."))
        assert reply.status == 200, reply
        answer = reply.body
        assert answer["answer"] == "Four words of answer."
        assert answer["cost"] == 24
        assert answer["usage"] == {
            "input_tokens": 15,
            "output_tokens": 9,
            "cached_input_tokens": 0,
            "total_tokens": 24,
        }
        quota = await caller.quota()
        assert (quota["limit"], quota["used"], quota["reserved"], quota["remaining"]) == (10_000, 24, 0, 9_976)
        assert answer["quota"] == {
            "limit": 10_000,
            "used": 24,
            "reserved": 0,
            "remaining": 9_976,
            "resets_at": None,
        }
        assert len(upstream.requests(caller.marker)) == 1


async def test_the_answer_has_every_field_of_the_contract(server: Server) -> None:
    async with new_user(server) as caller:
        reply = await caller.query(scripted(caller.marker, usage=USAGE), model="gpt-4o-mini")
    assert set(reply.body) == {
        "query_id",
        "answer",
        "model",
        "provider",
        "finish_reason",
        "usage",
        "cost",
        "cost_usd",
        "processing_time",
        "quality_score",
        "quality_score_reason",
        "judge",
        "from_cache",
        "session_id",
        "sources",
        "fallback_for",
        "quota",
    }
    assert reply.body["model"] == "gpt-4o-mini"
    assert reply.body["provider"] == "openai"
    assert reply.body["finish_reason"] == "stop"
    assert (reply.body["quality_score"], reply.body["quality_score_reason"], reply.body["judge"]) == (None, None, None)
    assert reply.body["from_cache"] is False
    # 15 tokens at 0.15 and 9 at 0.60 USD per million, rounded up to a millionth.
    assert reply.body["cost_usd"] == "0.000008"


async def test_every_reply_names_its_charge_and_the_tightest_quota(server: Server) -> None:
    async with new_user(server, limit=10_000, tenant_limit=1_000_000, period=Period.MONTH) as caller:
        reply = await caller.query(scripted(caller.marker, usage=USAGE))
        assert reply.headers["X-Charge-ID"] == reply.body["query_id"]
        assert reply.headers["X-Quota-Name"] == "user-month"
        assert reply.headers["X-Quota-Limit"] == "10000"
        assert reply.headers["X-Quota-Remaining"] == "9976"
        assert reply.headers["X-Quota-Reset"] == reply.body["quota"]["resets_at"]
        assert reply.headers["X-Quota-Reset"].endswith("Z")
        assert float(reply.headers["X-Process-Time"]) > 0


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (CHAT_PATH, ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"]),
        (
            MESSAGES_PATH,
            [
                "anthropic-ratelimit-tokens-limit",
                "anthropic-ratelimit-tokens-remaining",
                "anthropic-ratelimit-tokens-reset",
            ],
        ),
    ],
)
async def test_the_sdks_find_the_tightest_token_quota_in_their_own_headers(
    server: Server, path: str, names: list[str]
) -> None:
    """In answers, in streams (with the hold), and in refusals."""
    async with new_user(server, limit=10_000, tenant_limit=1_000_000, period=Period.MONTH) as caller:
        document = {"model": "gpt-4o-mini", "max_tokens": 100}
        whole = await post(caller, path, **document, **user_messages(scripted(caller.marker, usage=USAGE)))
        assert [whole.headers[name] for name in names[:2]] == ["10000", "9976"]
        streamed = user_messages(scripted(caller.marker, usage=USAGE)) | {"stream": True}
        async with caller.http.post(path, json=document | streamed, headers=caller.auth_headers) as response:
            assert int(response.headers[names[0]]) == 10_000
            assert int(response.headers[names[1]]) < 9_976 - 100
            await response.read()
        refused = await post(caller, path, **document | {"max_tokens": 60_000}, **user_messages("hi"))
        assert refused.status == 429
        assert [refused.headers[name] for name in names[:2]] == ["10000", "9952"]
        for reply in (whole.headers, response.headers, refused.headers):
            reset = reply[names[2]]
            if path == MESSAGES_PATH:
                assert reset == reply["X-Quota-Reset"]
            else:
                assert re.fullmatch(r"(\d+h)?\d+m\d+s|\d+s", reset)


async def test_a_quota_without_a_reset_has_no_reset_header(server: Server) -> None:
    async with new_user(server, period=Period.TOTAL) as caller:
        reply = await caller.query(caller.marker)
    assert reply.headers["X-Quota-Name"] == "user-total"
    assert "X-Quota-Reset" not in reply.headers


async def test_a_valid_correlation_id_is_kept_and_any_other_replaced(server: Server) -> None:
    async with new_user(server) as caller:
        correlation_ids: list[str] = []
        for sent in ("my-request.1", "bad id!", "x" * 65):
            headers = caller.auth_headers | {"X-Correlation-ID": sent}
            async with caller.http.get("/me", headers=headers) as response:
                correlation_ids.append(response.headers["X-Correlation-ID"])
    assert correlation_ids[0] == "my-request.1"
    assert correlation_ids[1] not in {"bad id!", ""}
    assert correlation_ids[2] != "x" * 65


async def test_a_user_can_read_a_charge_of_their_own(server: Server) -> None:
    async with new_user(server) as caller:
        query_id = (await caller.query(scripted(caller.marker, usage=USAGE), max_tokens=50)).body["query_id"]
        charge = (await caller.get(f"/me/charges/{query_id}")).body
    assert charge["id"] == query_id
    assert (charge["state"], charge["basis"], charge["cost"]) == ("settled", "provider", 24)
    assert charge["granted_output"] == 50
    assert charge["held"] > 24
    assert charge["forgiven"] == 0
    assert charge["overrun"] is False
    assert charge["reason"] == "Charged as the provider reported."


async def test_another_users_charge_looks_like_one_that_does_not_exist(server: Server) -> None:
    async with new_user(server) as owner, new_user(server, tenant_id=owner.principal.tenant_id) as other:
        theirs = (await owner.query(owner.marker)).body["query_id"]
        correlation = {"X-Correlation-ID": "the-same"}
        bodies = []
        for charge_id in (theirs, "chg_" + "0" * 32, "nonsense", "chg_'%20OR%201=1"):
            async with other.http.get(f"/me/charges/{charge_id}", headers=other.auth_headers | correlation) as response:
                assert response.status == 404
                bodies.append(await response.read())
        assert len(set(bodies)) == 1
        assert b"not_found" in bodies[0]


async def test_charges_come_in_pages_newest_first_and_none_is_missed(server: Server) -> None:
    async with new_user(server) as caller:
        made = [(await caller.query(caller.marker)).body["query_id"] for _ in range(5)]
        found: list[str] = []
        path = "/me/charges?limit=2"
        sizes = []
        while path:
            page = (await caller.get(path)).body
            sizes.append(len(page["data"]))
            found += [charge["id"] for charge in page["data"]]
            path = f"/me/charges?limit=2&cursor={page['next_cursor']}" if page["next_cursor"] else ""
    assert sizes == [2, 2, 1]
    assert found == made[::-1]


async def test_two_callers_of_one_tenant_both_draw_on_its_quota(server: Server) -> None:
    async with (
        new_user(server, limit=1_000_000, tenant_limit=3_000) as one,
        new_user(server, tenant_id=one.principal.tenant_id) as two,
    ):
        await asyncio.gather(*(user.query(scripted(user.marker, usage=USAGE), max_tokens=20) for user in (one, two)))
        quotas = {quota["name"]: quota for quota in (await one.quota())["quotas"]}
        assert quotas["tenant-total"]["used"] == 48
        assert quotas["user-total"]["used"] == 24
        assert (await one.quota())["name"] == "tenant-total"


async def test_a_user_without_a_quota_is_refused_with_a_limit_of_zero(server: Server, upstream: Upstream) -> None:
    async with new_user(server, limit=None) as caller:
        reply = await caller.query(caller.marker)
        assert (reply.status, reply.code) == (429, "quota_exceeded")
        assert (reply.body["limit"], reply.body["used"], reply.body["reserved"]) == (0, 0, 0)
        assert (await caller.quota())["limit"] == 0
        assert await caller.charges() == []
    assert upstream.requests(caller.marker) == []


async def test_a_quota_that_is_too_small_refuses_with_its_balance_and_what_is_needed(
    server: Server, upstream: Upstream
) -> None:
    async with new_user(server, limit=40, period=Period.MONTH) as caller:
        reply = await caller.query(caller.marker, max_tokens=500)
        assert (reply.status, reply.code) == (429, "quota_exceeded")
        assert (reply.body["limit"], reply.body["used"], reply.body["reserved"]) == (40, 0, 0)
        assert reply.body["needed"] > 500
        assert reply.body["resets_at"].endswith("Z")
        assert reply.headers["X-Quota-Name"] == "user-month"
        assert await caller.charges() == []
    assert upstream.requests(caller.marker) == []


@pytest.mark.parametrize("path", [CHAT_PATH, RESPONSES_PATH, MESSAGES_PATH])
async def test_an_output_limit_beyond_the_quota_is_refused_with_the_tokens_needed(server: Server, path: str) -> None:
    """Some clients send the largest output of the model as the limit of every call."""
    async with new_user(server, limit=20_000, period=Period.MONTH) as caller:
        limit = {"max_output_tokens" if path == RESPONSES_PATH else "max_tokens": 64_000}
        content = {"input": "hi"} if path == RESPONSES_PATH else user_messages("hi")
        reply = await post(caller, path, model="gpt-4o-mini", **content, **limit)
        assert (reply.status, reply.headers["X-Error-Code"]) == (429, "quota_exceeded")
        message = reply.body["error"]["message"]
        needed = re.search(
            r"^This call can never fit: it needs ([\d,]+) tokens and the limit is 20,000\. Lower", message
        )
        assert needed is not None, message
        assert 64_000 < int(needed[1].replace(",", "")) < 65_000
        assert "Retry-After" not in reply.headers


async def test_a_used_up_quota_returns_the_time_until_its_reset(server: Server) -> None:
    async with new_user(server, limit=1_000, period=Period.MONTH) as caller:
        usage = {"prompt_tokens": 9, "completion_tokens": 900, "total_tokens": 909}
        assert (await caller.query(scripted(caller.marker, usage=usage))).status == 200
        reply = await caller.query(caller.marker, max_tokens=100)
        assert (reply.status, reply.code) == (429, "quota_exceeded")
        assert (reply.body["used"], reply.headers["X-Quota-Remaining"]) == (909, "91")
        resets_at = datetime.fromisoformat(reply.body["resets_at"])
        until_reset_s = (resets_at - datetime.now(UTC)).total_seconds()
        assert until_reset_s <= int(reply.headers["Retry-After"]) < until_reset_s + 120  # with the jitter


async def test_without_an_output_limit_of_the_caller_the_limit_is_clamped_to_the_quota(
    server: Server, upstream: Upstream
) -> None:
    async with new_user(server, limit=300) as caller:
        reply = await caller.query(caller.marker)
        assert reply.status == 200, reply
        charge = (await caller.get(f"/me/charges/{reply.body['query_id']}")).body
    (request,) = upstream.requests(caller.marker)
    assert 16 <= charge["granted_output"] < 300
    assert request["body"]["max_tokens"] == charge["granted_output"]
    assert charge["held"] == 300


async def test_an_output_limit_of_the_caller_is_never_clamped(server: Server, upstream: Upstream) -> None:
    async with new_user(server, limit=1_000) as caller:
        assert (await caller.query(caller.marker, max_tokens=999)).code == "quota_exceeded"
    assert upstream.requests(caller.marker) == []


async def test_a_prompt_of_almost_a_megabyte_is_sent_whole_and_held_in_full(server: Server, upstream: Upstream) -> None:
    async with new_user(server, limit=100_000_000) as caller:
        prompt = caller.marker + " ąęß" * 110_000
        body = json.dumps({"prompt": prompt, "max_tokens": 16}, ensure_ascii=False).encode()
        async with caller.http.post("/ai/query", data=body, headers=caller.auth_headers) as response:
            assert response.status == 200
        (charge,) = await caller.charges()
    (request,) = upstream.requests(caller.marker)
    assert request["body"]["messages"] == [{"role": "user", "content": prompt}]
    assert charge["held"] > len(prompt.encode())


async def test_a_context_allocation_caps_the_hold_of_a_call(server: Server) -> None:
    async with new_user(server) as caller:
        reply = await caller.query(caller.marker, context_allocation=200)
        charge = (await caller.get(f"/me/charges/{reply.body['query_id']}")).body
        assert charge["held"] <= 200
        assert (await caller.query(caller.marker, context_allocation=20)).status == 422


async def test_a_user_who_logs_in_again_sees_the_same_quota(server: Server) -> None:
    async with new_user(server) as caller:
        await caller.query(scripted(caller.marker, usage=USAGE))
        again = await login(caller.http, caller.email.upper(), PASSWORD)
        assert again.body["token_type"] == "bearer"
        assert again.body["expires_in"] == 900
        headers = {"Authorization": f"bearer {again.body['access_token']}"}
        async with caller.http.get("/me/quota", headers=headers) as response:
            assert (await response.json())["used"] == 24
