"""Who pays for vectors: the rows of the table "Who pays" that documents and questions add."""

import asyncio
from collections.abc import Callable

import pytest

from journeys.support.documents import read, search, upload, uploaded, wait_for
from journeys.support.ledger_checks import assert_ledger_is_consistent
from journeys.support.server import Server
from journeys.support.users import new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S

FAILING = (
    # what the upstream does, the question's status, and whether it is charged
    ({"status": 400}, 400, False),
    ({"status": 503}, 502, False),
    ({"usage": {"input": 11, "output": 0}}, 200, True),
    ({"without_usage": True}, 200, True),
)


@pytest.mark.prove_only_on_postgres
@pytest.mark.parametrize(("script", "status", "is_charged"), FAILING, ids=lambda one: str(one))
async def test_a_question_costs_what_the_provider_bills_and_its_asker_pays(
    server: Server, script: dict[str, object], status: int, is_charged: bool
) -> None:
    async with new_user(server) as uploader, new_user(server, tenant_id=uploader.principal.tenant_id) as asker:
        await uploaded(uploader, f"{uploader.marker} shared", visibility="tenant")
        paid = [one["cost"] for one in await uploader.charges()]
        reply = await search(asker, scripted(asker.marker, **script))
        assert reply.status == status, reply
        [charge] = await asker.charges()
        assert (charge["surface"], charge["cost"] > 0) == ("search", is_charged)
        assert (await asker.quota())["used"] == charge["cost"]
        assert [one["cost"] for one in await uploader.charges()] == paid
        if "usage" in script:
            assert (charge["basis"], charge["cost"]) == ("provider", 11)


async def test_a_failing_provider_costs_the_uploader_nothing_and_the_document_goes_on(
    server: Server, upstream: Upstream
) -> None:
    async with new_user(server) as caller:
        reply = await upload(caller, scripted(caller.marker, status=503, fail_times=1))
        document = await wait_for(caller, reply.body["document_id"], "ready")
        assert document["progress"] == 1.0
        [paid] = [one for one in await caller.charges() if one["cost"]]
        assert (paid["state"], paid["surface"]) == ("settled", "documents")
        rejected = await upload(caller, scripted(caller.marker + "2", status=400))
        document = await wait_for(caller, rejected.body["document_id"], "failed")
        assert document["error"]["code"] == "provider_rejected"
        assert "SECRET" not in str(document)
    await assert_ledger_is_consistent(server.database_url)


async def test_another_model_embeds_all_documents_again_at_their_uploaders_cost(
    make_server: Callable[..., Server], database_url: str, own_upstream: Upstream
) -> None:
    settings = {"OPENAI_BASE_URL": own_upstream.base_url, "TOLLKEEPER_RATE_LIMIT_AI": "off"}
    server = make_server(database_url, **settings, TOLLKEEPER_EMBEDDING_MODEL="text-embedding-3-small").start()
    async with new_user(server) as caller:
        document_id = await uploaded(caller, f"{caller.marker} text")
        server.stop()
        server.start(TOLLKEEPER_EMBEDDING_MODEL="text-embedding-3-large")
        async with asyncio.timeout(TEST_DEADLINE_S):
            while (await read(caller, document_id))["embedding_model"] != "text-embedding-3-large":
                await asyncio.sleep(0.1)
        document = await wait_for(caller, document_id, "ready")
        assert (document["progress"], document["error"]) == (1.0, None)
        charges = await caller.charges()
        assert [(one["surface"], one["model"]) for one in charges] == [
            ("documents", "text-embedding-3-large"),
            ("documents", "text-embedding-3-small"),
        ]
        [found] = (await search(caller, f"{caller.marker} text")).body["results"]
        assert found["score"] == 1.0
    server.stop()
