"""Policies over the admin API, repeated calls and jobs under a policy, and classifiers with their service account."""

import json
import secrets
from contextlib import AsyncExitStack

import pytest

from journeys.support import batches
from journeys.support.admins import Admin, new_admin
from journeys.support.endpoints import NATIVE_STREAM, ClientCall, call
from journeys.support.jobs import ended, submit
from journeys.support.live_changes import until
from journeys.support.moderation import moderated_users, policy, set_policies
from journeys.support.provider_wires import CHAT, MESSAGES
from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted

pytestmark = pytest.mark.prove_only_on_postgres(
    but=("test_an_administrator_sets_the_policy_of_the_own_tenant_and_counts_what_it_finds",)
)

EMAIL = "ada.lovelace@example.com"
BLOCK_HERON = {"name": "no-heron", "action": "block", "words": ["Heron"], "stages": ["input"]}
BLOCK_EAGLE = {"name": "no-eagle", "action": "block", "pattern": "Eag.e", "stages": ["output"]}
EAGLE = "Eag\\u006ce"
"""As JSON in a script: the word is in the answer, and not in the prompt."""
REDACT = {"name": "personal", "action": "redact", "pii": ["email"]}


async def test_an_administrator_sets_the_policy_of_the_own_tenant_and_counts_what_it_finds(
    server: Server, upstream: Upstream
) -> None:
    async with AsyncExitStack() as stack:
        admin, stranger = [await stack.enter_async_context(new_admin(server)) for _ in range(2)]
        async with new_user(server, tenant_id=admin.principal.tenant_id) as caller:
            assert (await admin.get("/admin/moderation")).status == 404
            watching = BLOCK_HERON | {"report_only": True}
            made = await admin.send("PUT", "/admin/moderation", {"rules": [watching]})
            assert made.status == 200, made
            read = await admin.get("/admin/moderation")
            assert read.body == made.body
            assert read.headers["ETag"] == made.headers["ETag"]
            marker = f"{caller.marker} Heron"

            async def is_counted() -> bool:
                assert (await caller.query(marker)).status == 200
                return bool((await admin.get("/admin/moderation/counts")).body["data"])

            await until(is_counted)
            stale = await admin.send("PUT", "/admin/moderation", {"rules": []}, {"If-Match": '"0"'})
            assert (stale.status, stale.code) == (412, "precondition_failed")
            current = {"If-Match": read.headers["ETag"]}
            assert (await admin.send("PUT", "/admin/moderation", {"rules": [BLOCK_HERON]}, current)).status == 200

            async def is_blocked() -> bool:
                return (await caller.query(marker)).status == 400

            await until(is_blocked)
            await _check_counts(admin)
            assert (await stranger.get("/admin/moderation")).status == 404
            assert (await stranger.get("/admin/moderation/counts")).body == {"data": []}
            for path in ("/admin/moderation", "/admin/moderation/counts"):
                assert (await stranger.get(f"{path}?tenant_id={admin.principal.tenant_id}")).status == 404
            assert (await admin.send("DELETE", "/admin/moderation")).status == 204

            async def passes() -> bool:
                return (await caller.query(marker)).status == 200

            await until(passes)
            acts = [line["action"] for line in (await admin.get("/admin/audit")).body["data"]]
            assert acts[:3] == ["moderation.remove", "moderation.set", "moderation.set"]


async def _check_counts(admin: Admin) -> None:
    async def has_both() -> bool:
        found = (await admin.get("/admin/moderation/counts")).body["data"]
        return {one["enforced"] for one in found} == {False, True}

    await until(has_both)
    for one in (await admin.get("/admin/moderation/counts")).body["data"]:
        assert (one["rule"], one["stage"], one["action"]) == ("no-heron", "input", "block")
        assert one["calls"] == one["findings"] > 0
    late = await admin.get("/admin/moderation/counts?from=2020-01-01&to=2020-01-31")
    assert late.body == {"data": []}
    assert (await admin.get("/admin/moderation/counts?from=2020-02-01&to=2020-01-31")).status == 422


@pytest.mark.prove_only_on_postgres
async def test_a_rule_that_cannot_work_is_refused_by_name(server: Server) -> None:
    """`tests/moderation` tries them all."""
    async with new_admin(server) as admin:
        for rule, said in (
            ({"name": "x", "action": "block", "pattern": "(a"}, "The pattern of the rule x is not valid for RE2"),
            ({"name": "x", "action": "erase", "words": ["a"]}, "action"),
            ({"name": "x", "action": "block", "words": ["a"], "role": "operator"}, "Known fields: name, action,"),
        ):
            refused = await admin.send("PUT", "/admin/moderation", {"rules": [rule]})
            assert (refused.status, refused.code) == (422, "invalid_request"), refused
            assert said in refused.body["detail"], refused.body
        assert (await admin.get("/admin/moderation")).status == 404


async def test_a_stored_response_is_replayed_whatever_the_rules_say_now(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async with moderated_users(all_wires_server, 1, policy(REDACT)) as (caller,):
        prompt = scripted(f"{caller.marker} Heron", answer=f"Write to {EMAIL} now.")
        first = await _keyed(caller, prompt, "k1")
        assert first.answer.text == f"Write to {EMAIL} now."
        await set_policies(all_wires_server, [caller], policy(REDACT, BLOCK_HERON))
        again = await _keyed(caller, prompt, "k1")
        assert (again.raw, again.headers["Idempotent-Replayed"]) == (first.raw, "true")
        refused = await _keyed(caller, prompt, "k2")
        assert (refused.status, refused.code) == (400, "content_blocked")
        blocked, replayed, made = await caller.charges()
        assert (blocked["state"], blocked["cost"], blocked["error"]) == ("released", 0, "content_blocked")
        assert (replayed["basis"], made["basis"]) == ("cache", "provider")
        await set_policies(all_wires_server, [caller], policy(REDACT))
        assert (await _keyed(caller, prompt, "k2")).status == 200, "a refused call leaves its key free"
        assert len(upstream.requests(caller.marker)) == 2


async def _keyed(caller: ApiUser, prompt: str, key: str) -> ClientCall:
    return await call(caller, NATIVE_STREAM, prompt, CHAT.model, more={"Idempotency-Key": key})


async def test_a_job_is_moderated_when_it_is_submitted_and_when_it_has_its_answer(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async with moderated_users(all_wires_server, 1, policy(REDACT, BLOCK_HERON, BLOCK_EAGLE)) as (caller,):
        refused = await submit(caller, f"{caller.marker} Heron")
        assert (refused.status, refused.code) == (400, "content_blocked")
        assert (await caller.get("/ai/jobs")).body["data"] == []
        answer = f"Write to {EMAIL} now."
        reply = await submit(caller, scripted(caller.marker, answer=answer))
        job = await ended(caller, reply.body["job_id"])
        assert (job["status"], job["result"]["answer"]) == ("completed", answer), job
        (sent,) = upstream.requests(caller.marker)
        assert EMAIL not in json.dumps(sent["body"])
        reply = await submit(caller, scripted(caller.marker, answer="X flies").replace("X", EAGLE))
        job = await ended(caller, reply.body["job_id"])
        assert (job["status"], job["error"]["code"]) == ("failed", "content_blocked"), job
        charges = await caller.charges()
        assert [(one["state"], one["error"]) for one in charges] == [("settled", "content_blocked"), ("settled", None)]
        assert all(one["cost"] > 0 for one in charges)


async def test_each_line_of_a_batch_is_moderated(all_wires_server: Server, upstream: Upstream) -> None:
    async with moderated_users(all_wires_server, 1, policy(REDACT, BLOCK_HERON, BLOCK_EAGLE)) as (caller,):
        prompts = {
            "blocked": f"{caller.marker} Heron",
            "redacted": scripted(caller.marker, answer=f"Write to {EMAIL} now."),
            "cut": scripted(caller.marker, answer="X flies").replace("X", EAGLE),
        }
        lines = [batches.chat_line(name, prompt, model=CHAT.model) for name, prompt in prompts.items()]
        found = await batches.results(caller, await batches.run(caller, lines))
        codes = {name: one["response"]["body"].get("error", {}).get("code") for name, one in found.items()}
        assert codes == {"blocked": "content_blocked", "redacted": None, "cut": "content_blocked"}
        answer = found["redacted"]["response"]["body"]["choices"][0]["message"]["content"]
        assert answer == f"Write to {EMAIL} now."
        sent = upstream.requests(caller.marker)
        assert len(sent) == 2
        assert EMAIL not in json.dumps([one["body"] for one in sent])
        assert {one["basis"] for one in await caller.charges()} == {"provider"}


async def _service_account(server: Server, tenant_id: int, limit: int | None) -> int:
    """A new service account of a tenant, with a quota if there is a limit."""
    async with new_admin(server, tenant_id=tenant_id) as admin:
        made = await admin.post("/admin/users", {"kind": "service", "name": f"judge-{secrets.token_hex(4)}"})
        assert made.status == 201, made
        user_id = int(made.body["id"])
        if limit is not None:
            quota = {"user_id": user_id, "window": "total", "limit": limit, "reason": "to judge"}
            assert (await admin.post("/admin/quotas", quota)).status == 200
        return user_id


JUDGE = {
    "name": "judged",
    "action": "block",
    "stages": ["input"],
    "classifier": {"model": MESSAGES.model, "instructions": "Harm is what hurts.", "categories": ["harm"]},
}


def _judged(marker: str, score: object, category: str = "harm") -> str:
    """A prompt that its model answers, and the classifier with this score."""
    verdict = json.dumps({"score": score, "category": category})
    return scripted(marker, by_model={MESSAGES.model: {"answer": f"Here it is: {verdict}"}})


async def test_a_classifier_is_called_and_paid_by_the_service_account(
    all_wires_server: Server, upstream: Upstream
) -> None:
    async with moderated_users(all_wires_server, 1, policy()) as (caller,):
        tenant_id = caller.principal.tenant_id
        account = await _service_account(all_wires_server, tenant_id, 1_000_000)
        await set_policies(all_wires_server, [caller], policy(JUDGE, service_account=account))
        verdicts = [(0.2, "harm", 200), (0.9, "harm", 400), (0.9, "other", 200)]
        for number, (score, category, status) in enumerate(verdicts):
            marker = f"{caller.marker}-{number}"
            reply = await caller.query(_judged(marker, score, category), model=CHAT.model)
            assert reply.status == status, reply
            judging, *made = upstream.requests(marker)
            assert judging["path"] == MESSAGES.path
            assert "Harm is what hurts." in json.dumps(judging["body"])
            assert len(made) == (status == 200)
        assert {one["surface"] for one in await caller.charges()} == {"query"}
        assert len(await caller.charges()) == 2
        async with new_admin(all_wires_server, tenant_id=tenant_id) as admin:
            page = await admin.get(f"/admin/charges?user_id={account}")
        paid = [(one["surface"], one["model"], one["basis"], one["cost"] > 0) for one in page.body["data"]]
        assert paid[: len(verdicts)] == [("moderation", MESSAGES.model, "provider", True)] * len(verdicts)


async def test_what_cannot_be_classified_is_refused_unless_the_rule_allows_it(all_wires_server: Server) -> None:
    async with moderated_users(all_wires_server, 1, policy()) as (caller,):
        tenant_id = caller.principal.tenant_id
        rich, poor = [await _service_account(all_wires_server, tenant_id, limit) for limit in (1_000_000, None)]
        await set_policies(all_wires_server, [caller], policy(JUDGE, service_account=poor))
        refused = await caller.query(_judged(caller.marker, 0.1), model=CHAT.model)
        assert (refused.status, refused.code) == (503, "moderation_unavailable")
        await set_policies(all_wires_server, [caller], policy(JUDGE, service_account=rich))
        assert (await caller.query(_judged(caller.marker, "high"), model=CHAT.model)).status == 503
        assert await caller.charges() == []
        lenient = JUDGE | {"classifier": JUDGE["classifier"] | {"on_failure": "allow"}}  # type: ignore[operator]
        await set_policies(all_wires_server, [caller], policy(lenient, service_account=poor))
        assert (await caller.query(_judged(caller.marker, 0.9), model=CHAT.model)).status == 200


async def test_openais_moderation_endpoint_judges_input_and_answer_at_no_cost(
    all_wires_server: Server, upstream: Upstream
) -> None:
    rule = {
        "name": "harmless",
        "action": "block",
        "classifier": {"provider": "chatty", "categories": ["violence"], "threshold": 0.8},
    }
    async with moderated_users(all_wires_server, 1, policy(rule)) as (caller,):
        refused = await caller.query(f"{caller.marker} something violent", model=CHAT.model)
        assert (refused.status, refused.code) == (400, "content_blocked")
        begun = [{"role": "user", "content": "something violent"}, {"role": "assistant", "content": "It begins"}]
        body = {"model": CHAT.model, "max_tokens": 50, "messages": begun}
        async with caller.http.post("/v1/messages", json=body, headers=caller.auth_headers) as response:
            assert response.status == 400, await response.text()  # the answer to be continued hides nothing
        assert await caller.charges() == []
        answered = await call(caller, NATIVE_STREAM, scripted(f"{caller.marker} kind"), CHAT.model)
        assert answered.answer.text == "The upstream says hello."
        hidden = (
            scripted(f"{caller.marker} odd", answer="a vioXlent end")
            .replace("X", "\\u006c")
            .replace("\\u006cl", "\\u006c")
        )
        cut = await call(caller, NATIVE_STREAM, hidden, CHAT.model)
        assert (cut.status, cut.code) == (400, "content_blocked"), cut.raw
        (blocked, made) = await caller.charges()
        assert (blocked["error"], made["error"]) == ("content_blocked", None)
        judged = [one for one in upstream.requests(caller.marker) if one["path"] == "/v1/moderations"]
        assert {one["body"]["model"] for one in judged} == {"omni-moderation-latest"}
