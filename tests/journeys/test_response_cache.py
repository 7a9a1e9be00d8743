"""The response cache over every endpoint: hits, joined calls, who pays, and who gets nothing."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from journeys.support.admins import Admin, new_admin
from journeys.support.endpoints import NATIVE_STREAM, WHOLE_ENDPOINTS, ClientCall, call
from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.live_changes import until
from journeys.support.many_users import many_users
from journeys.support.provider_wires import CHAT
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.support.who_pays import ANSWER, EMBEDDINGS_CELL, STREAM_CELLS, WHOLE_CELLS, Cell
from journeys.upstream.handle import Upstream, scripted

CELLS = [cell for cell in (*WHOLE_CELLS, *STREAM_CELLS) if cell.same_wire or cell.wire is CHAT] + [EMBEDDINGS_CELL]
AT_ONCE = 100


async def ask(caller: ApiUser, cell: Cell, prompt: str) -> ClientCall:
    more: dict[str, Any] = {"cache": True} if cell.endpoint.is_socket else {"X-Tollkeeper-Cache": "true"}
    return await call(caller, cell.endpoint, prompt, cell.wire.model, more=more)


async def check_cell(caller: ApiUser, cell: Cell, upstream: Upstream) -> None:
    """The second call has the answer of the first, for nothing, by a charge of its own."""
    prompt = scripted(caller.marker, answer=ANSWER)
    first, second = [await ask(caller, cell, prompt) for _ in range(2)]
    assert (first.status, second.status) == (200, 200), (cell, first.raw, second.raw)
    assert first.answer.text == second.answer.text, cell
    assert (first.answer.finish, first.answer.end_events) == (second.answer.finish, second.answer.end_events), cell
    assert first.answer.usage.keys() == second.answer.usage.keys(), cell
    if not cell.endpoint.returns_text:
        assert json.loads(first.raw) == json.loads(second.raw), cell
    elif cell.same_wire:
        assert first.raw == second.raw, cell
    if cell.endpoint.path.startswith("/ai/"):
        assert (b'"from_cache":false' in first.raw, b'"from_cache":true' in second.raw) == (True, True), cell
    if not cell.endpoint.is_socket:
        assert (first.headers["X-Cache"], second.headers["X-Cache"]) == ("miss", "hit"), cell
        assert "Age" not in first.headers
        assert int(second.headers["Age"]) < 100
        assert second.headers["X-Charge-ID"] != first.headers["X-Charge-ID"]
        assert second.headers["X-Quota-Remaining"]
    hit, made = await caller.charges()
    assert (made["basis"], hit["basis"]) == ("provider", "cache"), (cell, made, hit)
    assert (hit["cost"], hit["held"], hit["state"]) == (0, 0, "settled"), cell
    assert len(upstream.requests(caller.marker)) == 1, cell
    quota = await caller.quota()
    assert (quota["used"], quota["reserved"]) == (made["cost"], 0)


async def test_the_same_question_is_answered_again_for_nothing_on_every_endpoint(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async with many_users(all_wires_server, len(CELLS)) as users:
        pairs = zip(users, CELLS, strict=True)
        await asyncio.gather(*(check_cell(caller, cell, upstream) for caller, cell in pairs))
    await assert_ledger_is_consistent(all_wires_server.database_url)


async def embed(caller: ApiUser, texts: list[str], *, cached: bool = True) -> tuple[dict[str, Any], str | None]:
    """The answer, and what the header says of the cache."""
    sent = caller.auth_headers | {"X-Tollkeeper-Cache": json.dumps(cached)}
    body = {"model": EMBEDDINGS_CELL.wire.model, "input": texts}
    async with caller.http.post("/v1/embeddings", json=body, headers=sent) as response:
        assert response.status == 200, await response.text()
        return await response.json(), response.headers.get("X-Cache")


async def test_of_ten_inputs_to_embed_only_those_without_a_kept_vector_are_sent_and_paid(
    all_wires_server: Server, upstream: Upstream
) -> None:
    """The upstream reports a token for each word."""
    async with new_user(all_wires_server) as caller:
        texts = [caller.marker + " word" * number for number in range(10)]
        kept, missing = texts[3:], texts[:3]
        await embed(caller, kept)
        answer, cache = await embed(caller, texts)
        again, cache_again = await embed(caller, texts)
        assert (cache, cache_again) == ("miss", "hit")
        assert [request["body"]["input"] for request in upstream.requests(caller.marker)] == [kept, missing]
        costs = [(charge["basis"], charge["cost"]) for charge in await caller.charges()]
        assert costs == [("cache", 0), ("provider", 1 + 2 + 3), ("provider", sum(range(4, 11)))]
        assert (await caller.quota())["used"] == sum(range(1, 11))
        assert answer["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
        assert again["usage"] == {"prompt_tokens": 55, "total_tokens": 55}
        assert answer["data"] == again["data"]
        assert [one["index"] for one in answer["data"]] == list(range(10))
        made, uncached = await embed(caller, texts, cached=False)
        assert (uncached, made["data"]) == (None, answer["data"])
        assert len({str(one["embedding"]) for one in answer["data"]}) == 10


async def test_one_question_asked_many_times_at_once_costs_one_call_of_the_provider(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async with new_user(all_wires_server) as caller:
        prompt = scripted(caller.marker, answer=ANSWER, delay=0.3)
        endpoints = [WHOLE_ENDPOINTS[0], NATIVE_STREAM]
        answers = await asyncio.gather(
            *(ask(caller, Cell(endpoints[number % 2], CHAT), prompt) for number in range(AT_ONCE))
        )
        assert Counter((one.status, one.answer.text) for one in answers) == {(200, ANSWER): AT_ONCE}
        assert Counter(one.headers["X-Cache"] for one in answers) == {"miss": 1, "hit": AT_ONCE - 1}
        assert len(upstream.requests(caller.marker)) == 1
        charges = Counter(charge["basis"] for charge in await caller.charges())
        assert charges == {"provider": 1, "cache": AT_ONCE - 1}


async def uses_cache(caller: ApiUser, wanted: bool) -> None:
    """Wait until a change is in force: whether calls that do not ask for the cache use it."""

    async def holds() -> bool:
        return ("X-Cache" in (await caller.query("anything")).headers) is wanted

    await until(holds)


async def set_cache(admin: Admin, cache: str) -> None:
    changed = await admin.patch(f"/admin/tenants/{admin.principal.tenant_id}", {"cache": cache})
    assert (changed.status, changed.body["cache"]) == (200, cache), changed


async def query(caller: ApiUser, prompt: str, headers: dict[str, str] | None = None, **fields: Any) -> str | None:
    """What the header says of the cache."""
    sent = caller.auth_headers | (headers or {})
    async with caller.http.post("/ai/query", json={"prompt": prompt} | fields, headers=sent) as response:
        assert response.status == 200, await response.text()
        return response.headers.get("X-Cache")


@pytest.mark.exhaustive_on_postgres
async def test_a_tenant_turns_the_cache_on_for_all_its_calls_or_for_all_its_users(server: Server) -> None:
    async with (
        new_user(server) as caller,
        new_user(server, tenant_id=caller.principal.tenant_id) as colleague,
        new_user(server) as stranger,
        new_admin(server, tenant_id=caller.principal.tenant_id) as admin,
    ):
        prompt = scripted(caller.marker, answer=ANSWER)
        assert await query(caller, prompt) is None
        before = (await caller.get("/me")).body
        await set_cache(admin, "user")
        await uses_cache(caller, wanted=True)
        assert (await caller.get("/me")).body == before
        assert [await query(caller, prompt) for _ in range(2)] == ["miss", "hit"]
        assert await query(colleague, prompt) == "miss"
        assert await query(caller, prompt, cache=False) is None
        assert await query(caller, prompt, {"Cache-Control": "max-age=0, No-Store"}, cache=True) is None
        assert await query(caller, prompt, {"X-Tollkeeper-Cache": "false"}, cache=True) is None
        assert await query(caller, prompt, {"X-Tollkeeper-Cache": "FALSE"}) is None
        assert await query(caller, prompt, {"X-Tollkeeper-Cache": "true"}, cache=False) is None
        assert await query(caller, prompt, {"Idempotency-Key": "k"}) is None
        assert await query(caller, prompt, temperature=0.5) == "miss"
        assert await query(caller, prompt) == "hit"

        await set_cache(admin, "tenant")

        async def is_shared() -> bool:
            asked = [await query(one, prompt) for one in (caller, colleague)]
            return (
                asked[1] == "hit"
                and await query(colleague, prompt + "?") == "miss"
                and await query(caller, prompt + "?") == "hit"
            )

        await until(is_shared)
        assert await query(stranger, prompt, cache=True) == "miss"
        assert await query(stranger, prompt) is None

        erased = await admin.post(f"/admin/users/{colleague.principal.user_id}/erase", {"reason": "left"})
        assert erased.status == 200, erased
        asked = scripted(caller.marker, answer="erased")

        async def is_empty() -> bool:
            return await query(caller, prompt) == "miss"

        await until(is_empty)
        await set_cache(admin, "off")
        await uses_cache(caller, wanted=False)
        assert await query(caller, asked, cache=True) == "miss"
        [on, shared, off] = reversed((await admin.get("/admin/audit?action=tenant.change")).body["data"])
        assert [line["after"] for line in (on, shared, off)] == [{"cache": one} for one in ("user", "tenant", "off")]


async def test_a_wrong_header_or_scope_is_refused(server: Server) -> None:
    async with new_user(server) as caller, new_admin(server, tenant_id=caller.principal.tenant_id) as admin:
        sent = caller.auth_headers | {"X-Tollkeeper-Cache": "yes"}
        async with caller.http.post("/ai/query", json={"prompt": "?"}, headers=sent) as response:
            assert response.status == 422
        path = f"/admin/tenants/{admin.principal.tenant_id}"
        for wrong in ("everyone", None, True):
            assert (await admin.patch(path, {"cache": wrong})).status == 422
