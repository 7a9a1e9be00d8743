"""What is stored encrypted: conversations, stored responses and provider keys. It outlives a change of the data key."""

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from journeys.support.admins import new_admin
from journeys.support.live_changes import until
from journeys.support.server import DATA_KEY, SERVE, Server
from journeys.support.users import ApiUser, Reply, new_user
from journeys.upstream.handle import Upstream
from tollkeeper.audit_log.log import AuditLog
from tollkeeper.audit_log.verification import verify
from tollkeeper.clock import SystemClock
from tollkeeper.database.engine import Database
from tollkeeper.encryption.data_keys import DataKeys
from tollkeeper.tenant_scope import ALL_TENANTS

NEW_KEY = "1f2e3d4c5b6a79880716253443526170-rotated"
TABLES = ("conversations", "conversation_turns", "idempotency_keys", "provider_keys", "admin_requests", "audit_lines")


async def stored_text(server: Server) -> str:
    """All that the database has stored: the rows, and on SQLite also the bytes of its files."""
    database = Database(server.database_url)
    try:
        async with database.session() as session:
            connection = await session.connection()
            rows = [str((await connection.execute(text(f"SELECT * FROM {table}"))).all()) for table in TABLES]
    finally:
        await database.close()
    if server.database_url.startswith("sqlite:///"):
        path = Path(server.database_url.removeprefix("sqlite:///"))
        rows += [one.read_bytes().decode("latin-1") for one in path.parent.glob(f"{path.name}*")]
    return "\n".join(rows)


async def execute(server: Server, statement: str, **values: object) -> int:
    """Change rows as someone with the database does. Returns how many."""
    database = Database(server.database_url)
    try:
        async with database.session() as session:
            return (await (await session.connection()).execute(text(statement), values)).rowcount
    finally:
        await database.close()


async def query(user: ApiUser, prompt: str, key: str | None = None, **fields: object) -> Reply:
    headers = user.auth_headers | ({"Idempotency-Key": key} if key is not None else {})
    async with user.http.post("/ai/query", json={"prompt": prompt, **fields}, headers=headers) as response:
        return Reply(response.status, await response.json(content_type=None), response.headers)


async def session_of(user: ApiUser, name: str) -> tuple[str, list[str]]:
    """The system prompt and the messages of a conversation."""
    found = (await user.get(f"/ai/sessions/{name}")).body
    return found["system_prompt"], [message["content"] for message in found["messages"]]


async def test_the_database_has_no_plain_text_of_prompts_answers_and_keys(server: Server) -> None:
    async with new_admin(server) as admin, new_user(server, tenant_id=admin.principal.tenant_id) as user:
        prompt, system, answer = (f"{name}-{secrets.token_hex(8)}" for name in ("prompt", "system", "answer"))
        script = f'{prompt} <<{{"answer": "{answer}"}}>>'
        fields = {"session_id": "talk", "system_prompt": system}
        first = await query(user, script, "once", **fields)
        assert first.body["answer"] == answer
        again = await query(user, script, "once", **fields)
        assert (again.body, again.headers["Idempotent-Replayed"]) == (first.body, "true")
        headers = user.auth_headers | {"Idempotency-Key": "stream"}
        streamed = []
        for _ in range(2):
            async with user.http.post("/ai/stream", json={"prompt": script}, headers=headers) as response:
                streamed.append(await response.read())
        assert streamed[0] == streamed[1]
        assert answer.encode() in streamed[0]
        key = f"sk-{secrets.token_hex(16)}"
        assert (await admin.send("PUT", "/admin/provider-keys/openai", {"key": key})).status == 200
        found = await stored_text(server)
        for secret in (prompt, system, answer, key):
            assert secret not in found
            assert secret.encode().hex() not in found
        assert await session_of(user, "talk") == (system, [script, answer])
        assert (await admin.send("DELETE", "/admin/provider-keys/openai")).status == 204


async def test_what_an_older_version_stored_in_plain_text_is_read(server: Server) -> None:
    async with new_user(server) as user:
        mine = {"user": user.principal.user_id}
        first = await query(user, "hello", "old", session_id="talk", system_prompt="Be brief.")
        plain = b'{"from": "an older version"}'
        assert await execute(
            server, "UPDATE idempotency_keys SET body = :body WHERE user_id = :user", body=plain, **mine
        )
        assert await execute(
            server, "UPDATE conversations SET system_prompt = 'Be old.', sealed = false WHERE user_id = :user", **mine
        )
        assert await execute(
            server, "UPDATE conversation_turns SET content = role, sealed = false WHERE user_id = :user", **mine
        )
        assert first.status == 200
        again = await query(user, "hello", "old", session_id="talk", system_prompt="Be brief.")
        assert again.body == {"from": "an older version"}
        assert await session_of(user, "talk") == ("Be old.", ["user", "assistant"])
        await query(user, "And now?", session_id="talk")
        assert (await session_of(user, "talk"))[1][:3] == ["user", "assistant", "And now?"]


async def test_a_stored_response_that_was_changed_or_moved_is_not_replayed(server: Server) -> None:
    async with new_user(server) as user, new_user(server) as other:
        for caller in (user, other):
            await query(caller, "hello", "once")
        moved = (
            "UPDATE idempotency_keys SET body = (SELECT body FROM idempotency_keys WHERE user_id = :other)"
            " WHERE user_id = :user"
        )
        ids = {"user": user.principal.user_id, "other": other.principal.user_id}
        assert await execute(server, moved, **ids) == 1
        refused = await query(user, "hello", "once")
        assert (refused.status, refused.code) == (409, "previous_attempt_interrupted")
        assert (await query(other, "hello", "once")).status == 200


@pytest.mark.prove_only_on_postgres
@pytest.mark.usefixtures("upstream")
async def test_a_change_of_the_data_key_while_two_servers_run_loses_nothing(
    make_server: Callable[..., Server], database_url: str, upstream: Upstream
) -> None:
    settings = {"OPENAI_BASE_URL": upstream.base_url}
    first, second = (make_server(database_url, name, **settings).start() for name in ("first", "second"))
    key = f"sk-{secrets.token_hex(16)}"
    rotation = {"TOLLKEEPER_DATA_KEY": NEW_KEY, "TOLLKEEPER_PREVIOUS_DATA_KEY": DATA_KEY}
    async with new_admin(first) as admin, new_user(first, tenant_id=admin.principal.tenant_id) as user:
        assert (await admin.send("PUT", "/admin/provider-keys/openai", {"key": key})).status == 200
        await query(user, "one", "once", session_id="talk")
        second.stop()
        second.start(SERVE, **rotation)
        async with user.on_server(second) as elsewhere:
            assert len((await session_of(elsewhere, "talk"))[1]) == 2
            await query(elsewhere, "two", session_id="talk")
            await query(user, "three", session_id="talk")
            assert len((await session_of(elsewhere, "talk"))[1]) == 6
            assert (await query(elsewhere, "one", "once", session_id="talk")).headers["Idempotent-Replayed"] == "true"

            async def carries_the_key() -> bool:
                marker = secrets.token_hex(8)
                await query(elsewhere, marker)
                return bool(upstream.requests(marker)[0]["headers"]["authorization"] == f"Bearer {key}")

            await until(carries_the_key)
            first.stop()
            with pytest.raises(AssertionError, match="TOLLKEEPER_DATA_KEY is not the key with which this database was"):
                first.start()
            with pytest.raises(AssertionError, match="TOLLKEEPER_DATA_KEY is not the key with which this database was"):
                first.command("provider-key", "list", "--tenant", "none")
            first.start(SERVE, TOLLKEEPER_DATA_KEY=NEW_KEY)
            assert len((await session_of(user, "talk"))[1]) == 6
    await assert_audit_log_is_whole(database_url)
    for server in (first, second):
        server.stop()


async def assert_audit_log_is_whole(database_url: str) -> None:
    database = Database(database_url)
    try:
        keys = DataKeys(SecretStr(NEW_KEY))
        await keys.load(database, SystemClock())
        verified = await verify(database, AuditLog(keys), ALL_TENANTS)
        assert verified.lines > 0
        assert verified.problems == []
    finally:
        await database.close()
