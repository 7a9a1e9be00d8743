"""Conversations: continued on every native endpoint, listed, read and deleted by their owner only."""

import json
from collections.abc import Callable
from typing import Any

from journeys.support.server import Server
from journeys.support.users import ApiUser, new_user
from journeys.upstream.handle import Upstream, scripted
from support.deadlines import TEST_DEADLINE_S


async def post(caller: ApiUser, path: str, **document: Any) -> bytes:
    """POST a document. Returns the body of the answer, which must have status 200."""
    async with caller.http.post(path, json=document, headers=caller.auth_headers) as response:
        body = await response.read()
        assert response.status == 200, body
        return body


async def delete(caller: ApiUser, path: str, **headers: str) -> tuple[int, bytes]:
    async with caller.http.delete(path, headers=caller.auth_headers | headers) as response:
        return response.status, await response.read()


def events(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream, without `[DONE]`."""
    lines = [line.removeprefix("data: ") for line in body.decode().splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def last_sent(upstream: Upstream, marker: str) -> list[tuple[str, str]]:
    """The messages of the last request to the upstream, without their scripts."""
    messages = upstream.requests(marker)[-1]["body"]["messages"]
    return [(message["role"], message["content"].partition(" <<")[0]) for message in messages]


async def test_every_native_endpoint_continues_the_same_conversation(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        marker, expected = caller.marker, [("system", "Be brief.")]

        reply = await caller.query(scripted(f"{marker} 1", answer="One."), session_id="s", system_prompt="Be brief.")
        assert reply.body["session_id"] == "s"
        expected += [("user", f"{marker} 1")]
        assert last_sent(upstream, marker) == expected

        streamed = events(
            await post(caller, "/ai/stream", prompt=scripted(f"{marker} 2", answer="Two."), session_id="s")
        )
        assert streamed[-1]["session_id"] == "s"
        expected += [("assistant", "One."), ("user", f"{marker} 2")]
        assert last_sent(upstream, marker) == expected

        await post(caller, "/ai/chat", message=scripted(f"{marker} 3", answer="Three."), session_id="s")
        expected += [("assistant", "Two."), ("user", f"{marker} 3")]
        assert last_sent(upstream, marker) == expected

        messages = [{"role": "user", "content": scripted(f"{marker} 4", answer="Four.")}]
        events(await post(caller, "/ai/chat", messages=messages, session_id="s", stream=True))
        expected += [("assistant", "Three."), ("user", f"{marker} 4")]
        assert last_sent(upstream, marker) == expected

        async with caller.http.ws_connect("/ai/ws") as socket:
            await socket.send_json({"type": "auth", "token": caller.token})
            await socket.send_json(
                {"type": "query", "prompt": scripted(f"{marker} 5", answer="Five."), "session_id": "s"}
            )
            while (await socket.receive_json(timeout=TEST_DEADLINE_S))["type"] != "final":
                pass
        expected += [("assistant", "Four."), ("user", f"{marker} 5")]
        assert last_sent(upstream, marker) == expected

        read = (await caller.get("/ai/sessions/s")).body
        assert read["system_prompt"] == "Be brief."
        shown = [(message["role"], message["content"].partition(" <<")[0]) for message in read["messages"]]
        assert shown == [*expected[1:], ("assistant", "Five.")]


async def test_a_call_without_a_session_gets_no_history_and_is_not_stored(server: Server, upstream: Upstream) -> None:
    async with new_user(server) as caller:
        await caller.query(f"{caller.marker} 1", session_id="s")
        reply = await caller.query(f"{caller.marker} 2")
        assert reply.body["session_id"] is None
        assert last_sent(upstream, caller.marker) == [("user", f"{caller.marker} 2")]
        assert (await caller.get("/ai/sessions/s")).body["turns"] == 2


async def test_a_call_that_fails_or_is_refused_stores_nothing(server: Server) -> None:
    async with new_user(server, limit=500) as caller:
        assert (await caller.query(scripted(caller.marker, status=500), session_id="s")).status == 502
        assert (await caller.query(caller.marker, session_id="s", max_tokens=5_000)).code == "quota_exceeded"
        assert (await caller.get("/ai/sessions")).body == {"data": [], "next_cursor": None}
        assert (await caller.get("/ai/sessions/s")).code == "not_found"


async def test_the_history_is_bounded_and_paid_for(server: Server, upstream: Upstream) -> None:
    """The oldest messages are dropped, the system prompt stays, and each call holds tokens for all that is sent."""
    async with new_user(server) as caller:
        most = 0
        for number in range(12):
            word = f"{caller.marker} {number} " + "long " * 500
            more = {"system_prompt": "Be brief."} if number == 0 else {}
            reply = await caller.query(scripted(word, answer=f"Answer {number}."), session_id="s", **more)
            assert reply.status == 200, reply
            sent = last_sent(upstream, caller.marker)
            assert sent[0] == ("system", "Be brief.")
            assert sent[-1] == ("user", word)
            assert [role for role, _ in sent[1:]] == ["user", "assistant"] * (len(sent) // 2 - 1) + ["user"]
            most = max(most, len(sent))
        (shown,) = (await caller.get("/ai/sessions")).body["data"]
        assert len(sent) == most < 25
        assert shown["turns"] < 24
        charge = (await caller.get(f"/me/charges/{reply.body['query_id']}")).body
        assert charge["held"] - charge["granted_output"] > 0
        assert charge["held"] >= charge["input_tokens"] + charge["granted_output"]


async def test_conversations_are_listed_in_pages_with_sizes_and_times(server: Server) -> None:
    async with new_user(server) as caller:
        for number in range(5):
            await caller.query(caller.marker, session_id=f"s-{number}")
        await caller.query(caller.marker, session_id="s-0")
        found: list[dict[str, Any]] = []
        path = "/ai/sessions?limit=2"
        while path:
            page = (await caller.get(path)).body
            found += page["data"]
            path = f"/ai/sessions?limit=2&cursor={page['next_cursor']}" if page["next_cursor"] else ""
        assert [one["id"] for one in found] == [f"s-{number}" for number in (4, 3, 2, 1, 0)]
        assert [one["turns"] for one in found] == [2, 2, 2, 2, 4]
        assert found[-1]["tokens"] == 2 * found[0]["tokens"] > 0
        assert found[-1]["created_at"] < found[0]["created_at"] < found[-1]["updated_at"]
        for query in ("limit=0", "limit=101", "cursor=x", "cursor=1", "cursor=1.%00", f"cursor={'9' * 30}.a"):
            assert (await caller.get(f"/ai/sessions?{query}")).status == 422, query


async def test_a_deleted_conversation_is_gone_and_its_name_can_be_used_again(
    server: Server, upstream: Upstream
) -> None:
    async with new_user(server) as caller:
        await caller.query(f"{caller.marker} 1", session_id="s", system_prompt="Be brief.")
        assert await delete(caller, "/ai/sessions/s") == (204, b"")
        assert (await caller.get("/ai/sessions/s")).code == "not_found"
        assert (await delete(caller, "/ai/sessions/s"))[0] == 404
        await caller.query(f"{caller.marker} 2", session_id="s")
        assert last_sent(upstream, caller.marker) == [("user", f"{caller.marker} 2")]


async def test_another_users_conversation_looks_like_one_that_does_not_exist(
    server: Server, upstream: Upstream
) -> None:
    async with (
        new_user(server) as owner,
        new_user(server, tenant_id=owner.principal.tenant_id) as colleague,
        new_user(server) as stranger,
    ):
        await owner.query(owner.marker, session_id="theirs", system_prompt="Confidential.")
        same = {"X-Correlation-ID": "the-same"}
        bodies = set()
        for other in (colleague, stranger):
            for name in ("theirs", "absent", "a%20b", "x" * 101, "%00", "'%20OR%201=1"):
                path = f"/ai/sessions/{name}"
                status, body = await delete(other, path, **same)
                assert status == 404, path
                bodies.add(body)
                async with other.http.get(path, headers=other.auth_headers | same) as response:
                    assert response.status == 404, path
                    bodies.add(await response.read())
            assert (await other.get("/ai/sessions")).body["data"] == []
            await other.query(other.marker, session_id="theirs")
            assert last_sent(upstream, other.marker) == [("user", other.marker)]
        assert len(bodies) == 1
        assert (await owner.get("/ai/sessions/theirs")).body["messages"][0]["content"] == owner.marker


async def test_the_session_routes_need_a_credential(server: Server) -> None:
    async with new_user(server) as caller:
        for method, path in (("GET", "/ai/sessions"), ("GET", "/ai/sessions/s"), ("DELETE", "/ai/sessions/s")):
            async with caller.http.request(method, path) as response:
                assert response.status == 401, path


async def test_two_servers_continue_one_conversation(
    make_server: Callable[..., Server], sqlite_url: str, upstream: Upstream
) -> None:
    """The conversation survives the process that began it."""
    first = make_server(sqlite_url, "first", OPENAI_BASE_URL=upstream.base_url).start()
    second = make_server(sqlite_url, "second", OPENAI_BASE_URL=upstream.base_url).start()
    async with new_user(first) as caller, caller.on_server(second) as elsewhere:
        await caller.query(scripted(f"{caller.marker} 1", answer="One."), session_id="s")
        first.stop()
        await elsewhere.query(f"{caller.marker} 2", session_id="s")
        assert last_sent(upstream, caller.marker) == [
            ("user", f"{caller.marker} 1"),
            ("assistant", "One."),
            ("user", f"{caller.marker} 2"),
        ]
    second.stop()


async def test_no_text_of_a_conversation_is_logged(
    make_server: Callable[..., Server], sqlite_url: str, upstream: Upstream
) -> None:
    server = make_server(sqlite_url, OPENAI_BASE_URL=upstream.base_url, LOG_LEVEL="debug").start()
    async with new_user(server) as caller:
        await caller.query(caller.marker, session_id="s", system_prompt="confidential-text")
        await caller.query(caller.marker, session_id="s")
        assert "confidential-text" in json.dumps((await caller.get("/ai/sessions/s")).body)
    server.stop()
    for secret in ("confidential-text", caller.marker, "The upstream says hello."):
        assert secret not in server.program.output
