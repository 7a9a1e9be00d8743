"""Sampled evaluation, and the scores that administrators see."""

import secrets
from typing import Any

import pytest

from journeys.support.admins import Admin, new_admin
from journeys.support.judges import judged, rated
from journeys.support.live_changes import until
from journeys.support.many_users import many_users
from journeys.support.provider_wires import CHAT, MESSAGES
from journeys.support.server import Server
from journeys.support.users import ApiUser
from journeys.upstream.handle import Upstream


async def service_account(admin: Admin) -> int:
    made = await admin.post("/admin/users", {"kind": "service", "name": f"judge-{secrets.token_hex(4)}"})
    assert made.status == 201, made
    quota = {"user_id": made.body["id"], "window": "total", "limit": 1_000_000, "reason": "to judge"}
    assert (await admin.post("/admin/quotas", quota)).status == 200
    return int(made.body["id"])


async def group_of(admin: Admin, name: str, group_by: str = "model") -> dict[str, Any] | None:
    found = await admin.get(f"/admin/scores?group_by={group_by}")
    assert found.status == 200, found
    groups = {one["group"]: one for one in found.body["data"]}
    return groups.get(name)


@pytest.mark.exhaustive_on_postgres
async def test_a_share_of_answers_is_rated_on_every_endpoint_at_the_cost_of_the_service_account(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async with many_users(all_wires_server, 1) as (caller,):
        tenant = f"/admin/tenants/{caller.principal.tenant_id}"
        async with new_admin(all_wires_server, tenant_id=caller.principal.tenant_id) as admin:
            incomplete = await admin.patch(tenant, {"judge_model": MESSAGES.model, "evaluate_share": 1})
            assert (incomplete.status, incomplete.code) == (422, "invalid_request"), incomplete
            async with new_admin(all_wires_server) as stranger:
                foreign = await admin.patch(tenant, {"evaluate_account": await service_account(stranger)})
                assert (foreign.status, foreign.code) == (422, "invalid_request"), foreign
            account = await service_account(admin)
            sampling = {"judge_model": MESSAGES.model, "evaluate_share": 1, "evaluate_account": account}
            changed = await admin.patch(tenant, sampling)
            assert (changed.status, changed.body["evaluate_share"]) == (200, 1.0), changed
            prompt = judged(caller.marker, {"score": 80})
            first = await caller.query(prompt, model=CHAT.model)
            assert (first.status, first.body["quality_score"], first.body["judge"]) == (200, None, None)

            async def is_sampling() -> bool:
                await caller.query(prompt, model=CHAT.model)
                return len(judgements(upstream, caller)) > 0

            await until(is_sampling)
            before = len(judgements(upstream, caller))
            messages = [{"role": "user", "content": prompt}]
            for path, document in (
                ("/v1/chat/completions", {"model": CHAT.model, "messages": messages}),
                ("/v1/chat/completions", {"model": CHAT.model, "messages": messages, "stream": True}),
                ("/ai/stream", {"model": CHAT.model, "prompt": prompt}),
            ):
                async with caller.http.post(path, json=document, headers=caller.auth_headers) as response:
                    assert response.status == 200
                    await response.read()

            async def are_rated() -> bool:
                found = await group_of(admin, CHAT.model)
                return found is not None and found["answers"] == found["scored"] >= before + 3

            await until(are_rated)
            found = await group_of(admin, CHAT.model)
            assert found is not None
            assert (found["mean_score"], found["not_scored"], found["judge_cost"] > 0) == (80.0, {}, True)
            assert found["cost_per_point"] == pytest.approx(found["cost"] / (80 * found["scored"]), abs=1e-4)
            assert await group_of(admin, "sampled", "origin") is not None
            assert {one["surface"] for one in await caller.charges()} == {"query", "stream", "chat/completions"}
            charged = await admin.get(f"/admin/charges?user_id={account}")
            assert {one["surface"] for one in charged.body["data"]} == {"sampled_evaluation"}
            assert (await admin.get("/admin/scores?from=2026-02-01&to=2026-01-01")).status == 422
            async with new_admin(all_wires_server) as stranger:
                assert (await stranger.get(f"/admin/scores?tenant_id={caller.principal.tenant_id}")).status == 404
                assert (await stranger.get("/admin/scores")).body["data"] == []


def judgements(upstream: Upstream, caller: ApiUser) -> list[Any]:
    return [one for one in upstream.requests(caller.marker) if one["body"]["model"] == MESSAGES.model]


async def test_scores_that_callers_ask_for_are_counted_and_measured(all_wires_server: Server) -> None:
    async with rated(all_wires_server) as caller:
        for score in (100, 50):
            reply = await caller.query(judged(caller.marker, {"score": score}), model=CHAT.model, evaluate=True)
            assert reply.body["quality_score"] == score
        await caller.query(judged(caller.marker, "fine"), model=CHAT.model, evaluate=True)
        async with new_admin(all_wires_server, tenant_id=caller.principal.tenant_id) as admin:

            async def are_stored() -> bool:
                found = await group_of(admin, CHAT.model)
                return found is not None and found["answers"] == 3

            await until(are_stored)
            found = await group_of(admin, CHAT.model)
            assert found is not None
            assert (found["scored"], found["mean_score"], found["not_scored"]) == (2, 75.0, {"no_score": 1})
        async with caller.http.get("/metrics") as response:
            text = await response.text()
        assert 'tollkeeper_evaluations_total{origin="asked",result="scored"}' in text
        assert 'tollkeeper_evaluation_points_total{origin="asked"}' in text
